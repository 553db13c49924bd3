import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { rotaryTable } from "../../src/engine/layers/rotary.ts";
import {
  attentionDecode,
  type AttentionDecodeOptions,
  type AttentionDecodeShape,
  sharesRow,
} from "../../src/gpu/kernels/attention-decode.ts";
import { type CombineLinearOptions, combineLinear } from "../../src/gpu/kernels/combine-linear.ts";
import { createTensor, type Dtype, writeTensor } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  normals,
  output,
  rounded,
  runTwice,
  skipWithoutGpu,
  testGpu,
  upload,
} from "../support/gpu.ts";
import { productTolerance, randomWeight } from "../support/random-weight.ts";
import { type Batch, type Geometry, pagedBatch, type Sequence } from "../support/paged-batch.ts";

const gpu = await testGpu();
setDefaultTimeout(60_000);

// As for attention; the product behind it averages its errors.
const tolerance = { relativeRms: 2e-6, worst: 2e-5 };

const plain: Geometry = { heads: 2, kvHeads: 2, headDim: 16, blockSize: 4, dtype: "f32", scale: 0.25 };

/** The last position as the only query. */
function decode(seed: number, prefix: number, context: number): Sequence {
  return { seed, prefix, context, firstQuery: context - 1 };
}

const ragged = [
  decode(2, 5, 21),
  decode(3, 0, 1),
  { seed: 4, prefix: 9, context: 9, firstQuery: 6 }, // queries inside a prefix see keys behind them
  decode(5, 40, 70),
];

const geometries: Record<string, Partial<Geometry>> = {
  plain: {},
  "grouped heads 8/2": { heads: 8, kvHeads: 2 },
  "grouped heads 6/1, head_dim 8, blocks of 1": { heads: 6, kvHeads: 1, headDim: 8, blockSize: 1 },
  "head_dim 24, bf16": { headDim: 24, dtype: "bf16" },
  "head_dim 64, f16, blocks of 16": { headDim: 64, blockSize: 16, dtype: "f16", scale: 0.125 },
  "grouped heads 4/2 of 24, i8": { heads: 4, headDim: 24, dtype: "i8" },
  "head_dim 64, i8, blocks of 16": { headDim: 64, blockSize: 16, dtype: "i8", scale: 0.125 },
  "soft cap": { softCap: 2 },
  "window 3": { window: 3 },
  "scores that would overflow": { scale: 60 },
};

async function attended(
  batch: Batch,
  change: Partial<AttentionDecodeOptions> = {},
  shape?: Partial<AttentionDecodeShape>,
): Promise<Float32Array> {
  const options = { ...batch.options, splits: 1, ...change };
  return (await runTwice(gpu, [attentionDecode(gpu.traits, options, shape)], { y: options.y })).y;
}

interface Projection {
  splits: number;
  outputs: number;
  dtype?: Dtype;
  accumulate?: boolean;
  bias?: boolean;
  /** First column of q that gates, as an offset. */
  gateOffset?: number;
}

/** Attention in shares, then the product that adds them up; and what it should be. */
async function projected(geometry: Geometry, sequences: Sequence[], projection: Projection) {
  const { heads, headDim } = geometry;
  const { splits, outputs, dtype = "f32", gateOffset } = projection;
  const batch = pagedBatch(gpu, geometry, sequences);
  const [tokens, row] = batch.options.y.shape;
  const weight = randomWeight(gpu, [outputs, row], { seed: 50, dtype });
  const before = rounded(normals(51, tokens * outputs), "f32");
  const biases = rounded(normals(52, outputs), "f32");
  const gates = rounded(normals(53, tokens * row), "f32");
  const y = output(gpu, "y", [tokens, outputs], projection.accumulate ? before : undefined);
  const width = sharesRow(heads, splits, headDim);
  const shares = createTensor(gpu.device, { name: "shares", dtype: "f32", shape: [tokens, width] });
  const combine: CombineLinearOptions = {
    shares,
    splits,
    headDim,
    weight: weight.tensor,
    y,
    gate:
      gateOffset === undefined ? undefined : { tensor: upload(gpu, "gate", [tokens, row], gates), offset: 0 },
    bias: projection.bias ? upload(gpu, "bias", [outputs], biases) : undefined,
    accumulate: projection.accumulate,
  };
  const attention = attentionDecode(gpu.traits, { ...batch.options, y: shares, splits }, { splitKeys: 8 });
  const result = (await runTwice(gpu, [attention, combineLinear(gpu.traits, combine)], { y })).y;
  const expected = Float64Array.from({ length: tokens * outputs }, (_, at) => {
    const [t, n] = [Math.floor(at / outputs), at % outputs];
    let sum = (projection.accumulate ? before[at] : 0) + (projection.bias ? biases[n] : 0);
    for (let c = 0; c < row; c++) {
      const gate = gateOffset === undefined ? 1 : 1 / (1 + Math.exp(-gates[t * row + c]));
      sum += batch.expected[t * row + c] * gate * weight.values[n * row + c];
    }
    return sum;
  });
  return { result, expected };
}

const ownGeometries: Record<string, Partial<Geometry> & { rotaryDim: number }> = {
  "heads of 128, all of it turned": { headDim: 128, rotaryDim: 128, blockSize: 16, scale: 0.1 },
  "grouped heads 8/2, a third turned": { heads: 8, kvHeads: 2, headDim: 48, rotaryDim: 16 },
  "soft cap, head_dim 24": { headDim: 24, rotaryDim: 16, softCap: 2 },
  "window 3": { window: 3, rotaryDim: 16 },
};

/** Turned back, so that the kernel's turning gives what the reference was made of. */
function turnedBack(heads: Float64Array, { headDim, rotaryDim, position, table }: Turn): Float64Array {
  const half = rotaryDim / 2;
  return heads.map((value, i) => {
    const c = i % headDim;
    if (c >= rotaryDim) return value;
    const angle = position * rotaryDim + (c % half);
    const [cosine, sine] = [table[angle], table[angle + half]];
    return c < half ? value * cosine + heads[i + half] * sine : value * cosine - heads[i - half] * sine;
  });
}

interface Turn {
  headDim: number;
  rotaryDim: number;
  position: number;
  table: Float32Array;
}

/** Decoding sequences whose last key and value are not in the cache yet but in the rows of the projection. */
function withOwnKeys({ rotaryDim, ...geometry }: Geometry & { rotaryDim: number }) {
  const { heads, kvHeads, headDim, blockSize } = geometry;
  const sequences = [decode(2, 5, 21), decode(3, 0, 1), decode(4, 9, 9), decode(5, 40, 70)];
  const batch = pagedBatch(gpu, geometry, sequences);
  const table = rotaryTable({ type: "default", theta: 10_000, rotaryDim }, 70);
  const [channels, cached] = [heads * headDim, kvHeads * headDim];
  const kOffset = 8 + channels;
  const row = kOffset + 2 * cached + 8;
  const values = new Float64Array(batch.tokens.length * row).fill(NaN);
  batch.tokens.forEach(({ position, slot, q, k, v }, t) => {
    const back = (list: Float64Array) => turnedBack(list, { headDim, rotaryDim, position, table });
    values.set([...back(q), ...back(k), ...v], t * row + 8);
    const place = Math.floor(slot / blockSize) * 2 * blockSize + (slot % blockSize);
    const nothing = new Uint16Array(cached).fill(0x7e00);
    for (const part of [0, blockSize])
      writeTensor(gpu.device, batch.options.kv, nothing, 2 * (place + part) * cached);
  });
  writeTensor(gpu.device, batch.options.tokensMeta, Uint32Array.of(0xffffffff), 4);
  const cosSin = upload(gpu, "cos_sin", [70, rotaryDim], table);
  const projected = upload(gpu, "projected", [batch.tokens.length, row], values);
  return { batch, projected, own: { kOffset, vOffset: kOffset + cached, cosSin } };
}

const lacks = skipWithoutGpu(!gpu.traits.hasSubgroups);

describe("attention-decode and combine-linear (need subgroups)", () => {
  for (const [name, change] of Object.entries(geometries)) {
    const geometry = { ...plain, ...change };
    const factor = geometry.scale > 1 ? 240 : 1;
    const allowed = { relativeRms: tolerance.relativeRms * factor, worst: tolerance.worst * factor };

    test.skipIf(lacks)(`whole: ${name}`, async () => {
      const batch = pagedBatch(gpu, geometry, ragged);
      assertClose(await attended(batch), batch.expected, allowed);
    });

    test.skipIf(lacks)(`in shares: ${name}`, async () => {
      const { result, expected } = await projected(geometry, ragged.slice(0, 3), { splits: 5, outputs: 9 });
      assertClose(result, expected, allowed);
    });
  }

  test.skipIf(lacks)("more keys than all shares take at a time", async () => {
    const { result, expected } = await projected(plain, [decode(1, 0, 700)], { splits: 3, outputs: 32 });
    assertClose(result, expected, tolerance);
  });

  test.skipIf(lacks)("other shapes of a workgroup", async () => {
    const batch = pagedBatch(gpu, { ...plain, headDim: 32 }, ragged);
    const shape = { lanes: 32, keyLanes: 2, keys: 4 };
    assertClose(await attended(batch, {}, shape), batch.expected, tolerance);
  });

  for (const [heads, kvHeads, groupHeads] of [
    [8, 2, 4],
    [6, 1, 3],
  ]) {
    test.skipIf(lacks)(`${groupHeads} of ${heads} heads a workgroup`, async () => {
      const batch = pagedBatch(gpu, { ...plain, heads, kvHeads }, ragged);
      assertClose(await attended(batch, {}, { groupHeads }), batch.expected, tolerance);
    });
  }

  test.skipIf(lacks)("gates, bias, residual", async () => {
    for (const dtype of ["bf16", "f16", "i8", "i4"] as const) {
      const { result, expected } = await projected(plain, [decode(2, 5, 21)], {
        splits: 4,
        outputs: 21,
        dtype,
        accumulate: true,
        bias: true,
        gateOffset: 0,
      });
      assertClose(result, expected, productTolerance(dtype));
    }
  });

  test.skipIf(lacks)("queries of f16 give what the same as f32 do, bit for bit", async () => {
    const geometry = { ...plain, headDim: 24 };
    const { shape } = pagedBatch(gpu, geometry, ragged).options.q;
    const values = rounded(normals(55, shape[0] * shape[1]), "f16");
    const [single, half] = (["f32", "f16"] as const).map((dtype) =>
      attended(pagedBatch(gpu, geometry, ragged), { q: upload(gpu, "q", [...shape], values, dtype) }),
    );
    expect(await half).toEqual(await single);
  });

  test.skipIf(lacks)("gates and results of f16", async () => {
    const batch = pagedBatch(gpu, { ...plain, headDim: 24 }, ragged);
    const [tokens, row] = batch.options.y.shape;
    const gates = rounded(normals(54, tokens * (row + 8)), "f16");
    const y = output(gpu, "half", [tokens, row], undefined, "f16");
    const gate = { rows: upload(gpu, "gate", [tokens, row + 8], gates, "f16"), offset: 8 };
    const expected = batch.expected.map((value, at) => {
      const place = Math.floor(at / row) * (row + 8) + 8 + (at % row);
      return value / (1 + Math.exp(-gates[place]));
    });
    const result = await attended(batch, { y, gate });
    assertClose(result, expected, { relativeRms: 2 ** -11, worst: 2 ** -8 }); // half a unit of f16
  });

  for (const [name, change] of Object.entries(ownGeometries)) {
    test.skipIf(lacks)(`own keys: ${name}`, async () => {
      const { batch, projected, own } = withOwnKeys({ ...plain, dtype: "f16", ...change });
      const shape = { groupHeads: change.kvHeads ? 4 : 1 };
      // The first sequence's token has no slot: its key is seen all the same.
      const y = output(gpu, "y", [...batch.options.y.shape]);
      assertClose(await attended(batch, { q: projected, own, y }, shape), batch.expected, tolerance);
      // What was put into the cache is what the next token finds there.
      const later = (await attended(batch)).slice(y.shape[1]);
      assertClose(later, batch.expected.slice(y.shape[1]), tolerance);
    });
  }

  test.skipIf(lacks)("a token's result is the same alone as in a batch, bit for bit", async () => {
    const together = await attended(pagedBatch(gpu, plain, ragged));
    let at = 0;
    for (const sequence of ragged) {
      const alone = await attended(pagedBatch(gpu, plain, [sequence]));
      expect(alone).toEqual(together.slice(at, at + alone.length));
      at += alone.length;
    }
  });
});
