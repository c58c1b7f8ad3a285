// What `init` was told, and what came of it.
import type { Meter } from "./parts.js";
import { PlainMeter } from "./viewability.js";

/** Milliseconds of the page's own clock, which is never set back. */
export const now = () => performance.now();

export const config = {
  edge: "",
  test_: "",
  /** When it is known whether there is consent, or nobody says. */
  ready_: Promise.resolve(),
  Meter_: PlainMeter as new () => Meter,
};
