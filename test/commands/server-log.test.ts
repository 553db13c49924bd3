import { describe, expect, test } from "bun:test";
import { type LogOptions, serverLog } from "../../src/commands/server-log.ts";
import type { LogEntry } from "../../src/routes/services.ts";

function setUp(options: Partial<LogOptions> = {}) {
  const lines: string[] = [];
  const clock = () => Date.UTC(2026, 0, 2, 3, 4, 5, 678);
  const log = serverLog(
    { format: "json", level: "info", ...options },
    { clock, report: (line) => void lines.push(line) },
  );
  return { log, lines };
}

const time = "2026-01-02T03:04:05.678Z";
const request: LogEntry = {
  type: "request",
  requestId: "req-1",
  method: "POST",
  path: "/v1/completions",
  status: 200,
  durationMs: 12.345,
};
const failure: LogEntry = { type: "error", requestId: "req-2", error: new Error("broken") };

describe("JSON lines", () => {
  test("one an entry, with time, level and fields", () => {
    const { log, lines } = setUp();
    log.entry(request);
    const { type, ...fields } = request;
    expect(JSON.parse(lines[0])).toEqual({ level: "info", time, ...fields, msg: type });
    log.entry({ ...failure, error: "thrown" });
    expect(JSON.parse(lines[1])).toEqual({
      level: "error",
      time,
      requestId: "req-2",
      error: "thrown",
      msg: "error",
    });
  });

  test("an error keeps its stack, on its one line", () => {
    const { log, lines } = setUp();
    log.entry(failure);
    expect(lines[0]).not.toContain("\n");
    expect((JSON.parse(lines[0]) as { error: string }).error).toContain("server-log.test");
  });

  test("notices are lines too, whatever the level", () => {
    const { log, lines } = setUp({ level: "silent" });
    log.entry(request);
    log.notice("Stopping");
    expect(lines.map((line) => JSON.parse(line) as object)).toEqual([
      { level: "info", time, msg: "Stopping" },
    ]);
  });
});

describe("levels", () => {
  const probe = { ...request, path: "/health" };
  test.each([
    ["debug", 3],
    ["info", 2],
    ["warn", 1],
    ["error", 1],
    ["silent", 0],
  ] as const)("%s lets %i through of a probe, a request and an error", (level, count) => {
    const { log, lines } = setUp({ level });
    for (const entry of [probe, request, failure]) log.entry(entry);
    expect(lines.length).toBe(count);
  });
});

describe("lines for people", () => {
  test("have time, level and fields; notices are as they are", () => {
    const { log, lines } = setUp({ format: "pretty" });
    log.notice("Prelude serves");
    log.entry(request);
    expect(lines).toEqual([
      "Prelude serves",
      "03:04:05.678 INFO  request requestId=req-1 method=POST path=/v1/completions status=200 durationMs=12.3",
    ]);
  });

  test("what comes from outside cannot begin a line of its own", () => {
    const { log, lines } = setUp({ format: "pretty" });
    log.entry({ ...request, path: "/a\n03:04:05.678 ERROR forged\u001b[2J" });
    expect(lines.length).toBe(1);
    expect(lines[0]).not.toMatch(/[\n\u001b]/);
  });
});
