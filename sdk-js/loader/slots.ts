// The slots for ads: asks the edge, draws, and watches.
import type { Ad, Event, Occasion } from "../index.js";
import { config, now } from "./config.js";
import { given } from "./consent.js";
import { tell } from "./delivery.js";
import type { Meter } from "./parts.js";

interface Slot {
  element: HTMLElement;
  placement: string;
  /** Counts the ads that were asked for: the answer to an earlier question comes too late. */
  turn_: number;
  ad?: Ad | undefined;
  frame_?: HTMLIFrameElement | undefined;
  meter_?: Meter | undefined;
  ratio_?: number;
  area_?: number;
}

const slots = new Map<Element, Slot>();
const bus = new EventTarget();
let timer: ReturnType<typeof setTimeout> | undefined;

export function on(event: Event, listener: (occasion: Occasion) => void): () => void {
  const heard = (happened: unknown) => listener((happened as CustomEvent<Occasion>).detail);
  bus.addEventListener(event, heard);
  return () => bus.removeEventListener(event, heard);
}

/** By an EventTarget, so that a listener that throws does not stop the others. */
export function emit(event: Event, { element, placement, ad }: Partial<Slot> = {}, error?: unknown): void {
  bus.dispatchEvent(new CustomEvent(event, { detail: { element, placement, ad, error } }));
}

/** Finds slots that are new, have changed, or are gone. */
export function scan(): void {
  slots.forEach((slot, element) => element.isConnected || (stop(slot), slots.delete(element)));
  document.querySelectorAll<HTMLElement>("[data-countersign-placement]").forEach((element) => {
    const placement = element.dataset.countersignPlacement!;
    let slot = slots.get(element);
    if (placement && slot?.placement !== placement) {
      if (!slot) slots.set(element, (slot = { element, placement, turn_: 0 }));
      slot.placement = placement;
      fill(slot);
    }
  });
}

/** Shows new ads: in one element, in all, or (`missing`) only in those that show none. */
export function refill(element?: Element | null, missing?: boolean): void {
  slots.forEach((slot) => {
    if ((!element || slot.element === element) && !(missing && slot.frame_)) fill(slot);
  });
}

function stop(slot: Slot): void {
  slot.turn_++;
  slot.frame_ = slot.meter_ = undefined;
}

async function fill(slot: Slot): Promise<void> {
  stop(slot);
  const turn = slot.turn_;
  await config.ready_;
  try {
    const query = `?placement=${encodeURIComponent(slot.placement)}&consent=${+given()}${config.test_}`;
    const reply = await fetch(`${config.edge}/v1/serve${query}`);
    if (!reply.ok) throw reply.status;
    let ad: Ad | undefined;
    if (reply.status !== 204) ad = await reply.json();
    if (turn !== slot.turn_) return;
    slot.ad = ad;
    if (!ad) return emit("empty", slot);
    emit("served", slot);
    const { image } = ad.creative;
    // A sandboxed frame does not report that its picture failed, and a missing picture is no
    // impression. So the picture is loaded here first.
    if (image)
      await new Promise((onload, onerror) => Object.assign(new Image(), { onload, onerror, src: image }));
    if (turn === slot.turn_) draw(slot, ad);
  } catch (error) {
    if (turn === slot.turn_) emit("error", slot, error);
  }
}

/** What an HTML creative writes where it wants the click link. */
const MACRO = "{click_url}";
const quoted = (url: string) => `"${url.replace(/[&"]/g, (c) => `&#${c.charCodeAt(0)};`)}"`;

function draw(slot: Slot, { creative: { image, html, width, height }, click_url }: Ad): void {
  const link = `<a href=${quoted(click_url)}>`;
  const picture = image && `<img src=${quoted(image)} width=${+width} height=${+height} align=top>`;
  // A creative with its own links says where it wants the click link; else all of it is one link.
  const inner = html?.includes(MACRO) ? html.split(MACRO).join(click_url) : `${link}${picture || html}</a>`;
  slot.element.innerHTML =
    `<iframe title=Advertisement width=${+width} height=${+height} frameborder=0 scrolling=no ` +
    `sandbox="allow-popups allow-popups-to-escape-sandbox${image ? "" : " allow-scripts"}">`;
  const frame = (slot.frame_ = slot.element.firstChild as HTMLIFrameElement);
  // Attributes, not CSS: a page's policy against inline styles holds in the frame too.
  frame.srcdoc = `<!doctype html><base target=_blank><body marginwidth=0 marginheight=0>${inner}`;
  frame.onload = () => {
    if (frame === slot.frame_) observer.observe(frame);
  };
}

// It reports whenever the part in view crosses a threshold of the rule. So it is exactly known on
// which side that part is; how far beyond does not matter.
const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, intersectionRatio, boundingClientRect: { width, height } } of entries) {
      const slot = slots.get(target.parentElement!);
      // The entry of an ad that was replaced meanwhile, or whose slot is gone.
      if (target !== slot?.frame_) continue;
      slot.ratio_ = intersectionRatio;
      slot.area_ = (width * height + 0.5) | 0;
      // The frame has a size, so it is laid out, wherever on the page: "begin to render". A
      // background tab lays out nothing.
      if (slot.area_ && !slot.meter_) {
        slot.meter_ = new config.Meter_();
        tell("impression", slot.ad!);
        emit("impression", slot);
      }
    }
    look();
  },
  { threshold: [0, 0.3, 0.5] },
);

/** Looks at all ads, and again every 100 ms while a time test runs. */
export function look(): void {
  let running = false;
  slots.forEach((slot) => {
    const { meter_: meter, ratio_: ratio, area_: area } = slot;
    if (!meter) return;
    // In a frame, `hasFocus` tells of the frame and not of the window, so only a top-level page is
    // asked.
    const focused = self !== top || document.hasFocus();
    if (meter.look(now(), (ratio! * 1000 + 1e-4) | 0, area!, !document.hidden, focused)) {
      tell("viewable", slot.ad!);
      emit("viewable", slot);
    }
    running ||= meter.running;
  });
  clearTimeout(timer);
  if (running) timer = setTimeout(look, 100);
}
