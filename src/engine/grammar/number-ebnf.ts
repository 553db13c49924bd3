/**
 * JSON numbers between bounds, as EBNF. Numbers get no more digits than anybody needs, so that a model cannot go on
 * with them for ever; bounded ones are written without an exponent.
 */
import { literal, oneOf } from "./ebnf.ts";

/** A bound, itself included or not. */
export interface Bound {
  value: number;
  isExclusive: boolean;
}

export interface Bounds {
  low?: Bound;
  high?: Bound;
}

const INTEGER_DIGITS_MAX = 20;
const FRACTION_DIGITS_MAX = 20;

export const anyInteger = `"-"? ("0" | [1-9] [0-9]{0,${INTEGER_DIGITS_MAX - 1}})`;
export const anyNumber = `${anyInteger} ("." [0-9]{1,${FRACTION_DIGITS_MAX}})? ([eE] [+-]? [0-9]{1,3})?`;

/** Null when there is no such integer. */
export function boundedInteger({ low, high }: Bounds): string | null {
  const least = low && (low.isExclusive ? Math.floor(low.value) + 1 : Math.ceil(low.value));
  const most = high && (high.isExclusive ? Math.ceil(high.value) - 1 : Math.floor(high.value));
  const found = [
    ...magnitudes(Math.max(least ?? 0, 0), most),
    ...magnitudes(Math.max(most === undefined ? 1 : -most, 1), least === undefined ? undefined : -least).map(
      (digits) => `"-" ${digits}`,
    ),
  ];
  return found.length > 0 ? oneOf(found) : null;
}

/** Numbers from `least` (0 or more) to `most` in digits, as alternatives. */
function magnitudes(least: number, most = Infinity): string[] {
  if (least > most) return [];
  const found: string[] = [];
  if (least === 0) found.push(literal("0"));
  const from = String(Math.max(least, 1));
  const to = most === Infinity ? null : String(most);
  for (let length = from.length; length <= (to?.length ?? from.length); length++) {
    const low = length === from.length ? from : `1${"0".repeat(length - 1)}`;
    const high = length === to?.length ? to : "9".repeat(length);
    if (Number(low) <= Number(high)) found.push(...sameLength(low, high));
  }
  if (to === null && from.length < INTEGER_DIGITS_MAX)
    found.push(`[1-9] [0-9]{${from.length},${INTEGER_DIGITS_MAX - 1}}`);
  return found;
}

/** Digits from `low` to `high`, which have the same length. */
function sameLength(low: string, high: string): string[] {
  if (low === "") return [literal("")];
  if (low[0] === high[0]) return sameLength(low.slice(1), high.slice(1)).map((rest) => join(low[0], rest));
  const rest = low.length - 1;
  const [first, last] = [Number(low[0]), Number(high[0])];
  const isLowWhole = /^0*$/.test(low.slice(1));
  const isHighWhole = /^9*$/.test(high.slice(1));
  const from = isLowWhole ? first : first + 1;
  const to = isHighWhole ? last : last - 1;
  return [
    ...(isLowWhole ? [] : sameLength(low.slice(1), "9".repeat(rest)).map((tail) => join(low[0], tail))),
    ...(from <= to ? [`[${from}-${to}]${rest > 0 ? ` [0-9]{${rest}}` : ""}`] : []),
    ...(isHighWhole ? [] : sameLength("0".repeat(rest), high.slice(1)).map((tail) => join(high[0], tail))),
  ];
}

function join(digit: string, rest: string): string {
  return rest === literal("") ? literal(digit) : `${literal(digit)} ${rest}`;
}

/** Null when there is no such number. */
export function boundedNumber({ low, high }: Bounds): string | null {
  const positive = decimals(low && low.value >= 0 ? low : undefined, high);
  const negated = (bound?: Bound) => bound && { ...bound, value: -bound.value };
  const negative = decimals(high && high.value <= 0 ? negated(high) : undefined, negated(low));
  const found = [...positive, ...negative.map((digits) => `"-" ${digits}`)];
  return found.length > 0 ? oneOf(found) : null;
}

/** Decimals from `low` (or 0) to `high`, as alternatives. */
function decimals(low: Bound = { value: 0, isExclusive: false }, high?: Bound): string[] {
  if (high && (high.value < low.value || (high.value === low.value && (low.isExclusive || high.isExclusive))))
    return [];
  const [lowWhole, lowFraction] = partsOf(low.value);
  if (!high) return [...above(lowWhole, lowFraction, low.isExclusive), ...wholeOnly(lowWhole + 1, undefined)];
  const [highWhole, highFraction] = partsOf(high.value);
  if (lowWhole === highWhole) return within(lowWhole, { lowFraction, low, highFraction, high });
  return [
    ...above(lowWhole, lowFraction, low.isExclusive),
    ...wholeOnly(lowWhole + 1, highWhole - 1),
    ...below(highWhole, highFraction, high.isExclusive),
  ];
}

const anyFraction = `("." [0-9]{1,${FRACTION_DIGITS_MAX}})?`;

/** Whole numbers in order, with any fraction. */
function wholeOnly(least: number, most: number | undefined): string[] {
  return magnitudes(least, most).map((digits) => `${digits} ${anyFraction}`);
}

/** `whole` and more than, or as much as, the fraction. */
function above(whole: number, fraction: string, isExclusive: boolean): string[] {
  const digits = literal(String(whole));
  const found = larger(fraction, isExclusive).map((rest) => `${digits} "." ${rest}`);
  return fraction === "" && !isExclusive ? [`${digits} ${anyFraction}`] : found;
}

/** `whole` and less than, or as much as, the fraction. */
function below(whole: number, fraction: string, isExclusive: boolean): string[] {
  const digits = literal(String(whole));
  const found = smaller(fraction, isExclusive).map((rest) => `${digits} "." ${rest}`);
  return fraction === "" && isExclusive ? [] : [digits, ...found];
}

interface Fractions {
  lowFraction: string;
  low: Bound;
  highFraction: string;
  high: Bound;
}

/** `whole` with a fraction between two: compared in as many digits as the longer one has, and in fewer. */
function within(whole: number, { lowFraction, low, highFraction, high }: Fractions): string[] {
  const length = Math.max(lowFraction.length, highFraction.length, 1);
  const from = BigInt(lowFraction.padEnd(length, "0")) + (low.isExclusive ? 1n : 0n);
  const to = BigInt(highFraction.padEnd(length, "0")) - (high.isExclusive ? 1n : 0n);
  const found = Array.from({ length }, (_, index) => {
    const scale = 10n ** BigInt(length - 1 - index);
    return between((from + scale - 1n) / scale, to / scale, index + 1);
  }).flat();
  // What begins with less than the last may go on.
  const tail = `[0-9]{1,${Math.max(1, FRACTION_DIGITS_MAX - length)}}`;
  const longer = between(from, high.isExclusive ? to : to - 1n, length).map((rest) => `${rest} ${tail}`);
  // And what begins with the first, if that itself is too little.
  const first = low.isExclusive && from <= to ? between(from - 1n, from - 1n, length) : [];
  const more = first.map(
    (rest) => `${rest} "0"{0,4} [1-9] [0-9]{0,${Math.max(1, FRACTION_DIGITS_MAX - length - 5)}}`,
  );
  const digits = literal(String(whole));
  const all = [...found, ...longer, ...more].map((rest) => `${digits} "." ${rest}`);
  return lowFraction === "" && !low.isExclusive ? [digits, ...all] : all;
}

/** Exactly `length` digits, from one number to another. */
function between(from: bigint, to: bigint, length: number): string[] {
  const text = (value: bigint) => String(value).padStart(length, "0");
  return from <= to ? sameLength(text(from), text(to)) : [];
}

/** Digits behind the point that make more than `fraction`, or as much. */
function larger(fraction: string, isExclusive: boolean): string[] {
  const tail = (length: number) => `[0-9]{0,${FRACTION_DIGITS_MAX - length}}`;
  const found = Array.from(fraction).flatMap((digit, at) =>
    digit === "9" ? [] : [`${literal(fraction.slice(0, at))} [${Number(digit) + 1}-9] ${tail(at + 1)}`],
  );
  const { length } = fraction;
  // Behind all its digits anything is as much or more, and anything but zeros is more.
  const same = isExclusive ? `"0"{0,4} [1-9] ${tail(length + 5)}` : tail(length);
  return [...found, `${literal(fraction)} ${same}`];
}

/** Digits behind the point that make less than `fraction`, or as much. */
function smaller(fraction: string, isExclusive: boolean): string[] {
  const found = Array.from(fraction).flatMap((digit, at) => {
    const begun = literal(fraction.slice(0, at));
    const less =
      digit === "0" ? [] : [`${begun} [0-${Number(digit) - 1}] [0-9]{0,${FRACTION_DIGITS_MAX - at - 1}}`];
    // What has no digits behind these has zeros, which is less.
    return at > 0 && /[1-9]/.test(fraction.slice(at)) ? [...less, begun] : less;
  });
  // A point has a digit behind it.
  const same = fraction === "" ? `"0"{1,4}` : `${literal(fraction)} "0"{0,4}`;
  return isExclusive ? found : [...found, same];
}

/** The whole part, and the digits behind the point without zeros at their end. */
function partsOf(value: number): [whole: number, fraction: string] {
  const [whole, fraction = ""] = String(value).split(".");
  return [Number(whole), fraction];
}
