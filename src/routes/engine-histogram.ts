/** A histogram that the engine keeps, in the words of prom-client, whose own counts what it is shown only. */
import { Gauge, type GaugeConfiguration, type MetricType } from "prom-client";
import type { EngineStats } from "../engine/client.ts";

/** A gauge to prom-client, which writes what `get` returns. */
export class EngineHistogram extends Gauge {
  readonly #name: string;
  #times: EngineStats["queueTimes"] | null = null;

  constructor(configuration: GaugeConfiguration<string>) {
    super(configuration);
    this.#name = configuration.name;
  }

  take(times: EngineStats["queueTimes"]): void {
    this.#times = times;
  }

  override async get() {
    // In its types this is a number; in its texts it is a name.
    const type = "histogram" as unknown as MetricType;
    return { ...(await super.get()), type, values: this.#values() };
  }

  #values() {
    if (this.#times === null) return [];
    const { secondsMax, counts, sumSeconds } = this.#times;
    const bounds: (number | string)[] = [...secondsMax, "+Inf"];
    const buckets = bounds.map((le, index) => this.#value("_bucket", counts[index], { le }));
    const count = counts[secondsMax.length];
    return [...buckets, this.#value("_sum", sumSeconds), this.#value("_count", count)];
  }

  #value(suffix: string, value: number, labels: Record<string, string | number> = {}) {
    return { labels, value, metricName: `${this.#name}${suffix}` };
  }
}
