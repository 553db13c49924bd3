import { describe, expect, test } from "bun:test";
import type { GenerationRequest, SamplingParams } from "../../src/engine/client.ts";
import { type CoreEvent, type CoreOptions, EngineCore } from "../../src/engine/core.ts";
import { sampledRow } from "../../src/engine/step-plan.ts";
import { FakeRunner, settled } from "../support/fake-runner.ts";

const eos = 9;

/** A core over a fake runner, and what it told each request. */
class Harness {
  readonly runner: FakeRunner;
  readonly core: EngineCore;
  readonly events = new Map<string, CoreEvent[]>();
  readonly errors = new Map<string, unknown>();

  constructor(runner: FakeRunner, options: Partial<CoreOptions> = {}) {
    this.runner = runner;
    this.core = new EngineCore({
      runner,
      blockCount: 16,
      isPrefixLm: true,
      eosTokenIds: [eos],
      ...options,
    });
  }

  submit(request: GenerationRequest): void {
    const events: CoreEvent[] = [];
    this.events.set(request.id, events);
    this.core.submit(
      request,
      (event) => events.push(event),
      (error) => this.errors.set(request.id, error),
    );
  }

  /** Ids reported to a request so far. */
  ids(id: string): number[] {
    return (this.events.get(id) ?? []).flatMap((event) => (event.type === "tokens" ? event.ids : []));
  }

  /** How the request ended, or null. */
  finish(id: string): string | null {
    const last = this.events.get(id)?.at(-1);
    return last?.type === "finish" ? last.reason : null;
  }
}

function request(id: string, changes: Partial<GenerationRequest> & Partial<SamplingParams> = {}) {
  const { promptIds = [1, 2, 3, 4, 5], prefixLength, ...sampling } = changes;
  const greedy = { maxTokens: 3, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 7n, stop: [] };
  return {
    id,
    promptIds,
    ...(prefixLength === undefined ? {} : { prefixLength }),
    sampling: { ...greedy, ...sampling },
  };
}

const prompt = (count: number) => Array.from({ length: count }, (_, i) => 100 + i);

describe("prefill", () => {
  test("a Prefix LM's whole prompt is one step, its prefix the whole prompt", async () => {
    const engine = new Harness(new FakeRunner({}, () => 1));
    engine.submit(request("a", { promptIds: prompt(30) }));
    await settled();
    expect(engine.runner.sequences[0]).toMatchObject({
      tokenIds: prompt(30),
      start: 0,
      prefixLength: 30,
      logits: "last",
    });
    expect(engine.finish("a")).toBe("length");
  });

  test("a prefix that no step can hold is refused whole, never cut", async () => {
    const engine = new Harness(new FakeRunner({ tokens: 8 }, () => 1));
    engine.submit(request("long", { promptIds: prompt(9) }));
    engine.submit(request("next", { promptIds: prompt(8) }));
    await settled();
    expect(engine.errors.get("long")).toBeInstanceOf(RangeError);
    expect(engine.events.get("long")).toEqual([]);
    expect(engine.runner.sequences[0].tokenIds).toEqual(prompt(8));
    expect(engine.finish("next")).toBe("length");
  });

  test("a causal prompt is cut into full steps, and only the last one samples", async () => {
    const engine = new Harness(new FakeRunner({ tokens: 4 }, () => 1), { isPrefixLm: false });
    engine.submit(request("a", { promptIds: prompt(10), maxTokens: 1 }));
    await settled();
    expect(engine.runner.sequences.map(({ start, tokenIds }) => [start, tokenIds])).toEqual([
      [0, prompt(10).slice(0, 4)],
      [4, prompt(10).slice(4, 8)],
      [8, prompt(10).slice(8)],
    ]);
    expect(engine.runner.sequences.map(({ logits }) => logits)).toEqual(["none", "none", "last"]);
    expect(engine.runner.steps.map(({ wanted }) => wanted)).toEqual([[], [], ["sampled"]]);
  });

  test("behind a prefix the rest of the prompt may be cut", async () => {
    const engine = new Harness(new FakeRunner({ tokens: 6 }, () => 1));
    engine.submit(request("a", { promptIds: prompt(15), prefixLength: 5, maxTokens: 1 }));
    await settled();
    const cuts = engine.runner.sequences.map(({ start, tokenIds }) => [start, tokenIds.length]);
    expect(cuts).toEqual([
      [0, 6],
      [6, 6],
      [12, 3],
    ]);
    expect(engine.runner.sequences.map(({ prefixLength }) => prefixLength)).toEqual([5, 5, 5]);
  });
});

describe("prefix length", () => {
  test.each([
    [true, undefined, 5],
    [true, 3, 3],
    [true, 0, 0],
    [false, undefined, 0],
    [false, 3, 0],
  ])("of a Prefix LM (%s) asked for %s is %s in every step", async (isPrefixLm, prefixLength, expected) => {
    const engine = new Harness(new FakeRunner({}, () => 1), { isPrefixLm });
    engine.submit(request("a", { prefixLength, maxTokens: 4 }));
    await settled();
    expect(engine.runner.sequences.map((sequence) => sequence.prefixLength)).toEqual(
      Array.from({ length: 4 }, () => expected),
    );
  });
});

describe("decode", () => {
  test("a step is submitted before the ids of the one before are read", async () => {
    const engine = new Harness(new FakeRunner());
    engine.submit(request("a"));
    const { steps } = engine.runner;
    await settled();
    expect(steps.map(({ isRead }) => isRead)).toEqual([true, false]);
    expect(engine.ids("a")).toEqual([]);
    steps[0].answer(50);
    await settled();
    expect(steps.map(({ isRead }) => isRead)).toEqual([true, true, false]);
    expect(engine.ids("a")).toEqual([50]);
    expect(engine.runner.sequences[1]).toMatchObject({ tokenIds: [sampledRow(0)], start: 5, logits: "last" });
  });

  test("positions and the counter of random numbers go up by one a token", async () => {
    const engine = new Harness(new FakeRunner({}, (count) => 50 + count));
    engine.submit(request("a", { maxTokens: 4, temperature: 0.5, topK: 3, topP: 0.9, minP: 0.1 }));
    await settled();
    expect(engine.ids("a")).toEqual([50, 51, 52, 53]);
    const { sequences } = engine.runner;
    expect(sequences.map(({ start }) => start)).toEqual([0, 5, 6, 7]);
    const settings = { temperature: 0.5, topK: 3, topP: 0.9, minP: 0.1, seed: 7n };
    expect(sequences.map(({ sampling }) => sampling)).toEqual(
      [0, 1, 2, 3].map((step) => ({ ...settings, step })),
    );
  });

  test("the last token ends with length, and no step follows it", async () => {
    const engine = new Harness(new FakeRunner({}, () => 1));
    engine.submit(request("a", { maxTokens: 2 }));
    await settled();
    expect(engine.runner.steps.length).toBe(2);
    expect(engine.events.get("a")?.at(-1)).toEqual({ type: "finish", reason: "length" });
  });

  test("an end token is reported, ends with stop, and wins over the limit", async () => {
    const engine = new Harness(new FakeRunner({}, (count) => (count === 1 ? eos : 1)));
    engine.submit(request("a", { maxTokens: 2 }));
    await settled();
    expect(engine.ids("a")).toEqual([1, eos]);
    expect(engine.finish("a")).toBe("stop");
  });

  test("blocks are not reused before the step too many is done", async () => {
    const engine = new Harness(new FakeRunner(), { blockCount: 2 });
    engine.submit(request("a"));
    engine.submit(request("b"));
    const { steps } = engine.runner;
    steps[0].answer(eos);
    await settled();
    expect(engine.finish("a")).toBe("stop");
    expect(steps.map(({ isRead }) => isRead)).toEqual([true, true]);
    steps[1].answer(1);
    await settled();
    expect(steps.length).toBe(4);
    const [first, , second] = engine.runner.sequences.map(({ blocks }) => blocks.toSorted());
    expect(second).toEqual(first);
  });
});

describe("cancel", () => {
  /** Runs another request that needs every block there is, one step a token. */
  async function runsToTheEnd(engine: Harness, id: string): Promise<void> {
    engine.submit(request(id, { promptIds: [8, 8, 8, 8, 8], maxTokens: 3 }));
    for (let answered = 0; engine.finish(id) === null && answered < 20; answered++) {
      for (const step of engine.runner.steps) step.answer(1);
      await settled();
    }
    expect(engine.ids(id)).toEqual([1, 1, 1]);
    expect(engine.errors.size).toBe(0);
  }

  test("of a request that waits", async () => {
    const engine = new Harness(new FakeRunner(), { blockCount: 2 });
    engine.submit(request("first", { maxTokens: 1 }));
    engine.submit(request("waiting"));
    engine.core.cancel("waiting");
    engine.runner.steps[0].answer(1);
    await settled();
    expect(engine.finish("first")).toBe("length");
    expect(engine.runner.steps.length).toBe(1);
    expect(engine.events.get("waiting")).toEqual([]);
    await runsToTheEnd(engine, "next");
  });

  test("during a prefill: the chunks that are left are not run", async () => {
    const engine = new Harness(new FakeRunner({ tokens: 4 }), { isPrefixLm: false });
    engine.submit(request("a", { promptIds: prompt(60) }));
    // As from another thread: the message is taken up when the loop gives way.
    setImmediate(() => engine.core.cancel("a"));
    await settled();
    expect(engine.runner.steps.length).toBeLessThan(4);
    expect(engine.events.get("a")).toEqual([]);
    await runsToTheEnd(engine, "next");
  });

  test("while ids are awaited: nothing more is emitted, each step is read once", async () => {
    const engine = new Harness(new FakeRunner(), { blockCount: 3 });
    engine.submit(request("a", { maxTokens: 7 }));
    const { steps } = engine.runner;
    steps[0].answer(50);
    await settled();
    engine.core.cancel("a");
    engine.submit(request("b"));
    steps[1].answer(51);
    await settled();
    expect(engine.ids("a")).toEqual([50]);
    expect(steps.length).toBe(3); // the one that was submitted ahead is still running
    steps[2].answer(52);
    await settled();
    expect(steps.slice(0, 3).every(({ isRead }) => isRead)).toBe(true);
    expect(engine.events.get("a")?.length).toBe(1);
    expect(engine.runner.sequences[3].start).toBe(0);
  });

  test("from within an event: nothing more is emitted", async () => {
    const engine = new Harness(new FakeRunner({}, () => 1));
    const events: CoreEvent[] = [];
    const take = (event: CoreEvent) => {
      events.push(event);
      engine.core.cancel("a");
    };
    engine.core.submit(request("a", { maxTokens: 1 }), take, (error) => engine.errors.set("a", error));
    await settled();
    expect(events).toEqual([{ type: "tokens", ids: [1] }]);
    await runsToTheEnd(engine, "next");
  });

  test("of an unknown request does nothing", async () => {
    const engine = new Harness(new FakeRunner({}, () => 1));
    engine.core.cancel("nobody");
    engine.submit(request("a"));
    await settled();
    expect(engine.finish("a")).toBe("length");
  });
});

describe("close", () => {
  test("waits for the steps under way, ends all requests without a word, and runs no more of them", async () => {
    const engine = new Harness(new FakeRunner());
    engine.submit(request("running", { maxTokens: 9 }));
    engine.submit(request("waiting"));
    const { steps } = engine.runner;
    steps[0].answer(50);
    await settled();
    let isClosed = false;
    const closing = engine.core.close().then(() => (isClosed = true));
    for (const index of [1, 2]) {
      await settled();
      expect(isClosed).toBe(false);
      steps[index].answer(51);
    }
    await closing;
    expect(steps.length).toBe(3);
    expect(engine.ids("running")).toEqual([50]);
    expect([engine.finish("running"), engine.finish("waiting")]).toEqual([null, null]);
  });

  test("of an idle core is done at once", async () => {
    await new Harness(new FakeRunner()).core.close();
  });
});

describe("errors", () => {
  test("a failing step fails its request only", async () => {
    const engine = new Harness(new FakeRunner(), { blockCount: 2 });
    engine.submit(request("a"));
    engine.submit(request("b", { maxTokens: 1 }));
    engine.runner.steps[0].fail(new Error("the step failed"));
    await settled();
    expect(String(engine.errors.get("a"))).toBe("Error: the step failed");
    expect(engine.events.get("a")).toEqual([]);
    engine.runner.steps.at(-1)?.answer(5);
    await settled();
    expect(engine.ids("b")).toEqual([5]);
    expect(engine.finish("b")).toBe("length");
    expect(engine.errors.has("b")).toBe(false);
  });

  test("a request that needs more blocks than there are fails alone", async () => {
    const engine = new Harness(new FakeRunner({}, () => 1), { blockCount: 2 });
    engine.submit(request("large", { maxTokens: 4 }));
    engine.submit(request("small", { maxTokens: 3 }));
    await settled();
    expect(String(engine.errors.get("large"))).toContain("KV blocks are more than there are");
    expect(engine.finish("small")).toBe("length");
  });

  test("a hundred requests one after the other run in order and leak no block", async () => {
    const engine = new Harness(new FakeRunner({}, (count) => (count % 3 === 2 ? eos : 1)), { blockCount: 2 });
    const names = Array.from({ length: 100 }, (_, i) => `request ${i}`);
    for (const name of names) engine.submit(request(name));
    for (let turn = 0; turn < 20 && engine.finish("request 99") === null; turn++) await settled();
    expect(names.map((name) => engine.finish(name) !== null).every(Boolean)).toBe(true);
    expect(engine.errors.size).toBe(0);
  });
});
