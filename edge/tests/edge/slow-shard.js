import { DurableObject } from "cloudflare:workers";

const SLOW_MS = 150;

export class Slow extends DurableObject {
  states = 0;

  async fetch(request) {
    await scheduler.wait(SLOW_MS);
    const answer = await this.env.SHARD.getByName("shard").fetch(request);
    if (new URL(request.url).pathname.endsWith("/state")) {
      this.states += 1;
      return Response.json({ ...(await answer.json()), states: this.states });
    }
    if (!this.env.AGE || answer.headers.get("age") === null) return answer;
    // As if the centre had been away for so many seconds.
    const headers = new Headers(answer.headers);
    headers.set("age", this.env.AGE);
    return new Response(answer.body, { status: answer.status, headers });
  }
}

export default {};
