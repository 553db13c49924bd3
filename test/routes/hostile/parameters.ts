/** Values of single parameters that are absurd: each is refused wherever an endpoint has the parameter. */
import {
  BAD_WORDS_MAX,
  LOGIT_BIAS_ENTRIES_MAX,
  MESSAGES_MAX,
  STOP_STRING_CHARS_MAX,
  STOP_STRINGS_MAX,
  STOP_TOKEN_IDS_MAX,
} from "../../../src/limits.ts";

const biases = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, id) => [id, 1]));
const user = { role: "user", content: "hi" };
const nested = (depth: number): object => (depth === 0 ? { type: "string" } : { items: nested(depth - 1) });

export const nastyParameters: readonly (readonly [name: string, value: unknown])[] = [
  ...[0, -1, 1.5, 1e9, 1e300, "1", [1], true].map((n) => ["n", n] as const),
  ...[-1, 1.5, 1e300, "1", {}].map((count) => ["max_tokens", count] as const),
  ...[-1e-9, 101, 1e308, "0.5", [0.5]].map((value) => ["temperature", value] as const),
  ...[0, -0.1, 1.0001, "1"].map((value) => ["top_p", value] as const),
  ...[1e30, 0.5, "7", [7]].map((value) => ["seed", value] as const),
  ...[
    [],
    "x",
    { a: 1 },
    { "01": 1 },
    { "1.0": 1 },
    { "-1": 1 },
    { "1e1": 1 },
    { " 1": 1 },
    { 1: "1" },
    { 1: 101 },
    { 1: -101 },
    { 1: {} },
    { 99999999: 1 },
    { 9007199254740993: 1 },
    biases(LOGIT_BIAS_ENTRIES_MAX + 1),
    biases(100_000),
  ].map((value) => ["logit_bias", value] as const),
  ...[
    "",
    [""],
    [[]],
    [7],
    {},
    7,
    new Array(STOP_STRINGS_MAX + 1).fill("x"),
    ["x".repeat(STOP_STRING_CHARS_MAX + 1)],
    new Array(100_000).fill("x"),
  ].map((value) => ["stop", value] as const),
  ...[[-1], [0.5], ["1"], [1e300], [99999999], new Array(STOP_TOKEN_IDS_MAX + 1).fill(1), "1", {}].map(
    (value) => ["stop_token_ids", value] as const,
  ),
  ...[[], [-1], [99999999], [null], "1", [[1]]].map((value) => ["allowed_token_ids", value] as const),
  ...[[""], [" "], [7], "x", new Array(BAD_WORDS_MAX + 1).fill("x")].map(
    (value) => ["bad_words", value] as const,
  ),
  ...["other", "__proto__", "../../etc/passwd", "x".repeat(100_000), 7, {}].map(
    (value) => ["model", value] as const,
  ),
  ...["yes", 1, {}, []].map((value) => ["stream", value] as const),
  ...[
    [],
    [{}],
    [7],
    ["hi"],
    [[]],
    {},
    "hi",
    [{ ...user, role: "root" }],
    [{ ...user, content: 7 }],
    [{ ...user, content: [{}] }],
    [{ ...user, content: [{ type: "image_url", image_url: { url: "file:///etc/passwd" } }] }],
    new Array(MESSAGES_MAX + 1).fill(user),
  ].map((value) => ["messages", value] as const),
  ...[7, {}, true, [{}], [[-1]], [[0.5]], [[["x"]]], new Array(1000).fill("x")].map(
    (value) => ["prompt", value] as const,
  ),
  ...[7, {}, true, [[]], [{ type: "made_up" }]].map((value) => ["input", value] as const),
  ...[
    "x",
    [7],
    [{}],
    [{ type: "function" }],
    [{ type: "function", function: { name: "" } }],
    [{ type: "function", function: { name: "a b" } }],
    [{ type: "function", function: { name: "x".repeat(1000) } }],
    [{ type: "function", function: { name: "x", parameters: nested(100) } }],
    new Array(1000).fill({}),
  ].map((value) => ["tools", value] as const),
  ...["made_up", 7, [], { type: "function" }, { type: "function", function: { name: "nobody" } }].map(
    (value) => ["tool_choice", value] as const,
  ),
];
