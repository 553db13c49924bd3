import { describe, expect, test } from "bun:test";
import { REGEX_CHARS_MAX, REGEX_REPEATS_MAX } from "../../../src/limits.ts";
import { parseRegex, RegexError } from "../../../src/engine/grammar/regex.ts";
import { jsonEbnf, plainEbnf } from "../../../src/engine/grammar/regex-ebnf.ts";
import { stringFormats } from "../../../src/engine/grammar/string-formats.ts";
import { ebnfRegExp } from "../../support/grammar.ts";

const patterns = [
  "abc",
  "a|bc|",
  "(a|b)*c",
  "(?:ab)+?",
  "(?<name>x)y",
  "[a-c]{2}",
  "[^a-c]{1,2}",
  "a{2,}",
  "a{0}b",
  "x?",
  "^ab$",
  "^a|b$",
  "^(a|b)$",
  ".",
  "..",
  "\\d+",
  "\\D",
  "\\w\\W",
  "\\s",
  "\\S",
  "\\.\\*\\[\\]\\(\\)",
  "[\\d-]",
  "[\\]\\-a]",
  "[a-]",
  "[-a]",
  "\\x41",
  "\\u00e9",
  "\\n|\\t",
  "é",
  "日本",
  "[à-ü]",
  "\\/",
  "a{2}b{1,2}",
  "(ab|c){2}",
  "[^\\s]",
  "[^\\n]",
  "-",
  "_",
  '"',
  "\\\\",
  '["\\\\]',
  "#",
  "[#%]",
];
const texts = [
  "",
  "a",
  "b",
  "c",
  "ab",
  "abc",
  "bc",
  "aab",
  "aaab",
  "cc",
  "abab",
  "x",
  "xy",
  "A",
  "é",
  "à",
  "日本",
  "12",
  "7",
  " ",
  "\n",
  "\t",
  "-",
  "]",
  "_",
  ".*[]()",
  "/",
  "aabb",
  "abcc",
  "cab",
  "ac",
  '"',
  "\\",
  "#",
  "%",
  "a ",
  "🙂",
  "..",
  "d-",
];

test("patterns match what JavaScript's match as a whole", () => {
  for (const pattern of patterns) {
    const expected = new RegExp(`^(?:${pattern})$`, "u");
    const found = ebnfRegExp(plainEbnf(parseRegex(pattern)));
    expect([pattern, texts.filter((text) => found.test(text))]).toEqual([
      pattern,
      texts.filter((text) => expected.test(text)),
    ]);
  }
});

test("within a JSON string they match the text that it stands for, and never its end", () => {
  for (const pattern of patterns) {
    const expected = new RegExp(`^(?:${pattern})$`, "u");
    const found = ebnfRegExp(jsonEbnf(parseRegex(pattern)));
    const inside = (text: string) => JSON.stringify(text).slice(1, -1);
    expect([pattern, texts.filter((text) => found.test(inside(text)))]).toEqual([
      pattern,
      texts.filter((text) => expected.test(text)),
    ]);
    for (const text of ['"', 'a"', "\\", "a\n", "\n"])
      expect([pattern, text, found.test(text)]).toEqual([pattern, text, false]);
  }
});

describe("what a grammar cannot express is refused with its place", () => {
  test.each([
    ["a(?=b)", "no look-around"],
    ["(?<!a)b", "no look-around"],
    ["(?i)a", "no flags"],
    ["(a)\\1", "an escape that a grammar can express"],
    ["\\bword", "an escape that a grammar can express"],
    ["\\p{L}", "an escape that a grammar can express"],
    ["a^b", "anchors at the ends"],
    ["a$b", "anchors at the ends"],
    ["(a", "a closing parenthesis"],
    ["a)", "its opening one"],
    ["[a", "a closing bracket"],
    ["[]", "at least one character"],
    ["[z-a]", "a range in order"],
    ["*a", "something to repeat"],
    ["a**", "one repetition"],
    ["a{2", "a repetition like {2,3}"],
    ["a{3,2}", "repetitions in order"],
    [`a{${REGEX_REPEATS_MAX + 1}}`, "repetitions in order and of at most"],
    ["\\", "something behind the backslash"],
    ["\\ud800", "Unicode characters"],
    ["a".repeat(REGEX_CHARS_MAX + 1), "a pattern of at most"],
  ])("%p", (pattern, reason) => {
    expect(() => parseRegex(pattern)).toThrow(RegexError);
    expect(() => parseRegex(pattern)).toThrow(reason);
  });
});

test("formats match what is written so, and not what is not", () => {
  const examples: Record<string, [good: string[], bad: string[]]> = {
    date: [
      ["2024-02-29", "1999-12-31"],
      ["2024-13-01", "24-01-01", "2024-1-1"],
    ],
    time: [
      ["23:59:59Z", "00:00:00.123+01:00"],
      ["24:00:00Z", "12:00:00", "12:60:00Z"],
    ],
    "date-time": [["2024-02-29T12:00:00Z"], ["2024-02-29 12:00:00Z", "2024-02-29"]],
    duration: [
      ["P1D", "PT5M", "P1Y2M3DT4H5M6S", "P3W", "PT1H30M"],
      ["P", "PT", "1D", "P1S"],
    ],
    email: [
      ["a@b.de", "first.last+tag@sub.example.org"],
      ["a@", "@b.de", "a..b@c.de", "a b@c.de"],
    ],
    hostname: [
      ["example.org", "a-b.c"],
      ["-a.b", "a..b", "a_b"],
    ],
    ipv4: [
      ["127.0.0.1", "255.255.255.255"],
      ["256.1.1.1", "1.2.3", "01.2.3.4"],
    ],
    ipv6: [
      ["::1", "::", "2001:db8::ff00:42:8329", "1:2:3:4:5:6:7:8", "1::", "::2:3:4:5:6:7:8"],
      ["1:2:3", ":::", "1::2::3", "g::"],
    ],
    uuid: [["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]],
    uri: [
      ["https://example.org/a?b=c#d", "mailto:a@b.de"],
      ["example.org", "http://a b"],
    ],
  };
  for (const [format, [good, bad]] of Object.entries(examples)) {
    const pattern = ebnfRegExp(jsonEbnf(parseRegex(stringFormats.get(format) ?? "")));
    expect([
      format,
      good.filter((text) => !pattern.test(text)),
      bad.filter((text) => pattern.test(text)),
    ]).toEqual([format, [], []]);
  }
});

test("sets beyond ASCII are all of it or a few", () => {
  for (const pattern of ["[é-ü]", "[^a]", "[a-z日本]", "\\W"])
    expect(plainEbnf(parseRegex(pattern))).not.toBe("");
  for (const pattern of ["[^é]", "[\\u4e00-\\u9fff]"])
    expect(() => plainEbnf(parseRegex(pattern))).toThrow("few characters beyond ASCII");
});
