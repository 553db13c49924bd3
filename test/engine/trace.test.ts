import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { SetupError } from "../../src/errors.ts";
import { openTrace, TraceWriter } from "../../src/engine/trace.ts";
import { type TraceEvent, TraceFormatter, type TraceStep } from "../../src/engine/trace-events.ts";

function step(index: number, [submitMs, doneMs]: [number, number], rest: Partial<TraceStep> = {}): TraceStep {
  return { index, submitMs, doneMs, rectangles: [], counters: counters(0), ...rest };
}

function counters(running: number) {
  return { running, waiting: 3, kvBlocks: [{ used: 5, cached: 2, free: 1 }] };
}

const prefill = { sequence: "cmpl-a", kind: "layered", tokens: [0, 450], passes: [3, 6] } as const;
const decode = { sequence: "cmpl-b", kind: "decode", tokens: [17, 18], passes: [0, 8] } as const;

function withPhase<Phase extends TraceEvent["ph"]>(events: readonly TraceEvent[], phase: Phase) {
  return events.filter((event): event is Extract<TraceEvent, { ph: Phase }> => event.ph === phase);
}

describe("a step as events", () => {
  test("is a rectangle on the track of each of its sequences, under the step's own", () => {
    const events = new TraceFormatter().events(step(7, [100, 102.5], { rectangles: [prefill, decode] }));
    expect(withPhase(events, "X")).toEqual([
      {
        ph: "X",
        name: "step 7",
        cat: "step",
        pid: 1,
        tid: 1,
        ts: 0,
        dur: 2500,
        args: { rectangles: 2, tokens: 451, queuedUs: 0 },
      },
      {
        ph: "X",
        name: "layered",
        cat: "rectangle",
        pid: 1,
        tid: 2,
        ts: 0,
        dur: 2500,
        args: { step: 7, tokens: [0, 450], passes: [3, 6] },
      },
      {
        ph: "X",
        name: "decode",
        cat: "rectangle",
        pid: 1,
        tid: 3,
        ts: 0,
        dur: 2500,
        args: { step: 7, tokens: [17, 18], passes: [0, 8] },
      },
    ]);
  });

  test("counts sequences and the blocks of each group", () => {
    const kvBlocks = [
      { used: 5, cached: 2, free: 1 },
      { used: 8, cached: 0, free: 0 },
    ];
    const events = new TraceFormatter().events(
      step(1, [0, 1], { counters: { running: 4, waiting: 9, kvBlocks } }),
    );
    expect(withPhase(events, "C").map(({ name, ts, args }) => ({ name, ts, args }))).toEqual([
      { name: "sequences", ts: 0, args: { running: 4, waiting: 9 } },
      { name: "KV blocks, group 0", ts: 0, args: { used: 5, cached: 2, free: 1 } },
      { name: "KV blocks, group 1", ts: 0, args: { used: 8, cached: 0, free: 0 } },
    ]);
  });

  test("names a track once, and keeps it", () => {
    const formatter = new TraceFormatter();
    const first = formatter.events(step(1, [0, 1], { rectangles: [decode] }));
    const second = formatter.events(step(2, [1, 2], { rectangles: [prefill, decode] }));
    const names = (events: TraceEvent[]) =>
      withPhase(events, "M")
        .filter(({ name }) => name !== "thread_sort_index")
        .map(({ tid, args }) => [tid, args.name]);
    expect(names(first)).toEqual([
      [1, "Prelude engine"],
      [1, "steps"],
      [2, "cmpl-b"],
    ]);
    expect(names(second)).toEqual([[3, "cmpl-a"]]);
    expect(withPhase(second, "X").map(({ tid }) => tid)).toEqual([1, 3, 2]);
  });

  test("begins when the one before ends, if it was submitted earlier", () => {
    const formatter = new TraceFormatter();
    const spans = [step(1, [10, 14]), step(2, [11, 15.5]), step(3, [20, 21])].map((one) => {
      const [{ ts, dur, args }] = withPhase(formatter.events(one), "X");
      return { ts, dur, queuedUs: args.queuedUs };
    });
    expect(spans).toEqual([
      { ts: 0, dur: 4000, queuedUs: 0 },
      { ts: 4000, dur: 1500, queuedUs: 3000 },
      { ts: 10000, dur: 1000, queuedUs: 0 },
    ]);
  });
});

describe("a trace file", () => {
  let folder: string;
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "trace-"));
    warnings.length = 0;
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const stepsIn = (text: string) =>
    (JSON.parse(text) as TraceEvent[]).filter(({ name }) => name.startsWith("step ")).map(({ name }) => name);

  test("is JSON once closed; before, only the closing bracket is missing", () => {
    const path = join(folder, "trace.json");
    const trace = openTrace(path, { warn });
    trace.step(step(1, [0, 1], { rectangles: [prefill] }));
    expect(stepsIn(`${readFileSync(path, "utf8")}]`)).toEqual(["step 1"]);
    trace.step(step(2, [1, 2], { rectangles: [decode] }));
    expect(stepsIn(`${readFileSync(path, "utf8")}]`)).toEqual(["step 1", "step 2"]);
    trace.close();
    const text = readFileSync(path, "utf8");
    expect(stepsIn(text)).toEqual(["step 1", "step 2"]);
    trace.step(step(3, [2, 3]));
    trace.close();
    expect(readFileSync(path, "utf8")).toBe(text);
    expect(warnings).toEqual([]);
  });

  test("without a step is an empty array", () => {
    const path = join(folder, "trace.json");
    openTrace(path, { warn }).close();
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual([]);
  });

  test("ends at its limit, whole and with a warning", () => {
    const path = join(folder, "trace.json");
    const trace = openTrace(path, { warn, bytesMax: 2000 });
    for (let index = 1; index <= 20; index++) trace.step(step(index, [index, index + 1]));
    const text = readFileSync(path, "utf8");
    expect(text.length).toBeLessThan(2010);
    const steps = stepsIn(text);
    expect(steps.length).toBeGreaterThan(2);
    expect(warnings).toEqual([`The trace ends at step ${steps.length + 1}: it has reached its 2000 bytes`]);
  });

  test("that cannot be made is a SetupError", () => {
    expect(() => openTrace(join(folder, "none", "trace.json"), { warn })).toThrow(SetupError);
  });

  test("that cannot be written any more warns once and lets the engine be", () => {
    let writes = 0;
    const sink = {
      write: () => {
        if (++writes > 1) throw new Error("no space left on device");
      },
      close: () => {},
    };
    const trace = new TraceWriter(sink, { warn });
    for (let index = 1; index <= 5; index++) trace.step(step(index, [index, index + 1]));
    trace.close();
    expect([writes, warnings]).toEqual([2, ["The trace ends: no space left on device"]]);
  });
});
