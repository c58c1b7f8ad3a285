// The package as a module.
import type { Settings } from "../index.js";
import { init as begin } from "./main.js";

export { consent, on, refresh, render, stats } from "./main.js";

export function init(settings: Settings): void {
  begin({ core: new URL("./core.js", import.meta.url).href, ...settings });
}
