// The package: what a page calls, and what the browser tells.
import type { Settings } from "../index.js";
import * as consents from "./consent.js";
import * as delivery from "./delivery.js";
import type { Core } from "./parts.js";
import { config, emit, look, on, refill, scan } from "./slots.js";

export { on };
export const stats = delivery.tally;
export const consent = consents.tell;

const find = (target?: Element | string) =>
  typeof target === "string" ? document.querySelector(target) : target;
let started = false;

export function init(settings: Settings): void {
  if (started) return;
  started = true;
  config.edge = settings.edge;
  config.test = !!settings.test;
  delivery.setEdge(settings.edge);
  if (settings.consent !== undefined) consent(settings.consent);
  const ask = () => consents.ask(settings.vendor, () => delivery.consent(consents.given()));
  config.ready = ask();
  listen();
  // A platform whose script comes after ours is asked when the page is there.
  const { __tcfapi, __gpp } = window as { __tcfapi?: unknown; __gpp?: unknown };
  const loaded = () => {
    if (!__tcfapi && !__gpp) ask();
    // After a frame has been painted: the core is never in the page's way.
    if (settings.core) requestAnimationFrame(() => setTimeout(upgrade, 0, settings.core));
  };
  if (document.readyState === "complete") loaded();
  else addEventListener("load", loaded);
}

async function upgrade(url: string): Promise<void> {
  try {
    const core: Core & { load(): Promise<void> } = await import(/* @vite-ignore */ /* webpackIgnore: true */ url);
    await core.load();
    config.Meter = core.Meter;
    delivery.upgrade(core);
    delivery.consent(consents.given());
    emit("core");
  } catch {
    // The page's policy forbids it, or it did not come: the plain parts go on, for good.
  }
}

function listen(): void {
  let waiting = false;
  const soon = () => {
    if (!waiting) setTimeout(() => ((waiting = false), scan()), 20);
    waiting = true;
  };
  const attributeFilter = ["data-countersign-placement"];
  new MutationObserver(soon).observe(document, { subtree: true, childList: true, attributeFilter });
  scan();
  for (const event of ["focus", "blur"]) addEventListener(event, look);
  document.addEventListener("visibilitychange", () => {
    look();
    if (document.hidden) delivery.flush(true);
    else delivery.wake();
  });
  addEventListener("pagehide", () => delivery.flush(true));
  addEventListener("pageshow", ({ persisted }) => persisted && refill());
  addEventListener("online", () => (delivery.wake(), refill(undefined, true)));
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
