// The loader's pure parts, bundled as they are, without a browser.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const load = async (name) => {
  const entryPoints = [fileURLToPath(new URL(`../loader/${name}.ts`, import.meta.url))];
  const { outputFiles } = await build({ entryPoints, bundle: true, write: false, format: "esm", target: "es2022" });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
};
const { PlainMeter } = await load("viewability");
const { PlainQueue } = await load("queue");
const { markup } = await load("markup");
const cases = JSON.parse(readFileSync(new URL("../cases/viewability.json", import.meta.url), "utf8"));

for (const { name, area_px, looks, viewable_at_ms } of cases)
  test(`viewability: ${name}`, () => {
    const meter = new PlainMeter();
    const at = looks.filter(([now, part, visible, focused]) => meter.look(now, part, area_px, visible, focused));
    assert.deepEqual(at.map(([now]) => now), viewable_at_ms === null ? [] : [viewable_at_ms]);
  });

test("viewability: the meter says while it wants more looks", () => {
  const meter = new PlainMeter();
  assert.equal(meter.running, false);
  meter.look(0, 1000, 75_000, true, true);
  assert.equal(meter.running, true);
  meter.look(10, 1000, 75_000, false, true);
  assert.equal(meter.running, false);
});

const filled = (events, chars) => {
  const queue = new PlainQueue();
  for (let n = 0; n < events; n++) assert.equal(queue.push("impression", `${n}`, "t".repeat(chars)), true);
  return queue;
};
const length = (body) => JSON.parse(body).events.length;

for (const chars of [1, 39, 330, 331, 332, 4_096])
  test(`queue: every body is below 16 KiB, tokens of ${chars}`, () => {
    const queue = filled(256, chars);
    let [events, body] = [0];
    while ((body = queue.take())) {
      assert.ok(Buffer.byteLength(body) < 16_384, `${body.length}`);
      const one = Math.ceil((body.length - 13) / length(body)) + 1;
      events += length(body);
      assert.ok(events === 256 || body.length + one >= 16_384, "as full as may be");
    }
    assert.equal(events, 256);
  });

test("queue: 16 383 bytes go together, 16 384 do not", () => {
  // Around two tokens: {"events":[{"token":"","kind":"impression"},{"token":"","kind":"impression"}]}
  const room = 16_383 - JSON.stringify({ events: Array(2).fill({ token: "", kind: "impression" }) }).length;
  for (const [chars, together] of [[room, 2], [room + 1, 1]]) {
    const queue = new PlainQueue();
    queue.push("impression", "a", "t".repeat(8_000));
    queue.push("impression", "b", "t".repeat(chars - 8_000));
    const body = queue.take();
    assert.equal(length(body), together);
    assert.ok(together === 1 || body.length === 16_383, `${body.length}`);
  }
});

test("queue: it is bounded", () => {
  const queue = filled(256, 1);
  assert.equal(queue.push("viewable", "a", "t"), false);
});

test("queue: what failed is sent again, what the edge has answered is not", () => {
  for (const [status, again] of [[202, 0], [400, 0], [413, 0], [415, 0], [0, 1], [1, 1], [408, 1], [429, 1], [500, 1], [503, 1], [200, 1]]) {
    const queue = filled(1, 1);
    queue.take();
    assert.equal(queue.take(), undefined, "under way");
    queue.settle(queue.taken, 0, status);
    assert.equal(queue.wait(), again ? 5_000 : -1, `${status}`);
    assert.equal(queue.take() !== undefined, again === 1, `${status}`);
  }
});

test("queue: waking makes what waits due", () => {
  const queue = filled(1, 1);
  queue.take();
  queue.settle(1, 0, 503);
  queue.wake();
  assert.equal(queue.wait(), 0);
});

const ad = {
  ad: "a", click_url: "https://e/v1/c/t", beacon_url: "https://e/v1/i/t",
  creative: { image: 'https://c/p.png?a=1&b="2"', width: 300, height: 250 },
};

test("markup: a link, a picture and a pixel", () => {
  assert.equal(
    markup(ad),
    '<a href="https://e/v1/c/t" target="_blank" rel="noopener sponsored">' +
      '<img src="https://c/p.png?a=1&amp;b=&quot;2&quot;" width="300" height="250" alt="Advertisement" border="0"></a>' +
      '<img src="https://e/v1/i/t" width="1" height="1" alt="">',
  );
  assert.match(markup(ad, { amp: true }), /<amp-img .*<amp-pixel src="https:\/\/e\/v1\/i\/t"/);
  assert.throws(() => markup({ ...ad, creative: { html: "<b>", width: 1, height: 1 } }), /no picture/);
});

// What each platform says, and whether it is consent. A fresh module each: it remembers.
const yes = { gdprApplies: true, eventStatus: "tcloaded", purpose: { consents: { 1: true, 7: true } }, vendor: { consents: { 5: true } } };
const gpp = (section, signalStatus = "ready") => ({ pingData: { signalStatus, parsedSections: { usnat: section } } });
const european = { pingData: { signalStatus: "ready", parsedSections: { usnat: { SaleOptOut: 2 }, tcfeuv2: { Version: 2 } } } };
const consents = [
  ["nobody says anything", {}, false],
  ["the page says yes", { told: true }, true],
  ["the page says no, the platform yes", { told: false, tcf: yes }, false],
  ["the page says yes, the browser opts out (GPC)", { told: true, gpc: true }, false],
  ["TCF: purposes 1 and 7", { tcf: yes }, true],
  ["TCF: yes, the browser opts out (GPC)", { tcf: yes, gpc: true }, false],
  ["TCF: purpose 7 is missing", { tcf: { ...yes, purpose: { consents: { 1: true } } } }, false],
  ["TCF: purpose 1 is missing", { tcf: { ...yes, purpose: { consents: { 7: true } } } }, false],
  ["TCF: nothing about purposes", { tcf: { gdprApplies: true, eventStatus: "tcloaded" } }, false],
  ["TCF: the dialog is still open", { tcf: { ...yes, eventStatus: "cmpuishown" } }, false],
  ["TCF: does not apply, and nobody else says yes", { tcf: { ...yes, gdprApplies: false } }, false],
  ["TCF: the vendor has consent", { tcf: yes, vendor: 5 }, true],
  ["TCF: the vendor has none", { tcf: yes, vendor: 6 }, false],
  ["GPP: did not opt out", { gpp: gpp({ SaleOptOut: 2, SharingOptOut: 2 }) }, true],
  ["GPP: did not opt out, in segments", { gpp: gpp([{ SaleOptOut: 2 }, { Gpc: false }]) }, true],
  ["GPP: opted out of sale", { gpp: gpp({ SaleOptOut: 1, SharingOptOut: 2 }) }, false],
  ["GPP: opted out of targeted advertising", { gpp: gpp({ SaleOptOut: 2, TargetedAdvertisingOptOut: 1 }) }, false],
  ["GPP: its own signal of GPC", { gpp: gpp([{ SaleOptOut: 2 }, { Gpc: true }]) }, false],
  ["GPP: nothing applies", { gpp: gpp({ SaleOptOut: 0 }) }, false],
  ["GPP: what is not in the standard", { gpp: gpp({ SaleOptOut: 3, SharingOptOut: 2 }) }, false],
  ["GPP: a text in place of a number", { gpp: gpp({ SaleOptOut: "1", SharingOptOut: 2 }) }, false],
  ["GPP: the older string, opted out", { gpp: gpp({ OptOutSale: "Y" }) }, false],
  ["GPP: the older string, did not", { gpp: gpp({ OptOutSale: "N" }) }, true],
  ["GPP: the older string, does not apply", { gpp: gpp({ OptOutSale: "-" }) }, false],
  ["GPP: notices are no opt-outs", { gpp: gpp({ SaleOptOutNotice: 1, SaleOptOut: 2 }) }, true],
  ["GPP: did not opt out, and Europe is not asked", { gpp: european }, false],
  ["GPP: did not opt out, Europe yes", { gpp: european, tcf: yes }, true],
  ["GPP: not ready", { gpp: gpp({ SaleOptOut: 2 }, "not ready") }, false],
  ["GPP: no sections", { gpp: { pingData: { signalStatus: "ready" } } }, false],
  ["TCF yes, GPP no", { tcf: yes, gpp: gpp({ SaleOptOut: 1 }) }, false],
  ["TCF no, GPP yes", { tcf: { ...yes, purpose: {} }, gpp: gpp({ SaleOptOut: 2 }) }, false],
  ["TCF does not apply, GPP yes", { tcf: { ...yes, gdprApplies: false }, gpp: gpp({ SaleOptOut: 2 }) }, true],
];
const source = await build({
  entryPoints: [fileURLToPath(new URL("../loader/consent.ts", import.meta.url))],
  bundle: true, write: false, format: "iife", globalName: "consents", target: "es2022",
});
for (const [name, { told, tcf, gpp, gpc, vendor }, expected] of consents)
  test(`consent: ${name}`, async () => {
    const self = {
      ...(tcf && { __tcfapi: (_command, _version, callback) => callback(tcf, true) }),
      ...(gpp && { __gpp: (_command, callback) => callback(gpp, true) }),
    };
    const scope = { self, navigator: { globalPrivacyControl: gpc }, document: { hidden: false }, performance };
    const consents = new Function(...Object.keys(scope), `${source.outputFiles[0].text}; return consents`)(...Object.values(scope));
    const answered = consents.ask(vendor);
    consents.tell(told);
    await answered;
    assert.equal(consents.given(), expected);
  });

test("consent: a platform that never answers is waited for half a second, not longer", async () => {
  const scope = { self: { __tcfapi() {} }, navigator: {}, document: {}, performance };
  const consents = new Function(...Object.keys(scope), `${source.outputFiles[0].text}; return consents`)(...Object.values(scope));
  const start = performance.now();
  await consents.ask();
  assert.ok(performance.now() - start > 450 && performance.now() - start < 2_000);
  assert.equal(consents.given(), false);
});

test("slots: what a page calls its place stays one parameter of the query", async () => {
  const source = await build({
    entryPoints: [fileURLToPath(new URL("../loader/slots.ts", import.meta.url))],
    bundle: true, write: false, format: "iife", globalName: "slots", target: "es2022",
  });
  for (const placement of ["front-top", "top&consent=1", "top#", "a b", "t\u00f6p+%26=?"]) {
    const asked = [];
    const scope = {
      self: {}, navigator: {}, performance,
      document: { querySelectorAll: () => [{ isConnected: true, dataset: { countersignPlacement: placement } }] },
      IntersectionObserver: class {},
      fetch: async (url) => asked.push(url) && { ok: true, status: 204 },
    };
    const slots = new Function(...Object.keys(scope), `${source.outputFiles[0].text}; return slots`)(...Object.values(scope));
    slots.scan();
    await new Promise((done) => setTimeout(done));
    const url = new URL(asked[0], "https://edge.example");
    assert.deepEqual([...url.searchParams], [["placement", placement], ["consent", "0"]], asked[0]);
    assert.equal(url.hash, "");
  }
});
