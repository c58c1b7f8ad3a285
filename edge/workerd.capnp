# The Wasm edge on plain workerd: for the tests, `cargo xtask up --edge wasm`, and to try it out.
# Every setting is an environment variable; what they mean: docs/worker.md. Build the Worker first
# (`cargo xtask worker`), then:
#
#   workerd serve edge/workerd.capnp --directory-path outbox=DIRECTORY
#
# Here whoever asks may say where it comes from (`CF-Connecting-IP`, `CF-Blob`); on Cloudflare the
# platform says it.

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "edge", worker = .edge),
    # The collector or NATS on this machine.
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
    (name = "outbox", disk = (path = "outbox", writable = true)),
  ],
  sockets = [
    (name = "http", address = "127.0.0.1:8787", http = (cfBlobHeader = "CF-Blob"), service = "edge"),
  ],
);

const edge :Workerd.Worker = (
  modules = [
    (name = "src/worker/entry.js", esModule = embed "src/worker/entry.js"),
    (name = "build/index.js", esModule = embed "build/index.js"),
    (name = "build/index_bg.wasm", wasm = embed "build/index_bg.wasm"),
  ],
  compatibilityDate = "2026-10-01",
  bindings = [
    (name = "OUTBOX", durableObjectNamespace = "Outbox"),
    (name = "EDGE_NAME", fromEnvironment = "EDGE_NAME"),
    (name = "EDGE_KEYS", fromEnvironment = "EDGE_KEYS"),
    (name = "CATALOGUE", fromEnvironment = "CATALOGUE"),
    (name = "PUBLIC_URL", fromEnvironment = "PUBLIC_URL"),
    (name = "BEACONS", fromEnvironment = "BEACONS"),
    (name = "CLICKS", fromEnvironment = "CLICKS"),
    (name = "REDIRECT_WAIT_MS", fromEnvironment = "REDIRECT_WAIT_MS"),
    (name = "SHARDS", fromEnvironment = "SHARDS"),
    (name = "OUTBOX_BYTES_MAX", fromEnvironment = "OUTBOX_BYTES_MAX"),
    (name = "IDLE_MS", fromEnvironment = "IDLE_MS"),
    (name = "CLICK_TOO_SOON_MS", fromEnvironment = "CLICK_TOO_SOON_MS"),
    (name = "CLICKS_MAX", fromEnvironment = "CLICKS_MAX"),
    (name = "CLICKS_WINDOW_S", fromEnvironment = "CLICKS_WINDOW_S"),
    (name = "REQUESTS_PER_S", fromEnvironment = "REQUESTS_PER_S"),
    (name = "REQUESTS_BURST", fromEnvironment = "REQUESTS_BURST"),
    (name = "CLICKS_PER_S", fromEnvironment = "CLICKS_PER_S"),
    (name = "CLICKS_BURST", fromEnvironment = "CLICKS_BURST"),
    (name = "ADDRESS", fromEnvironment = "ADDRESS"),
    (name = "PURPOSES", fromEnvironment = "PURPOSES"),
    (name = "VENDOR", fromEnvironment = "VENDOR"),
    (name = "LINK_DAYS", fromEnvironment = "LINK_DAYS"),
    (name = "GATEWAY_URL", fromEnvironment = "GATEWAY_URL"),
    (name = "POLICY_URL", fromEnvironment = "POLICY_URL"),
    (name = "NATS_URL", fromEnvironment = "NATS_URL"),
    (name = "NATS_PREFIX", fromEnvironment = "NATS_PREFIX"),
    (name = "NATS_USER", fromEnvironment = "NATS_USER"),
    (name = "NATS_PASSWORD", fromEnvironment = "NATS_PASSWORD"),
    (name = "NATS_NKEY_SEED", fromEnvironment = "NATS_NKEY_SEED"),
  ],
  durableObjectNamespaces = [(className = "Outbox", uniqueKey = "countersign-outbox", enableSql = true)],
  durableObjectStorage = (localDisk = "outbox"),
);
