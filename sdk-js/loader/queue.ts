// The queue until the Wasm core has loaded, and where it never does: events live as long as the
// page, and are sent again five seconds after a failure. No storage, no growing waits, no
// `Retry-After`.
import type { Kind, Queue } from "./parts.js";

type Waiting = { kind: Kind; id: string; token: string };

export class PlainQueue implements Queue {
  taken = 0;
  waiting_: Waiting[] = [];
  private underWay_: Waiting[][] = [];
  private pause_ = 0;

  push(kind: Kind, id: string, token: string): boolean {
    return this.waiting_.length < 256 && !!this.waiting_.push({ kind, id, token });
  }

  take(): string | undefined {
    let body = "";
    let events = 0;
    for (const { token, kind } of this.waiting_) {
      const more = (body && ",") + JSON.stringify({ token, kind });
      // Everything is ASCII, so characters are bytes. With the 13 around them the body stays below
      // 16 KiB.
      if (body.length + more.length > 16370) break;
      body += more;
      events++;
    }
    if (!body) return;
    this.underWay_[++this.taken] = this.waiting_.splice(0, events);
    return `{"events":[${body}]}`;
  }

  settle(body: number, _now: number, status: number): void {
    const events = this.underWay_[body]!;
    delete this.underWay_[body];
    // 202, or a request that is wrong for good; any other status means to come again.
    if (/^(202|4(?!08|29))/.test(status as unknown as string)) return this.wake();
    this.waiting_.push(...events);
    this.pause_ = 5000;
  }

  wake(): void {
    this.pause_ = 0;
  }

  wait(): number {
    return this.waiting_.length ? this.pause_ : -1;
  }

  consent(): void {}
}
