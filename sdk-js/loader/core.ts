// What the loader fetches after the first paint: the Wasm core, and wasm-bindgen's glue.
import start from "../build/pkg/core.js";

export { Meter, Outbox } from "../build/pkg/core.js";

export async function load(): Promise<void> {
  await start();
}
