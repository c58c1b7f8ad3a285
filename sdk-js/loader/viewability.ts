// The rule of src/viewability.rs, which names its source; cases/viewability.json tests both.
import type { Meter } from "./parts.js";

export class PlainMeter implements Meter {
  running = false;
  private since_ = 0;
  private last_ = 0;
  private done_ = false;

  look(now: number, perMille: number, area: number, visible: boolean, focused: boolean): boolean {
    // A clock that went back makes the difference, as an unsigned number, very large.
    if (!this.running || (now - this.last_) >>> 0 > 500) this.since_ = now;
    this.last_ = now;
    this.running =
      !this.done_ && area > 0 && visible && focused && perMille >= (area < 242500 ? 500 : 300);
    if (!this.running || now - this.since_ < 1000) return false;
    this.running = false;
    return (this.done_ = true);
  }
}
