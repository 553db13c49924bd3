/** The sampler in float64, by sorting: what wgsl/sample.wgsl must agree with wherever float32 can decide. */
import type { SampleSettings } from "../../src/gpu/kernels/sample.ts";

const rotations = [13, 15, 26, 6, 17, 29, 16, 24];

/** Threefry-2x32-20 of Random123, round by round. */
export function threefry(key: [number, number], counter: [number, number]): [number, number] {
  const schedule = [key[0], key[1], 0x1bd11bda ^ key[0] ^ key[1]];
  let [a, b] = [(counter[0] + key[0]) | 0, (counter[1] + key[1]) | 0];
  for (let round = 0; round < 20; round++) {
    const bits = rotations[round % 8];
    a = (a + b) | 0;
    b = ((b << bits) | (b >>> (32 - bits))) ^ a;
    if (round % 4 === 3) {
      const turn = (round + 1) / 4;
      a = (a + schedule[turn % 3]) | 0;
      b = (b + schedule[(turn + 1) % 3] + turn) | 0;
    }
  }
  return [a >>> 0, b >>> 0];
}

/** The Gumbel term of a token: -log(-log(1 - u)), u of the 64 bits at counter (step, token). */
export function gumbel(seed: bigint, step: number, token: number): number {
  const key: [number, number] = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  const [high, low] = threefry(key, [step, token]);
  const u = (high + (low + 0.5) / 2 ** 32) / 2 ** 32;
  return -Math.log(-Math.log1p(-u));
}

export interface Choice {
  token: number;
  /** False where rounding to float32 may choose another token. */
  clear: boolean;
}

/** Scores nearer than this, or shares of probability nearer to a limit, are not told apart in float32. */
const scoreSlack = 1e-4;
const shareSlack = 1e-5;

export function sampleReference(logits: Float32Array, settings: SampleSettings): Choice {
  if (settings.temperature === 0) return { token: argMax(logits), clear: true };
  const strict = winner(logits, settings, 1 - shareSlack);
  const loose = winner(logits, settings, 1 + shareSlack);
  return { token: strict.token, clear: strict.token === loose.token && strict.clear && loose.clear };
}

function argMax(logits: Float32Array): number {
  let best = 0;
  logits.forEach((logit, token) => {
    if (logit > logits[best] || (Number.isNaN(logits[best]) && !Number.isNaN(logit))) best = token;
  });
  return best;
}

function winner(logits: Float32Array, settings: SampleSettings, slack: number): Choice {
  const scores = [...kept(logits, settings, slack)].map(([token, z]) => ({
    token,
    score: z + gumbel(settings.seed, settings.step, token),
  }));
  scores.sort((a, b) => b.score - a.score || a.token - b.token);
  const clear = scores.length === 1 || scores[0].score - scores[1].score > scoreSlack;
  return { token: scores[0].token, clear };
}

/** Token and z = log(p / p of the best) of those that pass the filters, with the limits of p moved by `slack`. */
export function kept(logits: Float32Array, settings: SampleSettings, slack = 1): Map<number, number> {
  const best = logits[argMax(logits)];
  const temperature = Math.fround(settings.temperature);
  let tokens = [...logits.keys()]
    .filter((token) => !Number.isNaN(logits[token]))
    .sort((a, b) => logits[b] - logits[a]);
  const z = (token: number) => (logits[token] - best) / temperature;
  const p = (token: number) => Math.exp(z(token));
  const least = Math.min(1, Math.fround(settings.minP) * slack);
  if (least > 0) tokens = tokens.filter((token) => p(token) >= least);
  const kth = logits[tokens[Math.min(settings.topK, tokens.length) - 1]];
  if (settings.topK > 0) tokens = tokens.filter((token) => logits[token] >= kth);
  if (settings.topP < 1) tokens = nucleus(tokens, p, logits, Math.fround(settings.topP) * slack);
  return new Map(tokens.map((token) => [token, z(token)]));
}

function nucleus(
  tokens: number[],
  p: (token: number) => number,
  logits: Float32Array,
  share: number,
): number[] {
  const total = tokens.reduce((sum, token) => sum + p(token), 0);
  let sum = 0;
  const last = tokens.find((token) => (sum += p(token)) >= share * total) ?? tokens[tokens.length - 1];
  return tokens.filter((token) => logits[token] >= logits[last]);
}
