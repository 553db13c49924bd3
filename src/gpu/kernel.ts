/**
 * What a kernel is to the rest of the program: data. A wrapper in `kernels/` checks its tensors here and returns a
 * `Dispatch`; nothing runs before a `Recorder` submits it. The matcher follows mini-sglang's tensor matcher: named
 * dimensions are unified across tensors, and a mismatch names the tensor that is wrong.
 */
import type { Dtype, Tensor } from "./tensor.ts";
import type { Tunable } from "./tuning.ts";

/** Storage formats a binding takes; where there are several, the FORMAT override tells them apart. */
const kinds = {
  f32: ["f32"],
  u32: ["u32"],
  packed: ["f32", "bf16", "f16"],
  /** Matrices of products; the quantised ones have `scales`. */
  weights: ["f32", "bf16", "f16", "i8", "i4"],
  /** Keys and values; i8 has `scales`. */
  cache: ["f32", "bf16", "f16", "i8"],
  i8: ["i8"],
} as const satisfies Record<string, readonly Dtype[]>;
export type TensorKind = keyof typeof kinds;

export interface TensorSpec {
  readonly access: "read" | "read_write";
  readonly kind: TensorKind;
  /** Names, or numbers for fixed sizes, outermost first; equal names must have equal sizes. */
  readonly dims: readonly (string | number)[];
}

/** The interface that all files (variants) of a kernel share. */
export interface KernelSpec<TensorName extends string = string> {
  readonly name: string;
  /** Files in wgsl/ without ending; all have these params and bindings. */
  readonly files: readonly string[];
  /** Fields of `struct Params`, in order. */
  readonly params: Readonly<Record<string, "u32" | "f32">>;
  /** Bindings from 1 on, in order; 0 is the params. */
  readonly tensors: Readonly<Record<TensorName, TensorSpec>>;
}

/** One kernel launch, ready to be recorded. */
export interface Dispatch {
  readonly spec: KernelSpec;
  readonly file: string;
  readonly constants: Readonly<Record<string, number>>;
  /** `const NAME = value;` lines to replace, for sizes that WGSL does not let an override set. */
  readonly replace?: Readonly<Record<string, string>>;
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly params: Readonly<Record<string, number>>;
  readonly workgroups: readonly [number, number, number];
  /** Fewest bytes that must move, and operations that must be done: the roofline. */
  readonly bytes: number;
  readonly flops: number;
  /** Of a kernel that `prelude tune` measures. */
  readonly tunable?: Tunable;
}

/** Value of the FORMAT override. */
export const formatCode: Partial<Record<Dtype, number>> = { f32: 0, bf16: 1, f16: 2, i8: 3, i4: 4 };

/** Reads a spec's dims from "tokens channels". */
export function tensor(access: TensorSpec["access"], kind: TensorKind, dims: string): TensorSpec {
  const parts = dims.split(" ").map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  return { access, kind, dims: parts };
}

/**
 * Unifies the dimensions of all tensors; returns the size of each name.
 * Throws when a tensor is missing, has another rank or type, or disagrees with an earlier one.
 */
export function matchTensors(
  spec: KernelSpec,
  tensors: Readonly<Record<string, Tensor>>,
): Record<string, number> {
  const sizes: Record<string, number> = {};
  // Every dispatch of a prompt comes through here: nothing is allocated but the result.
  for (const name in spec.tensors) {
    const { kind, dims } = spec.tensors[name];
    const given: Tensor | undefined = tensors[name];
    if (!given || !kindAccepts(kind, given.dtype) || given.shape.length !== dims.length) {
      throw unsuited(spec, name, given);
    }
    for (let axis = 0; axis < dims.length; axis++) {
      const dim = dims[axis];
      const size = given.shape[axis];
      const expected = typeof dim === "number" ? dim : (sizes[dim] ??= size);
      if (expected !== size) throw disagreeing(spec, { name, given, dim, size, expected });
    }
  }
  return sizes;
}

function mismatch({ name }: KernelSpec, expected: string, found: string): TypeError {
  return new TypeError(`Cannot run ${name}: expected ${expected}, got ${found}`);
}

function unsuited(spec: KernelSpec, name: string, given: Tensor | undefined): TypeError {
  const { kind, dims } = spec.tensors[name];
  if (given && !kindAccepts(kind, given.dtype)) {
    return mismatch(spec, `${name} to be ${kind}`, `${given.dtype} (${given.name})`);
  }
  const found = given ? `[${given.shape.join(", ")}] (${given.name})` : "nothing";
  return mismatch(spec, `${name} [${dims.join(", ")}]`, found);
}

interface Disagreement {
  name: string;
  given: Tensor;
  dim: string | number;
  size: number;
  expected: number;
}

function disagreeing(spec: KernelSpec, { name, given, dim, size, expected }: Disagreement): TypeError {
  const isFirst = ([, { dims }]: [string, TensorSpec]) => dims.includes(dim);
  const origin = Object.entries(spec.tensors).find(isFirst)?.[0];
  const why = typeof dim === "number" ? "" : ` as in ${origin}`;
  const found = `${size} (${given.name} [${given.shape.join(", ")}])`;
  return mismatch(spec, `${name} to have ${dim} = ${expected}${why}`, found);
}

function kindAccepts(kind: TensorKind, dtype: Dtype): boolean {
  return (kinds[kind] as readonly Dtype[]).includes(dtype);
}

/** Number of workgroups of `size` that cover `count`. */
export function groups(count: number, size: number): number {
  return Math.ceil(count / size);
}
