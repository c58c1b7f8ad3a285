// An ad as plain HTML: no script, no frame. Runs on a server too.
import type { Ad } from "../index.js";

const escapes: Record<string, string> = { "&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;" };
const escape = (text: string) => text.replace(/[&"<>]/g, (c) => escapes[c]!);

export function markup(ad: Ad, options: { amp?: boolean } = {}): string {
  const { image, width, height } = ad.creative;
  if (!image) throw new Error(`the ad ${ad.ad} has no picture: an HTML creative needs a frame`);
  const size = `width="${+width}" height="${+height}"`;
  const link = `<a href="${escape(ad.click_url)}" target="_blank" rel="noopener sponsored">`;
  // AMP has its own elements for both. Its pixel waits until the page is shown; while prerendering
  // it is not loaded.
  return options.amp
    ? `${link}<amp-img src="${escape(image)}" ${size} alt="Advertisement"></amp-img></a>` +
        `<amp-pixel src="${escape(ad.beacon_url)}" layout="nodisplay"></amp-pixel>`
    : `${link}<img src="${escape(image)}" ${size} alt="Advertisement" border="0"></a>` +
        `<img src="${escape(ad.beacon_url)}" width="1" height="1" alt="">`;
}
