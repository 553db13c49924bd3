/**
 * Runs a checkpoint's cases through the real runner, many sequences a step, and compares with what is expected.
 *
 * The greedy ids are fed, not the engine's own choices, so one wrong id does not hide the rest. At every step the
 * engine's arg max must be the greedy id, unless the two logits are closer than the largest error seen there.
 *
 * Where the right answer is known, the engine's own is wanted as well. Up to the first id that is not the greedy one it
 * has been computed by then; from there on the engine's own ids are fed, over the keys and values of the others.
 */
import { BlockPool } from "../kv-cache/block-pool.ts";
import type { Runner } from "../runner.ts";
import { type Rectangle, rectangleRows } from "../step-plan.ts";
import type { VerifyCase } from "./cases.ts";
import { argMax, judge, type CaseResult, matchAnswer } from "./judge.ts";
import type { Tolerance } from "./tolerance.ts";

/** A case with its place in the KV cache. */
interface Running {
  verifyCase: VerifyCase;
  blocks: number[];
  /** The logits collected with the greedy ids fed, rows of [vocab] each. */
  rows: Float32Array[];
  /** Ids of the engine's own answer. */
  answer: number[];
}

export interface VerifyOptions {
  runner: Pick<Runner, "run" | "limits">;
  /** KV blocks that every group of layers has, the null block included. */
  blockCount: number;
  /** Groups of layers; all get the same blocks. */
  groupCount: number;
  vocabSize: number;
  tolerance: Tolerance;
  /** Of no use where no right answer is known. */
  answers?: AnswerOptions;
  onResult?: (result: CaseResult) => void;
}

export interface AnswerOptions {
  /** Ids that end an answer. */
  stopIds: readonly number[];
  decode: (ids: readonly number[]) => string;
  /** An answer that comes to no end within so many is wrong. */
  tokensMax: number;
}

/** Results in the order of the cases. */
export async function verify(cases: readonly VerifyCase[], options: VerifyOptions): Promise<CaseResult[]> {
  const results: CaseResult[] = [];
  const pool = new BlockPool(options.blockCount);
  let rest = cases;
  while (rest.length > 0) {
    const batch = takeBatch(rest, options, pool);
    rest = rest.slice(batch.length);
    await runBatch(batch, options);
    await finishAnswers(batch, options);
    for (const item of batch) {
      const { verifyCase, rows, blocks } = item;
      const exactMatch = matchAnswer(verifyCase, answerText(item, options));
      const result = { ...judge(verifyCase, rows, options.tolerance), exactMatch };
      results.push(result);
      options.onResult?.(result);
      pool.release(blocks);
    }
  }
  return results;
}

/** As many of the next cases as fit one prefill step; throws if not even the first does. */
function takeBatch(cases: readonly VerifyCase[], options: VerifyOptions, pool: BlockPool): Running[] {
  const { limits } = options.runner;
  const batch: Running[] = [];
  let tokens = 0;
  let rows = 0;
  for (const verifyCase of cases) {
    const { promptIds } = verifyCase;
    tokens += promptIds.length;
    rows += verifyCase.promptLogits ? promptIds.length : 1;
    if (tokens > limits.tokens || rows > limits.rows || batch.length === limits.sequences) break;
    const positions = promptIds.length + answerTokens(verifyCase, options);
    const blocks = pool.allocate(Math.ceil(positions / limits.blockSize));
    if (!blocks) break;
    batch.push({ verifyCase, blocks, rows: [], answer: [] });
  }
  if (batch.length === 0) {
    const { name, promptIds } = cases[0];
    throw new Error(`Cannot run case ${name} of ${promptIds.length} tokens in a step of ${limits.tokens}`);
  }
  return batch;
}

/** Positions behind the prompt: the greedy ids, or whatever the engine may answer itself. */
function answerTokens({ greedyIds, right }: VerifyCase, { answers }: VerifyOptions): number {
  return right && answers ? Math.max(greedyIds.length, answers.tokensMax) : greedyIds.length;
}

/** Feeds the greedy ids and collects the logits. */
async function runBatch(batch: readonly Running[], options: VerifyOptions): Promise<void> {
  const run = async (active: readonly Running[], tokensOf: (verifyCase: VerifyCase) => Tokens) => {
    const rows = await runStep(active, options, ({ verifyCase }) => tokensOf(verifyCase));
    active.forEach((item, index) => item.rows.push(...rows[index]));
  };
  await run(batch, ({ promptIds, promptLogits }) => {
    return { tokenIds: promptIds, start: 0, logits: promptLogits ? "all" : "last" };
  });
  for (let step = 0; ; step++) {
    const active = batch.filter(({ verifyCase }) => step < stepCount(verifyCase));
    if (active.length === 0) return;
    await run(active, ({ promptIds, greedyIds }) => {
      return { tokenIds: [greedyIds[step]], start: promptIds.length + step, logits: "last" };
    });
  }
}

/** Completes the engine's own answers where the right ones are known. */
async function finishAnswers(batch: readonly Running[], options: VerifyOptions): Promise<void> {
  const { answers } = options;
  if (!answers) return;
  let active = batch.filter(({ verifyCase }) => verifyCase.right);
  for (const item of active) item.answer = ownBeginning(item);
  for (;;) {
    active = active.filter(({ answer }) => !hasEnded(answer, answers) && answer.length < answers.tokensMax);
    if (active.length === 0) return;
    const rows = await runStep(active, options, ({ verifyCase, answer }) => {
      const start = verifyCase.promptIds.length + answer.length - 1;
      return { tokenIds: answer.slice(-1), start, logits: "last" };
    });
    active.forEach(({ answer }, index) => answer.push(argMax(rows[index][0])));
  }
}

/** The engine's choices up to the first that is not the greedy id: what stood before each of these was its own. */
function ownBeginning({ verifyCase, rows }: Running): number[] {
  const choices = rows.slice(verifyCase.promptLogits ? verifyCase.promptIds.length - 1 : 0).map(argMax);
  const other = choices.findIndex((id, step) => id !== verifyCase.greedyIds[step]);
  return other === -1 ? choices : choices.slice(0, other + 1);
}

function hasEnded(answer: readonly number[], { stopIds }: AnswerOptions): boolean {
  return answer.length > 0 && stopIds.includes(answer[answer.length - 1]);
}

function answerText({ answer }: Running, { answers }: VerifyOptions): string | null {
  return answers && hasEnded(answer, answers) ? answers.decode(answer.slice(0, -1)) : null;
}

/** Decode steps: the logits after the last greedy id are wanted only where something is known of them. */
function stepCount({ greedyIds, decodeLogits }: VerifyCase): number {
  return decodeLogits ? greedyIds.length : Math.max(0, greedyIds.length - 1);
}

type Tokens = Pick<Rectangle, "tokenIds" | "start" | "logits">;

/** Rows of logits, each [vocab], of each. */
async function runStep(
  running: readonly Running[],
  { runner, vocabSize, groupCount }: VerifyOptions,
  tokensOf: (item: Running) => Tokens,
): Promise<Float32Array[][]> {
  const main = running.map((item, index): Rectangle => {
    const { verifyCase, blocks } = item;
    const tokens = tokensOf(item);
    return {
      requestId: String(index),
      choice: 0,
      ...tokens,
      writeStart: tokens.start,
      prefixLength: verifyCase.prefixLength,
      tables: Array.from({ length: groupCount }, () => blocks),
      sampling: [],
    };
  });
  const logits = await runner.run({ copies: [], main, layered: null }, "logits").logits();
  let row = 0;
  return main.map((rectangle) =>
    Array.from({ length: rectangleRows(rectangle) }, () => logits.slice(row * vocabSize, ++row * vocabSize)),
  );
}
