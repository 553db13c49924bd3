/** Shows long work: bars on a terminal, a line a stage elsewhere. */
import { SingleBar } from "cli-progress";
import type { LoadStage, OnLoadProgress } from "../engine/load-engine.ts";
import type { Environment } from "./environment.ts";

const titles: Record<LoadStage, string> = {
  device: "Device",
  weights: "Weights",
  memory: "KV cache",
  kernels: "Kernels",
};

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

export interface RequestProgress {
  add: (hasFailed: boolean) => void;
  end: () => void;
}

/** Counts requests: a bar on a terminal, a line a tenth of them elsewhere. */
export function requestProgress(all: number, { report, isInteractive }: Environment): RequestProgress {
  let done = 0;
  let failed = 0;
  const bar = isInteractive ? startRequestBar(all) : null;
  const linesMax = 10;
  const add = (hasFailed: boolean): void => {
    done++;
    if (hasFailed) failed++;
    bar?.update(done, { failed });
    const isLineDue = Math.floor((done * linesMax) / all) > Math.floor(((done - 1) * linesMax) / all);
    if (!bar && isLineDue) report(`Requests: ${done} of ${all}${failed > 0 ? `, ${failed} failed` : ""}`);
  };
  return { add, end: () => bar?.stop() };
}

function startRequestBar(all: number): SingleBar {
  const format = "Requests: {bar} {value} of {total}, {failed} failed, {duration_formatted}";
  const bar = new SingleBar({ format, barsize: 30, stream: process.stderr });
  bar.start(all, 0, { failed: 0 });
  return bar;
}
