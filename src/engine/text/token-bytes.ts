/**
 * The bytes that a vocabulary's entries stand for in decoded text: GPT-2's alphabet of printable characters for bytes,
 * or SentencePiece's pieces, in which "▁" is a space and `<0x0A>` a byte.
 */
import type { TokenizerJson } from "./tokenizer-files.ts";

/** From an entry's spelling to its bytes. */
export type Spelling = (entry: string) => Uint8Array;

const encoder = new TextEncoder();

/** How a tokenizer.json spells its entries; those of added tokens are plain text in any. */
export function spellingOf({ decoder }: TokenizerJson): Spelling {
  return JSON.stringify(decoder ?? null).includes('"ByteLevel"') ? byteLevel : sentencePiece;
}

export function plainBytes(text: string): Uint8Array {
  return encoder.encode(text);
}

const byteOfCharacter = gpt2Alphabet();

function byteLevel(entry: string): Uint8Array {
  const bytes = Array.from(entry, (character) => byteOfCharacter.get(character));
  return bytes.every((byte) => byte !== undefined) ? Uint8Array.from(bytes) : plainBytes(entry);
}

function sentencePiece(entry: string): Uint8Array {
  const [, hex] = /^<0x([0-9A-F]{2})>$/.exec(entry) ?? [];
  return hex ? Uint8Array.of(parseInt(hex, 16)) : plainBytes(entry.replaceAll("▁", " "));
}

/** Printable bytes stand for themselves, the others for the characters from U+0100 on, in order. */
function gpt2Alphabet(): Map<string, number> {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
  let next = 0x100;
  return new Map(
    Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(isPrintable(byte) ? byte : next++), byte]),
  );
}
