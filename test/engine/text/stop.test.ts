import { describe, expect, test } from "bun:test";
import { InvalidRequestError } from "../../../src/engine/errors.ts";
import { StopMatcher } from "../../../src/engine/text/stop.ts";
import { seededIntegers } from "./support.ts";

interface Outcome {
  text: string;
  stop: string | null;
}

/** By the rule as it is written: the earliest end, then the earliest start. */
function oracle(stops: readonly string[], text: string): Outcome {
  for (let end = 1; end <= text.length; end++) {
    const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    const [stop] = ending.sort((a, b) => b.length - a.length);
    if (stop) return { text: text.slice(0, end - stop.length), stop };
  }
  return { text, stop: null };
}

/** Longest end of the text that begins a stop: what a matcher must hold back, and no more. */
function heldLength(stops: readonly string[], text: string): number {
  const begins = (tail: string) => stops.some((stop) => stop.startsWith(tail));
  let length = Math.min(text.length, Math.max(0, ...stops.map((stop) => stop.length)));
  while (length > 0 && !begins(text.slice(text.length - length))) length--;
  return length;
}

describe("StopMatcher", () => {
  test("gives out text before the stop and nothing after", () => {
    const matcher = new StopMatcher(["END"]);
    expect(matcher.push("one E")).toEqual({ text: "one ", stop: null });
    expect(matcher.push("N")).toEqual({ text: "", stop: null });
    expect(matcher.push("Dtwo")).toEqual({ text: "", stop: "END" });
    expect(matcher.push("more")).toEqual({ text: "", stop: "END" });
    expect(matcher.flush()).toBe("");
  });

  test("what was held back comes once it is harmless, or at the end", () => {
    const matcher = new StopMatcher(["\n\n", "###"]);
    expect(matcher.push("a\n")).toEqual({ text: "a", stop: null });
    expect(matcher.push("b##")).toEqual({ text: "\nb", stop: null });
    expect(matcher.flush()).toBe("##");
    expect(matcher.flush()).toBe("");
  });

  test("of stops that end together the one that starts first wins", () => {
    expect(new StopMatcher(["c", "abc", "bc"]).push("xabcd")).toEqual({ text: "x", stop: "abc" });
    // Complete first, though the other starts earlier.
    expect(new StopMatcher(["abcd", "bc"]).push("xabcd")).toEqual({ text: "xa", stop: "bc" });
  });

  test("without stops everything passes at once", () => {
    expect(new StopMatcher([]).push("abc")).toEqual({ text: "abc", stop: null });
  });

  test("half a character is no stop", () => {
    expect(new StopMatcher(["\ude00"]).push("😀")).toEqual({ text: "😀", stop: null });
  });

  test("an empty stop is refused", () => {
    expect(() => new StopMatcher(["a", ""])).toThrow(InvalidRequestError);
  });

  test("agrees with the rule however the text is cut", () => {
    const random = seededIntegers(7);
    const word = (least: number, most: number) =>
      Array.from({ length: least + random(most - least + 1) }, () => "ab\u00e9"[random(random(2) + 2)]).join(
        "",
      );
    for (let round = 0; round < 4000; round++) {
      const stops = Array.from({ length: random(5) }, () => word(1, 6));
      const text = word(0, 24);
      const matcher = new StopMatcher(stops);
      let out = "";
      let stop: string | null = null;
      for (let at = 0; at < text.length && stop === null;) {
        const end = Math.min(text.length, at + random(4));
        const result = matcher.push(text.slice(at, end));
        out += result.text;
        stop = result.stop;
        if (stop === null) expect(out.length).toBe(end - heldLength(stops, text.slice(0, end)));
        at = end;
      }
      expect({ text: out + matcher.flush(), stop }).toEqual(oracle(stops, text));
    }
  });

  test("long repetitive stops cost no more than the text is long", () => {
    const run = "a".repeat(1000);
    const matcher = new StopMatcher([`${run}b`, `${run}c`, `b${run}`, `${run}d`]);
    const pieces = 300_000;
    let given = 0;
    const start = performance.now();
    for (let i = 0; i < pieces; i++) given += matcher.push("a").text.length;
    expect(given).toBe(pieces - 1000);
    // About 0.1 s; a quadratic matcher (1000 steps a character) takes over ten.
    expect(performance.now() - start).toBeLessThan(5000);
    expect(matcher.push("c")).toEqual({ text: "", stop: `${run}c` });
  });
});
