/** Writes a batch into the device tensors that layers read: one small upload a tensor, the same bindings always. */
import { chooseQueryTile, type QueryRun, queryTiles } from "../gpu/kernels/attention-prefill.ts";
import { ID_FROM_SAMPLED } from "../gpu/kernels/embedding.ts";
import { SAMPLE_SETTINGS_WORDS, writeSampleSettings } from "../gpu/kernels/sample.ts";
import { createTensor, rows, type Tensor, writeTensor } from "../gpu/tensor.ts";
import { causalMetadata, type MetadataBuilder } from "./layers/attention.ts";
import type { MetadataKind, StepTensors } from "./layers/context.ts";
import { neverCausal } from "./layers/prefill-prefix-lm-attention.ts";
import {
  isPooled,
  observedRowCount,
  type Rectangle,
  rectangleRows,
  rowCount,
  rowOfSampled,
  tokenCount,
} from "./step-plan.ts";

/** The most a batch may hold. */
export interface BatchLimits {
  tokens: number;
  sequences: number;
  /** Rows of logits, those of prompts that are observed included. */
  rows: number;
  blocksPerSequence: number;
  blockSize: number;
}

/** The KV slot of a token whose keys and values are not written: outside every cache. */
const noSlot = 0xffffffff;
const builders: Record<MetadataKind, MetadataBuilder> = {
  causal: causalMetadata,
  prefix: neverCausal(causalMetadata),
};

interface Counts {
  tokens: number;
  sequences: number;
  rows: number;
  pools: number;
  tiles: number;
  queryTileTokens: number;
}

export class StepInputs {
  readonly limits: BatchLimits;
  readonly #device: GPUDevice;
  readonly #tensors: Omit<StepTensors, "queryTileTokens">;
  readonly #heads: number;

  /** `groups` is the number of KV groups, `heads` that of a layer's query heads. */
  constructor(device: GPUDevice, limits: BatchLimits, { groups, heads }: { groups: number; heads: number }) {
    const { tokens, sequences, blocksPerSequence } = limits;
    const u32 = (name: string, ...shape: number[]): Tensor =>
      createTensor(device, { name, dtype: "u32", shape, readable: true });
    this.limits = limits;
    this.#device = device;
    this.#heads = heads;
    this.#tensors = {
      tokenIds: u32("token-ids", tokens),
      queryTiles: u32("query-tiles", tokens, 4),
      groups: Array.from({ length: groups }, () => ({
        tokensMeta: u32("tokens-meta", tokens, 4),
        blockTables: u32("block-tables", sequences, blocksPerSequence),
      })),
      sequences: { causal: u32("causal-sequences", sequences, 4), prefix: u32("sequences", sequences, 4) },
      logitRows: u32("logit-rows", limits.rows),
      settings: u32("sampling-settings", limits.rows, SAMPLE_SETTINGS_WORDS),
      sampled: u32("sampled", limits.rows),
      pools: u32("pools", sequences, 2),
    };
  }

  /** The tensors for a batch, narrowed to its counts. Throws RangeError when it is over a limit. */
  write(batch: readonly Rectangle[]): StepTensors {
    const rowsWanted = rowCount(batch) + observedRowCount(batch);
    const pools = batch.filter(isPooled).length;
    const runs = queryRuns(batch);
    const queryTileTokens = chooseQueryTile(runs, this.#heads);
    const tiles = queryTiles(runs, queryTileTokens);
    const counts = {
      tokens: tokenCount(batch),
      sequences: batch.length,
      rows: rowsWanted,
      pools,
      tiles: tiles.length / 4,
      queryTileTokens,
    };
    checkCounts(counts, this.limits);
    for (const rectangle of batch) checkTables(rectangle, this.limits);
    this.#writeTokenIds(batch, counts.tokens);
    this.#tensors.groups.forEach((_, group) => this.#writeGroup(batch, group, counts.tokens));
    this.#writeSequences(batch);
    writeTensor(this.#device, this.#tensors.queryTiles, tiles);
    writeTensor(this.#device, this.#tensors.pools, poolRanges(batch));
    this.#writeRows(batch, counts.rows);
    return this.#narrowed(counts);
  }

  /** The tensors for tokens of one sequence, or of one each, and one row, whatever they hold: for compiling ahead. */
  shaped(tokens: number, { isDecode }: { isDecode: boolean }): StepTensors {
    const queryTileTokens = chooseQueryTile([{ firstToken: 0, tokens, sequence: 0 }], this.#heads);
    const tiles = isDecode ? tokens : 1;
    return this.#narrowed({ tokens, sequences: 1, rows: 1, pools: 0, tiles, queryTileTokens });
  }

  #narrowed({ tokens, sequences, rows: rowsWanted, pools, tiles, queryTileTokens }: Counts): StepTensors {
    const all = this.#tensors;
    return {
      tokenIds: rows(all.tokenIds, tokens),
      queryTiles: rows(all.queryTiles, tiles),
      queryTileTokens,
      groups: all.groups.map(({ tokensMeta, blockTables }) => ({
        tokensMeta: rows(tokensMeta, tokens),
        blockTables: rows(blockTables, sequences),
      })),
      sequences: {
        causal: rows(all.sequences.causal, sequences),
        prefix: rows(all.sequences.prefix, sequences),
      },
      logitRows: rows(all.logitRows, rowsWanted),
      settings: rows(all.settings, rowsWanted),
      // Not narrowed: a token of this step may refer to any row of the step before.
      sampled: all.sampled,
      pools: rows(all.pools, pools),
    };
  }

  #writeTokenIds(batch: readonly Rectangle[], count: number): void {
    const ids = new Uint32Array(count);
    let at = 0;
    for (const { tokenIds } of batch) {
      for (const id of tokenIds) {
        const row = rowOfSampled(id);
        ids[at++] = row === null ? id : ID_FROM_SAMPLED + row;
      }
    }
    writeTensor(this.#device, this.#tensors.tokenIds, ids);
  }

  #writeGroup(batch: readonly Rectangle[], group: number, count: number): void {
    const { blockSize, blocksPerSequence } = this.limits;
    const { tokensMeta, blockTables } = this.#tensors.groups[group];
    const meta = new Uint32Array(count * 4);
    const blocks = new Uint32Array(batch.length * blocksPerSequence);
    let at = 0;
    batch.forEach(({ tokenIds, start, writeStart, tables }, sequence) => {
      const table = tables[group];
      blocks.set(table, sequence * blocksPerSequence);
      for (let position = start; position < start + tokenIds.length; position++, at++) {
        const slot = table[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
        meta[4 * at] = position;
        meta[4 * at + 1] = position < writeStart ? noSlot : slot;
        meta[4 * at + 2] = sequence;
      }
    });
    writeTensor(this.#device, tokensMeta, meta);
    writeTensor(this.#device, blockTables, blocks);
  }

  #writeSequences(batch: readonly Rectangle[]): void {
    for (const kind of ["causal", "prefix"] as const) {
      const words = new Uint32Array(batch.length * 4);
      batch.forEach(({ prefixLength, start, tokenIds }, index) => {
        const built = builders[kind].build({ prefixLength, contextLength: start + tokenIds.length });
        words.set([built.prefixLength, built.contextLength], index * 4);
      });
      writeTensor(this.#device, this.#tensors.sequences[kind], words);
    }
  }

  /**
   * "all" gives a row a token; "last" gives the last token once for each answer that is sampled from it. Rows of
   * observed prompts come after all of these.
   */
  #writeRows(batch: readonly Rectangle[], count: number): void {
    const logitRows = new Uint32Array(count);
    const settings = new Uint32Array(count * SAMPLE_SETTINGS_WORDS);
    let row = 0;
    let token = 0;
    for (const rectangle of batch) {
      const { logits, sampling, tokenIds } = rectangle;
      for (let index = 0; index < rectangleRows(rectangle); index++, row++) {
        logitRows[row] = token + (logits === "all" ? index : tokenIds.length - 1);
        const wanted = sampling.at(index);
        if (wanted) writeSampleSettings(settings, row, wanted);
      }
      token += tokenIds.length;
    }
    if (count === 0) return;
    logitRows.set(observedTokens(batch), row);
    writeTensor(this.#device, this.#tensors.logitRows, logitRows);
    writeTensor(this.#device, this.#tensors.settings, settings);
  }
}

/** Places in the batch of the tokens whose logits are observed. */
function observedTokens(batch: readonly Rectangle[]): number[] {
  const tokens: number[] = [];
  let first = 0;
  for (const { observed, start, tokenIds } of batch) {
    if (observed?.output === "logits") {
      for (let at = observed.start; at < observed.end; at++) tokens.push(first + at - start);
    }
    first += tokenIds.length;
  }
  return tokens;
}

/** Of each rectangle whose states are summed up: its first such token in the batch, and how many there are. */
function poolRanges(batch: readonly Rectangle[]): Uint32Array {
  const ranges: number[] = [];
  let first = 0;
  for (const { observed, start, tokenIds } of batch) {
    if (observed?.output === "states") {
      ranges.push(first + observed.start - start, observed.end - observed.start);
    }
    first += tokenIds.length;
  }
  return Uint32Array.from(ranges);
}

/** The tokens of each rectangle, which follow each other in the step and in their sequence. */
function queryRuns(batch: readonly Rectangle[]): QueryRun[] {
  let firstToken = 0;
  return batch.map(({ tokenIds: { length: tokens } }, sequence) => {
    const run = { firstToken, tokens, sequence };
    firstToken += tokens;
    return run;
  });
}

function checkCounts(counts: Counts, limits: BatchLimits): void {
  for (const name of ["tokens", "sequences", "rows"] as const) {
    const most = limits[name];
    if (counts[name] > most)
      throw new RangeError(`Cannot run a step of ${counts[name]} ${name}: at most ${most}`);
  }
}

/** A table that is too long would run into the next sequence's, one too short would send tokens to another's block. */
function checkTables({ tables, start, tokenIds }: Rectangle, limits: BatchLimits): void {
  const { blocksPerSequence, blockSize } = limits;
  const tokens = start + tokenIds.length;
  for (const table of tables) {
    if (table.length > blocksPerSequence) {
      throw new RangeError(`Cannot run a sequence of ${table.length} blocks: at most ${blocksPerSequence}`);
    }
    if (table.length * blockSize < tokens) {
      const found = `${table.length} of ${blockSize}`;
      throw new RangeError(
        `Cannot run a sequence of ${tokens} tokens: expected blocks for them, got ${found}`,
      );
    }
  }
}
