// What the loader fetches after the first paint: the Wasm core, and wasm-bindgen's glue.
import start from "wasm-core";

export { Meter, Outbox } from "wasm-core";

export async function load(): Promise<void> {
  await start();
}
