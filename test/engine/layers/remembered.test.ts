import { expect, setDefaultTimeout, test } from "bun:test";
import { Remembered } from "../../../src/engine/layers/remembered.ts";
import { Workspace } from "../../../src/engine/layers/workspace.ts";
import { normF16, type NormF16Options } from "../../../src/gpu/kernels/norm-f16.ts";
import { testGpu } from "../../support/gpu.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const gpu = await testGpu();
const workspace = new Workspace(gpu.device, 8);

function options(count: number): NormF16Options {
  const x = workspace.tensor("x", count, 16);
  return { x, y: workspace.tensor("y", count, 16, "f16"), eps: 1e-6 };
}

test("a dispatch is made once for the same scratch, anew for other rows, options and devices", () => {
  let made = 0;
  const remembered = new Remembered<NormF16Options>((...given) => {
    made++;
    return normF16(...given);
  });
  const first = remembered.get(gpu.traits, options(3));
  expect(remembered.get(gpu.traits, options(3))).toBe(first);
  expect(first).toEqual(normF16(gpu.traits, options(3)));
  expect(made).toBe(1);

  const others = [
    remembered.get(gpu.traits, options(4)),
    remembered.get(gpu.traits, { ...options(4), eps: 1e-5 }),
    remembered.get(gpu.traits, { ...options(4), eps: 1e-5, normed: false }),
    remembered.get({ ...gpu.traits }, { ...options(4), eps: 1e-5, normed: false }),
  ];
  expect(made).toBe(5);
  expect(others[0].params.tokens).toBe(4);
  expect(others[1].constants.EPS).toBe(1e-5);
  expect(others[2].constants.WEIGHT).toBe(3);
  expect(new Set([first, ...others]).size).toBe(5);
});

test("scratch of a name is given again as it was, in other rows the same memory", () => {
  const [three, four] = [workspace.tensor("z", 3, 16), workspace.tensor("z", 4, 16)];
  expect(workspace.tensor("z", 4, 16)).toBe(four);
  expect(workspace.tensor("z", 3, 16)).toEqual(three);
  expect(three.buffer.id).toBe(four.buffer.id);
  expect(workspace.tensor("z", 3, 16, "f16").buffer.id).not.toBe(three.buffer.id);
  expect(workspace.tensor("z", 3, 8).buffer.id).not.toBe(three.buffer.id);
});
