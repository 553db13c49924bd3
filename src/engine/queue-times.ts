/** How long requests waited for their first step, as a histogram. */

/** Upper bounds of the buckets, in seconds; vLLM's, so that its dashboards fit. */
const secondsMax = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];

export interface TimeHistogram {
  /** Ascending. */
  secondsMax: readonly number[];
  /** How many took at most so long: cumulative, by bound, and of all at the end. */
  counts: readonly number[];
  sumSeconds: number;
}

export class QueueTimes {
  readonly #counts = new Array<number>(secondsMax.length + 1).fill(0);
  #sumSeconds = 0;

  add(milliseconds: number): void {
    const seconds = milliseconds / 1000;
    this.#sumSeconds += seconds;
    this.#counts.forEach((_, index) => {
      if (index === secondsMax.length || seconds <= secondsMax[index]) this.#counts[index]++;
    });
  }

  histogram(): TimeHistogram {
    return { secondsMax, counts: [...this.#counts], sumSeconds: this.#sumSeconds };
  }
}
