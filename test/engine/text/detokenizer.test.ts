import { describe, expect, test } from "bun:test";
import { Detokenizer } from "../../../src/engine/text/detokenizer.ts";
import { loadTokenizer, type Tokenizer } from "../../../src/engine/text/tokenizer.ts";
import { project, shared } from "../../support/shared.ts";
import { seededIntegers } from "./support.ts";

const byteLevel = loadTokenizer(project("models/hrm-text-tiny"));
const sentencePiece = loadTokenizer(shared("models/tinystories-656k"));

function pieces(tokenizer: Tokenizer, ids: readonly number[]): string[] {
  const detokenizer = new Detokenizer(tokenizer);
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
}

/** GPT-2's printable stand-ins for the bytes of UTF-8's lead and continuation ranges, by trial over the vocabulary. */
const byteIds = Array.from({ length: 256 }, (_, byte) => byteLevel.idOf(byteCharacter(byte)) ?? -1);

function byteCharacter(byte: number): string {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  if (printable(byte)) return String.fromCharCode(byte);
  let rank = 0;
  for (let b = 0; b < byte; b++) if (!printable(b)) rank++;
  return String.fromCharCode(256 + rank);
}

describe("Detokenizer", () => {
  test("gives whole characters, as soon as they are whole", () => {
    const text = "a👩‍👧é漢";
    const ids = Array.from(new TextEncoder().encode(text), (byte) => byteIds[byte]);
    const given = pieces(byteLevel, ids);
    expect(given.join("")).toBe(text);
    expect(given.every((piece) => !piece.includes("\ufffd") && piece.isWellFormed())).toBe(true);
    expect(given.filter((piece) => piece !== "")).toEqual(Array.from(text));
  });

  test.each([
    ["hrm-text-tiny, any ids", byteLevel, 1, () => Array.from({ length: 8200 }, (_, id) => id)],
    ["hrm-text-tiny, lone bytes", byteLevel, 2, () => byteIds],
    [
      "hrm-text-tiny, bytes outside ASCII and a special token",
      byteLevel,
      3,
      () => [...byteIds.slice(128), 7],
    ],
    [
      "hrm-text-tiny, continuation bytes",
      byteLevel,
      4,
      () => [...byteIds.slice(0x80, 0x90), byteIds[0xe2], byteIds[0xf0]],
    ],
    ["tinystories, any ids", sentencePiece, 5, () => Array.from({ length: 2050 }, (_, id) => id)],
    ["tinystories, spaces", sentencePiece, 6, () => [...sentencePiece.encodeText("  a   b"), 0, 2]],
  ] as const)("%s: pieces join to the whole text", (_name, tokenizer, seed, alphabet) => {
    const random = seededIntegers(seed);
    const letters = alphabet();
    for (let round = 0; round < 60; round++) {
      const ids = Array.from({ length: random(90) }, () => letters[random(letters.length)]);
      const given = pieces(tokenizer, ids);
      expect(given.join("")).toBe(tokenizer.decode(ids));
      expect(given.every((piece) => piece.isWellFormed())).toBe(true);
    }
  });

  test("mixed emoji and CJK text comes back", () => {
    const text = "Grüße 👋🏽 漢字かな交じり文 🇩🇪 − é ✓ ".repeat(5).normalize("NFC");
    expect(pieces(byteLevel, byteLevel.encodeText(text)).join("")).toBe(text);
  });

  test("holds back one character at most, even where none can be completed", () => {
    const given = pieces(
      byteLevel,
      Array.from({ length: 100 }, () => byteIds[0xff]),
    );
    expect(given.slice(0, 3)).toEqual(["", "\ufffd", "\ufffd"]);
    expect(given.at(-1)).toBe("\ufffd");
  });

  test("decodes a bounded number of tokens per token", () => {
    let decoded = 0;
    const counting = {
      isVisible: (id: number) => byteLevel.isVisible(id),
      decode(ids: readonly number[]) {
        decoded += ids.length;
        return byteLevel.decode(ids);
      },
    };
    for (const id of [byteIds[0xff], byteIds[65]]) {
      decoded = 0;
      const detokenizer = new Detokenizer(counting);
      for (let i = 0; i < 2000; i++) detokenizer.push(id);
      expect(decoded).toBeLessThan(2000 * 16);
    }
  });

  test("continues the prompt's text, but not past a special token", () => {
    const continued = (promptIds: readonly number[]) => {
      const detokenizer = new Detokenizer(sentencePiece, promptIds);
      const ids = sentencePiece.encodeText("and sat");
      return ids.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
    };
    const prompt = sentencePiece.encodePrompt("The cat sat on a very big mat and was so happy, it sang");
    expect(continued([])).toBe("and sat");
    expect(continued(prompt)).toBe(" and sat");
    expect(continued(prompt.slice(0, 3))).toBe(" and sat");
    expect(continued([...prompt, prompt[0]])).toBe("and sat");
    expect(sentencePiece.isVisible(prompt[0])).toBe(false);
  });

  test("a character begun in the prompt is given whole", () => {
    const bytes = Array.from(new TextEncoder().encode("漢"), (byte) => byteIds[byte]);
    const detokenizer = new Detokenizer(byteLevel, [...byteLevel.encodeText("字"), ...bytes.slice(0, 2)]);
    expect(detokenizer.push(bytes[2])).toBe("漢");
  });

  test("is ready for another generation after flush", () => {
    const detokenizer = new Detokenizer(sentencePiece);
    const ids = sentencePiece.encodeText("Once upon");
    for (let round = 0; round < 2; round++) {
      expect(ids.map((id) => detokenizer.push(id)).join("") + detokenizer.flush()).toBe("Once upon");
    }
  });
});
