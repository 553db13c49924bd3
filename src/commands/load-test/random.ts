/** Seeded random numbers: the same seed and stream give the same load on every machine and runtime. */

/**
 * The generator sfc32 (Chris Doty-Humphrey, PractRand). `stream` sets apart what is drawn for different ends, so
 * that, say, another request rate leaves the prompts as they are.
 */
export class Random {
  readonly #state: Uint32Array;

  constructor(seed: number, stream: string) {
    const high = Math.floor(seed / 2 ** 32);
    this.#state = Uint32Array.of(seed, high, hash(stream), 1);
    // The first numbers of near seeds are alike.
    for (let round = 0; round < 20; round++) this.#next();
  }

  /** From [0, 1), with 53 random bits. */
  uniform(): number {
    const high = this.#next() >>> 5;
    const low = this.#next() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  /** A whole number from `low` to `high`, both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1));
  }

  /** Mean 0, variance 1 (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Gamma distributed with scale 1: mean and variance are `shape`, which is above 0 (Marsaglia and Tsang, 2000). */
  gamma(shape: number): number {
    if (shape < 1) return this.gamma(shape + 1) * (1 - this.uniform()) ** (1 / shape);
    const d = shape - 1 / 3;
    const c = 1 / Math.sqrt(9 * d);
    for (;;) {
      const normal = this.normal();
      const v = (1 + c * normal) ** 3;
      if (v <= 0) continue;
      const logUniform = Math.log(1 - this.uniform());
      if (logUniform < normal ** 2 / 2 + d - d * v + d * Math.log(v)) return d * v;
    }
  }

  #next(): number {
    const [a, b, c, counter] = this.#state;
    const result = (a + b + counter) >>> 0;
    this.#state[0] = b ^ (b >>> 9);
    this.#state[1] = c + (c << 3);
    this.#state[2] = ((c << 21) | (c >>> 11)) + result;
    this.#state[3] = counter + 1;
    return result;
  }
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  }
  return value >>> 0;
}
