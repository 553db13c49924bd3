/** What goes into a step: decodes, cuts of prefills, and ids that are not known yet. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { sampledRow } from "../../../src/engine/step-plan.ts";
import { layeredOf, mainOf, request, setUp } from "./harness.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

describe("prefill", () => {
  test("a prefix that fits the budget runs whole, and its last token is sampled", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 6));
    const { main, layered, cost } = step();
    expect(main).toHaveLength(1);
    expect(main[0]).toMatchObject({ start: 0, writeStart: 0, prefixLength: 6, logits: "last" });
    expect(main[0].sampling).toEqual([{ temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0n, step: 0 }]);
    expect(layered).toBe(null);
    expect(cost).toBe(6);
  });

  test("a longer prefix runs as many passes as the budget allows, and is sampled with the last", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 30));
    const plans = [step(), step()];
    expect(plans.map(layeredOf)).toEqual(["a: 0+30 0-2", "a: 0+30 2-4"]);
    expect(plans.map(({ cost }) => cost)).toEqual([15, 15]);
    expect(plans.map(({ layered }) => layered?.rectangle.sampling.length)).toEqual([0, 1]);
  });

  test("a prefix of more work than budget and passes allow runs a pass a step", () => {
    const { scheduler, step } = setUp({ limits: { maxBatchedTokens: 4 } });
    scheduler.add(request("a", 100));
    expect([step(), step(), step(), step()].map(layeredOf)).toEqual([
      "a: 0+100 0-1",
      "a: 0+100 1-2",
      "a: 0+100 2-3",
      "a: 0+100 3-4",
    ]);
  });

  test("the prompt of a causal model is cut along tokens", () => {
    const { scheduler, step } = setUp({ isCausal: true });
    scheduler.add(request("a", 40));
    const plans = [step(), step(), step()];
    expect(plans.flatMap(mainOf)).toEqual(["a: 0+16", "a: 16+16", "a: 32+8"]);
    expect(plans.map(({ main }) => main[0].prefixLength)).toEqual([0, 0, 0]);
    expect(plans.map(({ main }) => main[0].logits)).toEqual(["none", "none", "last"]);
  });

  test("what comes behind a prefix is cut along tokens", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 40, { prefixLength: 10 }));
    expect([step(), step(), step()].flatMap(mainOf)).toEqual(["a: 0+16", "a: 16+16", "a: 32+8"]);
  });

  test("short prompts are not held up by a layered one, and a second layered one is", () => {
    const { scheduler, step } = setUp({ limits: { maxBatchedTokens: 20 } });
    for (const [id, tokens] of [
      ["a", 60],
      ["b", 60],
      ["c", 4],
    ] as const)
      scheduler.add(request(id, tokens));
    const first = step();
    expect([layeredOf(first), ...mainOf(first)]).toEqual(["a: 0+60 0-1", "c: 0+4"]);
    const rest = [step(), step(), step(), step()];
    expect(rest.map(layeredOf)).toEqual(["a: 0+60 1-2", "a: 0+60 2-3", "a: 0+60 3-4", "b: 0+60 0-1"]);
  });

  test("requests are served in order of arrival, or of priority", () => {
    for (const [ordering, expected] of [
      ["fcfs", ["a: 0+16"]],
      ["priority", ["b: 0+16"]],
    ] as const) {
      const { scheduler, step } = setUp({ isCausal: true, ordering });
      scheduler.add(request("a", 20, { priority: 1 }));
      scheduler.add(request("b", 20, { priority: 0 }));
      expect(mainOf(step())).toEqual([...expected]);
    }
  });
});

describe("decode", () => {
  test("a token is fed before the host knows it", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3));
    scheduler.add(request("b", 5));
    const first = step();
    const second = step();
    expect(second.main.map(({ tokenIds }) => tokenIds)).toEqual([[sampledRow(0)], [sampledRow(1)]]);
    expect(second.main.map(({ start }) => start)).toEqual([3, 5]);
    scheduler.onSampled(first.id, [7, 8]);
    expect(step().main.map(({ sampling }) => sampling[0].step)).toEqual([2, 2]);
  });

  test("nothing is planned as long as everything waits for ids", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3, { needsKnownIds: true }));
    const first = step();
    expect(scheduler.schedule(0).plan).toBe(null);
    scheduler.onSampled(first.id, [7]);
    expect(step().main[0].tokenIds).toEqual([7]);
  });

  test("one that waits for ids does not hold up the others", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3, { needsKnownIds: true }));
    scheduler.add(request("b", 3));
    const first = step();
    expect(mainOf(step())).toEqual(["b: 3+1"]);
    scheduler.onSampled(first.id, [7, 8]);
    expect(mainOf(step())).toEqual(["a: 3+1", "b: 4+1"]);
  });

  test("one that is guided waits until its last id has been followed, its answers each for themselves", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 3, { needsKnownIds: true, isGuided: true, answerCount: 2 }));
    scheduler.add(request("b", 5));
    const first = step();
    scheduler.onSampled(first.id, [7, 8, 9]);
    expect(mainOf(step())).toEqual(["b: 5+1"]);
    scheduler.release("a", 1);
    const third = step();
    expect(mainOf(third)).toEqual(["a: 3+1", "b: 6+1"]);
    expect(third.main[0].choice).toBe(1);
    scheduler.release("a", 0);
    expect(
      step()
        .main.filter(({ requestId }) => requestId === "a")
        .map(({ choice }) => choice),
    ).toEqual([0]);
  });

  test("an id that the layered batch samples is waited for", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 17));
    step();
    const last = step();
    expect(layeredOf(last)).toBe("a: 0+17 3-4");
    expect(scheduler.schedule(0).plan).toBe(null);
    scheduler.onSampled(last.id, [9]);
    expect(step().main[0].tokenIds).toEqual([9]);
  });

  test("decodes go first, and leave a long prefill what they do not use", () => {
    const { scheduler, step } = setUp();
    for (const id of ["a", "b"]) scheduler.add(request(id, 2, { maxTokens: 50 }));
    step();
    scheduler.add(request("long", 28));
    const plan = step();
    expect(mainOf(plan)).toEqual(["a: 2+1", "b: 2+1"]);
    expect([layeredOf(plan), plan.cost]).toEqual(["long: 0+28 0-2", 16]);
  });

  test("a prefill gets its share though decodes fill the budget, after a while", () => {
    const limits = { maxBatchedTokens: 4, maxSequences: 6, starvationStepsMax: 3 };
    const { scheduler, step } = setUp({ isCausal: true, limits });
    scheduler.add(request("n", 2, { answerCount: 4, maxTokens: 50 }));
    scheduler.onSampled(step().id, [1, 2, 3, 4]);
    scheduler.add(request("late", 6));
    const plans = Array.from({ length: 4 }, () => {
      const plan = step();
      scheduler.onSampled(plan.id, new Array<number>(plan.main.length).fill(1).slice(0, rowsOf(plan)));
      return mainOf(plan);
    });
    expect(plans.map((main) => main.filter((text) => text.startsWith("late")))).toEqual([
      [],
      [],
      [],
      ["late: 0+1"],
    ]);
    expect(plans[3]).toHaveLength(4);
  });
});

function rowsOf({ main }: ReturnType<ReturnType<typeof setUp>["step"]>): number {
  return main.reduce((sum, { sampling }) => sum + sampling.length, 0);
}

describe("several answers", () => {
  test("one prefill is sampled for all of them, and they part by copying what they write to", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 6, { answerCount: 4 }));
    const first = step();
    expect(mainOf(first)).toEqual(["a: 0+6"]);
    expect(first.main[0].sampling.map(({ seed }) => seed)).toEqual([0n, 1n, 2n, 3n]);
    const second = step();
    expect(mainOf(second)).toEqual(["a: 6+1", "a: 6+1", "a: 6+1", "a: 6+1"]);
    expect(second.main.map(({ choice }) => choice)).toEqual([0, 1, 2, 3]);
    expect(second.main.map(({ tokenIds }) => tokenIds[0])).toEqual([0, 1, 2, 3].map(sampledRow));
    // The last one to write has the block to itself.
    expect(second.copies).toHaveLength(3);
    expect(new Set(second.main.map(({ tables }) => tables[0][0])).size).toBe(1);
    expect(new Set(second.main.map(({ tables }) => tables[0][1])).size).toBe(4);
  });

  test("a request is not started before there are places for all its answers", () => {
    const { scheduler, step } = setUp({ limits: { maxSequences: 4 } });
    scheduler.add(request("a", 3, { answerCount: 2 }));
    scheduler.add(request("b", 3, { answerCount: 3 }));
    scheduler.add(request("c", 3));
    expect(mainOf(step())).toEqual(["a: 0+3"]);
    expect(mainOf(step())).toEqual(["a: 3+1", "a: 3+1"]);
  });
});

describe("prefix cache", () => {
  test("of a prefix that is known, the last token alone is run again, for its logits", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 10, { cacheSalt: "" }));
    step();
    scheduler.add(request("b", 10, { cacheSalt: "" }));
    const plan = step();
    expect(mainOf(plan)).toEqual(["a: 10+1", "b: 9+1"]);
    expect(plan.main[1]).toMatchObject({ writeStart: 10, prefixLength: 10, tokenIds: [109], logits: "last" });
    expect(plan.main[1].tables[0].slice(0, 2)).toEqual(plan.main[0].tables[0].slice(0, 2));
  });

  test("what is written in the same step is not shared yet", () => {
    const { scheduler, step } = setUp();
    scheduler.add(request("a", 7, { cacheSalt: "" }));
    scheduler.add(request("b", 7, { cacheSalt: "" }));
    expect(mainOf(step())).toEqual(["a: 0+7", "b: 0+7"]);
  });

  test("a causal prompt starts behind the blocks that are known", () => {
    const { scheduler, step } = setUp({ isCausal: true });
    scheduler.add(request("a", 10, { cacheSalt: "" }));
    step();
    scheduler.add(request("b", 14, { cacheSalt: "" }));
    expect(mainOf(step())).toEqual(["a: 10+1", "b: 8+6"]);
  });
});
