// Until the Wasm core is there, and where it never comes: events live as long as the page, and are
// sent again five seconds after a failure. No storage, no growing waits, no `Retry-After`.
import type { Kind, Outbox } from "./parts.js";

type Waiting = { kind: Kind; id: string; token: string };

export class PlainOutbox implements Outbox {
  waiting: Waiting[] = [];
  taken = 0;
  private underWay = new Map<number, Waiting[]>();
  private due = 0;
  private counts = [0, 0, 0];

  push(kind: Kind, id: string, token: string): boolean {
    if (this.waiting.length > 255) return !++this.counts[2]!;
    this.waiting.push({ kind, id, token });
    return true;
  }

  take(now: number, atOnce: boolean): string | undefined {
    if (!atOnce && now < this.due) return;
    let body = "";
    const batch = [];
    for (const event of this.waiting) {
      const more = (body && ",") + JSON.stringify({ token: event.token, kind: event.kind });
      // All of it is ASCII, so characters are bytes; 13 are around them.
      if (body.length + more.length + 13 > 16383) break;
      body += more;
      batch.push(event);
    }
    if (!body) return;
    this.waiting.splice(0, batch.length);
    this.underWay.set(++this.taken, batch);
    return `{"events":[${body}]}`;
  }

  settle(body: number, now: number, status: number, _retryAfterS: number, results: string): void {
    const batch = this.underWay.get(body);
    this.underWay.delete(body);
    if (status === 202) {
      const said = results.split(",");
      batch?.forEach((_, n) => this.counts[/^(accep|queu)ted|queued$/.test(said[n]!) ? 0 : 1]!++);
    } else if (status < 400 || status > 499 || status === 429 || status === 408) {
      this.waiting.push(...(batch || []));
      this.due = now + 5000;
    } else this.counts[1]! += batch ? batch.length : 0;
  }

  wake(): void {
    this.due = 0;
  }

  wait(now: number): number {
    return this.waiting.length ? Math.max(0, this.due - now) : -1;
  }

  tally(): number[] {
    let waiting = this.waiting.length;
    this.underWay.forEach((batch) => (waiting += batch.length));
    return [...this.counts, waiting];
  }

  consent(): void {}
}
