// What wasm-bindgen makes of src/rim.rs; `build.mjs` says where it lies.
declare module "wasm-core" {
  export const Meter: import("./parts.js").Core["Meter"];
  export const Outbox: import("./parts.js").Core["Outbox"];
  const start: () => Promise<unknown>;
  export default start;
}
