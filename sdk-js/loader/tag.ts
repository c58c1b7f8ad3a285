// The package as one script tag: `<script async src="…/countersign.js" data-edge="https://…">`.
import type { Settings } from "../index.js";
import * as main from "./main.js";

const script = document.currentScript as HTMLScriptElement | null;
const core = script?.src && new URL("core.js", script.src).href;
const init = (settings: Settings) => main.init({ core: core || false, ...settings });
const { consent, on, refresh, render, stats } = main;

window.countersign = { init, render, refresh, on, consent, stats };
const { edge, vendor, core: use, test } = script?.dataset || {};
if (edge) init({ edge, vendor: +(vendor || 0), test: test === "1", ...(use === "off" && { core: false }) });
