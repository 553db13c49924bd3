/** Other loops for the jobs of the kernels for CPU adapters. To add one, write it into bench/loops/ and name it here. */
import { type Dispatch, groups } from "../src/gpu/kernel.ts";

export interface Loop {
  name: string;
  /** The same work by this loop: the kernel's dispatch with its tensors and params, and another file or other workgroups. */
  of(dispatch: Dispatch): Dispatch;
}

/** A file of bench/loops/. */
function ownFile(name: string): string {
  return `../bench/loops/${name}`;
}

type Tile = readonly [rows: number, tokens: number];

/** Products with so many outputs and tokens a lane. */
function linearTile(file: string, [rows, tokens]: Tile, lanes: number): Loop {
  return {
    name: `${file.split("/").at(-1)} ${rows}x${tokens}, ${lanes} lanes`,
    of: (dispatch) => ({
      ...dispatch,
      file,
      constants: { ...shared(dispatch, ["FORMAT", "GROUP_EIGHTHS", "BIAS", "ACCUMULATE"]), LANES: lanes },
      replace: { ROWS: String(rows), TOKENS: String(tokens) },
      workgroups: [groups(dispatch.params.outputs, rows * lanes), groups(dispatch.params.tokens, tokens), 1],
    }),
  };
}

/** linear-cpu, whose tile has 8 outputs. */
function linearCpu(tokens: number, lanes: number): Loop {
  return {
    name: `linear-cpu 8x${tokens}, ${lanes} lanes`,
    of: (dispatch) => ({
      ...dispatch,
      file: "linear-cpu",
      constants: {
        ...shared(dispatch, ["FORMAT", "GROUP_EIGHTHS", "BIAS", "ACCUMULATE"]),
        TOKENS: tokens,
        LANES: lanes,
      },
      replace: undefined,
      workgroups: [groups(dispatch.params.outputs, 8 * lanes), groups(dispatch.params.tokens, tokens), 1],
    }),
  };
}

function shared({ constants }: Dispatch, names: readonly string[]): Record<string, number> {
  return Object.fromEntries(Object.entries(constants).filter(([name]) => names.includes(name)));
}

const tiles: readonly Tile[] = [
  [1, 1],
  [4, 1],
  [8, 1],
  [8, 2],
  [16, 2],
  [8, 4],
  [16, 4],
  [8, 8],
  [16, 8],
  [8, 16],
];

const linearLoops: readonly Loop[] = [
  ...tiles.map((tile) => linearTile("linear-cpu-subgroup", tile, 8)),
  linearTile("linear-cpu-subgroup", [4, 1], 32),
  linearTile("linear-cpu-subgroup", [8, 16], 32),
  ...tiles.slice(0, -2).map((tile) => linearTile(ownFile("linear-dots"), tile, 8)),
  ...[1, 2, 4, 8].map((tokens) => linearCpu(tokens, 8)),
];

const attentionLoops: readonly Loop[] = [
  ...[4, 8, 16].map((lanes): Loop => ({
    name: `attention-subgroup, ${lanes} lanes`,
    of: (dispatch) => ({
      ...dispatch,
      file: ownFile("attention-subgroup"),
      constants: { LANES: lanes, ...shared(dispatch, ["FORMAT"]) },
      replace: { QUADS: String(dispatch.params.head_dim / 16) },
      workgroups: [groups(4 * dispatch.params.heads, lanes), dispatch.params.tokens, 1],
    }),
  })),
  {
    name: "attention, with barriers",
    of: (dispatch) => ({
      ...dispatch,
      file: "attention",
      constants: {
        LANES: 64,
        HEAD_EIGHTHS: dispatch.params.head_dim / 8,
        SPAN: 4,
        ...shared(dispatch, ["FORMAT"]),
      },
      replace: { KEYS: "128u" },
      workgroups: [dispatch.params.heads, dispatch.params.tokens, 1],
    }),
  },
];

const normLoops: readonly Loop[] = [
  ...[4, 8, 32].map((lanes): Loop => ({
    name: `rms-norm, with barriers, ${lanes} lanes`,
    of: (dispatch) => ({
      ...dispatch,
      file: "rms-norm",
      constants: { ...dispatch.constants, LANES: lanes },
      workgroups: [dispatch.params.tokens, dispatch.workgroups[1], 1],
    }),
  })),
  ...[1, 8].map((subgroups): Loop => ({
    name: `rms-norm-subgroup, ${4 * subgroups} lanes`,
    of: (dispatch) => ({
      ...dispatch,
      file: ownFile("rms-norm-subgroup"),
      constants: { ...dispatch.constants, LANES: 4 * subgroups },
      workgroups: [groups(dispatch.params.tokens, subgroups), dispatch.workgroups[1], 1],
    }),
  })),
  ...[16, 64].map((lanes): Loop => ({
    name: `rms-norm-cpu, ${lanes} lanes`,
    of: (dispatch) => ({
      ...dispatch,
      constants: { ...dispatch.constants, LANES: lanes },
      workgroups: [groups(dispatch.params.tokens, lanes), dispatch.workgroups[1], 1],
    }),
  })),
];

/** The kernel with other workgroups: so many lanes, and so many workgroups at most that step over the tokens. */
function regrid(lanes: number, rowsMax: number): Loop {
  return {
    name: `${lanes} lanes, ${rowsText(rowsMax)}`,
    of: (dispatch) => {
      const [across, down] = dispatch.workgroups;
      const pieces = across * dispatch.constants.LANES;
      const { tokens = down } = dispatch.params;
      return {
        ...dispatch,
        constants: { ...dispatch.constants, LANES: lanes },
        workgroups: [groups(pieces, lanes), Math.min(tokens, rowsMax), 1],
      };
    },
  };
}

const gridLoops: readonly Loop[] = [4, 16, 64].flatMap((lanes) =>
  [1, 2, 4, Infinity].map((rowsMax) => regrid(lanes, rowsMax)),
);

/** Another file of a lane a piece of a row. */
function ownLoop(file: string, lanes: number, pieces: (params: Dispatch["params"]) => number): Loop[] {
  return [1, 2, 4, Infinity].map((rowsMax) => ({
    name: `${file}, ${lanes} lanes, ${rowsText(rowsMax)}`,
    of: (dispatch) => ({
      ...dispatch,
      file: ownFile(file),
      constants: { LANES: lanes },
      workgroups: [groups(pieces(dispatch.params), lanes), Math.min(dispatch.params.tokens, rowsMax), 1],
    }),
  }));
}

function rowsText(most: number): string {
  return most < Infinity ? `${most} rows` : "all rows";
}

const sampleLoops: readonly Loop[] = [1, 2, 4, 8, 16, 64].map((lanes) => ({
  name: `sample, ${lanes} lanes`,
  of: (dispatch) => ({ ...dispatch, constants: { LANES: lanes } }),
}));

const maskLoops: readonly Loop[] = [1, 4, 8, 32].flatMap((span) =>
  [4, 16, 64].map((lanes) => ({
    name: `mask-logits, ${lanes} lanes of ${span}`,
    of: (dispatch) => ({
      ...dispatch,
      constants: { LANES: lanes, SPAN: span },
      workgroups: [groups(dispatch.params.vocab, lanes * span), dispatch.params.rows, 1],
    }),
  })),
);

const loops: Readonly<Record<string, readonly Loop[]>> = {
  "linear-cpu": linearLoops,
  "linear-cpu-subgroup": linearLoops,
  "attention-cpu": attentionLoops,
  "rms-norm-cpu": normLoops,
  add: [...gridLoops, ...ownLoop("add-scalar", 64, ({ channels }) => channels)],
  embedding: gridLoops,
  "gated-activation": gridLoops,
  "sigmoid-gate": gridLoops,
  rotary: [
    ...gridLoops,
    ...[16, 64].flatMap((lanes) =>
      ownLoop("rotary-heads", lanes, ({ heads, rotary_dim }) => (heads * rotary_dim) / 2),
    ),
  ],
  "kv-write": gridLoops,
  "kv-write-int8": gridLoops,
  sample: sampleLoops,
  "mask-logits": maskLoops,
  "adjust-logits": gridLoops,
};

/** Those for a kernel. */
export function loopsFor(file: string): readonly Loop[] {
  return loops[file] ?? [];
}
