import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { decodePass, type DecodePassOptions, handoffWords } from "../../src/gpu/kernels/decode-pass.ts";
import { type PassChoice, passRoom } from "../../src/gpu/kernels/decode-pass-shape.ts";
import { countResident } from "../../src/gpu/kernels/rendezvous.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import { createTensor, type Tensor } from "../../src/gpu/tensor.ts";
import {
  assertClose,
  output,
  runTwice,
  skipWithoutGpu,
  testGpu,
  type Tolerance,
  upload,
} from "../support/gpu.ts";
import { type PassCase, passReference, passValues, type PassValues } from "../support/pass-reference.ts";
import { readU32 } from "../support/read-tensor.ts";

const gpu = await testGpu("gpu");
setDefaultTimeout(120_000);

const base: PassCase = {
  hidden: 64,
  intermediate: 64,
  heads: 2,
  kvHeads: 1,
  headDim: 32,
  rotaryDim: 32,
  dtype: "f32",
  kvDtype: "f32",
  position: 21,
  blockSize: 4,
  scale: 32 ** -0.5,
  prefix: 0,
};

const cases: Record<string, Partial<PassCase>> = {
  "grouped heads, norms of 1 + weight, gelu, window, soft cap": {
    norm: "plus-one",
    activation: "gelu-tanh",
    window: 7,
    softCap: 3,
  },
  "gated, f16, keys in several rounds": {
    gated: true,
    kvHeads: 2,
    dtype: "f16",
    kvDtype: "f16",
    position: 70,
  },
  "norms with weights, partial rotary, bf16, first token": {
    norm: "weight",
    rotaryDim: 8,
    dtype: "bf16",
    kvDtype: "bf16",
    position: 0,
    prefix: 1,
  },
  "8 bits": { hidden: 128, heads: 4, intermediate: 128, dtype: "i8", kvDtype: "f16", rotaryDim: 0 },
  "4 bits, gated": { hidden: 128, heads: 4, kvHeads: 2, intermediate: 256, dtype: "i4", gated: true },
};

/** Five steps of sums in f32; keys and values of 16 bits are rounded, and so are the inputs of i8 and i4 weights. */
function toleranceOf({ dtype, kvDtype }: PassCase): Tolerance {
  if (dtype === "i8" || dtype === "i4") return { relativeRms: 2e-4, worst: 1e-3 };
  return kvDtype === "f32" ? { relativeRms: 4e-6, worst: 4e-5 } : { relativeRms: 3e-4, worst: 2e-3 };
}

function prepare(shape: PassCase, values: PassValues, choice: Partial<PassChoice>): DecodePassOptions {
  const { hidden, heads, kvHeads, headDim, position, blockSize, rotaryDim } = shape;
  const { qkv, output: projection, gateUp, down } = values.weights;
  const layer = {
    qkv: qkv.tensor,
    output: projection.tensor,
    gateUp: gateUp.tensor,
    down: down.tensor,
    norms: values.norms,
    activation: shape.activation ?? ("silu" as const),
    heads,
    kvHeads,
    headDim,
    gated: shape.gated,
    cosSin: rotaryDim ? upload(gpu, "cos-sin", [position + 1, rotaryDim], values.table) : undefined,
    scale: shape.scale,
    window: shape.window,
    softCap: shape.softCap,
    kv: output(gpu, "kv", [values.blocks, 2, blockSize, kvHeads * headDim], values.cache, shape.kvDtype),
  };
  const words = handoffWords(gpu.traits, layer, choice);
  if (!words) throw new Error("this shape is not one for decode-pass");
  return {
    ...layer,
    x: output(gpu, "x", [1, hidden], values.x),
    tokensMeta: upload(gpu, "tokens-meta", [1, 4], [position, values.slot, 0, 0], "u32"),
    sequences: upload(gpu, "sequences", [1, 4], [shape.prefix, position + 1, 0, 0], "u32"),
    blockTables: upload(gpu, "block-tables", [1, values.blockTable.length], values.blockTable, "u32"),
    handoff: createTensor(gpu.device, { name: "handoff", dtype: "u32", shape: [words], readable: true }),
  };
}

/** One workgroup, which is all that a software adapter surely runs at once, of many lanes: compiling takes less time. */
const subgroups = Math.min(64, 256 / gpu.traits.subgroupMinSize);
const alone = { workgroups: 1, subgroups, messengers: subgroups / 2, keys: 2, copies: 1 };

async function check(shape: PassCase, choice: Partial<PassChoice> = alone): Promise<void> {
  const values = passValues(gpu, shape);
  const options = prepare(shape, values, choice);
  const expected = passReference(shape, values);
  const { x, kv } = await runTwice(gpu, [decodePass(gpu.traits, options, choice)], {
    x: options.x,
    kv: options.kv,
  });
  expect(await errorWord(options.handoff)).toBe(0);
  assertClose(x, expected.x, toleranceOf(shape));
  // NaN where nothing was ever written, in either.
  const written = expected.kv.map((value) => (Number.isNaN(value) ? 0 : value));
  assertClose(
    kv.map((value, at) => (Number.isNaN(expected.kv[at]) ? 0 : value)),
    written,
    toleranceOf({ ...shape, dtype: "f32", kvDtype: "f16" }),
  );
}

async function errorWord(handoff: Tensor): Promise<number> {
  return (await readU32(gpu, handoff))[1];
}

/** A pass that waits for a workgroup which is not there. */
async function passAlone(): Promise<number> {
  const choice = { ...alone, workgroups: 2 };
  const options = prepare(base, passValues(gpu, base), choice);
  const dispatch = decodePass(gpu.traits, options, choice);
  const recorder = new Recorder(gpu);
  recorder.add({ ...dispatch, constants: { ...dispatch.constants, PATIENCE: 20 }, workgroups: [1, 1, 1] });
  recorder.submit();
  return errorWord(options.handoff);
}

const lacks = skipWithoutGpu(!gpu.traits.hasSubgroups);

describe("decode-pass (needs subgroups)", () => {
  for (const [name, change] of Object.entries(cases)) {
    test.skipIf(lacks)(name, () => check({ ...base, ...change }));
  }

  test.skipIf(lacks)("several shares of a head's keys", () =>
    check({ ...base, kvHeads: 2, position: 45 }, { ...alone, splits: 6, shareKeys: 8, keys: 1, copies: 2 }),
  );

  const isSoftware = skipWithoutGpu(/swiftshader|llvmpipe/i.test(gpu.adapterName));
  test.skipIf(isSoftware)("as many workgroups as run at once (needs a GPU)", async () => {
    const { lanes, bytes } = passRoom(gpu.traits);
    const workgroups = Math.min(256, await countResident(gpu, { lanes, bytes }));
    expect(workgroups).toBeGreaterThan(1);
    const shape = {
      ...base,
      hidden: 512,
      heads: 4,
      kvHeads: 2,
      headDim: 128,
      rotaryDim: 128,
      intermediate: 1024,
    };
    const choice = { workgroups, splits: 4, shareKeys: 16 };
    await check({ ...shape, position: 100, gated: true, dtype: "f16", kvDtype: "f16" }, choice);
    await check({ ...shape, position: 100, dtype: "i4", kvDtype: "f16" }, choice);
  });

  test.skipIf(lacks)("who waits in vain gives up and says so", async () => {
    expect(await passAlone()).toBe(1);
  });
});
