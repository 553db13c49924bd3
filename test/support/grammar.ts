/**
 * Grammars in tests: as regular expressions where they have one rule, and in real matchers over a vocabulary of single
 * bytes, so that which text matches is a question of the grammar alone.
 */
import type { Grammar } from "../../src/engine/client.ts";
import { type Guide, GrammarPool, type PoolOptions } from "../../src/engine/grammar/grammar-pool.ts";
import { toSource } from "../../src/engine/grammar/to-source.ts";
import { startRuntimeTimer } from "../../src/engine/timer.ts";
import type { Random } from "../sim/random.ts";

/** EBNF without references as a regular expression of the whole text. */
export function ebnfRegExp(ebnf: string): RegExp {
  const parts = ebnf.match(/"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\S/g) ?? [];
  const source = parts
    .map((part) =>
      part.startsWith('"') ? `(?:${part.slice(1, -1).replace(/[.*+?(){}|^$]/g, "\\$&")})` : part,
    )
    .join("");
  return new RegExp(`^(?:${source.replace(/\\U([0-9a-f]{8})/g, (_, hex: string) => `\\u{${hex}}`)})$`, "u");
}

export const bytesVocabulary = {
  bytes: Uint8Array.from({ length: 256 }, (_, byte) => byte),
  ends: Uint32Array.from({ length: 257 }, (_, id) => Math.min(id + 1, 256)),
};
export const stopId = 256;

export function matcherWorker(): Worker {
  return new Worker(new URL("../../src/engine/grammar/matcher-worker.ts", import.meta.url), {
    type: "module",
  });
}

export function bytesPool(changes: Partial<PoolOptions> = {}): GrammarPool {
  const pool = new GrammarPool({
    vocabSize: 257,
    stopIds: [stopId],
    createWorker: matcherWorker,
    startTimer: startRuntimeTimer,
    ...changes,
  });
  pool.useVocabulary(bytesVocabulary);
  return pool;
}

export async function openGuide(pool: GrammarPool, grammar: Grammar): Promise<Guide> {
  const [guide] = await pool.open(toSource(grammar), 1, new AbortController().signal);
  return guide;
}

export function allowedIds({ mask }: Pick<Guide, "mask">): number[] {
  return Array.from({ length: mask.length * 32 }, (_, id) => id).filter(
    (id) => (mask[id >>> 5] >>> (id & 31)) & 1,
  );
}

/** Whether the text is a whole answer. */
export async function accepts(pool: GrammarPool, grammar: Grammar, text: string): Promise<boolean> {
  const guide = await openGuide(pool, grammar);
  try {
    await guide.follow([...new TextEncoder().encode(text)]);
    return allowedIds(guide).includes(stopId);
  } catch {
    return false;
  } finally {
    guide.close();
  }
}

/** A whole answer that the grammar allows; it ends as soon as it may, but for now and then. */
export async function sample(pool: GrammarPool, grammar: Grammar, random: Random): Promise<string> {
  const guide = await openGuide(pool, grammar);
  const bytes: number[] = [];
  for (;;) {
    const allowed = allowedIds(guide);
    if (allowed.includes(stopId) && (allowed.length === 1 || random.chance(0.5))) break;
    if (bytes.length > 2000) throw new Error("expected an answer with an end, got 2000 bytes of one");
    // What closes something is as likely as all that goes on with it.
    const closing = allowed.filter((id) => '"}],:'.includes(String.fromCharCode(id)));
    // xgrammar lets through some first bytes that are none in UTF-8; and zod counts characters of four bytes twice.
    const going = allowed.filter((id) => id !== stopId);
    const usual = going.filter((id) => id !== 0xc0 && id !== 0xc1 && id < 0xe0);
    const id =
      closing.length > 0 && random.chance(0.4)
        ? random.pick(closing)
        : random.pick(usual.length > 0 ? usual : going);
    bytes.push(id);
    await guide.follow([id]);
    if (guide.hasEnded) break;
  }
  guide.close();
  return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
}
