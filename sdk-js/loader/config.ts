// What `init` was given, and what follows from it.
import type { Meter } from "./parts.js";
import { PlainMeter } from "./viewability.js";

/** Milliseconds of the page's own clock, which is never set back. */
export const now = () => performance.now();

export const config = {
  edge: "",
  test_: "",
  /** Resolves when consent is known, or when no platform has said anything in time. */
  ready_: Promise.resolve(),
  Meter_: PlainMeter as new () => Meter,
};
