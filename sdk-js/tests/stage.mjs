// What the tests of pages play on: the real edge, collector and counter in one process, a server for
// pages, and a browser. Each test has an ad and a placement of its own, so that its counts are too.
// With WORKERD, pages ask the Wasm edge on that workerd, which tells the same counter.
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, extname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const room = join(dirname(fileURLToPath(import.meta.url)), "..");
// Headless, Chromium calls itself a program, and counts as one. Said to the browser, not to a tab: what
// outlives its page is sent by the browser.
const PERSON = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
const CHROMIUM = process.env.CHROMIUM_BIN || "/usr/bin/chromium";
const KEY = "a-key-for-the-tests-alone-not-secret";
/** A count is in the API within a second; a busy machine may take longer. */
const PATIENCE_MS = 60_000;
const TYPES = { ".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html" };
/** One red pixel. */
const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==", "base64");

export class Stage {
  /**
   * Names of ads, with what differs from an HTML creative of 300 × 250: `{ name: { width, … } }`. Without any:
   * what `up --demo` has.
   */
  static async open(ads) {
    const stage = new Stage();
    stage.folder = mkdtempSync(join(tmpdir(), "sdk-js-"));
    try {
      await stage.#servePages();
      await stage.#startCountersign(ads);
      stage.browser = await chromium.launch({
        executablePath: CHROMIUM,
        args: [`--user-agent=${PERSON}`, "--no-sandbox", "--disable-gpu"],
        // Playwright switches it off; we test with it.
        ignoreDefaultArgs: ["--disable-back-forward-cache"],
      });
    } catch (why) {
      // What is left open would keep the file's process from its end.
      await stage.close();
      throw why;
    }
    return stage;
  }

  async #servePages() {
    this.pages = new Map();
    this.asked = [];
    const server = createServer((request, response) => {
      const path = new URL(request.url, "http://any").pathname;
      this.asked.push(path);
      const page = this.pages.get(path);
      if (page) return void response.writeHead(200, page.headers).end(page.html);
      if (path === "/pixel.png") return void response.writeHead(200, { "content-type": "image/png" }).end(PIXEL);
      if (path === "/landing") return void response.writeHead(200, { "content-type": "text/html" }).end("<h1>Landing");
      const file = join(room, path);
      if (!/^\/(dist|demo)\/[\w.]+$/.test(path) || !existsSync(file)) return void response.writeHead(404).end();
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/plain" }).end(readFileSync(file));
    });
    await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
    this.server = server;
    this.site = `http://127.0.0.1:${server.address().port}`;
  }

  async #startCountersign(ads) {
    const binary = process.env.COUNTERSIGN_BIN;
    if (!binary) throw new Error("COUNTERSIGN_BIN is not set: the path of the built `countersign`");
    const data = join(this.folder, "data");
    mkdirSync(data);
    const text = Object.entries(ads ?? {}).map(([name, more]) => {
      const ad = {
        id: name, campaign: "tests", advertiser: "outfitter", width: 300, height: 250, weight: 1,
        price_micros: 1000, currency: "EUR", url: `${this.site}/landing?ad=${name}`, ...more,
      };
      if (ad.image) ad.image = ad.image.replace("{site}", this.site);
      else ad.html ??= '<div style="background:#147;width:100%;height:2000px">an ad</div>';
      const lines = Object.entries(ad).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
      return `[[ads]]\n${lines.join("\n")}\n[[placements]]\nid = "${name}"\npublisher = "gazette"\nads = ["${name}"]\n`;
    });
    const flags = ["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"];
    if (ads) writeFileSync(join(data, "catalogue.toml"), text.join("\n"));
    else flags.push("--demo", "--sdk", join(room, "dist"));
    // The tests click at once what they were shown.
    const env = { COUNTERSIGN_ADMIN_KEY: KEY, COUNTERSIGN_EDGE__VERDICTS__CLICK_TOO_SOON_MS: "0" };
    const { WORKERD } = process.env;
    if (WORKERD) env.COUNTERSIGN_EDGE__PUBLIC_URL = `http://127.0.0.1:${await freePort()}`;
    this.process = spawn(binary, ["up", "--data", data, ...flags], { env, stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on("data", (part) => (said += part));
    for (let waited = 0; !/api listening on/.test(said); waited += 50) {
      if (waited > PATIENCE_MS || this.process.exitCode !== null) throw new Error(`countersign up: ${said}`);
      await sleep(50);
    }
    this.edge = /edge listening on (\S+)/.exec(said)[1];
    this.api = /api listening on (\S+)/.exec(said)[1];
    if (WORKERD) await this.#startWorker(WORKERD, binary, data, env.COUNTERSIGN_EDGE__PUBLIC_URL);
  }

  /** The Wasm edge, which sends what it is told to the gateway. */
  async #startWorker(workerd, binary, data, url) {
    const outbox = join(this.folder, "worker");
    mkdirSync(outbox);
    execFileSync(binary, ["edges", "register", "wasm", "--issuer", "edge", "--data", data], { stdio: "ignore" });
    const env = {
      EDGE_NAME: "wasm",
      EDGE_KEYS: execFileSync(binary, ["keys", "edge", "--issuer", "edge", "--data", data], { encoding: "utf8" }),
      PUBLIC_URL: url,
      GATEWAY_URL: this.api,
      CLICK_TOO_SOON_MS: "0",
    };
    const flags = [`--socket-addr=http=${new URL(url).host}`, `--directory-path=outbox=${outbox}`];
    this.worker = spawn(workerd, ["serve", join(room, "../edge/workerd.capnp"), ...flags], { env, stdio: "inherit" });
    for (let waited = 0; ; waited += 50) {
      const ready = await fetch(`${url}/readyz`).catch(() => undefined);
      if (ready?.ok) break;
      if (waited > PATIENCE_MS || this.worker.exitCode !== null) throw new Error(`workerd: ${ready && (await ready.text())}`);
      await sleep(50);
    }
    this.edge = url;
  }

  /** Puts a page onto the site; `{edge}` in it is the edge. With a background, so that it has something to paint. */
  page(path, { head, body = "", csp, tag = "", background = "#eee" }) {
    const script = head ?? `<script async src="/dist/countersign.js" data-edge="{edge}" ${tag}></script>`;
    const html = `<!doctype html><title>${path}</title>${script}<body style="margin:0;background:${background}">${body}`;
    const headers = { "content-type": "text/html", ...(csp && { "content-security-policy": csp.replaceAll("{edge}", this.edge) }) };
    this.pages.set(path, { html: html.replaceAll("{edge}", this.edge), headers });
    return this.site + path;
  }

  /** A new visitor's tab. */
  async visitor(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1000, height: 600 }, ...options });
    const tab = await context.newPage();
    tab.bodies = [];
    tab.served = [];
    context.on("request", (request) => {
      if (request.url().includes("/v1/events")) tab.bodies.push({ url: request.url(), body: request.postData() });
      if (request.url().includes("/v1/serve")) tab.served.push(request.url());
    });
    return tab;
  }

  /** A browser with a page, which nobody steers: what steers one forbids that it prerenders. */
  unsteered(url) {
    const profile = `--user-data-dir=${join(this.folder, "profile")}`;
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", `--user-agent=${PERSON}`, profile];
    return spawn(CHROMIUM, [...flags, url], { stdio: "ignore" });
  }

  async #ask(path) {
    const now = Math.floor(Date.now() / 60_000) * 60;
    const range = `from=${now - 3600}&to=${now + 60}`;
    const reply = await fetch(`${this.api}${path}${path.includes("?") ? "&" : "?"}${range}`, { headers: { authorization: `Bearer ${KEY}` } });
    if (!reply.ok) throw new Error(`${path}: ${reply.status} ${await reply.text()}`);
    return reply.json();
  }

  async count(ad, event) {
    return (await this.#ask(`/v1/ads/${ad}/aggregated_count?event=${event}`)).count;
  }

  accounting() {
    return this.#ask("/v1/accounting");
  }

  /** Waits until an ad has these counts: served, impression, viewable, click. */
  async counts(ad, expected) {
    const kinds = Object.keys(expected);
    let found;
    for (let waited = 0; waited < PATIENCE_MS; waited += 100) {
      found = Object.fromEntries(await Promise.all(kinds.map(async (kind) => [kind, await this.count(ad, kind)])));
      if (kinds.every((kind) => found[kind] === expected[kind])) return;
      await sleep(100);
    }
    throw new Error(`counts of ${ad}: ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
  }

  async close() {
    await this.browser?.close();
    this.worker?.kill("SIGKILL");
    this.process?.kill("SIGTERM");
    this.server?.closeAllConnections();
    this.server?.close();
    if (this.process?.exitCode === null) await new Promise((ended) => this.process.once("exit", ended));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A port that nobody listens on, for the moment. */
async function freePort() {
  const server = createServer();
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

/** A place for an ad. */
export const place = (name, style = "") => `<div data-countersign-placement="${name}" style="width:300px;height:250px;${style}"></div>`;

/** Collects the SDK's events of a page as `name` or `name:placement`, in `happened`. */
export const listen = `<script>var happened = [];
addEventListener("DOMContentLoaded", () => { const wait = setInterval(() => { if (!window.countersign) return; clearInterval(wait);
for (const name of ["served","empty","error","impression","viewable","core"]) countersign.on(name, (o) => happened.push(name + (o.placement ? ":" + o.placement : ""))); }, 1); });</script>`;

/** Waits for the SDK to say something so many times. */
export const heard = (tab, what, times = 1) =>
  tab.waitForFunction(([what, times]) => window.happened?.filter((x) => x.startsWith(what)).length >= times, [what, times], { timeout: PATIENCE_MS });
