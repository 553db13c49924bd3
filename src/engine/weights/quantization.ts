/** Which matrices are held as integers, and which integers: the choices behind `--quantization`. */
import { quantizationGroups } from "../../gpu/kernels/weights.ts";
import type { QuantizedDtype } from "./quantize.ts";

export const quantizations = ["none", "int8", "int4"] as const;

export interface Quantization {
  format: Exclude<(typeof quantizations)[number], "none">;
  /** Consecutive inputs of a row that share a scale. */
  group: QuantizationGroup;
}

export type QuantizationGroup = (typeof quantizationGroups)[number];
export { quantizationGroups };

/** What a matrix is for: rows of a table are looked up, the head makes the logits, all others are plain products. */
export type MatrixUse = "table" | "head" | "product";

const dtypes: Record<Quantization["format"], Record<MatrixUse, QuantizedDtype | null>> = {
  int8: { table: null, head: "i8", product: "i8" },
  int4: { table: null, head: "i8", product: "i4" },
};

/** The integers that a matrix is held as, or null where it stays as it is: tables, and rows that are no whole groups. */
export function quantizedDtype(
  quantization: Quantization | null,
  use: MatrixUse,
  columns: number,
): QuantizedDtype | null {
  if (!quantization || columns % quantization.group !== 0) return null;
  return dtypes[quantization.format][use];
}
