// What becomes of events when the network fails, the page ends, and consent comes and goes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Stage, heard, listen, place } from "./stage.mjs";

const NAMES = ["lost", "unsaid", "silent", "busy", "offline", "storage", "storage-gone", "none", "later", "tcf", "gpc", "gpp", "hand-over", "withdrawn", "plain-lost", "cmp-late", "test-ads", "swallowed"];
let stage;
before(async () => (stage = await Stage.open(Object.fromEntries(NAMES.map((name) => [name, {}])))));
after(() => stage?.close());

const EVENTS = "**/v1/events*";
const stored = (tab) => tab.evaluate(() => Object.entries(localStorage));
const consent = (tab, given) => tab.evaluate((given) => window.countersign.consent(given), given);
const back = (tab) => tab.evaluate(() => dispatchEvent(new Event("online")));

/** Opens a page with an ad below the fold, so that there is one event. */
async function open(name, { tab, wait = "impression", head, body, prepare, tag } = {}) {
  tab ??= await stage.visitor();
  await prepare?.(tab);
  const far = `<p style="height:2000px">far</p>`;
  const page = { tag, body: body ?? listen + far + place(name) };
  if (head !== undefined) page.head = head + `<script async src="/dist/countersign.js" data-edge="{edge}" ${tag ?? ""}></script>`;
  await tab.goto(stage.page(`/${name}`, page));
  if (wait) await heard(tab, wait);
  return tab;
}

for (const [name, tag, core] of [["lost", "", "wasm"], ["plain-lost", 'data-core=""', "js"]])
  test(`a request that fails is sent again when the network is back (${core})`, async () => {
    let failed = 0;
    const tab = await open(name, { tag, prepare: (tab) => tab.route(EVENTS, (route) => (failed++, route.abort("internetdisconnected"))) });
    await sleep(1_000);
    assert.ok(failed >= 1);
    await stage.counts(name, { served: 1, impression: 0 });
    await tab.unroute(EVENTS);
    await back(tab);
    await stage.counts(name, { impression: 1 });
    assert.equal(await tab.evaluate(() => window.countersign.stats().core), core);
  });

test("an answer that is lost: the event is sent twice and counted once", async () => {
  // The edge knows what its outbox has; else the engine knows it for a duplicate.
  const copies = ({ duplicate, reasons }) => duplicate + (reasons.repeated ?? 0);
  const before = copies(await stage.accounting());
  let lost = 0;
  const tab = await open("unsaid", {
    prepare: (tab) =>
      tab.route(EVENTS, async (route) => {
        if (lost++) return route.continue();
        await route.fetch();
        await route.abort("connectionreset");
      }),
  });
  await tab.waitForFunction(() => window.countersign.stats().accepted === 1, undefined, { timeout: 60_000 });
  await stage.counts("unsaid", { impression: 1 });
  for (let waited = 0; copies(await stage.accounting()) === before; waited += 100) {
    assert.ok(waited < 10_000, "the second copy is a repeat");
    await sleep(100);
  }
  assert.ok((await stage.accounting()).adds_up);
});

test("what never arrived is told by what came after it", async () => {
  // All pages here are of one publisher.
  const told = async () => (await stage.accounting()).pages?.find(({ publisher }) => publisher === "gazette") ?? { sent: 0, counted: 0, lost: 0 };
  const before = await told();
  let swallowed = 0;
  // Something between says yes and keeps it: the page has no reason to send it again.
  const swallow = (route) => (swallowed++, route.fulfill({ status: 202, json: { results: ["accepted"] } }));
  const tab = await open("swallowed", { prepare: (tab) => tab.route(EVENTS, swallow) });
  await tab.waitForFunction(() => window.countersign.stats().accepted === 1);
  assert.equal(swallowed, 1);
  await tab.unroute(EVENTS);
  await tab.evaluate(() => scrollTo(0, 5_000));
  await heard(tab, "viewable");
  await stage.counts("swallowed", { served: 1, impression: 0, viewable: 1 });
  const { sent, counted, lost } = await told();
  assert.deepEqual([sent - before.sent, counted - before.counted, lost - before.lost], [2, 1, 1]);
});

test("an edge that never answers is not waited for without end", async () => {
  let silent = 0;
  const tab = await open("silent", {
    prepare: async (tab) => {
      // A second instead of fifteen.
      await tab.addInitScript(() => ((timeout) => (AbortSignal.timeout = (ms) => timeout.call(AbortSignal, ms / 15)))(AbortSignal.timeout));
      await tab.route(EVENTS, (route) => silent++ < 1 || route.continue());
    },
  });
  await tab.waitForFunction(() => window.countersign.stats().accepted === 1, undefined, { timeout: 60_000 });
  await stage.counts("silent", { impression: 1 });
});

test("a busy edge is asked again later", async () => {
  const at = [];
  const tab = await open("busy", {
    prepare: (tab) => tab.route(EVENTS, (route) => (at.push(Date.now()) < 3 ? route.fulfill({ status: 503, headers: { "access-control-allow-origin": "*" } }) : route.continue())),
  });
  await tab.waitForFunction(() => window.countersign.stats().accepted === 1, undefined, { timeout: 60_000 });
  assert.ok(at[2] - at[1] >= 900, `waits: ${at[1] - at[0]}, ${at[2] - at[1]}`);
  await stage.counts("busy", { impression: 1 });
});

test("offline and back: the place gets its ad, the events their answer", async () => {
  const tab = await open("offline", { body: listen, wait: "core" });
  await tab.context().setOffline(true);
  await tab.evaluate((html) => document.body.insertAdjacentHTML("beforeend", html), place("offline"));
  await heard(tab, "error:offline");
  await tab.context().setOffline(false);
  await heard(tab, "impression:offline");
  await tab.context().setOffline(true);
  await heard(tab, "viewable:offline");
  await sleep(500);
  await tab.context().setOffline(false);
  await stage.counts("offline", { served: 1, impression: 1, viewable: 1 });
});

test("with consent, what is not sent is stored, and a later page sends it", async () => {
  const tab = await open("storage", { prepare: (tab) => tab.route(EVENTS, (route) => route.abort()) });
  await heard(tab, "core");
  await consent(tab, true);
  await tab.waitForFunction(() => localStorage.length === 1);
  const [[name, text]] = await stored(tab);
  assert.match(name, /^countersign\.q\.\w+$/);
  assert.match(text, /^countersign-queue 1\nimpression [0-9a-f]{24} [\w-]+$/);
  await stage.counts("storage", { impression: 0 });
  await tab.goto(`${stage.site}/landing`);
  await tab.unroute(EVENTS);
  await open("storage-gone", { tab, body: listen, wait: "core" });
  assert.equal((await stored(tab)).length, 1, "not read before consent");
  await consent(tab, true);
  await stage.counts("storage", { served: 1, impression: 1 });
  await tab.waitForFunction(() => localStorage.length === 0);
});

test("without consent nothing is set, whatever fails", async () => {
  const tab = await open("none", { prepare: (tab) => tab.route(EVENTS, (route) => route.abort()) });
  await heard(tab, "core");
  await tab.evaluate(() => dispatchEvent(new Event("pagehide")));
  await sleep(1_000);
  const kept = await tab.evaluate(async () => [localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length, (await caches?.keys())?.length ?? 0]);
  assert.deepEqual(kept, [0, 0, "", 0, 0]);
  assert.deepEqual(await tab.context().cookies(), []);
  assert.match(tab.served[0], /&consent=0$/);
});

test("consent given later holds from then on, and withdrawn takes all back", async () => {
  const tab = await open("later", { prepare: (tab) => tab.route(EVENTS, (route) => route.abort()) });
  await heard(tab, "core");
  assert.deepEqual(await stored(tab), []);
  await consent(tab, true);
  await tab.evaluate(() => window.countersign.refresh());
  await heard(tab, "impression", 2);
  assert.deepEqual(tab.served.map((url) => url.slice(-1)), ["0", "1"]);
  assert.match((await stored(tab))[0][1], /(\nimpression .*){2}$/);
  await tab.evaluate(() => localStorage.setItem("countersign.q.other", "countersign-queue 1"));
  await consent(tab, false);
  assert.deepEqual(await stored(tab), []);
  await tab.unroute(EVENTS);
  await back(tab);
  await stage.counts("later", { served: 2, impression: 2 });
});

const tcf = (status, consents) => `<script>window.__tcfapi = (command, version, callback) => { if (command === "addEventListener") window.say = (s, c) => callback({ gdprApplies: true, eventStatus: s, purpose: { consents: c } }, true); say("${status}", ${JSON.stringify(consents)}); }</script>`;

test("TCF: the platform's answer is waited for, and followed", async () => {
  const tab = await open("tcf", { head: tcf("cmpuishown", {}) });
  assert.match(tab.served[0], /&consent=0$/);
  await tab.evaluate(() => window.say("useractioncomplete", { 1: true, 7: true }));
  await tab.evaluate(() => window.countersign.refresh());
  await heard(tab, "impression", 2);
  assert.match(tab.served[1], /&consent=1$/);
  await stage.counts("tcf", { served: 2, impression: 2 });
});

test("TCF: a platform that is silent holds no ad up for long", async () => {
  const tab = await open("cmp-late", { head: "<script>window.__tcfapi = () => {}</script>" });
  assert.match(tab.served[0], /&consent=0$/);
  await stage.counts("cmp-late", { impression: 1 });
});

test("GPC goes before every consent", async () => {
  const tab = await open("gpc", {
    head: tcf("tcloaded", { 1: true, 7: true }),
    prepare: (tab) => tab.addInitScript(() => Object.defineProperty(Navigator.prototype, "globalPrivacyControl", { value: true })),
  });
  await heard(tab, "core");
  await consent(tab, true);
  assert.match(tab.served[0], /&consent=0$/);
  assert.deepEqual(await stored(tab), []);
});

test("GPP: who did not opt out", async () => {
  const gpp = `<script>window.__gpp = (command, callback) => command === "addEventListener" && callback({ pingData: { signalStatus: "ready", parsedSections: { usnat: { SaleOptOut: 2, SharingOptOut: 2 } } } }, true)</script>`;
  const tab = await open("gpp", { head: gpp });
  assert.match(tab.served[0], /&consent=1$/);
});

test("the core takes over what the plain parts have not got rid of", async () => {
  let open_gate;
  const gate = new Promise((open) => (open_gate = open));
  const tab = await open("hand-over", {
    prepare: async (tab) => {
      await tab.route("**/core.js", async (route) => (await gate, route.continue()));
      await tab.route(EVENTS, (route) => route.abort());
    },
  });
  await sleep(600);
  assert.equal(await tab.evaluate(() => window.countersign.stats().core), "js");
  open_gate();
  await heard(tab, "core");
  await consent(tab, true);
  await tab.waitForFunction(() => localStorage.length === 1);
  await tab.unroute(EVENTS);
  await back(tab);
  await stage.counts("hand-over", { impression: 1 });
  await tab.waitForFunction(() => localStorage.length === 0);
  const { made, accepted } = await tab.evaluate(() => window.countersign.stats());
  assert.deepEqual([made, accepted], [1, 1]);
});

test("test ads: nothing is counted", async () => {
  const tab = await open("test-ads", { tag: 'data-test="1"' });
  assert.match(tab.served[0], /&test=1$/);
  await tab.waitForFunction(() => window.countersign.stats().accepted === 1);
  await sleep(1_000);
  await stage.counts("test-ads", { served: 0, impression: 0 });
});

test("the cases of viewability, through the Wasm that is shipped", async () => {
  const cases = JSON.parse(readFileSync(new URL("../cases/viewability.json", import.meta.url), "utf8"));
  const tab = await stage.visitor();
  await tab.goto(`${stage.site}/landing`);
  const found = await tab.evaluate(async (cases) => {
    const core = await import("/dist/core.js");
    await core.load();
    return cases.map(({ area_px, looks }) => {
      const meter = new core.Meter();
      return looks.filter(([now, part, visible, focused]) => meter.look(now, part, area_px, visible, focused)).map(([now]) => now);
    });
  }, cases);
  assert.deepEqual(found, cases.map(({ viewable_at_ms }) => (viewable_at_ms === null ? [] : [viewable_at_ms])));
});
