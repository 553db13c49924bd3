/** Whether a benchmark's kernel computes what it should: sampled elements of its output against float64. */
import type { Gpu } from "../src/gpu/gpu.ts";
import { outputsOf, type Outputs, type Result } from "../src/gpu/outputs.ts";
import type { BuiltCase } from "./kernel-case.ts";

const checkedElements = 64;

/** Runs the first dispatch; throws unless its output is right, or gives it back, with the tensors still as they were. */
export async function checkedOutputs(
  gpu: Gpu,
  name: string,
  built: BuiltCase,
): Promise<{ outputs: Outputs; results: Result[] }> {
  const [dispatch] = built.dispatches;
  await gpu.pipelines.compile([dispatch]);
  const outputs = outputsOf(gpu, dispatch);
  const results = await outputs.of(dispatch);
  checkResult(name, built, results[0].values);
  return { outputs, results };
}

function checkResult(name: string, built: BuiltCase, actual: Float32Array): void {
  const count = actual.length;
  const stride = Math.max(1, Math.floor(count / checkedElements)) | 1; // odd, so that all columns have a chance
  const indices = Array.from({ length: checkedElements }, (_, i) => (i * stride) % count).concat(count - 1);
  const wanted = indices.map((index) => built.expected(index));
  const scale = Math.sqrt(wanted.reduce((sum, value) => sum + value * value, 0) / wanted.length);
  wanted.forEach((value, i) => {
    const error = Math.abs(actual[indices[i]] - value) / scale;
    if (!(error <= built.tolerance)) {
      throw new Error(
        `Cannot trust ${name}: expected element ${indices[i]} to be ${value}, got ${actual[indices[i]]}`,
      );
    }
  });
}
