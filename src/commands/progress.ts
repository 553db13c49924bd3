/** Shows long work: bars on a terminal, a line a stage elsewhere. */
import { SingleBar } from "cli-progress";
import type { LoadStage, OnLoadProgress } from "../engine/load-engine.ts";
import type { Environment } from "./environment.ts";

const titles: Record<LoadStage, string> = { device: "Device", weights: "Weights", memory: "KV cache", kernels: "Kernels" };

/** Reports loading to standard error; call `end` before printing anything else. */
export function loadProgress({ report, isInteractive }: Environment): {
  onProgress: OnLoadProgress;
  end: () => void;
} {
  const bars = new Map<LoadStage, SingleBar>();
  const onProgress: OnLoadProgress = ({ stage, done, all, note }) => {
    if (note) report(`${titles[stage]}: ${note}`);
    if (stage === "device" || stage === "memory" || !isInteractive) return;
    let bar = bars.get(stage);
    if (!bar) {
      bar = startBar(stage, all);
      bars.set(stage, bar);
    }
    bar.update(done);
    if (done >= all) bar.stop();
  };
  return { onProgress, end: () => bars.forEach((bar) => bar.stop()) };
}

function startBar(stage: LoadStage, all: number): SingleBar {
  const isBytes = stage === "weights";
  const format = `${titles[stage]}: {bar} {value} of {total}${isBytes ? " MB" : ""}`;
  const formatValue = (value: number, _options: unknown, type: string) =>
    isBytes && (type === "value" || type === "total") ? (value / 1e6).toFixed(1) : String(value);
  const bar = new SingleBar({ format, formatValue, barsize: 30, stream: process.stderr });
  bar.start(all, 0);
  return bar;
}
