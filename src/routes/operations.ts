/** What operators and their tools ask for: is the server well, which version is it, what are its numbers. */
import type { Hono } from "hono";
import type { ServerLife } from "./life.ts";
import type { Metrics } from "./metrics.ts";
import type { AppEnv, Services } from "./services.ts";

export interface About {
  /** Of Prelude. */
  version: string;
  /** Name and version: "Bun 1.4.5". */
  runtime: string;
}

interface Operations {
  life: ServerLife;
  metrics: Metrics;
  about: About;
}

export function addOperations(
  app: Hono<AppEnv>,
  services: Services,
  { life, metrics, about }: Operations,
): void {
  app.get("/health", (c) => {
    life.assertReady();
    return c.json({ status: "ok" });
  });
  app.get("/ready", (c) => {
    life.assertReady();
    return c.json({ status: "ready" });
  });
  app.get("/version", (c) => c.json({ ...about, adapter: services.engine.adapter }));
  app.get("/metrics", async (c) => {
    const { engine } = services;
    // A dead engine has no numbers; what was counted here is still worth reading.
    const stats = engine.healthy ? await engine.stats().catch(() => null) : null;
    return c.body(await metrics.render(engine.model.id, stats), 200, {
      "content-type": metrics.contentType,
    });
  });
}
