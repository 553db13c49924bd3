import { expect, test } from "bun:test";
import { ReasoningSplitter } from "../../../src/routes/conversation/reasoning-splitter.ts";

function split(pieces: readonly string[], isOpened: boolean): { reasoning: string; text: string } {
  const splitter = new ReasoningSplitter({ isOpened });
  const joined = { reasoning: "", text: "" };
  const parts = [...pieces.flatMap((piece) => splitter.push(piece)), ...splitter.end()];
  for (const { type, text } of parts) joined[type] += text;
  return joined;
}

test.each([
  ["<think>\nHm, 2 < 3.\n\nYes.\n</think>\n\nIt is.\n", false, "Hm, 2 < 3.\n\nYes.", "It is.\n"],
  ["\n<think>a</think>b", false, "a", "b"],
  ["<think>\n\n</think>\n\nb", false, "", "b"],
  ["<think>a", false, "a", ""],
  ["<think>a</thi", false, "a</thi", ""],
  ["<thin", false, "", "<thin"],
  [" \n", false, "", " \n"],
  ["  b <think>c</think>", false, "", "  b <think>c</think>"],
  ["a</think>b</think><think>", false, "", "a</think>b</think><think>"],
  ["a\n</think>\n\nb</think><think>", true, "a", "b</think><think>"],
  ["<think>\na\n</think>b", true, "a", "b"],
  ["a <think> b", true, "a <think> b", ""],
  ["</think>b", true, "", "b"],
  ["", true, "", ""],
] as const)("%j, opened by the prompt: %p", (answer, isOpened, reasoning, text) => {
  const cuts = Array.from({ length: answer.length }, (_, at) => [answer.slice(0, at), answer.slice(at)]);
  for (const pieces of [[answer], [...answer], ...cuts]) {
    expect(split(pieces, isOpened)).toEqual({ reasoning, text });
  }
});
