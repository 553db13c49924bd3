import { describe, expect, test } from "bun:test";
import {
  anyInteger,
  anyNumber,
  boundedInteger,
  boundedNumber,
} from "../../../src/engine/grammar/number-ebnf.ts";
import { ebnfRegExp } from "../../support/grammar.ts";

/** Decimals as JSON writes them, and what is none. */
const decimals = [
  -1000, -101, -100, -99, -11, -10, -9, -2, -1, 0, 1, 2, 5, 9, 10, 11, 19, 20, 99, 100, 101, 999, 1000,
]
  .flatMap((whole) =>
    ["", ".0", ".00", ".05", ".1", ".25", ".249", ".2500", ".251", ".5", ".9", ".99"].map(
      (part) => `${whole}${part}`,
    ),
  )
  .concat(["-0", "-0.25", "-0.5", "0.2500001", "-0.0"]);

function isWithin(
  value: number,
  [low, high]: readonly (number | undefined)[],
  isExclusive: boolean,
): boolean {
  if (low !== undefined && (isExclusive ? value <= low : value < low)) return false;
  return high === undefined || (isExclusive ? value < high : value <= high);
}

const bounds: readonly (number | undefined)[] = [
  undefined,
  -100,
  -10.25,
  -1,
  -0.25,
  0,
  0.05,
  0.25,
  1,
  9,
  10,
  10.5,
  19,
  99,
  100,
  101,
];

describe.each([false, true])("bounds that are exclusive: %p", (isExclusive) => {
  const boundOf = (value: number | undefined) => (value === undefined ? undefined : { value, isExclusive });

  test("numbers between them match, and no others", () => {
    for (const low of bounds)
      for (const high of bounds) {
        const ebnf = boundedNumber({ low: boundOf(low), high: boundOf(high) });
        const pattern = ebnf === null ? /^$(?!)/ : ebnfRegExp(ebnf);
        const wrong = decimals.filter((text) => {
          const isMeant = isWithin(Number(text), [low, high], isExclusive);
          // Zeros behind the last digit may be left out, and a sign before a zero.
          return pattern.test(text)
            ? !isMeant
            : isMeant && String(Number(text)) === text && !text.includes("00001");
        });
        expect([low, high, wrong]).toEqual([low, high, []]);
      }
  });

  test("integers between them match, and no others", () => {
    for (const low of bounds)
      for (const high of bounds) {
        const ebnf = boundedInteger({ low: boundOf(low), high: boundOf(high) });
        const pattern = ebnf === null ? /^$(?!)/ : ebnfRegExp(ebnf);
        for (let value = -210; value <= 210; value++) {
          if (pattern.test(String(value)) !== isWithin(value, [low, high], isExclusive))
            throw new Error(`${value} between ${low} and ${high}: ${ebnf}`);
        }
        expect(["-0", "00", "01", "1.0", ""].filter((text) => pattern.test(text))).toEqual([]);
      }
  });
});

test("bounded integers of many digits", () => {
  const pattern = ebnfRegExp(
    boundedInteger({
      low: { value: 1995, isExclusive: false },
      high: { value: 20130, isExclusive: false },
    }) ?? "",
  );
  for (let value = 0; value < 30_000; value++) {
    if (pattern.test(String(value)) !== (value >= 1995 && value <= 20130)) throw new Error(String(value));
  }
  expect(pattern.test("120130")).toBe(false);
});

test("numbers without bounds are those of JSON", () => {
  for (const text of ["0", "-0", "12", "-3.25", "1e9", "2.5E-3", "-1.0e+10"])
    expect(ebnfRegExp(anyNumber).test(text)).toBe(true);
  for (const text of ["", "01", "+1", ".5", "5.", "1e", "--1"])
    expect(ebnfRegExp(anyNumber).test(text)).toBe(false);
  expect(ebnfRegExp(anyInteger).test("12345678901234567890")).toBe(true);
  expect(ebnfRegExp(anyInteger).test("123456789012345678901")).toBe(false);
});
