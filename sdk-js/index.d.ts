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
  /** Identifies the impression, of which each kind of event counts once. */
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
   * The answer from your own consent dialog; it wins over a TCF or GPP platform. When it is left out,
   * only the platform is asked, and without a platform there is no consent.
   */
  consent?: boolean;
  /** Your vendor id in the TCF Global Vendor List; consent to it is then needed too. */
  vendor?: number;
  /** Where `core.js` is (`core_bg.wasm` beside it); `false`: never load Wasm. */
  core?: string | false;
  /** Asks for test ads; nothing of them is counted. */
  test?: boolean;
}

/** What a listener gets. */
export interface Occasion {
  /** Where it happened; absent for what concerns the whole page. */
  element?: Element;
  placement?: string;
  ad?: Ad;
  /** Only with `error`: why there is no ad. */
  error?: unknown;
}

/**
 * - `served`: the edge has answered with an ad;
 * - `empty`: there is none for this placement now;
 * - `error`: the edge did not answer with an ad, or the ad's picture did not load;
 * - `impression`: the ad is drawn, and the event is queued;
 * - `viewable`: the ad was viewable (MRC), and the event is queued;
 * - `core`: the Wasm core has taken over.
 */
export type Event = "served" | "empty" | "error" | "impression" | "viewable" | "core";

/** What became of this page's events, and of those that earlier pages left in storage. */
export interface Stats {
  /** Identifies this page view: random, never stored. */
  page: string;
  /** Events made; also the sequence number of the last one. */
  made: number;
  /** Events that the edge has taken. */
  accepted: number;
  /** Events that the edge has refused with a reason. */
  refused: number;
  /** Events that were not queued, because too many were waiting. */
  dropped: number;
  /** Which part measures and sends. */
  core: "wasm" | "js";
}

/** Begins: fills `[data-countersign-placement]`, now and whenever the page changes. Further calls do nothing. */
export function init(settings: Settings): void;
/** Shows an ad in an element (or the first that a selector finds). */
export function render(target: Element | string, placement?: string): void;
/** Shows new ads, in one element or in all. */
export function refresh(target?: Element | string): void;
/** Adds a listener; the returned function removes it. */
export function on(event: Event, listener: (occasion: Occasion) => void): () => void;
/** Says what the visitor has decided in your own dialog; `undefined`: the platform decides again. */
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
