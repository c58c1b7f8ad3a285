import type { Ad } from "./index.js";

/**
 * An ad as plain HTML, for places without JavaScript: a `<noscript>`, a mail, an AMP page. It is a
 * link with the picture, and a pixel that reports the impression. Viewability is not measured.
 *
 * Ask the edge for the ad on your server, once for each copy that goes out: a token counts once.
 *
 * @throws when the ad has no picture: HTML creatives need a frame.
 */
export function markup(ad: Ad, options?: { amp?: boolean }): string;
