// Whether the visitor allows storage and recognition. This is asked and never assumed.
import { consent as store } from "./delivery.js";

type Callback = (data: any, success: boolean) => void;
type Platform = {
  __tcfapi?: (command: string, version: number, callback: Callback) => void;
  __gpp?: (command: string, callback: Callback) => void;
};

/** Longest wait for a platform's first answer, in milliseconds; ads are then asked for without consent. */
const WAIT_MS = 500;

let told: boolean | undefined;
/** What each platform says; undefined while it says neither yes nor no. */
let tcf: boolean | undefined;
let gpp: boolean | undefined;

/** The browser's opt-out wins over the page's own dialog, and that wins over the platforms, which must agree. */
export const given = (): boolean =>
  !(navigator as { globalPrivacyControl?: boolean }).globalPrivacyControl &&
  !!(told ?? ((tcf ?? gpp) && (gpp ?? tcf)));

export function tell(consent: boolean | undefined): void {
  told = consent;
  store(given());
}

/** Listens to the platforms for good. Resolves at the first answer, or when none has come in time. */
export function ask(vendor: number | undefined): Promise<void> {
  return new Promise((answered) => {
    const { __tcfapi, __gpp } = self as Platform;
    const heard = () => {
      answered();
      store(given());
    };
    // TCF 2.2: purpose 1, store and access; purpose 7, measure advertising performance.
    __tcfapi?.("addEventListener", 2, (data, success) => {
      if (!success) return;
      const consents = data.purpose?.consents;
      tcf =
        data.gdprApplies === false
          ? undefined
          : data.eventStatus !== "cmpuishown" &&
            !!(consents?.[1] && consents[7] && (!vendor || data.vendor.consents[vendor]));
      heard();
    });
    // GPP 1.1, read as the edge reads its string. In the sections of the USA 2 means "did not opt
    // out", 0 "does not apply", anything else an opt-out; in the older US section these are N, -
    // and Y. When there is a European section, only TCF can say yes.
    __gpp?.("addEventListener", (data, success) => {
      if (!success || data.pingData?.signalStatus !== "ready") return;
      const sections = JSON.stringify(data.pingData.parsedSections);
      gpp = !/(OptOut(Sale)?|Gpc)\W+[^\W02Nf]/.test(sections) && ((!/tcf/.test(sections) && /OptOut(Sale)?\W+[2N]/.test(sections)) || undefined);
      heard();
    });
    setTimeout(answered, __tcfapi || __gpp ? WAIT_MS : 0);
  });
}
