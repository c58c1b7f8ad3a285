// The rule of src/viewability.rs, which says whence it is; cases/viewability.json runs through both.
import type { Meter } from "./parts.js";

export class PlainMeter implements Meter {
  running = false;
  private since = 0;
  private last = 0;
  private done = false;

  look(now: number, perMille: number, area: number, visible: boolean, focused: boolean): boolean {
    const passes = area > 0 && visible && focused && perMille >= (area >= 242500 ? 300 : 500);
    const gap = now - this.last;
    if (!this.running || gap < 0 || gap > 500) this.since = now;
    this.last = now;
    this.running = passes && !this.done;
    if (!this.running || now - this.since < 1000) return false;
    this.running = false;
    return (this.done = true);
  }
}
