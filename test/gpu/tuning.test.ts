import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chooseTile, type GemmShape, triedTiles } from "../../src/gpu/kernels/gemm-tiles.ts";
import { linear } from "../../src/gpu/kernels/linear.ts";
import { tunableGroups, Tuner } from "../../src/gpu/tuner.ts";
import { chosen, type TuningShape, tokensClass, type Variants } from "../../src/gpu/tuning.ts";
import { normals, output, testGpu, upload } from "../support/gpu.ts";
import { readF32 } from "../support/read-tensor.ts";

const gpu = await testGpu("cpu");
setDefaultTimeout(60_000);

const shape: TuningShape = { kernel: "linear-cpu", rows: 24, inputs: 16, tokens: 2, format: "f32" };
const variants: Variants<{ lanes: number }> = {
  shape,
  byDefault: { lanes: 8 },
  others: () => [{ lanes: 4 }, { lanes: 16 }],
};

describe("a choice", () => {
  const choose = (tuning: { shape: TuningShape; choice: object }[], deterministic = false) =>
    chosen({ ...gpu.traits, deterministic, tuning }, variants);

  test("is the default where nothing is known", () => {
    expect(choose([])).toEqual({ lanes: 8 });
    expect(chosen({ ...gpu.traits, tuning: undefined }, variants)).toEqual({ lanes: 8 });
  });

  test("is what was found for this shape", () => {
    const other = { shape: { ...shape, rows: 25 }, choice: { lanes: 4 } };
    expect(choose([other, { shape, choice: { lanes: 16 } }])).toEqual({ lanes: 16 });
  });

  test.each([
    ["kernel", "linear-matmul"],
    ["rows", 32],
    ["inputs", 8],
    ["tokens", 4],
    ["format", "bf16"],
  ])("does not depend on shapes of another %s", (name, value) => {
    expect(choose([{ shape: { ...shape, [name]: value }, choice: { lanes: 16 } }])).toEqual({ lanes: 8 });
  });

  test.each([[{ lanes: 7 }], [{ lanes: 16, rows: 2 }], [{}]])("is none but a candidate: not %j", (choice) => {
    expect(choose([{ shape, choice }])).toEqual({ lanes: 8 });
  });

  test("is the default on a deterministic device", () => {
    expect(choose([{ shape, choice: { lanes: 16 } }], true)).toEqual({ lanes: 8 });
  });
});

test("token counts share a choice up to a power of two, and where they are many", () => {
  expect([0, 1, 2, 3, 4, 5, 9, 4000, 5000, 1e6].map(tokensClass)).toEqual([
    1, 1, 2, 4, 4, 8, 16, 4096, 4096, 4096,
  ]);
});

describe.each([false, true])("the tiles worth a try, where barriers are counted: %p", (countsBarriers) => {
  const traits = { ...gpu.traits, isCpu: false, hasSubgroupMatrix: true, countsBarriers };
  const shapes: GemmShape[] = [5, 16, 17, 64, 65, 2048].flatMap((tokens) =>
    [32, 96, 1536, 4096].flatMap((inputs) =>
      [false, true].map((isGated) => ({ tokens, inputs, rows: 1536, isGated })),
    ),
  );

  test("can do the product: steps divide its columns, and a gate has its up", () => {
    for (const shape of shapes) {
      for (const { matrices, split, turns } of triedTiles(traits, shape)) {
        expect([shape, shape.inputs % (16 * turns * split)]).toEqual([shape, 0]);
        expect([shape, shape.isGated && matrices[1] % 2 !== 0]).toEqual([shape, false]);
      }
    }
  });

  test("include the default wherever its steps are not shortened, and more", () => {
    for (const shape of shapes.filter(({ inputs }) => inputs >= 1536)) {
      const tiles = triedTiles(traits, shape);
      expect(tiles).toContainEqual(chooseTile(traits, shape));
      expect(tiles.length).toBeGreaterThan(1);
    }
  });

  test("have halves by turns only there, and then by default for many tokens", () => {
    const halves = shapes.flatMap((shape) => triedTiles(traits, shape)).filter((tile) => tile.halves === 2);
    expect(halves.length > 0).toBe(countsBarriers);
    const many = chooseTile(traits, { tokens: 2048, inputs: 1536, rows: 1536 });
    expect(many.halves).toBe(countsBarriers ? 2 : 1);
  });
});

describe("the tuner", () => {
  const clock = () => performance.now();
  const values = normals(7, 48);
  const options = (name: string) => ({
    x: upload(gpu, "x", [2, 16], normals(1, 32)),
    weight: upload(gpu, name, [24, 16], normals(2, 24 * 16)),
    y: output(gpu, "y", [2, 24], values),
    accumulate: true,
  });

  test("measures every candidate of a kernel, and gives the outputs back as they were", async () => {
    const { y, ...rest } = options("weight");
    const [group] = tunableGroups([linear(gpu.traits, { y, ...rest })]);
    const result = await new Tuner(gpu, clock).tune(group);
    expect(result).toMatchObject({
      shape,
      byDefault: { lanes: 8 },
      measured: 4,
      rejected: [],
      isCached: true,
    });
    const candidates: object[] = [4, 8, 16, 32].map((lanes) => ({ lanes }));
    expect(candidates).toContainEqual(result.choice);
    expect(await readF32(gpu, y)).toEqual([...Float32Array.from(values)]);
  });

  test("rejects a candidate whose results are not the default's", async () => {
    const given = options("weight");
    const right = linear(gpu.traits, given);
    const wrong = linear(gpu.traits, { ...given, accumulate: false });
    const choices = [right, wrong].map((dispatch, index) => ({ choice: { index }, dispatch }));
    const [group] = tunableGroups([{ ...right, tunable: { shape, variants: () => choices } }]);
    const result = await new Tuner(gpu, clock).tune(group);
    expect(result).toMatchObject({
      choice: { index: 0 },
      isChanged: false,
      measured: 1,
      rejected: [{ index: 1 }],
    });
  });

  test("takes the layers of a shape together, and each place in memory once", () => {
    const [a, b] = [options("a"), options("b")].map((each) => linear(gpu.traits, each));
    const biased = linear(gpu.traits, { ...options("c"), bias: upload(gpu, "bias", [24], normals(3, 24)) });
    const wider = linear(gpu.traits, {
      x: upload(gpu, "x", [2, 32], normals(1, 64)),
      weight: upload(gpu, "weight", [24, 32], normals(2, 24 * 32)),
      y: output(gpu, "y", [2, 24]),
    });
    expect(tunableGroups([a, b, a, biased, wider])).toEqual([[a, b], [wider]] as ReturnType<
      typeof tunableGroups
    >);
  });
});
