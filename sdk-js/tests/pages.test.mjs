// The SDK in Chromium, on real pages, against the real edge: what is counted is asked of the API.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Stage, heard, listen, place } from "./stage.mjs";

const LARGE = { width: 970, height: 250 };
const ADS = {
  above: {}, below: {}, fast: {}, half: {}, "less-than-half": {}, hidden: {}, unfocused: {}, large: LARGE, "large-less": LARGE,
  leaving: {}, beacon: {}, back: {}, added: {}, "added-2": {}, again: {}, image: { image: "{site}/pixel.png" },
 over: {}, under: {}, "large-over": LARGE, late: {}, paint: {}, bare: {}, prefetch: {}, prerender: {}, "link-prefetch": {}, ahead: {}, moments: {}, broken: { image: "{site}/gone.png" }, plain: { image: "{site}/pixel.png" }, many: {}, bot: {}, "no-wasm": {}, link: {}, inner: {
    html: '<p style="margin:0"><a href="{click_url}">a link of the creative\'s own</a></p><script>try { parent.document.title = "broken out" } catch { document.body.id = "kept-in" }</script>',
  },
};
let stage;
before(async () => (stage = await Stage.open(ADS)));
after(() => stage?.close());

/** Opens a page with one ad, and waits for its impression. */
async function open(name, { body = place(name), wait = true, options, prepare, ...page } = {}) {
  const tab = await stage.visitor(options);
  await prepare?.(tab);
  await tab.goto(stage.page(`/${name}`, { body: listen + body, ...page }));
  if (wait) await heard(tab, "impression");
  return tab;
}
const stats = (tab) => tab.evaluate(() => window.countersign.stats());
const said = (tab, what) => tab.evaluate((what) => window.happened.filter((x) => x.startsWith(what)).length, what);

test("an ad in view: served, impression and viewable count once each; what was sent is what is counted", async () => {
  const tab = await open("above");
  await heard(tab, "viewable");
  await stage.counts("above", { served: 1, impression: 1, viewable: 1, click: 0 });
  await tab.waitForFunction(() => window.countersign.stats().accepted === 2);
  const { made, accepted, refused, dropped, core, page } = await stats(tab);
  assert.deepEqual({ made, accepted, refused, dropped, core }, { made: 2, accepted: 2, refused: 0, dropped: 0, core: "wasm" });
  const urls = tab.bodies.map(({ url }) => new URL(url).searchParams);
  assert.ok(urls.every((query) => query.get("page") === page), "one page");
  assert.equal(urls.at(-1).get("seq"), "2", "the sequence number of the last event");
  assert.equal(await said(tab, "viewable"), 1);
});

test("below the fold: an impression, viewable only when scrolled there", async () => {
  const tab = await open("below", { body: `<p style="height:2000px">far</p>${place("below")}` });
  await sleep(1_500);
  assert.equal(await said(tab, "viewable"), 0);
  await stage.counts("below", { impression: 1, viewable: 0 });
  await tab.evaluate(() => scrollTo(0, 9e9));
  const start = Date.now();
  await heard(tab, "viewable");
  assert.ok(Date.now() - start > 900, "a second first");
  await stage.counts("below", { impression: 1, viewable: 1 });
});

/**
 * Scrolls there, and back after so long: all in the page, and how many milliseconds it took until the browser had
 * drawn what it is back at.
 */
const glance = (tab, there, back, ms) =>
  tab.evaluate(
    async ([there, back, ms]) => {
      const drawn = () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
      const start = performance.now();
      scrollTo(0, there);
      await new Promise((over) => setTimeout(over, ms));
      scrollTo(0, back);
      await drawn();
      return performance.now() - start;
    },
    [there, back, ms],
  );
/** A busy machine may make a glance last a second, which is a view: then it shows nothing, and is tried again. */
async function brief(look) {
  for (let tries = 1; tries <= 10; tries++) {
    const { tab, took } = await look();
    if (took < 950) return { tab, tries };
    await tab.close();
  }
  throw new Error("ten times in turn the browser took a second for what takes part of one");
}

test("scrolled past too fast", async () => {
  const { tab, tries } = await brief(async () => {
    const tab = await open("fast", { body: `<p style="height:2000px">far</p>${place("fast")}<p style="height:2000px">on</p>` });
    let took = 0;
    for (let times = 0; times < 3; times++) {
      took = Math.max(took, await glance(tab, 1900, times % 2 ? 0 : 9e9, 600));
      await sleep(600);
    }
    return { tab, took };
  });
  await stage.counts("fast", { impression: tries });
  assert.equal(await said(tab, "viewable"), 0);
});

test("half visible: 50 % of the pixels is viewable, a row of pixels less is not", async () => {
  // The viewport is 600 high: so much of the ad's 250 is inside.
  const shown = (pixels, name) => `<p style="margin:0;height:${600 - pixels}px"></p>${place(name)}<p style="height:2000px"></p>`;
  const [half, less] = await Promise.all([
    open("half", { body: shown(125, "half") }),
    open("less-than-half", { body: shown(124, "less-than-half") }),
  ]);
  await heard(half, "viewable");
  await sleep(1_000);
  assert.equal(await said(less, "viewable"), 0);
  await stage.counts("half", { viewable: 1 });
  await stage.counts("less-than-half", { impression: 1, viewable: 0 });
});

test("a large ad: 30 % is viewable, a row of pixels less is not", async () => {
  const shown = (pixels, name) => `<p style="margin:0;height:${600 - pixels}px"></p>${place(name)}<p style="height:2000px"></p>`;
  const [enough, less] = await Promise.all([
    open("large", { body: shown(75, "large") }),
    open("large-less", { body: shown(74, "large-less") }),
  ]);
  await heard(enough, "viewable");
  await sleep(1_000);
  assert.equal(await said(less, "viewable"), 0);
  await stage.counts("large", { viewable: 1 });
  await stage.counts("large-less", { impression: 1, viewable: 0 });
});

test("scrolled slowly over the line: the part in view is known on either side of it", async () => {
  const shown = (pixels, name) => `<p style="margin:0;height:${600 - pixels}px"></p>${place(name)}<p style="height:2000px"></p>`;
  const by = (tab, pixels) => tab.evaluate((pixels) => scrollBy(0, pixels), pixels);
  const [over, large] = await Promise.all([
    open("over", { body: shown(112, "over") }),
    open("large-over", { body: shown(70, "large-over") }),
  ]);
  await Promise.all([by(over, 20), by(large, 10)]);
  await Promise.all([heard(over, "viewable"), heard(large, "viewable")]);
  // 132 of 250 rows, and within the second 122.
  const { tab: under } = await brief(async () => {
    const tab = await open("under", { body: shown(112, "under") });
    return { tab, took: await glance(tab, 20, 10, 300) };
  });
  await sleep(1_000);
  assert.equal(await said(under, "viewable"), 0);
});

/** Headless tabs are all in front: the page is told otherwise, and gets the event that a browser sends. */
const hide = (tab, hidden) =>
  tab.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  }, hidden);

test("the tab is hidden: no time runs; shown again, the whole second does", async () => {
  const tab = await open("hidden");
  await hide(tab, true);
  await sleep(1_500);
  assert.equal(await said(tab, "viewable"), 0);
  await stage.counts("hidden", { impression: 1, viewable: 0 });
  await hide(tab, false);
  await heard(tab, "viewable");
  await stage.counts("hidden", { impression: 1, viewable: 1 });
});

test("what happens when the page is already hidden waits for no timer", async () => {
  const tab = await open("late", { body: `<div id="here" style="width:300px;height:250px"></div>`, wait: false });
  await heard(tab, "core");
  await hide(tab, true);
  await tab.evaluate(() => {
    window.setTimeout = () => 0;
    window.countersign.render("#here", "late");
  });
  await stage.counts("late", { served: 1, impression: 1 });
});

test("another window has the focus: no time runs", async () => {
  // Nothing is shown before the focus has gone: on a slow machine the second would be over until then.
  const tab = await open("unfocused", { body: `<div id="here" style="width:300px;height:250px"></div>`, wait: false });
  await heard(tab, "core");
  // Playwright lets every page believe that it has the focus; this one is told the truth.
  const session = await tab.context().newCDPSession(tab);
  await session.send("Emulation.setFocusEmulationEnabled", { enabled: false });
  const other = await tab.context().newPage();
  await other.bringToFront();
  await tab.evaluate(() => window.countersign.render("#here", "unfocused"));
  await sleep(1_500);
  assert.deepEqual([await tab.evaluate(() => document.hasFocus()), await said(tab, "viewable")], [false, 0]);
  await tab.bringToFront();
  await heard(tab, "viewable");
  await stage.counts("unfocused", { impression: 1, viewable: 1 });
});

test("navigation away: what was not sent yet goes with the page", async () => {
  const tab = await open("leaving");
  await tab.goto(`${stage.site}/landing`);
  await stage.counts("leaving", { served: 1, impression: 1 });
});

test("navigation away in a browser without keepalive: a beacon", async () => {
  const tab = await open("beacon", {
    prepare: (tab) => tab.addInitScript(() => delete Request.prototype.keepalive),
  });
  await tab.goto(`${stage.site}/landing`);
  await stage.counts("beacon", { served: 1, impression: 1 });
});

test("thirty pages left at any moment: what was made is what is counted", async () => {
  const tab = await stage.visitor();
  // Kept by the test's page itself, at once: what the browser tells us on the side may be lost with the page.
  const body = `<script>addEventListener("load", () => countersign.on("impression", () => (localStorage.made = 1 + +(localStorage.made || 0))))</script>${place("moments").repeat(3)}`;
  const url = stage.page("/moments", { body });
  for (let n = 0; n < 30; n++) {
    await tab.goto(`${url}?${n}`);
    await tab.locator("iframe").nth(n % 3).waitFor();
    await sleep(n * 7);
  }
  await tab.goto(`${stage.site}/landing`);
  const made = +(await tab.evaluate(() => localStorage.made));
  assert.ok(made >= 30, `${made}`);
  await stage.counts("moments", { impression: made });
  console.log(`${made} impressions made by pages that were left, ${made} counted`);
});

test("back and forward: the page comes from the cache, with a new ad", async () => {
  const tab = await open("back");
  await heard(tab, "viewable");
  await tab.evaluate(() => addEventListener("pageshow", ({ persisted }) => happened.push(`pageshow ${persisted}`)));
  await tab.goto(`${stage.site}/landing`);
  await tab.goBack({ waitUntil: "commit" });
  await heard(tab, "pageshow true");
  await heard(tab, "viewable", 2);
  await stage.counts("back", { served: 2, impression: 2, viewable: 2 });
});

test("a single-page application: places added, changed and removed", async () => {
  const tab = await open("added", { body: "<main></main>", wait: false });
  await tab.waitForFunction(() => window.countersign);
  const show = (html) => tab.evaluate((html) => (history.pushState({}, "", `?${html.length}`), (document.querySelector("main").innerHTML = html)), html);
  await show(place("added"));
  await heard(tab, "viewable:added");
  await show("<p>another view, without ads</p>");
  // As React does: the element stays, its attribute changes. By the page itself, before a second in view is over.
  await tab.evaluate(() =>
    window.countersign.on("impression", ({ placement }) => {
      if (placement === "added-2") document.querySelector("main div").dataset.countersignPlacement = "added";
    }),
  );
  await show(place("added-2"));
  await heard(tab, "impression:added-2");
  await heard(tab, "impression:added", 3);
  await stage.counts("added", { served: 2, impression: 2 });
  await stage.counts("added-2", { served: 1, impression: 1, viewable: 0 });
});

test("refresh and render by hand", async () => {
  const tab = await open("again");
  await tab.evaluate(() => window.countersign.refresh());
  await heard(tab, "impression", 2);
  await tab.evaluate(() => window.countersign.refresh("[data-countersign-placement]"));
  await heard(tab, "impression", 3);
  await tab.evaluate(() => {
    document.body.append(Object.assign(document.createElement("div"), { id: "mine" }));
    window.countersign.render("#mine", "again");
  });
  await heard(tab, "impression", 4);
  await stage.counts("again", { served: 4, impression: 4 });
});

test("an image creative, and one whose image is gone: no impression", async () => {
  await open("image");
  await stage.counts("image", { served: 1, impression: 1 });
  const tab = await open("broken", { wait: false });
  await heard(tab, "error:broken");
  await sleep(500);
  await stage.counts("broken", { served: 1, impression: 0 });
});

test("a click in the frame goes through the link to the advertiser", async () => {
  const tab = await open("link");
  const [landing] = await Promise.all([tab.context().waitForEvent("page"), tab.frameLocator("iframe").locator("a").click()]);
  await landing.waitForURL(/\/landing\?ad=link$/);
  await stage.counts("link", { click: 1 });
});

test("the creative is kept in its frame, and has the click link where it wants it", async () => {
  const tab = await open("inner");
  const frame = tab.frameLocator("iframe");
  await frame.locator("#kept-in").waitFor();
  assert.equal(await tab.title(), "/inner");
  assert.equal(await frame.locator("a").count(), 1);
  const [landing] = await Promise.all([tab.context().waitForEvent("page"), frame.locator("a").click()]);
  await landing.waitForURL(/\/landing\?ad=inner$/);
  await stage.counts("inner", { click: 1 });
});

test("without JavaScript: a picture, a link, a pixel", async () => {
  const { markup } = await import("../dist/markup.js");
  const ad = await (await fetch(`${stage.edge}/v1/serve?placement=plain`)).json();
  const tab = await stage.visitor({ javaScriptEnabled: false });
  await tab.goto(stage.page("/plain", { body: `<noscript>${markup(ad)}</noscript>` }));
  // The ad was asked for by a server, which is no person; it is seen by one.
  await stage.counts("plain", { served: 0, impression: 1, click: 0 });
  const [landing] = await Promise.all([tab.context().waitForEvent("page"), tab.locator("a").click()]);
  await landing.waitForURL(/\/landing\?ad=plain$/);
  await stage.counts("plain", { impression: 1, click: 1 });
});

for (const how of ["prefetch", "prerender", "link-prefetch"])
  test(`speculation: a link that is asked for ahead (${how}) is the person's click when it is clicked`, async () => {
    const { click_url: url } = await (await fetch(`${stage.edge}/v1/serve?placement=${how}`)).json();
    const rules = JSON.stringify({ [how]: [{ source: "list", urls: [url], eagerness: "immediate" }] });
    const ahead = how === "link-prefetch" ? `<link rel=prefetch href="${url}">` : `<script type="speculationrules">${rules}</script>`;
    const tab = await stage.visitor();
    const asked = async () => (await stage.accounting()).reasons.prefetch ?? 0;
    const before = await asked();
    await tab.goto(stage.page(`/${how}`, { body: `${ahead}<a href="${url}">an ad</a>` }));
    // Whether a browser speculates is its own affair: this one does, within a second or not at all.
    for (let waited = 0; waited < 3_000 && (await asked()) === before; waited += 200) await sleep(200);
    await tab.locator("a").click();
    await tab.waitForURL(new RegExp(`/landing\\?ad=${how}$`));
    await stage.counts(how, { click: 1 });
    if (how === "prefetch") assert.ok((await asked()) > before, "it was asked for ahead");
  });

test("a page that is prerendered asks for its ads when somebody sees it", async () => {
  const tells = `<script>fetch("/prerendering-" + document.prerendering)</script>`;
  const shown = stage.page("/ahead", { body: tells + place("ahead") });
  const rules = JSON.stringify({ prerender: [{ source: "list", urls: [shown], eagerness: "immediate" }] });
  const goes = `<script>setTimeout(() => document.querySelector("a").click(), 3_000)</script>`;
  const before = stage.page("/before", { body: `<script type="speculationrules">${rules}</script><a href="${shown}">on</a>${goes}` });
  const browser = stage.unsteered(before);
  try {
    // What is asked for ahead is flagged, and no valid event.
    await stage.counts("ahead", { served: 1, impression: 1 });
  } finally {
    browser.kill("SIGKILL");
  }
  assert.ok(stage.asked.includes("/prerendering-true"), "it was prerendered");
});

test("a hundred places: every body is below 16 KiB, and everything is counted", async () => {
  const tab = await open("many", { body: Array(100).fill(place("many", "overflow:hidden")).join("") });
  await heard(tab, "impression", 100);
  await stage.counts("many", { served: 100, impression: 100 });
  assert.ok(tab.bodies.every(({ body }) => Buffer.byteLength(body) < 16_384));
  assert.ok(tab.bodies.length < 50, `${tab.bodies.length} requests: they go together`);
});

test("the core is asked for after the first paint", async () => {
  // Without `async`, so that the loader begins before there is anything to paint, which a busy page then delays.
  const busy = "requestAnimationFrame(() => { const start = performance.now(); while (performance.now() < start + 500); })";
  const head = `<script src="/dist/countersign.js" data-edge="{edge}"></script><script>${busy}</script>`;
  const tab = await open("paint", { head, body: `<h1>Text, which counts as paint</h1>${place("paint")}` });
  await heard(tab, "core");
  const [paint, asked] = await tab.evaluate(() => [
    performance.getEntriesByName("first-paint")[0].startTime,
    performance.getEntriesByType("resource").find(({ name }) => name.endsWith("/core.js")).startTime,
  ]);
  assert.ok(asked >= paint, `${asked} ms, painted after ${paint} ms`);
});

test("a page that has nothing to paint but the ad gets the core as well", async () => {
  const tab = await open("bare", { background: "#fff" });
  await heard(tab, "core");
  assert.deepEqual(await tab.evaluate(() => performance.getEntriesByType("paint")), []);
});

test("a policy that forbids Wasm: the plain parts do the same", async () => {
  const tab = await open("no-wasm", {
    csp: "default-src 'none'; script-src 'self' 'unsafe-inline'; connect-src 'self' {edge}; img-src *; style-src 'unsafe-inline'",
    prepare: (tab) =>
      tab.addInitScript(() => {
        window.violations = [];
        addEventListener("securitypolicyviolation", ({ blockedURI }) => window.violations.push(blockedURI));
      }),
  });
  await heard(tab, "viewable");
  await stage.counts("no-wasm", { served: 1, impression: 1, viewable: 1 });
  assert.equal((await stats(tab)).core, "js");
  assert.deepEqual(await tab.evaluate(() => window.violations), ["wasm-eval"], "it was tried, and nothing else");
});

test("a bot's user agent: nothing is counted, all of it stands under the reason of bots", async () => {
  const before = await stage.accounting();
  const tab = await open("bot", { options: { userAgent: "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)" } });
  await heard(tab, "viewable");
  await tab.waitForFunction(() => window.countersign.stats().accepted === 2);
  let flagged = 0;
  for (let waited = 0; waited < 10_000 && flagged < 3; waited += 200) {
    await sleep(200);
    flagged = ((await stage.accounting()).reasons.bot ?? 0) - (before.reasons.bot ?? 0);
  }
  assert.equal(flagged, 3, "served, impression, viewable");
  await stage.counts("bot", { served: 0, impression: 0, viewable: 0 });
});
