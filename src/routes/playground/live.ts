/** `GET /live`: the engine's numbers twice a second, as server-sent events, for as long as somebody listens. */
import type { Context } from "hono";
import type { EngineStats } from "../../engine/client.ts";
import { LIVE_INTERVAL_MS } from "../../limits.ts";
import { stream } from "../endpoint.ts";
import type { ServerLife } from "../life.ts";
import type { AppEnv, Services } from "../services.ts";
import { dataEvents, type StartTimer } from "../sse.ts";

type Step = EngineStats["recentSteps"][number];
type Rectangle = Step["rectangles"][number];

/** What the page is told of a rectangle. Decodes of a step that run through the same passes are one. */
interface LiveRectangle extends Pick<Rectangle, "kind" | "passes"> {
  sequences: number;
  tokenCount: number;
}

export function live(services: Services, life: ServerLife): (c: Context<AppEnv>) => Response {
  const stats = sharedStats(services);
  return (c) => {
    const gone = new AbortController();
    const watch = { stats, life, startTimer: services.startTimer, signal: gone.signal };
    return stream(c, snapshots(watch), { services, gone, format: dataEvents });
  };
}

/** However many watch, the engine is asked once an interval. */
function sharedStats(services: Services): () => Promise<EngineStats> {
  let asked: { ms: number; stats: Promise<EngineStats> } | undefined;
  return () => {
    const ms = services.clock();
    // A clock that was set back is not waited for.
    const isFresh = asked !== undefined && Math.abs(ms - asked.ms) < LIVE_INTERVAL_MS;
    if (!asked || !isFresh) asked = { ms, stats: services.engine.stats() };
    return asked.stats;
  };
}

interface Watch {
  stats: () => Promise<EngineStats>;
  life: ServerLife;
  startTimer: StartTimer;
  /** Aborted when the watcher leaves. */
  signal: AbortSignal;
}

/** Ends with the server's readiness too: who only watches does not hold up a server that is to stop. */
async function* snapshots({ stats, life, startTimer, signal }: Watch): AsyncGenerator<object> {
  let lastStep = 0;
  while (!signal.aborted && life.state !== "draining") {
    const now = await stats();
    yield toSnapshot(now, lastStep);
    lastStep = now.recentSteps.at(-1)?.index ?? lastStep;
    await pause(startTimer, signal);
  }
}

function toSnapshot(stats: EngineStats, lastStep: number): object {
  const { running, waiting, paused, preemptions, promptTokens, generationTokens, kvBlocks } = stats;
  const steps = stats.recentSteps.filter(({ index }) => index > lastStep).map(toLiveStep);
  return { running, waiting, paused, preemptions, promptTokens, generationTokens, kvBlocks, steps };
}

function toLiveStep({ index, submitMs, doneMs, rectangles }: Step): object {
  const groups = Map.groupBy(rectangles, ({ kind, sequence, passes }) =>
    kind === "decode" ? `decode ${passes.join()}` : `${kind} ${sequence} ${passes.join()}`,
  );
  return { index, ms: doneMs - submitMs, rectangles: [...groups.values()].map(toLiveRectangle) };
}

function toLiveRectangle(group: readonly Rectangle[]): LiveRectangle {
  const [{ kind, passes }] = group;
  const tokenCount = group.reduce((sum, { tokens: [from, to] }) => sum + to - from, 0);
  return { kind, passes, sequences: new Set(group.map(({ sequence }) => sequence)).size, tokenCount };
}

/** Resolves after an interval, or when the watcher leaves. */
function pause(startTimer: StartTimer, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stopTimer();
      signal.removeEventListener("abort", done);
      resolve();
    };
    const stopTimer = startTimer(LIVE_INTERVAL_MS, done);
    signal.addEventListener("abort", done, { once: true });
    if (signal.aborted) done();
  });
}
