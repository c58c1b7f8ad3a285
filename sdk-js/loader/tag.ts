// The package as one script tag: `<script async src="…/countersign.js" data-edge="https://…">`. The
// other settings are attributes of that kind too, except consent, which is the visitor's to give.
import type { Settings } from "../index.js";
import { init as begin, consent, on, refresh, render, stats } from "./main.js";

const script = document.currentScript as HTMLScriptElement | null;
const core = script?.src && new URL("core.js", script.src).href;
const init = (settings: Settings) => begin({ core: core || false, ...settings });

window.countersign = { init, render, refresh, on, consent, stats };
if (script?.dataset.edge) init({ ...script.dataset, consent: undefined } as unknown as Settings);
