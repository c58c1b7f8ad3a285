// Events on their way to the edge. What waits, and for how long, is the outbox's to say.
import type { Ad, Stats } from "../index.js";
import { config, now } from "./config.js";
import { PlainOutbox } from "./outbox.js";
import type { Core, Kind, Outbox } from "./parts.js";

/** Events of so many milliseconds go together. */
const GATHER_MS = 200;

/** Of this page view alone: not stored, and the same in no other. */
export const page = Math.random().toString(36).slice(2);
const plain = new PlainOutbox();
let outbox: Outbox = plain;
const counts = { made: 0, accepted: 0, refused: 0, dropped: 0 };
let timer: ReturnType<typeof setTimeout> | undefined;

export function tell(kind: Kind, ad: Ad): void {
  counts[outbox.push(kind, ad.impression_id, ad.token) ? "made" : "dropped"]++;
  // After the page was hidden, no timer may come any more, and no other word of its end.
  if (document.hidden) flush(true);
  else schedule();
}

function schedule(): void {
  clearTimeout(timer);
  const wait = outbox.wait(now());
  // Timers of a hidden page may never run.
  if (wait >= 0) timer = setTimeout(flush, document.hidden ? wait : Math.max(wait, GATHER_MS));
}

/** Sends what is due; everything, when the page may be gone soon. */
export function flush(leaving = false): void {
  let body;
  while ((body = outbox.take(now(), leaving))) post(outbox, outbox.taken, body, leaving);
  schedule();
}

async function post(from: Outbox, number: number, body: string, leaving: boolean): Promise<void> {
  // The number of events so far, that a log of requests can tell what is missing.
  const url = `${config.edge}/v1/events?page=${page}&seq=${counts.made}`;
  let status = 0;
  let after = 0;
  let results: string[] = [];
  try {
    if (leaving && !("keepalive" in Request.prototype)) throw 0;
    // A connection that says nothing is no answer either.
    const signal = AbortSignal.timeout?.(15000);
    const reply = await fetch(url, { method: "POST", body, keepalive: true, signal });
    if (reply.status === 202) results = (await reply.json()).results;
    after = +reply.headers.get("retry-after")!;
    status = reply.status;
  } catch {
    // Too much under way, an old browser, or no network; who stays here tries again by itself.
    // Awaited, so that who empties the outbox is not given the same events again at once.
    if (document.hidden || leaving) status = await +navigator.sendBeacon(url, body);
  }
  from.settle(number, now(), status, after, results.join());
  for (const result of results) counts[/^(ac|qu)/.test(result) ? "accepted" : "refused"]++;
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
  for (const { kind, id, token } of plain.waiting_.splice(0)) outbox.push(kind, id, token);
}

export function consent(given: boolean): void {
  outbox.consent(given);
  schedule();
}

export const stats = (): Stats => ({ page, ...counts, core: outbox === plain ? "js" : "wasm" });
