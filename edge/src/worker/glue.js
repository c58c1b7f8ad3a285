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

// Fields of a sort of reply, and the name of the one that each has a value of its own for: there are a
// dozen sorts. A response copies them, so the next one may have another value.
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

// In `list` for each that waits: its promise's function, and what it gets if taken and if not.
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

// The Durable Object of that name, as this request may reach it.
export function stub(env, name, hint) {
  return env.OUTBOX.getByName(name, hint ? { locationHint: hint } : undefined);
}

// Asks a Durable Object, or anybody on the network, and reads all of the answer: its status (0: there
// was none), entity tag, age, body. `fields` are names and values in turn, one a line.
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

// Ed25519 by the platform. A secret is imported once (RFC 8410: what stands before it in PKCS #8).
export async function sign(key, secret, bytes) {
  // Wasm's memory is ours until we wait for something.
  const copy = bytes.slice();
  if (!signers.has(key)) {
    const pkcs8 = Uint8Array.of(48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32, ...secret);
    signers.set(key, await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", false, ["sign"]));
  }
  return new Uint8Array(await crypto.subtle.sign("Ed25519", signers.get(key), copy));
}
