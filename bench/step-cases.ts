/** What a step does on a CPU adapter besides products, attention and norms, in the embedded model's sizes. */
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { add } from "../src/gpu/kernels/add.ts";
import {
  ADJUSTMENT_WORDS,
  adjustLogits,
  FORBIDDEN_LOGIT,
  writeAdjustment,
} from "../src/gpu/kernels/adjust-logits.ts";
import { embedding } from "../src/gpu/kernels/embedding.ts";
import { kvWrite } from "../src/gpu/kernels/kv-write.ts";
import { maskLogits, maskWords } from "../src/gpu/kernels/mask-logits.ts";
import { rotary } from "../src/gpu/kernels/rotary.ts";
import { sample, SAMPLE_SETTINGS_WORDS, writeSampleSettings } from "../src/gpu/kernels/sample.ts";
import { sigmoidGate } from "../src/gpu/kernels/sigmoid-gate.ts";
import { createTensor, type Dtype, type Tensor, writeTensor } from "../src/gpu/tensor.ts";
import type { BuiltCase, KernelCase } from "./kernel-case.ts";
import { sampleReference } from "../test/support/sample-reference.ts";
import { randomTensor } from "./random-tensor.ts";

const [hidden, heads, headDim, vocab] = [256, 4, 64, 8192];
/** A row of the projection: gate, query, key and value. */
const projected = 4 * hidden;
const blockSize = 16;

type Built = Pick<BuiltCase, "output" | "expected" | "tolerance"> & { dispatch: Dispatch };

function cpuCase(name: string, build: (gpu: Gpu) => Built): KernelCase {
  return {
    name,
    on: "cpu",
    build: (gpu) => {
      const { dispatch, ...rest } = build(gpu);
      return { dispatches: [dispatch], ...rest };
    },
  };
}

function filled(gpu: Gpu, name: string, shape: number[], data: Uint32Array<ArrayBuffer>): Tensor {
  const tensor = createTensor(gpu.device, { name, dtype: "u32", shape });
  writeTensor(gpu.device, tensor, data);
  return tensor;
}

function empty(gpu: Gpu, name: string, shape: number[], dtype: Dtype = "f32"): Tensor {
  return createTensor(gpu.device, { name, dtype, shape, readable: true });
}

/** Of tokens at the first positions, each in the slot of its position. */
function tokensMeta(gpu: Gpu, tokens: number): Tensor {
  const place = (_: unknown, i: number) => (i % 4 < 2 ? Math.floor(i / 4) : 0);
  return filled(gpu, "tokens_meta", [tokens, 4], Uint32Array.from({ length: 4 * tokens }, place));
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

function addCase(tokens: number): KernelCase {
  return cpuCase(`add ${tokens}x${hidden}`, (gpu) => {
    const [a, b] = [1, 2].map((seed) => randomTensor(gpu, { name: "in", shape: [tokens, hidden], seed }));
    const output = empty(gpu, "y", [tokens, hidden]);
    const dispatch = add(gpu.traits, { a: a.tensor, b: b.tensor, y: output });
    return { dispatch, output, expected: (i) => a.at(i) + b.at(i), tolerance: 1e-6 };
  });
}

function embeddingCase(tokens: number): KernelCase {
  return cpuCase(`embedding ${tokens}x${hidden} bf16`, (gpu) => {
    const table = randomTensor(gpu, { name: "table", shape: [vocab, hidden], dtype: "bf16", seed: 1 });
    const rowOf = (token: number) => (token * 2741 + 5) % vocab;
    const data = Uint32Array.from({ length: tokens }, (_, token) => rowOf(token));
    const output = empty(gpu, "y", [tokens, hidden]);
    const ids = filled(gpu, "ids", [tokens], data);
    const expected = (i: number) => 16 * table.at(rowOf(Math.floor(i / hidden)) * hidden + (i % hidden));
    const dispatch = embedding(gpu.traits, { ids, table: table.tensor, y: output, scale: 16 });
    return { dispatch, output, expected, tolerance: 1e-6 };
  });
}

function sigmoidGateCase(tokens: number): KernelCase {
  return cpuCase(`sigmoid-gate ${tokens}x${hidden}`, (gpu) => {
    const gate = randomTensor(gpu, { name: "gate", shape: [tokens, projected], seed: 1 });
    const y = randomTensor(gpu, { name: "y", shape: [tokens, hidden], seed: 2, readable: true });
    const gateOf = (i: number) => gate.at(Math.floor(i / hidden) * projected + (i % hidden));
    const dispatch = sigmoidGate(gpu.traits, { y: y.tensor, gate: gate.tensor, gateOffset: 0 });
    return { dispatch, output: y.tensor, expected: (i) => y.at(i) * sigmoid(gateOf(i)), tolerance: 1e-5 };
  });
}

function rotaryCase(tokens: number): KernelCase {
  return cpuCase(`rotary ${tokens} token${tokens > 1 ? "s" : ""}, ${2 * heads}x${headDim}`, (gpu) => {
    const x = randomTensor(gpu, { name: "x", shape: [tokens, projected], seed: 1, readable: true });
    const cosSin = randomTensor(gpu, { name: "cos_sin", shape: [512, headDim], seed: 2 });
    const turned = { offset: hidden, count: 2 * heads, channels: headDim };
    const meta = tokensMeta(gpu, tokens);
    const half = headDim / 2;
    return {
      dispatch: rotary(gpu.traits, { x: x.tensor, cosSin: cosSin.tensor, tokensMeta: meta, heads: turned }),
      output: x.tensor,
      expected: (i) => {
        const [t, column] = [Math.floor(i / projected), i % projected];
        if (column < hidden || column >= 3 * hidden) return x.at(i);
        const [cosine, sine] = [0, half].map((part) => cosSin.at(t * headDim + part + (column % half)));
        return column % headDim < half
          ? x.at(i) * cosine - x.at(i + half) * sine
          : x.at(i) * cosine + x.at(i - half) * sine;
      },
      tolerance: 1e-5,
    };
  });
}

/** Keys, then values, in a cache whose blocks are in order. */
function kvWriteCase(tokens: number, dtype: "f32" | "bf16" | "i8"): KernelCase {
  return cpuCase(`kv-write ${tokens}x${hidden} ${dtype}`, (gpu) => {
    const x = randomTensor(gpu, { name: "x", shape: [tokens, projected], seed: 1 });
    const shape = [Math.ceil(tokens / blockSize), 2, blockSize, hidden];
    const scales = dtype === "i8" ? empty(gpu, "scales", [...shape.slice(0, 3), heads]) : undefined;
    const output = { ...empty(gpu, "kv", shape, dtype), scales };
    const stored = { k: x.tensor, kOffset: 2 * hidden, v: x.tensor, vOffset: 3 * hidden, kv: output };
    return {
      dispatch: kvWrite(gpu.traits, { ...stored, tokensMeta: tokensMeta(gpu, tokens) }),
      output,
      expected: (i) => {
        const [row, column] = [Math.floor(i / hidden), i % hidden];
        const [block, part] = [Math.floor(row / (2 * blockSize)), Math.floor(row / blockSize) % 2];
        const token = block * blockSize + (row % blockSize);
        if (token >= tokens) return 0;
        const at = token * projected + (2 + part) * hidden;
        if (dtype !== "i8") return x.at(at + column);
        const head = column - (column % headDim);
        const magnitudes = Array.from({ length: headDim }, (_, c) => Math.abs(x.at(at + head + c)));
        return (x.at(at + column) / Math.max(...magnitudes)) * 127;
      },
      // Of one token most of the cache stays empty, and small is what errors are compared with.
      tolerance: { f32: 0, bf16: 4e-2, i8: 1e-1 }[dtype],
    };
  });
}

function sampleCase(rows: number, temperature: number, topP = 1): KernelCase {
  const how = temperature === 0 ? "greedy" : `temperature ${temperature}, top_p ${topP}`;
  return cpuCase(`sample ${rows}x${vocab} ${how}`, (gpu) => {
    const logits = randomTensor(gpu, { name: "logits", shape: [rows, vocab], seed: 1 });
    const words = new Uint32Array(rows * SAMPLE_SETTINGS_WORDS);
    const settings = { temperature, topK: 0, topP, minP: 0, seed: 7n, step: 3 };
    for (let row = 0; row < rows; row++) writeSampleSettings(words, row, settings);
    const output = empty(gpu, "sampled", [rows], "u32");
    const rowOf = (row: number) =>
      Float32Array.from({ length: vocab }, (_, token) => logits.at(row * vocab + token));
    return {
      dispatch: sample(gpu.traits, {
        logits: logits.tensor,
        settings: filled(gpu, "settings", [rows, SAMPLE_SETTINGS_WORDS], words),
        sampled: output,
      }),
      output,
      expected: (row) => sampleReference(rowOf(row), settings).token,
      tolerance: 0,
    };
  });
}

function maskCase(rows: number): KernelCase {
  return cpuCase(`mask-logits ${rows}x${vocab}`, (gpu) => {
    const logits = randomTensor(gpu, { name: "logits", shape: [rows, vocab], seed: 1, readable: true });
    const mask = Uint32Array.from({ length: maskWords(vocab) }, (_, word) => Math.imul(word + 1, 0x9e3779b9));
    const isAllowed = (token: number) => ((mask[token >>> 5] >>> (token & 31)) & 1) === 1;
    return {
      dispatch: maskLogits(gpu.traits, {
        masks: filled(gpu, "masks", [1, mask.length], mask),
        maskOfRow: filled(gpu, "mask_of_row", [rows], new Uint32Array(rows)),
        logits: logits.tensor,
      }),
      output: logits.tensor,
      expected: (i) => (isAllowed(i % vocab) ? logits.at(i) : FORBIDDEN_LOGIT),
      tolerance: 0,
    };
  });
}

/** A bias for every sixteenth token. */
function adjustCase(rows: number): KernelCase {
  const every = 16;
  const count = (rows * vocab) / every;
  return cpuCase(`adjust-logits ${count} of ${rows}x${vocab}`, (gpu) => {
    const logits = randomTensor(gpu, { name: "logits", shape: [rows, vocab], seed: 1, readable: true });
    const words = new Uint32Array(ADJUSTMENT_WORDS * count);
    for (let i = 0; i < count; i++) writeAdjustment(words, i, { element: i * every, bias: 1.5 });
    const entries = filled(gpu, "entries", [count, ADJUSTMENT_WORDS], words);
    return {
      dispatch: adjustLogits(gpu.traits, { entries, logits: logits.tensor }),
      output: logits.tensor,
      expected: (i) => logits.at(i) + (i % every === 0 ? 1.5 : 0),
      tolerance: 1e-6,
    };
  });
}

export const stepCases: readonly KernelCase[] = [
  ...[1, 32].flatMap((tokens) => [
    embeddingCase(tokens),
    addCase(tokens),
    rotaryCase(tokens),
    kvWriteCase(tokens, "f32"),
    kvWriteCase(tokens, "bf16"),
    kvWriteCase(tokens, "i8"),
    sigmoidGateCase(tokens),
  ]),
  sampleCase(1, 0),
  sampleCase(8, 0),
  sampleCase(1, 0.8, 0.95),
  maskCase(1),
  maskCase(8),
  adjustCase(1),
];
