// What the Wasm core and its plain stand-in both are.

export interface Meter {
  /** Takes a look at the ad; true when it has just become viewable. */
  look(nowMs: number, perMille: number, areaPx: number, visible: boolean, focused: boolean): boolean;
  /** Another look is wanted soon. */
  readonly running: boolean;
}

export type Kind = "impression" | "viewable";

export interface Outbox {
  /** Takes an event; false when it is not taken. */
  push(kind: Kind, id: string, token: string): boolean;
  /** The next body, below 16 KiB, or nothing; all that waits is due when `atOnce`. */
  take(nowMs: number, atOnce: boolean): string | undefined;
  /** The number of the body that was taken last. */
  readonly taken: number;
  /** The answer to a body: status (0: none came, 1: it went as a beacon) and results by commas. */
  settle(body: number, nowMs: number, status: number, retryAfterS: number, results: string): void;
  /** What waits is due. */
  wake(): void;
  /** In how many milliseconds something is due; -1 when nothing waits. */
  wait(nowMs: number): number;
  /** Whether what waits may be stored. */
  consent(given: boolean): void;
}

export interface Core {
  Meter: new () => Meter;
  Outbox: new (page: string) => Outbox;
}
