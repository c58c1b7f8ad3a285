// Events on their way to the edge. What waits, and for how long, is the outbox's to say.
import type { Ad } from "../index.js";
import { PlainOutbox } from "./outbox.js";
import type { Core, Kind, Outbox } from "./parts.js";

/** Events of so many milliseconds go together. */
const GATHER_MS = 200;

/** Of this page view alone: not stored, and the same in no other. */
export const page = Math.random().toString(36).slice(2);
const plain = new PlainOutbox();
let outbox: Outbox = plain;
let made = 0;
let edge = "";
let timer: ReturnType<typeof setTimeout> | undefined;
const now = () => performance.now();

export const setEdge = (url: string) => void (edge = url);

export function tell(kind: Kind, ad: Ad): void {
  if (outbox.push(kind, ad.impression_id, ad.token)) made++;
  schedule();
}

function schedule(): void {
  clearTimeout(timer);
  const wait = outbox.wait(now());
  // Timers of a hidden page may never run.
  if (wait >= 0) timer = setTimeout(flush, document.hidden ? wait : Math.max(wait, GATHER_MS));
}

/** Sends what is due; everything, when the page may be gone soon. */
export function flush(leaving?: unknown): void {
  let body;
  while ((body = outbox.take(now(), leaving === true))) post(outbox, outbox.taken, body, leaving === true);
  schedule();
}

async function post(from: Outbox, number: number, body: string, leaving: boolean): Promise<void> {
  // The number of events so far, that a log of requests can tell what is missing.
  const url = `${edge}/v1/events?page=${page}&seq=${made}`;
  let [status, after, results] = [0, 0, ""];
  try {
    if (leaving && !("keepalive" in Request.prototype)) throw 0;
    const reply = await fetch(url, { method: "POST", body, keepalive: true, credentials: "omit" });
    if (reply.status === 202) results = (await reply.json()).results.join();
    after = +(reply.headers.get("retry-after") || 0);
    status = reply.status;
  } catch {
    // Too much under way, an old browser, or no network; who stays here tries again by itself.
    if (document.hidden || leaving) status = +navigator.sendBeacon(url, body);
  }
  from.settle(number, now(), status, after, results);
  adopt();
  schedule();
}

export function wake(): void {
  outbox.wake();
  flush();
}

/** The core takes over, with what waits; what is under way comes back to the plain one. */
export function upgrade(core: Core): void {
  outbox = new core.Outbox(page);
  adopt();
}

function adopt(): void {
  if (outbox === plain) return;
  for (const { kind, id, token } of plain.waiting.splice(0)) outbox.push(kind, id, token);
}

export function consent(given: boolean): void {
  outbox.consent(given);
  schedule();
}

export function tally() {
  const [a, b] = [plain.tally(), outbox === plain ? [0, 0, 0, 0] : outbox.tally()];
  const [accepted, refused, dropped, waiting] = a.map((n, at) => n + b[at]!) as [number, number, number, number];
  return { page, made, accepted, refused, dropped, waiting, core: outbox === plain ? "js" : "wasm" } as const;
}
