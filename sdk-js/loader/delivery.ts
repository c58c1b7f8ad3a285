// Sends events to the edge. The queue decides what waits and for how long.
import type { Ad, Stats } from "../index.js";
import { config, now } from "./config.js";
import { PlainQueue } from "./queue.js";
import type { Core, Kind, Queue } from "./parts.js";

/** Events within this many milliseconds go together. */
const GATHER_MS = 200;

/** Identifies this page view: random, and never stored. */
export const page = Math.random().toString(36).slice(2);
const plain = new PlainQueue();
let queue: Queue = plain;
const counts = { made: 0, accepted: 0, refused: 0, dropped: 0 };
let timer: ReturnType<typeof setTimeout> | undefined;

export function tell(kind: Kind, ad: Ad): void {
  counts[queue.push(kind, ad.impression_id, ad.token) ? "made" : "dropped"]++;
  // Once the page is hidden its timers may never run, and no other event may announce its end.
  if (document.hidden) flush(true);
  else schedule();
}

function schedule(): void {
  clearTimeout(timer);
  const wait = queue.wait(now());
  // Timers of a hidden page may never run.
  if (wait >= 0) timer = setTimeout(flush, document.hidden ? wait : Math.max(wait, GATHER_MS));
}

/** Sends what is due; everything when the page may end soon. */
export function flush(leaving = false): void {
  let body;
  while ((body = queue.take(now(), leaving))) post(queue, queue.taken, body, leaving);
  schedule();
}

async function post(from: Queue, number: number, body: string, leaving: boolean): Promise<void> {
  // `seq` is the number of events so far, so that a log of the requests shows how many are missing.
  const url = `${config.edge}/v1/events?page=${page}&seq=${counts.made}`;
  let status = 0;
  let after = 0;
  let results: string[] = [];
  try {
    if (leaving && !("keepalive" in Request.prototype)) throw 0;
    // Without a limit a connection that stays silent would never count as unanswered.
    const signal = AbortSignal.timeout?.(15000);
    const reply = await fetch(url, { method: "POST", body, keepalive: true, signal });
    if (reply.status === 202) results = (await reply.json()).results;
    after = +reply.headers.get("retry-after")!;
    status = reply.status;
  } catch {
    // Too much is under way, the browser is old, or there is no network. A page that stays tries
    // again by itself. Awaited, so that a caller that empties the queue does not get the same
    // events again at once.
    if (document.hidden || leaving) status = await +navigator.sendBeacon(url, body);
  }
  from.settle(number, now(), status, after, results.join());
  for (const result of results) counts[/^(ac|qu)/.test(result) ? "accepted" : "refused"]++;
  adopt();
  schedule();
}

export function wake(): void {
  queue.wake();
  flush();
}

/** The core takes over with what waits. What is under way comes back to the plain queue if it fails. */
export function upgrade(core: Core): void {
  queue = new core.Queue(page);
  adopt();
}

/** Moves what waits in the plain queue to the core. */
function adopt(): void {
  if (queue === plain) return;
  for (const { kind, id, token } of plain.waiting_.splice(0)) queue.push(kind, id, token);
}

export function consent(given: boolean): void {
  queue.consent(given);
  schedule();
}

export const stats = (): Stats => ({ page, ...counts, core: queue === plain ? "js" : "wasm" });
