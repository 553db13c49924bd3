import { describe, expect, test } from "bun:test";
import { type SpecialToken, SpecialTokens } from "../../../src/engine/text/special-tokens.ts";

function special(id: number, content: string, flags: Partial<SpecialToken> = {}): SpecialToken {
  return { id, content, lstrip: false, rstrip: false, singleWord: false, ...flags };
}

/** Segments as a short list: ids for special tokens, strings for text. */
function split(tokens: SpecialToken[], text: string): (number | string)[] {
  return new SpecialTokens(tokens).split(text).map((part) => (part.kind === "special" ? part.id : part.text));
}

describe("SpecialTokens.split", () => {
  test("cuts at tokens and leaves no empty text", () => {
    expect(split([special(1, "<a>"), special(2, "<b>")], "<a><b>x <a>y<b>")).toEqual([1, 2, "x ", 1, "y", 2]);
    expect(split([special(1, "<a>")], "")).toEqual([]);
    expect(split([], "plain")).toEqual(["plain"]);
  });

  test("takes the longest token at the leftmost place", () => {
    const tokens = [special(1, "<a>"), special(2, "<a><b>"), special(3, "a><b><c>")];
    expect(split(tokens, "<a><b><c>")).toEqual([2, "<c>"]);
    expect(split(tokens, "<a><bad>")).toEqual([1, "<bad>"]);
  });

  test("lstrip and rstrip swallow white space, Unicode's included", () => {
    const tokens = [special(1, "<m>", { lstrip: true }), special(2, "<n>", { rstrip: true })];
    expect(split(tokens, "a \u3000<m> b")).toEqual(["a", 1, " b"]);
    expect(split(tokens, "a <n>\u0085\n b")).toEqual(["a ", 2, "b"]);
    expect(split(tokens, "<n>  <m>")).toEqual([2, 1]);
    // U+FEFF is white space to JavaScript only.
    expect(split(tokens, "<n>\ufeffb")).toEqual([2, "\ufeffb"]);
  });

  test("single_word tokens count only between non-word characters", () => {
    const tokens = [special(1, "end", { singleWord: true })];
    expect(split(tokens, "end bend endß 𝒳end end.")).toEqual([1, " bend endß 𝒳end ", 1, "."]);
  });
});

describe("SpecialTokens at edges", () => {
  const tokens = new SpecialTokens([special(1, "<|im_end|>")]);

  test("runsPastEnd is true for unfinished tokens only", () => {
    expect(tokens.runsPastEnd("x<|im", 1)).toBe(true);
    expect(tokens.runsPastEnd("x<|im", 2)).toBe(false);
    expect(tokens.runsPastEnd("<|im_end|>", 0)).toBe(false);
    expect(tokens.runsPastEnd("<|im no", 0)).toBe(false);
  });

  test("beginsInside is true for the tail of a token", () => {
    expect(tokens.beginsInside("d|> and more")).toBe(true);
    expect(tokens.beginsInside("<|im_end|>")).toBe(false);
    expect(tokens.beginsInside("hello")).toBe(false);
  });
});
