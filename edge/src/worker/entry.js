// The Worker's main module. `worker-build` makes a class of which the platform takes an object for
// each request, behind two proxies that put a fresh instance in place of one that has panicked. Most
// requests need neither: this asks the instance itself, and leaves it to the class to replace it.
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
