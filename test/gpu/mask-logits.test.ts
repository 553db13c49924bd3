import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { FORBIDDEN_LOGIT } from "../../src/gpu/kernels/adjust-logits.ts";
import { maskLogits, maskWords, NO_MASK } from "../../src/gpu/kernels/mask-logits.ts";
import { normals, output, runTwice, testGpu, traitVariants, uniforms, upload } from "../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();

/** A mask of which about this share of the tokens is allowed; bits behind the vocabulary are random. */
function randomMask(seed: number, vocab: number, share: number): Uint32Array {
  const random = uniforms(seed);
  const mask = new Uint32Array(maskWords(vocab));
  for (let token = 0; token < 32 * mask.length; token++) {
    if (random() < share) mask[token >>> 5] |= 1 << (token & 31);
  }
  return mask;
}

function isAllowed(mask: Uint32Array, token: number): boolean {
  return ((mask[token >>> 5] >>> (token & 31)) & 1) === 1;
}

for (const traits of traitVariants(gpu).slice(0, 2)) {
  describe(`mask-logits, ${traits.isCpu ? "cpu" : "gpu"}`, () => {
    for (const [rows, vocab] of [
      [1, 1],
      [2, 31],
      [3, 32],
      [5, 1001],
      [9, 4129],
    ]) {
      test(`${rows} x ${vocab}: forbidden tokens and no others`, async () => {
        const masks = [0, 0.02, 0.5, 1].map((share, index) => randomMask(vocab + index, vocab, share));
        const words = Uint32Array.from(masks.flatMap((mask) => [...mask]));
        // Masks in any order, shared, and rows without one, by an index that is that of no mask.
        const maskOf = Array.from(
          { length: rows },
          (_, row) => [2, NO_MASK, 0, 2, 1, 3, masks.length][row % 7],
        );
        const before = Float32Array.from(normals(vocab, rows * vocab));
        const logits = output(gpu, "logits", [rows, vocab], before);
        const dispatch = maskLogits(traits, {
          masks: upload(gpu, "masks", [masks.length, maskWords(vocab)], words, "u32"),
          maskOfRow: upload(gpu, "mask-of-row", [rows], maskOf, "u32"),
          logits,
        });
        const after = (await runTwice(gpu, [dispatch], { logits })).logits;
        const wanted = before.map((logit, at) => {
          const mask = maskOf[Math.floor(at / vocab)];
          return mask >= masks.length || isAllowed(masks[mask], at % vocab) ? logit : FORBIDDEN_LOGIT;
        });
        expect(after.findIndex((logit, at) => logit !== wanted[at])).toBe(-1);
      });
    }
  });
}

test("mask-logits names masks of another vocabulary", () => {
  const logits = upload(gpu, "logits", [2, 64], new Float32Array(128));
  const maskOfRow = upload(gpu, "mask-of-row", [2], [0, 0], "u32");
  const masks = upload(gpu, "grammar", [1, 3], new Uint32Array(3), "u32");
  expect(() => maskLogits(gpu.traits, { masks, maskOfRow, logits })).toThrow(
    "Cannot run mask-logits: expected masks to have 2 words, got 3 (grammar)",
  );
});
