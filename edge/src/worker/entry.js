// The main module of the Worker. `worker-build` makes a class, of which the platform makes an
// object for each request, behind two proxies that replace an instance that has panicked. Most
// requests need neither, so this calls the instance itself, and leaves its replacement to the
// class.
import Edge, { Outbox } from "../../build/index.js";

export { Outbox };

const state = globalThis.__worker_init_state;
const { fetch } = Edge.prototype;

export default {
  fetch(request, env, ctx) {
    if (state.criticalError) return new Edge(ctx, env).fetch(request);
    try {
      return fetch.call({ env, ctx }, request);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) state.criticalError = true;
      throw error;
    }
  },
};
