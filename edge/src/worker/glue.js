// Each function does in one call what Rust would need many calls for: a call from Wasm to
// JavaScript and back costs more than most of what it asks for.

// All that the edge reads of a request, one item a line, for no field may contain a line break. The
// body and cache fields of clicks and pixels are not read.
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

// The fields of each sort of reply (there are a dozen), and the name of the field that has a value
// of its own in each reply. A response copies the fields, so the next one may have another value.
const known = new Map();

// `fields` are names and values in turn, one a line.
export function learn(sort, fields, own) {
  const headers = new Headers();
  const words = fields === "" ? [] : fields.split("\n");
  for (let at = 0; at + 1 < words.length; at += 2) headers.set(words[at], words[at + 1]);
  known.set(sort, { headers, own });
}

export function reply(status, sort, value, body) {
  const found = known.get(sort);
  if (found === undefined) return undefined;
  const { headers, own } = found;
  if (own !== "") headers.set(own, value);
  return new Response(body ?? null, { status, headers });
}

// `list` has three entries for each that waits: the function that settles its promise, and the
// values for taken and for not taken.
export function wait(list, ms, taken, otherwise) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms, otherwise);
    list.push(resolve, taken, otherwise);
  });
}

export function tell(list, taken) {
  const told = list.splice(0);
  for (let at = 0; at < told.length; at += 3) told[at](told[at + (taken ? 1 : 2)]);
}

export function names(env) {
  return Object.keys(env).filter((name) => env[name] && typeof env[name] === "string").join("\n");
}

// The Durable Object of that name, for the use of this request.
export function stub(env, name, hint) {
  return env.OUTBOX.getByName(name, hint ? { locationHint: hint } : undefined);
}

// Sends a request to a Durable Object, or over the network, and reads the whole answer: status (0:
// there was none), entity tag, age, body. `fields` are names and values in turn, one a line.
export async function ask(target, method, url, fields, body) {
  try {
    const headers = {};
    const words = fields === "" ? [] : fields.split("\n");
    for (let at = 0; at + 1 < words.length; at += 2) headers[words[at]] = words[at + 1];
    const answer = await (target ?? globalThis).fetch(url, { method, headers, body });
    const get = (name) => answer.headers.get(name) ?? "";
    return [answer.status, get("etag"), get("age"), new Uint8Array(await answer.arrayBuffer())];
  } catch (error) {
    return [0, "", "", new TextEncoder().encode(String(error))];
  }
}

const signers = new Map();

// A signature (Ed25519) by the platform. Each secret is imported once; the bytes before it are the
// head of a PKCS #8 key (RFC 8410).
export async function sign(key, secret, bytes) {
  // Copied before the first `await`, for after it Wasm may use this memory for something else.
  const copy = bytes.slice();
  if (!signers.has(key)) {
    const pkcs8 = Uint8Array.of(48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32, ...secret);
    signers.set(key, await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", false, ["sign"]));
  }
  return new Uint8Array(await crypto.subtle.sign("Ed25519", signers.get(key), copy));
}
