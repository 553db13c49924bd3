/** Writes a step plan into the device tensors that layers read: one small upload a tensor, the same bindings always. */
import { ID_FROM_SAMPLED } from "../gpu/kernels/embedding.ts";
import { SAMPLE_SETTINGS_WORDS, writeSampleSettings } from "../gpu/kernels/sample.ts";
import { createTensor, rows, type Tensor, writeTensor } from "../gpu/tensor.ts";
import type { MetadataBuilder } from "./layers/attention.ts";
import type { MetadataKind, StepTensors } from "./layers/context.ts";
import { rowCount, rowOfSampled, type SequenceStep, tokenCount } from "./step-plan.ts";

/** The most a step may hold. */
export interface StepLimits {
  tokens: number;
  sequences: number;
  /** Rows of logits. */
  rows: number;
  blocksPerSequence: number;
  blockSize: number;
}

export class StepInputs {
  readonly limits: StepLimits;
  readonly #device: GPUDevice;
  readonly #builders: Record<MetadataKind, MetadataBuilder>;
  readonly #tensors: StepTensors;

  constructor(device: GPUDevice, limits: StepLimits, builders: Record<MetadataKind, MetadataBuilder>) {
    const u32 = (name: string, ...shape: number[]): Tensor =>
      createTensor(device, { name, dtype: "u32", shape, readable: true });
    this.limits = limits;
    this.#device = device;
    this.#builders = builders;
    this.#tensors = {
      tokenIds: u32("token-ids", limits.tokens),
      tokensMeta: u32("tokens-meta", limits.tokens, 4),
      sequences: {
        causal: u32("causal-sequences", limits.sequences, 4),
        prefix: u32("sequences", limits.sequences, 4),
      },
      blockTables: u32("block-tables", limits.sequences, limits.blocksPerSequence),
      logitRows: u32("logit-rows", limits.rows),
      settings: u32("sampling-settings", limits.rows, SAMPLE_SETTINGS_WORDS),
      sampled: u32("sampled", limits.rows),
    };
  }

  /** The tensors for a plan, narrowed to its counts. Throws RangeError when the plan is over a limit. */
  write(plan: readonly SequenceStep[]): StepTensors {
    const counts = { tokens: tokenCount(plan), sequences: plan.length, rows: rowCount(plan) };
    checkCounts(counts, this.limits);
    for (const sequence of plan) checkBlocks(sequence, this.limits);
    this.#writeTokens(plan, counts.tokens);
    this.#writeSequences(plan);
    this.#writeRows(plan, counts.rows);
    return this.#narrowed(counts);
  }

  /** The tensors for a step of these sizes, whatever they hold: for compiling ahead. */
  shaped(tokens: number, rowsWanted: number): StepTensors {
    return this.#narrowed({ tokens, sequences: 1, rows: rowsWanted });
  }

  #narrowed(counts: { tokens: number; sequences: number; rows: number }): StepTensors {
    const all = this.#tensors;
    return {
      tokenIds: rows(all.tokenIds, counts.tokens),
      tokensMeta: rows(all.tokensMeta, counts.tokens),
      sequences: {
        causal: rows(all.sequences.causal, counts.sequences),
        prefix: rows(all.sequences.prefix, counts.sequences),
      },
      blockTables: rows(all.blockTables, counts.sequences),
      logitRows: rows(all.logitRows, counts.rows),
      settings: rows(all.settings, counts.rows),
      // Not narrowed: a token of this step may refer to any row of the step before.
      sampled: all.sampled,
    };
  }

  #writeTokens(plan: readonly SequenceStep[], count: number): void {
    const { blockSize } = this.limits;
    const ids = new Uint32Array(count);
    const meta = new Uint32Array(count * 4);
    let at = 0;
    plan.forEach(({ tokenIds, start, blocks }, sequence) => {
      tokenIds.forEach((id, index) => {
        const position = start + index;
        const slot = blocks[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
        const row = rowOfSampled(id);
        ids[at] = row === null ? id : ID_FROM_SAMPLED + row;
        meta.set([position, slot, sequence, 0], at * 4);
        at++;
      });
    });
    writeTensor(this.#device, this.#tensors.tokenIds, ids);
    writeTensor(this.#device, this.#tensors.tokensMeta, meta);
  }

  #writeSequences(plan: readonly SequenceStep[]): void {
    const { blocksPerSequence } = this.limits;
    const tables = new Uint32Array(plan.length * blocksPerSequence);
    plan.forEach(({ blocks }, index) => tables.set(blocks, index * blocksPerSequence));
    writeTensor(this.#device, this.#tensors.blockTables, tables);
    for (const kind of ["causal", "prefix"] as const) {
      const words = new Uint32Array(plan.length * 4);
      plan.forEach(({ prefixLength, start, tokenIds }, index) => {
        const built = this.#builders[kind].build({ prefixLength, contextLength: start + tokenIds.length });
        words.set([built.prefixLength, built.contextLength], index * 4);
      });
      writeTensor(this.#device, this.#tensors.sequences[kind], words);
    }
  }

  #writeRows(plan: readonly SequenceStep[], count: number): void {
    const logitRows = new Uint32Array(count);
    const settings = new Uint32Array(count * SAMPLE_SETTINGS_WORDS);
    let row = 0;
    let token = 0;
    for (const step of plan) {
      const first = step.logits === "all" ? 0 : step.tokenIds.length - 1;
      for (let index = first; index < step.tokenIds.length && step.logits !== "none"; index++, row++) {
        logitRows[row] = token + index;
        if (step.sampling) writeSampleSettings(settings, row, step.sampling);
      }
      token += step.tokenIds.length;
    }
    if (count === 0) return;
    writeTensor(this.#device, this.#tensors.logitRows, logitRows);
    writeTensor(this.#device, this.#tensors.settings, settings);
  }
}

function checkCounts(counts: Pick<StepLimits, "tokens" | "sequences" | "rows">, limits: StepLimits): void {
  for (const name of ["tokens", "sequences", "rows"] as const) {
    const most = limits[name];
    if (counts[name] > most)
      throw new RangeError(`Cannot run a step of ${counts[name]} ${name}: at most ${most}`);
  }
}

/** A table that is too long would run into the next sequence's, one too short would send tokens to another's block. */
function checkBlocks({ blocks, start, tokenIds }: SequenceStep, limits: StepLimits): void {
  const { blocksPerSequence, blockSize } = limits;
  if (blocks.length > blocksPerSequence) {
    throw new RangeError(`Cannot run a sequence of ${blocks.length} blocks: at most ${blocksPerSequence}`);
  }
  const tokens = start + tokenIds.length;
  if (blocks.length * blockSize < tokens) {
    const found = `${blocks.length} of ${blockSize}`;
    throw new RangeError(`Cannot run a sequence of ${tokens} tokens: expected blocks for them, got ${found}`);
  }
}
