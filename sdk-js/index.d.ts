/** The publisher's SDK of Countersign. */

/** An ad as the edge serves it (`GET /v1/serve`). */
export interface Ad {
  ad: string;
  campaign: string;
  advertiser: string;
  publisher: string;
  placement: string;
  /** One of `image` (a URL) and `html`; the size in CSS pixels. */
  creative: { image?: string; html?: string; width: number; height: number };
  /** Identifies the impression: each kind of event of it counts once. */
  impression_id: string;
  /** The signed token of the impression. */
  token: string;
  click_url: string;
  beacon_url: string;
  events_url: string;
}

export interface Settings {
  /** Where the edge is, without a slash at the end: `https://ads.example.net`. */
  edge: string;
  /**
   * What your own consent dialog says; it goes before what a TCF or GPP platform says. Left out: only
   * the platform is asked, and without one there is no consent.
   */
  consent?: boolean;
  /** Your vendor id in the TCF Global Vendor List: its consent is then asked for too. */
  vendor?: number;
  /** Where `core.js` is (`core_bg.wasm` beside it); `false`: never load Wasm. */
  core?: string | false;
  /** Ask for test ads, of which nothing is counted. */
  test?: boolean;
}

/** What a listener gets. */
export interface Occasion {
  /** Where it happened; absent for what concerns the whole page. */
  element?: Element;
  placement?: string;
  ad?: Ad;
  /** With `error`: why there is no ad. */
  error?: unknown;
}

/**
 * - `served`: an ad has come;
 * - `empty`: there is none for this placement now;
 * - `error`: the edge could not be asked, or its picture did not come;
 * - `impression`: the ad is drawn, and the event is on its way;
 * - `viewable`: it was viewable (MRC), and the event is on its way;
 * - `core`: the Wasm core has taken over.
 */
export type Event = "served" | "empty" | "error" | "impression" | "viewable" | "core";

/** What became of this page's events, and of those that earlier pages have left. */
export interface Stats {
  /** Random, of this page view alone; never stored. */
  page: string;
  /** Events made: the sequence number of the last one. */
  made: number;
  /** The edge has taken them. */
  accepted: number;
  /** The edge has named a reason against them. */
  refused: number;
  /** Not taken: too many were waiting. */
  dropped: number;
  /** Who measures and sends. */
  core: "wasm" | "js";
}

/** Begins: finds `[data-countersign-placement]`, now and whenever the page changes. Once a page. */
export function init(settings: Settings): void;
/** Shows an ad in an element (or the first that a selector finds). */
export function render(target: Element | string, placement?: string): void;
/** Shows new ads: in one element, or in all. */
export function refresh(target?: Element | string): void;
/** Listens; the returned function ends it. */
export function on(event: Event, listener: (occasion: Occasion) => void): () => void;
/** What the visitor has decided in your own dialog; `undefined`: ask the platform again. */
export function consent(given: boolean | undefined): void;
/** What became of this page's events. */
export function stats(): Stats;

declare global {
  interface Window {
    /** Of the one-tag script `countersign.js`. */
    countersign?: {
      init: typeof init;
      render: typeof render;
      refresh: typeof refresh;
      on: typeof on;
      consent: typeof consent;
      stats: typeof stats;
    };
  }
}
