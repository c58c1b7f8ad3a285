// What wasm-bindgen makes of src/rim.rs; `build.mjs` says where that is.
declare module "wasm-core" {
  export const Meter: import("./parts.js").Core["Meter"];
  export const Queue: import("./parts.js").Core["Queue"];
  const start: () => Promise<unknown>;
  export default start;
}
