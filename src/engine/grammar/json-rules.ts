/**
 * The rules of JSON text that schemas are made of. White space is what people and programs write: none, a space, or a
 * new line with an indent; without end a model might go on with it for ever.
 */
import { literal, repeated, type Rules } from "./ebnf.ts";
import { anyNumber } from "./number-ebnf.ts";
import { jsonPlain, plainEbnf } from "./regex-ebnf.ts";

/** A character as it is; strings whose length counts have these only, so that one is one. */
export const plainCharacter = plainEbnf({ type: "set", ranges: jsonPlain });

export class JsonRules {
  readonly #rules: Rules;

  constructor(rules: Rules) {
    this.#rules = rules;
  }

  /** Behind an opening bracket or a comma, and before a closing bracket. */
  get space(): string {
    return this.#rules.shared("space", () => String.raw`"" | " " | "\n" [ \t]{0,16}`);
  }

  /** Behind a colon. */
  get gap(): string {
    return `" "?`;
  }

  /** A string, its quotes included. One that is the whole answer has nothing behind it. */
  string({ isWhole = false } = {}): string {
    const name = isWhole ? "whole-characters" : "characters";
    return `${literal('"')} ${this.#rules.shared(name, () => this.#characters(name, isWhole))}`;
  }

  /**
   * Each character is followed by the rest: one rule, in which xgrammar knows tokens of many characters ahead of time.
   * What must come behind a string spares it to look at those that end one.
   */
  #characters(name: string, isWhole: boolean): string {
    const rest = [literal('"'), `${plainCharacter} ${name}`, `${literal("\\")} ${this.#escape} ${name}`];
    return `(${rest.join(" | ")})${isWhole ? "" : String.raw` (= [ \n\t]* [,:}\]])`}`;
  }

  /** Surrogates are left out: in pairs they are one character, alone they are none. */
  get #escape(): string {
    const hex = "[0-9a-fA-F]";
    const code = `([0-9a-cA-CefEF] ${hex} ${hex} ${hex} | [dD] [0-7] ${hex} ${hex})`;
    return this.#rules.shared("escape", () => String.raw`["\\/bfnrt] | "u" ${code}`);
  }

  /** Any value. */
  value({ isWhole = false } = {}): string {
    return this.#rules.shared(isWhole ? "whole-value" : "value", () =>
      [
        this.string({ isWhole }),
        anyNumber,
        `"true" | "false" | "null"`,
        this.anyArray(),
        this.anyObject(),
      ].join(" | "),
    );
  }

  anyArray(): string {
    return this.#rules.shared("array", () => this.array([], { item: () => this.value(), min: 0, max: null }));
  }

  anyObject(): string {
    const member = () => `${this.string()} ":" ${this.gap} ${this.value()}`;
    return this.#rules.shared("object", () => this.bracketed("{", list(member(), this.comma, 0, null), "}"));
  }

  get comma(): string {
    return `"," ${this.space}`;
  }

  /** `first` in order, then `min` to `max` further items. */
  array(
    first: readonly string[],
    { item, min, max }: { item: () => string; min: number; max: number | null },
  ): string {
    const head = first.join(` ${this.comma} `);
    if (max === 0) return this.bracketed("[", { body: head, canBeEmpty: first.length === 0 }, "]");
    if (first.length === 0) return this.bracketed("[", list(item(), this.comma, min, max), "]");
    const tail = repeated(`${this.comma} ${item()}`, min, max);
    return this.bracketed("[", { body: `${head} ${tail}`, canBeEmpty: false }, "]");
  }

  /** A body between brackets with white space inside. */
  bracketed(open: string, { body, canBeEmpty }: Body, close: string): string {
    const inside = body === "" ? "" : `${this.space} (${body} ${this.space}${canBeEmpty ? ` | ""` : ""})`;
    return `${literal(open)} ${inside || this.space} ${literal(close)}`;
  }
}

/** What stands between brackets; "" for nothing. */
export interface Body {
  body: string;
  canBeEmpty: boolean;
}

/** `item` from `min` to `max` times, with commas between. */
export function list(item: string, comma: string, min: number, max: number | null): Body {
  const more = repeated(`${comma} ${item}`, Math.max(0, min - 1), max === null ? null : max - 1);
  return { body: max === 0 ? "" : `${item} ${more}`, canBeEmpty: min === 0 };
}
