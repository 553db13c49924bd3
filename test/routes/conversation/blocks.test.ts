import { describe, expect, test } from "bun:test";
import { type BlockEvent, collectBlocks, toBlocks } from "../../../src/routes/conversation/blocks.ts";
import type { AssistantEvent } from "../../../src/routes/conversation/conversation.ts";
import type { NamedLogprobs } from "../../../src/routes/token-names.ts";

const choice = 0;
const text = (piece: string, tokens: NamedLogprobs[] = []): AssistantEvent => {
  return { type: "text", choice, text: piece, tokens };
};
const thought = (piece: string): AssistantEvent => ({ type: "reasoning", choice, text: piece, tokens: [] });
const call = (index: number): AssistantEvent[] => [
  { type: "tool-call", choice, index, id: `call_${index}`, name: "look" },
  { type: "tool-arguments", choice, index, text: '{"a"' },
  { type: "tool-arguments", choice, index, text: `:${index}}` },
];
const finish = (reason: "stop" | "length" | "tool_calls" = "stop"): AssistantEvent => {
  return { type: "finish", choice, reason, promptTokens: 1, completionTokens: 2, reasoningTokens: 0 };
};
const token = (name: string): NamedLogprobs => ({
  chosen: { id: 1, rank: 1, text: name, logprob: -1 },
  top: [],
  offset: 0,
});

function answers(...events: AssistantEvent[]) {
  return toBlocks({ events: fromArray(events) });
}

async function* fromArray(events: AssistantEvent[]): AsyncGenerator<AssistantEvent> {
  yield* events;
}

/** What happened, in one word each. */
function outline(events: BlockEvent[]): string[] {
  return events.map((event) => {
    if (event.type === "finish") return "finish";
    const what = event.type === "text" ? `"${event.text}"` : event.type;
    return `${event.index} ${event.block.type} ${what}`;
  });
}

describe("blocks", () => {
  test("come one after the other, each begun and ended", async () => {
    const events = await Array.fromAsync(
      answers(thought("Hm"), text("I "), text("see."), ...call(0), ...call(1), finish("tool_calls")),
    );
    expect(outline(events)).toEqual([
      "0 reasoning begin",
      '0 reasoning "Hm"',
      "0 reasoning end",
      "1 text begin",
      '1 text "I "',
      '1 text "see."',
      "1 text end",
      "2 call begin",
      '2 call "{"a""',
      '2 call ":0}"',
      "2 call end",
      "3 call begin",
      '3 call "{"a""',
      '3 call ":1}"',
      "3 call end",
      "finish",
    ]);
  });

  test("collected they are whole", async () => {
    const { blocks, finish: end } = await collectBlocks(answers(text("a"), text("b"), ...call(0), finish()));
    expect(blocks).toEqual([
      { type: "text", text: "ab", tokens: [] },
      { type: "call", id: "call_0", name: "look", arguments: '{"a":0}' },
    ]);
    expect(end.reason).toBe("stop");
  });

  test("an answer without text has none", async () => {
    expect(outline(await Array.fromAsync(answers(finish())))).toEqual(["finish"]);
  });

  test("only what was being written when the tokens ran out is cut", async () => {
    const events = await Array.fromAsync(answers(text("a"), ...call(0), finish("length")));
    const ends = events.flatMap((event) => (event.type === "end" ? [event.isCut] : []));
    expect(ends).toEqual([false, true]);
  });

  test("tokens of text that is held back come with it, and those of a call's text with nothing", async () => {
    const { blocks } = await collectBlocks(
      answers(
        text("", [token("a")]),
        text("ab", [token("b")]),
        ...call(0),
        text("", [token("}")]),
        text("c"),
        finish(),
      ),
    );
    const tokens = blocks.map((block) =>
      "tokens" in block ? block.tokens.map(({ chosen }) => chosen.text) : null,
    );
    expect(tokens).toEqual([["a", "b"], null, []]);
  });
});
