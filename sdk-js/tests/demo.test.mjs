// The demo page of `up --demo --sdk`: its two places, its buttons, its counts.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Stage } from "./stage.mjs";

let stage;
before(async () => (stage = await Stage.open()));
after(() => stage?.close());

test("the demo page shows two ads, tells what it sends, and what is counted", async () => {
  const tab = await stage.visitor();
  const errors = [];
  tab.on("pageerror", (error) => errors.push(`${error}`));
  const page = await tab.goto(`${stage.api}/demo`);
  assert.equal(page.status(), 200);
  await tab.locator("#said", { hasText: "viewable" }).waitFor();
  await tab.locator("#sent", { hasText: "by the Wasm core" }).waitFor();
  // Which of its ads is shown is drawn by lot: served, impression, viewable and click of all of them.
  const counted = (...sums) => tab.waitForFunction((sums) => {
    const rows = [...document.querySelectorAll("#counts tr")].map((row) => [...row.cells].slice(1));
    return sums.every((sum, at) => rows.reduce((all, cells) => all + +cells[at].textContent, 0) === sum);
  }, sums);
  await counted(2, 2, 1, 0);
  const [landing] = await Promise.all([tab.context().waitForEvent("page"), tab.frameLocator("iframe").first().locator("a").click()]);
  await landing.waitForURL(/\/demo\/landing/);
  await landing.close();
  await counted(2, 2, 1, 1);
  await tab.locator("#again").click();
  await counted(4, 4, 2, 1);
  await tab.locator("#consent").check();
  await tab.locator("#again").click();
  await counted(6, 6, 3, 1);
  assert.deepEqual(tab.served.map((url) => url.slice(-1)), ["0", "0", "0", "0", "1", "1"]);
  assert.deepEqual(errors, []);
});

test("the SDK's files are there for any page, and nothing else", async () => {
  for (const [file, type] of [["countersign.js", "text/javascript; charset=utf-8"], ["core_bg.wasm", "application/wasm"]]) {
    const reply = await fetch(`${stage.api}/sdk/${file}`);
    assert.equal(reply.status, 200);
    assert.equal(reply.headers.get("content-type"), type);
    assert.equal(reply.headers.get("access-control-allow-origin"), "*");
  }
  for (const file of ["other.js", "..%2fpackage.json"]) assert.equal((await fetch(`${stage.api}/sdk/${file}`)).status, 404);
});
