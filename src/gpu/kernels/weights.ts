/** What the kernels of products need to know of a weight matrix: its format, its scales, its bytes. */
import { formatCode } from "../kernel.ts";
import { bytesPerElement, elementCount, flatten, type Tensor } from "../tensor.ts";

/** How many inputs of a row may share a scale. */
export const quantizationGroups = [32, 64] as const;

/**
 * The overrides FORMAT and, of a quantised matrix, GROUP_EIGHTHS: inputs that share a scale, in eights.
 * Throws TypeError unless scales are there for a quantised matrix and fit it.
 */
export function weightConstants(
  kernel: string,
  { name, dtype, shape, scales }: Tensor,
): Record<string, number> {
  const FORMAT = formatCode[dtype] ?? 0;
  if (dtype !== "i8" && dtype !== "i4") return { FORMAT };
  const [outputs, inputs] = shape;
  const [rows, groupCount] = scales?.dtype === "f16" ? scales.shape : [];
  const size = inputs / groupCount;
  if (rows !== outputs || !quantizationGroups.some((group) => group === size)) {
    const expected = `f16 scales [${outputs}, ${inputs} / ${quantizationGroups.join(" or ")}]`;
    const found = scales ? `${scales.dtype} [${scales.shape.join(", ")}]` : "none";
    throw new TypeError(
      `Cannot run ${kernel}: expected ${expected} with ${dtype} weights, got ${found} (${name})`,
    );
  }
  return { FORMAT, GROUP_EIGHTHS: size / 8 };
}

/** The scales as they are bound; of a matrix without any `unread`, which then is not read. */
export function scalesOf({ scales }: Tensor, unread: Tensor): Tensor {
  return scales ? flatten(scales) : unread;
}

/** Bytes of the matrix with its scales. */
export function weightBytes({ shape, dtype, scales }: Tensor): number {
  return elementCount(shape) * bytesPerElement[dtype] + (scales ? weightBytes(scales) : 0);
}
