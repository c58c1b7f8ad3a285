// What the loader fetches after the first paint: the Wasm core and the glue of wasm-bindgen.
import start from "wasm-core";

export { Meter, Queue } from "wasm-core";

export async function load(): Promise<void> {
  await start();
}
