/** Makes layers out of a checkpoint's tensors by name; shared by all models. */
import { embedding } from "../../gpu/kernels/embedding.ts";
import { createTensor, rowsFrom, type Tensor, writeTensor } from "../../gpu/tensor.ts";
import type { ForwardContext } from "../layers/context.ts";
import { Linear } from "../layers/linear.ts";
import { GatedMlp } from "../layers/mlp.ts";
import { RmsNorm } from "../layers/norm.ts";
import { type FrequencyDtype, rotaryTable } from "../layers/rotary.ts";
import type { ModelConfig, RopeSpec } from "../weights/config.ts";
import type { Part, WeightSource } from "../weights/loader.ts";
import type { MatrixUse } from "../weights/quantization.ts";

export interface ModelBuilderOptions {
  device: GPUDevice;
  loader: WeightSource;
  config: ModelConfig;
  /** Positions to make rotary tables for. */
  maxModelLen: number;
  rotaryFrequencies: FrequencyDtype;
}

export class ModelBuilder {
  readonly config: ModelConfig;
  readonly loader: WeightSource;
  readonly #device: GPUDevice;
  readonly #maxModelLen: number;
  readonly #rotaryFrequencies: FrequencyDtype;
  readonly #rotary = new Map<string, Tensor>();

  constructor({ device, loader, config, maxModelLen, rotaryFrequencies }: ModelBuilderOptions) {
    this.config = config;
    this.loader = loader;
    this.#device = device;
    this.#maxModelLen = maxModelLen;
    this.#rotaryFrequencies = rotaryFrequencies;
  }

  /** A product whose output rows are the parts' rows in order; with `bias` each part has one beside its weight. */
  async linear(parts: readonly Part[], inputs: number, bias = false): Promise<Linear> {
    const named = (suffix: string) => parts.map(({ name, rows }) => ({ name: `${name}.${suffix}`, rows }));
    const weight = await this.loader.matrix(named("weight"), inputs);
    return new Linear(weight, bias ? await this.loader.vector(named("bias")) : undefined);
  }

  async norm(name: string, size: number, weightPlusOne = false): Promise<RmsNorm> {
    const weight = await this.loader.vector([{ name: `${name}.weight`, rows: size }]);
    return new RmsNorm({ eps: this.config.normEps, weight, weightPlusOne });
  }

  /** The norms before a block's two branches, whose weights lie side by side, so that one kernel may do both. */
  async blockNorms(
    names: readonly [string, string],
    size: number,
  ): Promise<{ attentionNorm: RmsNorm; mlpNorm: RmsNorm }> {
    const norm = (weight: Tensor) => new RmsNorm({ eps: this.config.normEps, weight });
    if ((4 * size) % 256 > 0) {
      const [attentionNorm, mlpNorm] = names.map((name) => this.norm(name, size));
      return { attentionNorm: await attentionNorm, mlpNorm: await mlpNorm }; // the second could not be bound by itself
    }
    const both = await this.loader.vector(names.map((name) => ({ name: `${name}.weight`, rows: size })));
    const [first, second] = [0, size].map((at) => ({ ...rowsFrom(both, at), shape: [size], size: 4 * size }));
    return { attentionNorm: norm(first), mlpNorm: norm(second) };
  }

  /** Query, key and value rows of one projection; on disk one tensor (`fused`) or three. */
  projection(prefix: string, fused?: string): Promise<Linear> {
    const { queryHeads, kvHeads, headDim, hiddenSize, qkvBias } = this.config;
    const [queryRows, kvRows] = [queryHeads * headDim, kvHeads * headDim];
    const parts = fused
      ? [{ name: `${prefix}.${fused}`, rows: queryRows + 2 * kvRows }]
      : [
          { name: `${prefix}.q_proj`, rows: queryRows },
          { name: `${prefix}.k_proj`, rows: kvRows },
          { name: `${prefix}.v_proj`, rows: kvRows },
        ];
    return this.linear(parts, hiddenSize, qkvBias);
  }

  /** Gate and up are one tensor on disk (`gate_up_proj`) or two: both are accepted. */
  async mlp(prefix: string): Promise<GatedMlp> {
    const { hiddenSize, intermediateSize, mlpBias, activation } = this.config;
    const fused = this.loader.has(`${prefix}.gate_up_proj.weight`);
    const parts = fused
      ? [{ name: `${prefix}.gate_up_proj`, rows: 2 * intermediateSize }]
      : ["gate_proj", "up_proj"].map((name) => ({ name: `${prefix}.${name}`, rows: intermediateSize }));
    const down = [{ name: `${prefix}.down_proj`, rows: hiddenSize }];
    return new GatedMlp({
      gateUp: await this.linear(parts, hiddenSize, mlpBias),
      down: await this.linear(down, intermediateSize, mlpBias),
      activation,
    });
  }

  /** cos | sin for every position, shared by all layers with the same rotation; undefined for none. */
  rotary(spec: RopeSpec | null): Tensor | undefined {
    if (!spec) return undefined;
    const key = JSON.stringify(spec);
    let table = this.#rotary.get(key);
    if (!table) {
      const shape = [this.#maxModelLen, spec.rotaryDim];
      table = createTensor(this.#device, { name: "rotary", dtype: "f32", shape });
      writeTensor(this.#device, table, rotaryTable(spec, this.#maxModelLen, this.#rotaryFrequencies));
      this.#rotary.set(key, table);
    }
    return table;
  }

  /**
   * The token embedding and the head, which may be the same tensor (on disk under either name). A quantised head has a
   * tensor of its own all the same: it is read whole for every token, of the embedding only a row.
   */
  async vocabulary(): Promise<{ table: Tensor; head: Linear }> {
    const { vocabSize, hiddenSize, tieWordEmbeddings } = this.config;
    const load = (name: string, use: MatrixUse) =>
      this.loader.matrix([{ name, rows: vocabSize }], hiddenSize, use);
    const [embedName, headName] = ["model.embed_tokens.weight", "lm_head.weight"];
    if (!tieWordEmbeddings) {
      return { table: await load(embedName, "table"), head: new Linear(await load(headName, "head")) };
    }
    const name = this.loader.has(embedName) ? embedName : headName;
    const table = await load(name, "table");
    const isShared = this.loader.quantizedAs("head", hiddenSize) === null;
    return { table, head: new Linear(isShared ? table : await load(name, "head")) };
  }
}

/** Writes the scaled embeddings of the step's tokens into y, [tokens, hidden]. */
export function embedTokens(
  context: ForwardContext,
  { table, y, scale }: { table: Tensor; y: Tensor; scale: number },
) {
  const { recorder, traits, step } = context;
  recorder.add(embedding(traits, { ids: step.tokenIds, table, sampled: step.sampled, y, scale }));
}

/** The states of the rows whose logits are wanted, [rows, hidden]. */
export function gatherRows(context: ForwardContext, states: Tensor): Tensor {
  const { recorder, traits, step, rowSpace, rows } = context;
  const y = rowSpace.tensor("row-states", rows, states.shape[1]);
  recorder.add(embedding(traits, { ids: step.logitRows, table: states, sampled: step.sampled, y, scale: 1 }));
  return y;
}
