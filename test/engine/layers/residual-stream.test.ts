/** Shares of products on matrix units, which no software adapter has: the test fills in what such a product would leave. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Batch } from "../../../src/engine/batch.ts";
import { RmsNorm } from "../../../src/engine/layers/norm.ts";
import { Remembered } from "../../../src/engine/layers/remembered.ts";
import { ResidualStream } from "../../../src/engine/layers/residual-stream.ts";
import { Workspace } from "../../../src/engine/layers/workspace.ts";
import type { Dispatch } from "../../../src/gpu/kernel.ts";
import { gemm, type GemmOptions } from "../../../src/gpu/kernels/gemm.ts";
import { Recorder } from "../../../src/gpu/recorder.ts";
import { createTensor, type Tensor, writeTensor } from "../../../src/gpu/tensor.ts";
import { assertClose, normals, output, rounded, runTwice, testGpu, upload } from "../../support/gpu.ts";
import { rectangle } from "../../support/rectangle.ts";
import { project } from "../../support/shared.ts";
import { openTestModel } from "../../support/test-model.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
const traits = { ...gpu.traits, isCpu: false, hasSubgroupMatrix: true };
const [tokens, hidden, inputs] = [5, 256, 1024];

/** A stream, behind a product in shares if there is no bias, and what was recorded. */
function streamBehindProduct({ bias }: { bias?: Tensor } = {}) {
  const before = rounded(normals(1, tokens * hidden), "f32");
  const tensor = output(gpu, "stream", [tokens, hidden], before);
  const recorded: Dispatch[] = [];
  const recorder = { add: (dispatch: Dispatch) => recorded.push(dispatch) };
  const context = { traits, recorder, workspace: new Workspace(gpu.device, tokens) };
  const stream = new ResidualStream(tensor);
  const x = upload(gpu, "x", [tokens, inputs], new Float32Array(tokens * inputs), "f16");
  const weight = upload(gpu, "weight", [hidden, inputs], new Float32Array(hidden * inputs), "f16");
  stream.addProduct(context, new Remembered<GemmOptions>(gemm), { x, weight, bias });
  return { before, tensor, context, stream, recorded };
}

/** Leaves shares where the product would; returns the stream with them. */
function fillShares({ before, recorded }: ReturnType<typeof streamBehindProduct>): Float64Array {
  const { y } = recorded[0].tensors;
  const shares = y.shape[0] / tokens;
  expect(shares).toBeGreaterThan(1);
  const values = rounded(normals(2, shares * before.length), "f32");
  writeTensor(gpu.device, y, Float32Array.from(values));
  return before.map((value, i) => {
    for (let share = 0; share < shares; share++) value += values[share * before.length + i];
    return value;
  });
}

const tolerance = { relativeRms: 2e-7, worst: 2e-6 };
const halfTolerance = { relativeRms: 2 ** -11, worst: 6 * 2 ** -11 };

describe("shares of a product", () => {
  test("are added by the norm that reads the stream next", async () => {
    const behind = streamBehindProduct();
    const { context, stream, tensor, recorded } = behind;
    const expected = fillShares(behind);
    const y = output(gpu, "y", [tokens, hidden], undefined, "f16");
    stream.normHalf(context, new RmsNorm({ eps: 0 }), y);
    expect(stream.whole(context)).toBe(tensor);
    expect(recorded.map(({ file }) => file)).toEqual(["gemm", "add-norm-f16"]);
    const result = await runTwice(gpu, recorded.slice(1), { x: tensor, y });
    assertClose(result.x, expected, tolerance);
    const normed = expected.map((value, i) => {
      const row = expected.subarray(i - (i % hidden), i - (i % hidden) + hidden);
      return value / Math.sqrt(row.reduce((sum, other) => sum + other * other, 0) / hidden);
    });
    assertClose(result.y, normed, halfTolerance);
  });

  test("are in the stream as a whole", async () => {
    const behind = streamBehindProduct();
    const { context, stream, tensor, recorded } = behind;
    const expected = fillShares(behind);
    expect(stream.whole(context)).toBe(tensor);
    expect(stream.whole(context)).toBe(tensor);
    expect(recorded.map(({ file }) => file)).toEqual(["gemm", "add-shares"]);
    assertClose((await runTwice(gpu, recorded.slice(1), { x: tensor })).x, expected, tolerance);
  });

  test("are not made where a bias belongs to the sum", () => {
    const bias = upload(gpu, "bias", [hidden], new Float32Array(hidden));
    const { context, stream, tensor, recorded } = streamBehindProduct({ bias });
    stream.whole(context);
    expect(recorded.map(({ file, constants }) => [file, constants.ACCUMULATE])).toEqual([["gemm", 1]]);
    expect(recorded[0].tensors.y).toBe(tensor);
  });
});

/** Walks through what was recorded: nobody touches the stream while shares are pending but who adds them. */
function countShares(dispatches: readonly Dispatch[]): number {
  let [count, isPending] = [0, false];
  for (const { file, tensors } of dispatches) {
    const takes = tensors.partials?.name === "shares";
    const touches = Object.values(tensors).some(({ name }) => name === "stream");
    if (isPending && touches) expect({ file, takes }).toEqual({ file, takes: true });
    if (takes) expect(isPending).toBe(true);
    const leaves = tensors.y?.name === "shares";
    if (leaves) expect(isPending).toBe(false);
    isPending = leaves || (isPending && !takes);
    if (leaves) count++;
  }
  expect(isPending).toBe(false);
  return count;
}

/** Keeps what a step would submit on its way. */
class WholeRecorder extends Recorder {
  override flush(): void {}
}

test("a model leaves nothing pending where a batch may stop", async () => {
  const { model, kvSpecs, policy } = await openTestModel(project("models/hrm-text-tiny"), { dtype: "f16" });
  const recorder = new WholeRecorder(gpu);
  const kv = kvSpecs.map(({ blockSize, kvHeads, headDim }) =>
    createTensor(gpu.device, { name: "kv", dtype: "f16", shape: [4, 2, blockSize, kvHeads * headDim] }),
  );
  const limits = { tokens: 64, sequences: 1, rows: 1, blocksPerSequence: 3, blockSize: kvSpecs[0].blockSize };
  const { layerGroups } = policy;
  const batch = new Batch({ gpu: { device: gpu.device, traits }, model, recorder, limits, kv, layerGroups });
  const tokenIds = Array.from({ length: 13 }, (_, i) => i);
  const prompt = rectangle({ tokenIds, prefixLength: 13, tables: [[1, 2]], sampling: [] });
  const shares = (from: number, to: number) => {
    batch.prepare([prompt], from, to)();
    return countShares(recorder.take());
  };
  const perPass = model.passes.map((_, pass) => shares(pass, pass + 1));
  expect(perPass.every((count) => count > 0)).toBe(true);
  expect(shares(1, 6)).toBe(perPass.slice(1, 6).reduce((a, b) => a + b));
});
