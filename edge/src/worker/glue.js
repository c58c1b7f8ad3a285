// What Rust would ask the platform for in many calls, in one each: a call from Wasm to JavaScript and
// back costs more than what it asks for.

// All that the edge looks at of a request, one a line: no field may contain a line break. A click's
// or a pixel's body and cache are not looked at.
export function head(request) {
  const { method, url, headers, cf } = request;
  const get = (name) => headers.get(name) ?? "";
  let lines = method + "\n" + url + "\n" + get("user-agent") + "\n"
    + (get("sec-purpose") || get("purpose") || get("x-moz") || get("x-purpose"))
    + "\n" + get("sec-gpc") + "\n" + get("cf-connecting-ip");
  lines += cf
    ? `\n${cf.country ?? ""}\n${cf.colo ?? ""}\n${cf.continent ?? ""}\n${cf.longitude ?? ""}\n${cf.asn ?? ""}`
    : "\n\n\n\n\n";
  if (url.includes("/v1/c/") || url.includes("/v1/i/")) return lines;
  return `${lines}\n${get("content-type")}\n${get("if-none-match")}\n${get("content-length")}`;
}

// Fields that are always the same for a sort of reply, read once: there are a dozen of them.
const known = new Map();

// `fields` and `more` are names and values in turn, one a line.
export function reply(status, fields, more, body) {
  let headers = known.get(fields);
  if (headers === undefined) known.set(fields, headers = set(new Headers(), fields));
  const response = new Response(body ?? null, { status, headers });
  if (more !== "") set(response.headers, more);
  return response;
}

function set(headers, lines) {
  const words = lines === "" ? [] : lines.split("\n");
  for (let at = 0; at + 1 < words.length; at += 2) headers.set(words[at], words[at + 1]);
  return headers;
}
