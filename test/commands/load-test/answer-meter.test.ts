import { describe, expect, test } from "bun:test";
import { AnswerMeter, type StreamChunk } from "../../../src/commands/load-test/answer-meter.ts";
import { SseDecoder } from "../../../src/commands/load-test/sse.ts";

const text = (piece: string, finish_reason: string | null = null): StreamChunk => ({
  choices: [{ text: piece, finish_reason }],
});

function measure(...chunks: [atMs: number, chunk: StreamChunk][]): AnswerMeter {
  const meter = new AnswerMeter(1000);
  for (const [atMs, chunk] of chunks) meter.take(chunk, atMs);
  return meter;
}

describe("the times of an answer", () => {
  test("are from sending to the first chunk, between chunks, and to the last one with choices", () => {
    const usage = { prompt_tokens: 7, completion_tokens: 5 };
    const meter = measure(
      [1030, text("a")],
      [1042, text("bc")],
      [1042, text("", "length")],
      [1090, { choices: [], usage }],
    );
    expect(meter.times()).toEqual({ ttftMs: 30, itlMs: [12, 0], latencyMs: 42 });
    expect(meter.size()).toEqual({ promptTokens: 7, outputTokens: 5, isCounted: true });
    expect(meter.isFinished).toBe(true);
  });

  test("count the role chunk of a chat, as vLLM does", () => {
    const meter = measure(
      [1010, { choices: [{ delta: { content: "" } }], usage: null }],
      [1050, { choices: [{ delta: { content: "hi" } }], usage: null }],
    );
    expect(meter.times()).toEqual({ ttftMs: 10, itlMs: [40], latencyMs: 50 });
  });

  test("of one chunk are one time", () => {
    expect(measure([1005, text("a")]).times()).toEqual({ ttftMs: 5, itlMs: [], latencyMs: 5 });
  });

  test("of no chunk are none", () => {
    expect(measure([1005, { choices: [] }], [1006, {}]).times()).toBeNull();
  });

  test("without usage come with a count of the chunks that have text", () => {
    const meter = measure([1001, text("a")], [1002, text("b")], [1003, text("")]);
    expect(meter.size()).toEqual({ promptTokens: null, outputTokens: 2, isCounted: false });
    expect(meter.isFinished).toBe(false);
  });

  test("take the usage of the last chunk that has one", () => {
    const meter = measure(
      [1001, { ...text("a"), usage: { prompt_tokens: 3, completion_tokens: 1 } }],
      [1002, { ...text("b"), usage: { prompt_tokens: 3, completion_tokens: 2 } }],
    );
    expect(meter.size()).toEqual({ promptTokens: 3, outputTokens: 2, isCounted: true });
  });
});

describe("server-sent events", () => {
  const stream =
    ': ping\n\ndata: {"a":"é"}\r\n\r\nevent: x\ndata:no space\n\ndata: two\ndata: lines\n\ndata: [DONE]\n\n';
  const expected = ['{"a":"é"}', "no space", "two\nlines", "[DONE]"];

  test.each([1, 2, 3, 7, 1000])("are the same in pieces of %i bytes", (pieceBytes) => {
    const decoder = new SseDecoder();
    const bytes = new TextEncoder().encode(stream);
    const events: string[] = [];
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      events.push(...decoder.push(bytes.subarray(at, at + pieceBytes)));
    }
    expect([...events, ...decoder.end()]).toEqual(expected);
  });

  test("may lack the empty line at the end of the stream", () => {
    const decoder = new SseDecoder();
    expect(decoder.push(new TextEncoder().encode("data: a\n\ndata: [DONE]"))).toEqual(["a"]);
    expect(decoder.end()).toEqual(["[DONE]"]);
    expect(new SseDecoder().end()).toEqual([]);
  });
});
