/**
 * Follows a JSON object character by character, which no parser at hand does: each character is known at once to
 * belong to a member, to end the object, or to be no JSON.
 */

export type JsonProgress = "open" | "complete" | "invalid";

/** What may come next, white space aside. */
type Expected = "object" | "key-or-end" | "key" | "colon" | "value" | "value-or-end" | "comma-or-end";

const WHITE_SPACE = " \n\r\t";
const SCALAR = /[\w+.-]/;
const ESCAPES = '"\\/bfnrtu';

export class JsonObjectReader {
  /** The key of the outermost object's member that is being read, or was read last. */
  key = "";
  /** Whether the last character was part of that member's value. */
  isInMember = false;
  /** Whether the last character ended that value. A number ends before the character that says so. */
  isMemberEnd = false;
  /** Open objects and arrays, by what closes them. */
  readonly #closers: string[] = [];
  #expected: Expected = "object";
  /** A string, number or literal that is being read, as written so far; "" between them. */
  #scalar = "";
  #isString = false;
  #isKey = false;
  /** Within a string: "\" behind a backslash, then the digits of \u. */
  #escape = "";

  push(char: string): JsonProgress {
    this.isMemberEnd = false;
    this.isInMember = false;
    if (this.#scalar !== "") return this.#isString ? this.#continueString(char) : this.#continueScalar(char);
    if (WHITE_SPACE.includes(char)) {
      this.isInMember = this.#closers.length > 1;
      return "open";
    }
    return this.#begin(char);
  }

  #begin(char: string): JsonProgress {
    const expected = this.#expected;
    const isClosing = char === this.#closers.at(-1);
    if (isClosing && expected.endsWith("-or-end")) return this.#close();
    switch (expected) {
      case "object":
        return char === "{" ? this.#open(char) : "invalid";
      case "comma-or-end":
        if (char !== ",") return "invalid";
        this.isInMember = this.#closers.length > 1;
        return this.#next(this.#closers.at(-1) === "}" ? "key" : "value");
      case "colon":
        this.isInMember = this.#closers.length > 1;
        return char === ":" ? this.#next("value") : "invalid";
      case "key":
      case "key-or-end":
        return char === '"' ? this.#openScalar(char, true) : "invalid";
      case "value":
      case "value-or-end":
        if (char === "{" || char === "[") return this.#open(char);
        return char === '"' || SCALAR.test(char) ? this.#openScalar(char, false) : "invalid";
    }
  }

  #next(expected: Expected): JsonProgress {
    this.#expected = expected;
    return "open";
  }

  #open(char: string): JsonProgress {
    this.isInMember = this.#closers.length > 0;
    this.#closers.push(char === "{" ? "}" : "]");
    return this.#next(char === "{" ? "key-or-end" : "value-or-end");
  }

  #close(): JsonProgress {
    this.#closers.pop();
    if (this.#closers.length === 0) return "complete";
    this.isInMember = true;
    this.isMemberEnd = this.#closers.length === 1;
    return this.#next("comma-or-end");
  }

  #openScalar(char: string, isKey: boolean): JsonProgress {
    this.#scalar = char;
    this.#isKey = isKey;
    this.#isString = char === '"';
    this.isInMember = !isKey || this.#closers.length > 1;
    return "open";
  }

  #continueString(char: string): JsonProgress {
    this.isInMember = !this.#isKey || this.#closers.length > 1;
    this.#scalar += char;
    if (this.#escape !== "") return this.#continueEscape(char);
    if (char === "\\") this.#escape = char;
    else if (char === '"') return this.#endString();
    return char < " " ? "invalid" : "open";
  }

  #continueEscape(char: string): JsonProgress {
    this.#escape += char;
    if (this.#escape.length === 2) {
      if (!ESCAPES.includes(char)) return "invalid";
      if (char !== "u") this.#escape = "";
    } else if (!/[\da-f]/i.test(char)) return "invalid";
    else if (this.#escape.length === "\\u0000".length) this.#escape = "";
    return "open";
  }

  #endString(): JsonProgress {
    const text = this.#scalar;
    this.#scalar = "";
    const isOuter = this.#closers.length === 1;
    if (this.#isKey && isOuter) this.key = JSON.parse(text) as string;
    this.isMemberEnd = !this.#isKey && isOuter;
    return this.#next(this.#isKey ? "colon" : "comma-or-end");
  }

  #continueScalar(char: string): JsonProgress {
    if (SCALAR.test(char)) {
      this.isInMember = true;
      this.#scalar += char;
      return "open";
    }
    const isValid = isJson(this.#scalar);
    this.#scalar = "";
    this.#expected = "comma-or-end";
    if (!isValid) return "invalid";
    const wasOuter = this.#closers.length === 1;
    const progress = this.push(char);
    if (wasOuter) this.isMemberEnd = true;
    return progress;
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
