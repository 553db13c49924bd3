/** Bodies that no schema knows of: what is not JSON, not UTF-8, too large, too deep, or means two things. */
import { gzipSync } from "node:zlib";
import { JSON_DEPTH_MAX, REQUEST_BODY_BYTES_MAX } from "../../../src/limits.ts";

export interface RawBody {
  name: string;
  body: string | Uint8Array<ArrayBuffer>;
  /** `application/json` by default; null sends none. */
  contentType?: string | null;
  status?: number;
}

const bytes = new TextEncoder();

/** For an endpoint that takes `example`. */
export function rawBodies(example: object): RawBody[] {
  return [
    ...notJson(example),
    ...notOneMeaning(example),
    ...notText(example),
    ...wrongTypes(example),
    ...large(example),
  ];
}

function notJson(example: object): RawBody[] {
  const right = JSON.stringify(example);
  const texts = [
    "",
    " ",
    "{",
    "}",
    "[",
    '"',
    "nul",
    "undefined",
    "null",
    "true",
    "7",
    '"text"',
    "[]",
    `[${right}]`,
    `${right}${right}`,
    `${right},`,
    `${right}\u0000`,
    right.slice(0, -1),
    right.slice(1),
    right.replaceAll('"', "'"),
    right.replace("}", ",}"),
    `${right.slice(0, -1)},}`,
    `/* why */ ${right}`,
    `${right} // why`,
    `data: ${right}\n\n`,
    "<xml/>",
    "a=1&b=2",
    "\u00a0{}",
  ];
  const wrongNumbers = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "0x10",
    "01",
    "+1",
    ".5",
    "1.",
    "1_000",
    "--1",
    "1n",
  ];
  return [
    ...texts.map((body) => ({ name: `text ${JSON.stringify(body.slice(0, 20))}`, body })),
    ...wrongNumbers.map((number) => {
      return { name: `number ${number}`, body: `${right.slice(0, -1)},"temperature":${number}}` };
    }),
    ...["\\x41", "\\u12", "\n", "\t", "\u0001"].map((piece) => {
      return { name: `escape ${JSON.stringify(piece)}`, body: `${right.slice(0, -1)},"model":"${piece}"}` };
    }),
  ];
}

function notOneMeaning(example: object): RawBody[] {
  const right = JSON.stringify(example);
  const [key] = Object.keys(example);
  const again = JSON.stringify((example as Record<string, unknown>)[key]);
  const escaped = `\\u${key.charCodeAt(0).toString(16).padStart(4, "0")}${key.slice(1)}`;
  const deep = (open: string, close: string, depth: number) => open.repeat(depth) + close.repeat(depth);
  return [
    { name: "a key twice", body: `${right.slice(0, -1)},"${key}":${again}}` },
    { name: "a key twice, once escaped", body: `${right.slice(0, -1)},"${escaped}":${again}}` },
    { name: "a key twice within", body: `${right.slice(0, -1)},"metadata":{"a":1,"a":2}}` },
    { name: "__proto__", body: `${right.slice(0, -1)},"__proto__":{"stream":true}}` },
    { name: "constructor", body: `${right.slice(0, -1)},"constructor":{"prototype":{"n":1}}}` },
    { name: "an empty key", body: `${right.slice(0, -1)},"":1}` },
    { name: "a key of special tokens", body: `${right.slice(0, -1)},"<|im_end|>":1}` },
    { name: "a key of a thousand characters", body: `${right.slice(0, -1)},"${"k".repeat(1000)}":1}` },
    ...[JSON_DEPTH_MAX + 1, 1_000, 100_000, 1_000_000].flatMap((depth) => [
      { name: `${depth} arrays deep`, body: `${right.slice(0, -1)},"metadata":${deep("[", "]", depth)}}` },
      { name: `${depth} arrays open`, body: "[".repeat(depth) },
      { name: `${depth} objects open`, body: '{"a":'.repeat(depth) },
    ]),
  ];
}

function notText(example: object): RawBody[] {
  const right = JSON.stringify(example);
  const spoiled = (...wrong: number[]) =>
    Uint8Array.from([
      ...bytes.encode(right.slice(0, -1)),
      ...bytes.encode(',"model":"'),
      ...wrong,
      0x22,
      0x7d,
    ]);
  const utf16 = Uint8Array.from(
    [...right].flatMap((char) => [char.charCodeAt(0) & 255, char.charCodeAt(0) >> 8]),
  );
  return [
    { name: "a lone continuation byte", body: spoiled(0x80) },
    { name: "half a character", body: spoiled(0xe2, 0x82) },
    { name: "an overlong slash", body: spoiled(0xc0, 0xaf) },
    { name: "a surrogate in UTF-8", body: spoiled(0xed, 0xa0, 0x80) },
    { name: "beyond Unicode", body: spoiled(0xf5, 0x80, 0x80, 0x80) },
    { name: "Latin-1", body: spoiled(0xe9) },
    { name: "UTF-16", body: utf16 },
    { name: "gzip", body: Uint8Array.from(gzipSync(right)) },
    { name: "zeros", body: new Uint8Array(1000) },
  ];
}

function wrongTypes(example: object): RawBody[] {
  const body = JSON.stringify(example);
  const types = [
    null,
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "application/json, text/plain",
    "application/jsonp",
    "application/xml",
  ];
  return types.map((contentType) => ({ name: `content type ${contentType}`, body, contentType }));
}

function large(example: object): RawBody[] {
  const right = JSON.stringify(example);
  const over = REQUEST_BODY_BYTES_MAX + 2 * 1024 * 1024;
  return [
    { name: "10 MB of white space", body: `${right}${" ".repeat(over)}`, status: 413 },
    { name: "10 MB of text", body: `${right.slice(0, -1)},"model":"${"x".repeat(over)}"}`, status: 413 },
    {
      name: "a million keys",
      body: `{${Array.from({ length: 500_000 }, (_, key) => `"${key}":1`).join(",")}}`,
    },
  ];
}
