/** A pre-norm decoder block: x += attention(norm(x)); x += mlp(norm(x)). Gemma norms the branches' results as well. */
import type { Tensor } from "../../gpu/tensor.ts";
import type { Attention } from "./attention.ts";
import type { ForwardContext } from "./context.ts";
import { forwardInOne } from "./decode-pass.ts";
import type { GatedMlp } from "./mlp.ts";
import type { RmsNorm } from "./norm.ts";
import type { ResidualStream } from "./residual-stream.ts";

export interface DecoderBlockOptions {
  attention: Attention;
  mlp: GatedMlp;
  attentionNorm: RmsNorm;
  mlpNorm: RmsNorm;
  /** Applied to what a branch adds (Gemma's sandwich norms). */
  afterAttentionNorm?: RmsNorm;
  afterMlpNorm?: RmsNorm;
}

/** What a branch works on: y = branch(norm(x)), or y += where y is the stream itself. */
export interface BranchIo {
  x: ResidualStream;
  norm: RmsNorm;
  /** f32 [tokens, hidden] */
  y: Tensor | ResidualStream;
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

  /** Runs on the context's residual stream. */
  forward(context: ForwardContext): void {
    if (forwardInOne(context, this.#options)) return;
    const { attention, mlp, attentionNorm, mlpNorm, afterAttentionNorm, afterMlpNorm } = this.#options;
    addBranch(context, { before: attentionNorm, branch: attention, after: afterAttentionNorm });
    addBranch(context, { before: mlpNorm, branch: mlp, after: afterMlpNorm });
  }
}

function addBranch(
  context: ForwardContext,
  { before, branch, after }: { before: RmsNorm; branch: Branch; after: RmsNorm | undefined },
): void {
  const { workspace, tokens, stream } = context;
  if (!after) {
    branch.forward(context, { x: stream, norm: before, y: stream });
    return;
  }
  const result = workspace.tensor("branch", tokens, stream.shape[1]);
  branch.forward(context, { x: stream, norm: before, y: result });
  after.forward(context, { x: result, y: stream.whole(context), accumulate: true });
}
