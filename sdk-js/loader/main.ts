// The package: the calls of a page, and the events of the browser.
export { tell as consent } from "./consent.js";
export { stats } from "./delivery.js";
export { on } from "./slots.js";

import type { Settings } from "../index.js";
import { config } from "./config.js";
import * as consents from "./consent.js";
import * as delivery from "./delivery.js";
import type { Core } from "./parts.js";
import { emit, look, refill, scan } from "./slots.js";


const find = (target?: Element | string) =>
  typeof target === "string" ? document.querySelector(target) : target;
let started = false;

export function init(settings: Settings): void {
  if (config.edge) return;
  config.edge = settings.edge;
  if (settings.test) config.test_ = "&test=1";
  consents.tell(settings.consent);
  const begin = () => {
    config.ready_ = consents.ask(settings.vendor);
    started = true;
    listen();
  };
  // A prerendered page waits until it is shown: what it asks for before anybody sees it is flagged
  // as no person's.
  if ((document as Document & { prerendering?: boolean }).prerendering) document.addEventListener("prerenderingchange", begin);
  else begin();
  if (settings.core) void upgrade(settings.core);
}

async function upgrade(url: string): Promise<void> {
  try {
    // The core must not delay the first paint, which a busy browser may do long after its first
    // frame. A page that has nothing to paint but the ad reports no paint, hence the timer.
    await new Promise((painted) => {
      new PerformanceObserver(painted).observe({ buffered: true, type: "paint" });
      setTimeout(painted, 5_000);
    });
    const core: Core & { load(): Promise<void> } = await import(url);
    await core.load();
    config.Meter_ = core.Meter;
    delivery.upgrade(core);
    delivery.consent(consents.given());
    emit("core");
  } catch {
    // The page's policy forbids it, or it did not load: the plain parts go on for good.
  }
}

function listen(): void {
  let soon: unknown;
  const changed = () => {
    soon ||= setTimeout(() => (soon = scan()), 20);
  };
  const attributeFilter = ["data-countersign-placement"];
  new MutationObserver(changed).observe(document, { subtree: true, childList: true, attributeFilter });
  scan();
  const leave = () => delivery.flush(true);
  const back = () => {
    delivery.wake();
    refill(undefined, true);
  };
  addEventListener("visibilitychange", () => {
    look();
    (document.hidden ? leave : back)();
  });
  addEventListener("focus", look);
  addEventListener("blur", look);
  addEventListener("online", back);
  addEventListener("pagehide", leave);
  addEventListener("pageshow", ({ persisted }) => persisted && refill());
}

export function render(target: Element | string, placement?: string): void {
  const element = find(target) as HTMLElement | null;
  if (element && placement) element.dataset.countersignPlacement = placement;
  if (started) scan();
}

export function refresh(target?: Element | string): void {
  const element = find(target);
  if (element !== null) refill(element);
}
