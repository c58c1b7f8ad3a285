// What Rust would ask the platform for in many calls, in one each: a call from Wasm to JavaScript and
// back costs more than what it asks for.

// All that the edge looks at of a request, one a line: no field may contain a line break.
export function head(request) {
  const { method, url, headers, cf } = request;
  const get = (name) => headers.get(name) ?? "";
  return [
    method, url, get("user-agent"),
    get("sec-purpose") || get("purpose") || get("x-moz") || get("x-purpose"),
    get("sec-gpc"), get("cf-connecting-ip"), get("content-type"), get("if-none-match"),
    get("content-length"), cf?.country ?? "", cf?.colo ?? "", cf?.continent ?? "",
    cf?.longitude ?? "", cf?.asn ?? "",
  ].join("\n");
}

// Fields that are always the same for a sort of reply, read once: there are a dozen of them.
const known = new Map();

// `fields` and `more` are names and values in turn, one a line.
export function reply(status, fields, more, body) {
  let headers = known.get(fields);
  if (headers === undefined) known.set(fields, headers = set(new Headers(), fields));
  if (more !== "") headers = set(new Headers(headers), more);
  return new Response(body ?? null, { status, headers });
}

function set(headers, lines) {
  const words = lines === "" ? [] : lines.split("\n");
  for (let at = 0; at + 1 < words.length; at += 2) headers.set(words[at], words[at + 1]);
  return headers;
}
