import { DurableObject } from "cloudflare:workers";

const SLOW_MS = 150;

export class Slow extends DurableObject {
  async fetch(request) {
    await scheduler.wait(SLOW_MS);
    return this.env.SHARD.getByName("shard").fetch(request);
  }
}

export default {};
