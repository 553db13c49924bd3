/** All kernels, for the contract test and the benchmark. */
import type { KernelSpec } from "../kernel.ts";
import { rmsNormSpec } from "./rms-norm.ts";
import { attentionPrefillSpec } from "./attention-prefill.ts";
import { gemmSpec } from "./gemm.ts";
import { attentionSpec } from "./attention.ts";
import { kvWriteInt8Spec, kvWriteSpec } from "./kv-write.ts";
import { linearSpec } from "./linear.ts";
import { addSharesSpec } from "./add-shares.ts";
import { addSpec } from "./add.ts";
import { attentionDecodeSpec } from "./attention-decode.ts";
import { combineLinearSpec } from "./combine-linear.ts";
import { decodePassSpec } from "./decode-pass.ts";
import { fusedLinearSpec } from "./fused-linear.ts";
import { qkvDecodeSpec } from "./qkv-decode.ts";
import { adjustLogitsSpec } from "./adjust-logits.ts";
import { embeddingSpec } from "./embedding.ts";
import { gatedActivationSpec } from "./gated-activation.ts";
import { maskLogitsSpec } from "./mask-logits.ts";
import { addNormF16Spec, normF16Spec } from "./norm-f16.ts";
import { rendezvousSpec } from "./rendezvous.ts";
import { rotaryKvSpec } from "./rotary-kv.ts";
import { rotarySpec } from "./rotary.ts";
import { sampleSpec } from "./sample.ts";
import { sigmoidGateSpec } from "./sigmoid-gate.ts";
import { sumPoolSpec } from "./sum-pool.ts";

export const kernelSpecs: readonly KernelSpec[] = [
  rmsNormSpec,
  attentionSpec,
  attentionPrefillSpec,
  gemmSpec,
  kvWriteSpec,
  kvWriteInt8Spec,
  linearSpec,
  addSpec,
  addSharesSpec,
  adjustLogitsSpec,
  embeddingSpec,
  gatedActivationSpec,
  maskLogitsSpec,
  normF16Spec,
  addNormF16Spec,
  rotarySpec,
  rotaryKvSpec,
  sampleSpec,
  sigmoidGateSpec,
  sumPoolSpec,
  fusedLinearSpec,
  qkvDecodeSpec,
  attentionDecodeSpec,
  combineLinearSpec,
  decodePassSpec,
  rendezvousSpec,
];
