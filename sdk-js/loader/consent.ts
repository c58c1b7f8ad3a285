// Whether the visitor allows that something is stored and compared: asks, and never assumes.
import { consent as store } from "./delivery.js";

type Callback = (data: any, success: boolean) => void;
type Platform = {
  __tcfapi?: (command: string, version: number, callback: Callback) => void;
  __gpp?: (command: string, callback: Callback) => void;
};

/** Longest wait for a platform's first word, in milliseconds; the ad then goes out without consent. */
const WAIT_MS = 500;

let told: boolean | undefined;
/** What each platform says; undefined while it says neither. */
let tcf: boolean | undefined;
let gpp: boolean | undefined;

/** An opt-out goes before everything, then the page's own dialog, then the platforms together. */
export const given = (): boolean =>
  !(navigator as { globalPrivacyControl?: boolean }).globalPrivacyControl &&
  !!(told ?? ((tcf ?? gpp) && (gpp ?? tcf)));

export function tell(consent: boolean | undefined): void {
  told = consent;
  store(given());
}

/** Asks the platforms, and again when they change their mind. Resolves when the first has spoken. */
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
    // GPP 1.1, as the edge reads its string. The sections of the USA: 2 is "did not opt out", 0 "does not
    // apply", all else an opt-out; of the one before them: Y, N and -. Where there is a European section,
    // only TCF can say yes.
    __gpp?.("addEventListener", (data, success) => {
      if (!success || data.pingData?.signalStatus !== "ready") return;
      const sections = JSON.stringify(data.pingData.parsedSections);
      gpp = !/(OptOut(Sale)?|Gpc)\W+[^\W02Nf]/.test(sections) && ((!/tcf/.test(sections) && /OptOut(Sale)?\W+[2N]/.test(sections)) || undefined);
      heard();
    });
    setTimeout(answered, __tcfapi || __gpp ? WAIT_MS : 0);
  });
}
