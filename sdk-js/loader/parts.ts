// The interfaces of the parts that exist twice: in the Wasm core, and plain in the loader.

export interface Meter {
  /** Takes a look at the ad; true when it has just become viewable. */
  look(nowMs: number, perMille: number, areaPx: number, visible: boolean, focused: boolean): boolean;
  /** Whether another look is wanted soon. */
  readonly running: boolean;
}

export type Kind = "impression" | "viewable";

export interface Queue {
  /** Takes an event; false when it is not taken. */
  push(kind: Kind, id: string, token: string): boolean;
  /** The next body, below 16 KiB, or nothing. With `atOnce` everything that waits is due. */
  take(nowMs: number, atOnce: boolean): string | undefined;
  /** The number of the body that was taken last. */
  readonly taken: number;
  /** Takes the answer to a body: status (0: none, 1: sent as a beacon), results separated by commas. */
  settle(body: number, nowMs: number, status: number, retryAfterS: number, results: string): void;
  /** Makes everything that waits due. */
  wake(): void;
  /** In how many milliseconds something is due; -1 when nothing waits. */
  wait(nowMs: number): number;
  /** Says whether what waits may be stored. */
  consent(given: boolean): void;
}

export interface Core {
  Meter: new () => Meter;
  Queue: new (page: string) => Queue;
}
