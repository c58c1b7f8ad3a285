// The demo page as `up` would serve it: its two places, its buttons, its counts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { Stage } from "./stage.mjs";

let stage;
before(async () => (stage = await Stage.open({ "demo-top": {} })));
after(() => stage?.close());

test("the demo page shows two ads, tells what it sends, and what is counted", async () => {
  const text = readFileSync(new URL("../demo/index.html", import.meta.url), "utf8");
  const html = text.replaceAll("{edge}", stage.edge).replaceAll("{sdk}", "/dist");
  stage.pages.set("/demo", { html, headers: { "content-type": "text/html" } });
  const tab = await stage.visitor();
  const errors = [];
  tab.on("pageerror", (error) => errors.push(`${error}`));
  await tab.route("**/demo/counts", async (route) => {
    const kinds = ["served", "impression", "viewable", "click"];
    const counts = await Promise.all(kinds.map((kind) => stage.count("demo-top", kind)));
    const json = { "demo-top": Object.fromEntries(kinds.map((kind, at) => [kind, counts[at]])) };
    await route.fulfill({ json });
  });
  await tab.goto(`${stage.site}/demo`);
  await tab.locator("#said", { hasText: "viewable" }).waitFor();
  await tab.locator("#sent", { hasText: "by the Wasm core" }).waitFor();
  const row = (text) => tab.locator("#counts tr", { hasText: text }).waitFor();
  await row("demo-top2210");
  const [landing] = await Promise.all([tab.context().waitForEvent("page"), tab.frameLocator("iframe").first().locator("a").click()]);
  await landing.waitForURL(/\/landing\?ad=demo-top$/);
  await landing.close();
  await row("demo-top2211");
  await tab.locator("#again").click();
  await row("demo-top4421");
  await tab.locator("#consent").check();
  await tab.locator("#again").click();
  await row("demo-top6631");
  assert.deepEqual(tab.served.map((url) => url.slice(-1)), ["0", "0", "0", "0", "1", "1"]);
  assert.deepEqual(errors, []);
});
