/** A pre-norm decoder block: x += attention(norm(x)); x += mlp(norm(x)). Gemma norms the branches' results as well. */
import type { Tensor } from "../../gpu/tensor.ts";
import type { Attention } from "./attention.ts";
import type { ForwardContext } from "./context.ts";
import type { GatedMlp } from "./mlp.ts";
import type { RmsNorm } from "./norm.ts";

export interface DecoderBlockOptions {
  attention: Attention;
  mlp: GatedMlp;
  attentionNorm: RmsNorm;
  mlpNorm: RmsNorm;
  /** Applied to what a branch adds (Gemma's sandwich norms). */
  afterAttentionNorm?: RmsNorm;
  afterMlpNorm?: RmsNorm;
}

/** What a branch works on; x and y may be the same memory if it accumulates. */
export interface BranchIo {
  /** f32 [tokens, hidden] */
  x: Tensor;
  /** Of x, before anything else. */
  norm: RmsNorm;
  /** f32 [tokens, hidden] */
  y: Tensor;
  accumulate: boolean;
}

interface Branch {
  forward(context: ForwardContext, io: BranchIo): void;
}

export class DecoderBlock {
  readonly attention: Attention;
  readonly #options: DecoderBlockOptions;

  constructor(options: DecoderBlockOptions) {
    this.attention = options.attention;
    this.#options = options;
  }

  /** Runs in place on the residual stream x, f32 [tokens, hidden]. */
  forward(context: ForwardContext, x: Tensor): void {
    const { attention, mlp, attentionNorm, mlpNorm, afterAttentionNorm, afterMlpNorm } = this.#options;
    addBranch(context, x, { before: attentionNorm, branch: attention, after: afterAttentionNorm });
    addBranch(context, x, { before: mlpNorm, branch: mlp, after: afterMlpNorm });
  }
}

function addBranch(
  context: ForwardContext,
  x: Tensor,
  { before, branch, after }: { before: RmsNorm; branch: Branch; after: RmsNorm | undefined },
): void {
  const { workspace, tokens } = context;
  if (!after) {
    branch.forward(context, { x, norm: before, y: x, accumulate: true });
    return;
  }
  const result = workspace.tensor("branch", tokens, x.shape[1]);
  branch.forward(context, { x, norm: before, y: result, accumulate: false });
  after.forward(context, { x: result, y: x, accumulate: true });
}
