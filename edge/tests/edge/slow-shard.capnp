# The Wasm edge with a shard that takes its time, as one does that is in another data centre: what the
# isolate asks of it goes through `Slow`, which waits and hands it on.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "edge", worker = .edge),
    (name = "slow", worker = .slow),
    (name = "internet", network = (allow = ["public", "private", "local"])),
    (name = "outbox", disk = (path = "outbox", writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "edge")],
);

const edge :Workerd.Worker = (
  modules = [
    (name = "src/worker/entry.js", esModule = embed "../../src/worker/entry.js"),
    (name = "build/index.js", esModule = embed "../../build/index.js"),
    (name = "build/index_bg.wasm", wasm = embed "../../build/index_bg.wasm"),
  ],
  compatibilityDate = "2026-10-01",
  bindings = [
    (name = "OUTBOX", durableObjectNamespace = (className = "Slow", serviceName = "slow")),
    (name = "EDGE_NAME", fromEnvironment = "EDGE_NAME"),
    (name = "EDGE_KEYS", fromEnvironment = "EDGE_KEYS"),
    (name = "CATALOGUE", fromEnvironment = "CATALOGUE"),
    (name = "PUBLIC_URL", fromEnvironment = "PUBLIC_URL"),
    (name = "GATEWAY_URL", fromEnvironment = "GATEWAY_URL"),
    (name = "REDIRECT_WAIT_MS", fromEnvironment = "REDIRECT_WAIT_MS"),
  ],
  durableObjectNamespaces = [(className = "Outbox", uniqueKey = "outbox", enableSql = true)],
  durableObjectStorage = (localDisk = "outbox"),
);

const slow :Workerd.Worker = (
  modules = [(name = "slow-shard.js", esModule = embed "slow-shard.js")],
  compatibilityDate = "2026-10-01",
  bindings = [
    (name = "SHARD", durableObjectNamespace = (className = "Outbox", serviceName = "edge")),
    (name = "AGE", fromEnvironment = "AGE"),
  ],
  durableObjectNamespaces = [(className = "Slow", uniqueKey = "slow")],
  durableObjectStorage = (inMemory = void),
);
