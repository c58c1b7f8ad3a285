// The examples of the README, as they stand there but for the hosts, in a browser.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { Stage } from "./stage.mjs";

const text = readFileSync(new URL("../README.md", import.meta.url), "utf8");
/** The code blocks of a chapter. */
const examples = (chapter) => [...text.split(`## ${chapter}\n`)[1].split("\n## ")[0].matchAll(/```\w+\n([^]*?)```/g)].map(([, code]) => code);

let stage;
before(async () => (stage = await Stage.open({ "front-top": {}, "front-side": {}, newsletter: { image: "{site}/pixel.png" } })));
after(() => stage?.close());

const here = (code) => {
  const local = code.replaceAll("https://cdn.example.net", "/dist").replaceAll("https://ads.example.net", stage.edge);
  assert.notEqual(local, code, "the example names our hosts");
  return local;
};

async function shows(path, { head = "", body = "" }, placement, core = "wasm") {
  const tab = await stage.visitor();
  const errors = [];
  tab.on("pageerror", (error) => errors.push(`${error}`));
  const before = await stage.count(placement, "viewable");
  stage.page(path, { head, body });
  await tab.goto(stage.site + path);
  await stage.counts(placement, { viewable: before + 1 });
  if (core === "wasm") await tab.waitForFunction(() => performance.getEntriesByType("resource").some(({ name }) => name.endsWith("/core_bg.wasm")));
  assert.deepEqual(errors, []);
  return tab;
}

test("a plain page: one tag", async () => {
  await shows("/plain", { body: here(examples("A plain page")[0]) }, "front-top");
});

test("a plain page: by hand", async () => {
  const body = `<div id="sidebar"></div>${here(examples("A plain page")[1])}`;
  await shows("/by-hand", { body }, "front-side");
});

test("a tag manager", async () => {
  const body = `<div data-countersign-placement="front-top"></div>${here(examples("A tag manager")[0])}`;
  await shows("/manager", { body }, "front-top");
});

test("React: the component's calls, with the least of a React that renders once", async () => {
  // What the example uses of React, and no more: the package itself is not a dependency of ours.
  const react = `export const useEffect = (effect) => queueMicrotask(effect);
    export const h = (type, { style, ...attributes } = {}, ...children) => {
      if (typeof type === "function") return type({ ...attributes, children });
      const element = document.createElement(type);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.append(...children);
      return element;
    };`;
  const main = `import { h } from "react"; import { Ads, Ad } from "example";
    document.body.append(...[Ads({ children: [Ad({ placement: "front-top" })] })].flat());`;
  const files = { react, main, example: `import { h } from "react";\n${here(examples("React")[0])}` };
  const virtual = {
    name: "virtual",
    setup(build) {
      build.onResolve({ filter: /^(react|main|example)$/ }, ({ path }) => ({ path, namespace: "virtual" }));
      build.onResolve({ filter: /^countersign-sdk$/ }, () => ({ path: "/dist/index.js", external: true }));
      build.onLoad({ filter: /.*/, namespace: "virtual" }, ({ path }) => ({ contents: files[path], loader: "jsx" }));
    },
  };
  const { outputFiles } = await build({ entryPoints: ["main"], plugins: [virtual], bundle: true, write: false, format: "esm", jsxFactory: "h" });
  const code = outputFiles[0].text.replace("/countersign/core.js", "/dist/core.js");
  await shows("/react", { body: `<script type="module">${code}</script>` }, "front-top");
});

test("as a module, the core is found beside it", async () => {
  const code = `import { init, on, stats } from "/dist/index.js"; on("core", () => (window.core = stats().core)); init({ edge: "${stage.edge}" });`;
  const body = `<div data-countersign-placement="front-top"></div><script type="module">${code}</script>`;
  const tab = await shows("/module", { body }, "front-top");
  await tab.waitForFunction(() => window.core === "wasm");
});

test("mail: the server's part", async () => {
  const code = examples("Mail, AMP, pages without JavaScript")[0].replace("countersign-sdk/markup", new URL("../dist/markup.js", import.meta.url).href);
  const module = `${here(code)}\nexport default html;`;
  const { default: html } = await import(`data:text/javascript,${encodeURIComponent(module)}`);
  const tab = await stage.visitor({ javaScriptEnabled: false });
  await tab.goto(stage.page("/mail", { head: "", body: html }));
  // The ad was asked for by a server, which is no person; it is seen by one.
  await stage.counts("newsletter", { served: 0, impression: 1 });
});
