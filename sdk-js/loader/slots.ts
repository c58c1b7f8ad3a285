// The places for ads: asks the edge, draws, and watches.
import type { Ad, Event, Occasion } from "../index.js";
import { given } from "./consent.js";
import { tell } from "./delivery.js";
import type { Meter } from "./parts.js";
import { PlainMeter } from "./viewability.js";

interface Slot {
  element: HTMLElement;
  placement: string;
  /** Raised with each ad that is asked for: what an earlier one brings is too late. */
  turn: number;
  failed?: boolean;
  ad?: Ad;
  frame?: HTMLIFrameElement;
  meter?: Meter | undefined;
  ratio: number;
  area: number;
}

export const config = {
  edge: "",
  test: false,
  ready: Promise.resolve(),
  Meter: PlainMeter as new () => Meter,
};
const slots = new Map<Element, Slot>();
const listeners: [Event, (occasion: Occasion) => void][] = [];
let polling: ReturnType<typeof setInterval> | undefined;

export function on(event: Event, listener: (occasion: Occasion) => void): () => void {
  const entry: (typeof listeners)[0] = [event, listener];
  listeners.push(entry);
  return () => void listeners.splice(listeners.indexOf(entry) >>> 0, 1);
}

export function emit(event: Event, slot?: Slot, error?: unknown): void {
  const { element, placement, ad } = slot || ({} as Partial<Slot>);
  for (const [name, listener] of [...listeners])
    if (name === event) listener({ element, placement, ad, error } as Occasion);
}

/** Finds new places, changed ones, and those that are gone. */
export function scan(): void {
  slots.forEach((slot, element) => element.isConnected || (stop(slot), slots.delete(element)));
  document.querySelectorAll<HTMLElement>("[data-countersign-placement]").forEach((element) => {
    const placement = element.dataset.countersignPlacement!;
    let slot = slots.get(element);
    if (placement && (!slot || slot.placement !== placement)) {
      if (!slot) slots.set(element, (slot = { element, placement, turn: 0, ratio: 0, area: 0 }));
      slot.placement = placement;
      fill(slot);
    }
  });
}

/** New ads: in one element, in all, or in those that the network has failed. */
export function refill(element?: Element | null, failed?: boolean): void {
  slots.forEach((slot) => (!element || slot.element === element) && (!failed || slot.failed) && fill(slot));
}

function stop(slot: Slot): void {
  slot.turn++;
  if (slot.frame) observer.unobserve(slot.frame);
  slot.meter = undefined;
}

async function fill(slot: Slot): Promise<void> {
  stop(slot);
  const turn = slot.turn;
  slot.failed = false;
  await config.ready;
  try {
    const query = `?placement=${slot.placement}&consent=${+given()}${config.test ? "&test=1" : ""}`;
    const reply = await fetch(`${config.edge}/v1/serve${query}`, { credentials: "omit" });
    if (!reply.ok) throw reply.status;
    const ad: Ad | undefined = reply.status === 204 ? undefined : await reply.json();
    if (turn !== slot.turn) return;
    slot.ad = ad as Ad;
    if (!ad) return emit("empty", slot);
    emit("served", slot);
    const { image } = ad.creative;
    // A sandboxed frame does not tell that its picture failed; one that is not there is no impression.
    if (image) await picture(image);
    if (turn === slot.turn) draw(slot, ad);
  } catch (error) {
    if (turn !== slot.turn) return;
    slot.failed = typeof error !== "number";
    emit("error", slot, error);
  }
}

const picture = (src: string) =>
  new Promise((resolve, reject) => Object.assign(new Image(), { onload: resolve, onerror: reject, src }));

const quoted = (url: string) => `"${url.replace(/&/g, "&amp;").replace(/"/g, "&quot;")}"`;

function draw(slot: Slot, { creative: { image, html, width, height }, click_url }: Ad): void {
  const frame = (slot.frame = document.createElement("iframe"));
  const turn = slot.turn;
  const link = `<a href=${quoted(click_url)} rel="noopener sponsored">`;
  const inner = image
    ? `${link}<img src=${quoted(image)} width=${+width} height=${+height} align=top border=0></a>`
    : // A creative with links of its own names the click link where it wants it.
      html!.includes("{click_url}")
      ? html!.split("{click_url}").join(click_url)
      : `${link}${html}</a>`;
  // Attributes, not CSS: a page's policy against inline styles holds in the frame too.
  frame.srcdoc = `<!doctype html><base target=_blank><body marginwidth=0 marginheight=0>${inner}`;
  const attributes = {
    sandbox: `allow-popups allow-popups-to-escape-sandbox${image ? "" : " allow-scripts"}`,
    width,
    height,
    frameborder: 0,
    scrolling: "no",
    title: "Advertisement",
  };
  Object.entries(attributes).forEach(([name, value]) => frame.setAttribute(name, `${value}`));
  frame.onload = () => {
    frame.onload = null;
    if (turn === slot.turn) observer.observe(frame);
  };
  slot.element.replaceChildren(frame);
}

// As many thresholds as the rule needs, and some between: which side of a threshold it is, is exact.
const observer = new IntersectionObserver(
  (entries) => {
    slots.forEach((slot) => {
      for (const { target, intersectionRatio, boundingClientRect: { width, height } } of entries) {
        if (target !== slot.frame) continue;
        slot.ratio = intersectionRatio;
        slot.area = Math.round(width * height);
        // Drawn, wherever on the page: begin to render. A background tab is not drawn.
        if (slot.area && !slot.meter) {
          slot.meter = new config.Meter();
          tell("impression", slot.ad!);
          emit("impression", slot);
        }
      }
    });
    look();
  },
  { threshold: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1] },
);

/** Looks at all ads; again every 100 ms while a time test runs. */
export function look(): void {
  let running = false;
  slots.forEach((slot) => {
    const { frame, meter, ratio, area } = slot;
    if (!meter || !frame) return;
    const style = { opacityProperty: true, visibilityProperty: true };
    const visible = !document.hidden && (!frame.checkVisibility || frame.checkVisibility(style));
    // A frame among others is not told of the window's focus, but of its own.
    const focused = window !== top || document.hasFocus();
    if (meter.look(performance.now(), Math.floor(ratio * 1000 + 1e-4), area, visible, focused)) {
      observer.unobserve(frame);
      tell("viewable", slot.ad!);
      emit("viewable", slot);
    }
    running ||= meter.running;
  });
  if (running) polling ||= setInterval(look, 100);
  else polling = void clearInterval(polling);
}
