/** The flags of `prelude bench`. */
import { type Command, Option } from "commander";
import type { EngineOptions } from "../engine/load-engine.ts";
import { benchEngine } from "./bench-engine.ts";
import { benchServe } from "./bench-serve.ts";
import { SetupError } from "../errors.ts";
import type { Environment } from "./environment.ts";
import {
  closedLoad,
  nonNegative,
  nonNegativeInteger,
  objectives,
  positiveIntegers,
  promptAndBudget,
  percentages,
  positiveInteger,
  positiveOrInfinite,
  properFraction,
} from "./flag-values.ts";
import type { CaseOptions } from "./engine-bench/cases.ts";
import type { Endpoint } from "./load-test/client.ts";
import type { Objectives } from "./load-test/metrics.ts";
import type { WorkloadOptions } from "./load-test/workload.ts";

interface BenchServeFlags {
  url: string;
  model?: string;
  endpoint: Endpoint;
  promptFormat?: WorkloadOptions["format"];
  numPrompts: number;
  numWarmups: number;
  requestRate: number;
  burstiness: number;
  maxConcurrency?: number;
  randomInputLen: number;
  randomOutputLen: number;
  randomRangeRatio: number;
  randomPrefixLen: number;
  vocabSize: number;
  seed: number;
  goodput?: Objectives;
  metricPercentiles: number[];
  ignoreEos?: boolean;
  temperature?: number;
  json?: string;
}

export type ExitWith = (code: number) => void;

interface BenchEngineFlags extends Omit<CaseOptions, "batches" | "prompts"> {
  batch: number[];
  prompt: number[];
  json?: boolean;
  record?: string;
}

/** What `bench engine` needs of whoever knows the flags of an engine: adds them, and reads them. */
export interface EngineFlagsOf<Flags> {
  add: (command: Command) => Command;
  read: (flags: Flags) => EngineOptions;
}

/** Adds the group `bench` to `root`. The exit code is 1 when no request was answered. */
export function addBenchCommands<Flags>(
  root: Command,
  { add, read }: EngineFlagsOf<Flags>,
  environment: Environment,
  exitWith: ExitWith,
): void {
  const bench = root.command("bench").description("measure a running server, or the engine alone");
  withCaseFlags(add(bench.command("engine")))
    .description(
      "time decoding and prompts without HTTP, on a checkpoint or, with --load-format dummy, on its config.json",
    )
    .action(({ batch, prompt, context, load, stall, json, record, ...flags }: BenchEngineFlags & Flags) =>
      benchEngine(
        {
          engine: read(flags as Flags),
          cases: { batches: batch, prompts: prompt, context, load, stall },
          json,
          record,
        },
        environment,
      ),
    );
  withServeFlags(bench.command("serve"))
    .description("send a server on this machine a load of random prompts and time its answers, as vLLM does")
    .action(async (flags: BenchServeFlags) => {
      const metrics = await benchServe(toOptions(flags), environment);
      exitWith(metrics && metrics.completed > 0 ? 0 : 1);
    });
}

function withCaseFlags(command: Command): Command {
  return command
    .option("--batch <counts>", "sequences that decode at once: 1,8,64", positiveIntegers, [1, 8])
    .option("--context <tokens>", "tokens behind the decoding sequences, about", positiveInteger, 128)
    .option("--prompt <lengths>", "lengths of lone prompts: 512,2048", positiveIntegers, [])
    .option("--load <load>", "requests:concurrency:prompt:answer, as 256:64:256:128", closedLoad)
    .option(
      "--stall <lengths>",
      "prompt:budget, a long prompt among eight decoding sequences",
      promptAndBudget,
    )
    .option("--json", "print a line of JSON for each result")
    .option("--record <file>", "append these lines to a file");
}

function withServeFlags(command: Command): Command {
  const withTraffic = command
    .option("--url <url>", "base of the API", "http://127.0.0.1:8000")
    .option("--model <name>", "model to ask for (default: the server's first)")
    .addOption(
      new Option("--endpoint <name>", "API to ask").choices(["completions", "chat"]).default("completions"),
    )
    .option("--num-prompts <count>", "requests to send", positiveInteger, 1000)
    .option("--num-warmups <count>", "requests to send before, not measured", nonNegativeInteger, 1)
    .addOption(
      new Option("--request-rate <rate>", "requests a second, or inf: all at once")
        .argParser(positiveOrInfinite)
        .default(Infinity, "inf"),
    )
    .option("--burstiness <factor>", "1: Poisson; below: bursts; above: more even", positiveOrInfinite, 1)
    .option("--max-concurrency <count>", "requests in flight at once (default: no limit)", positiveInteger)
    .option(
      "--goodput <limits>",
      "milliseconds that a good request takes: ttft:200,tpot:50,e2el:1000",
      objectives,
    )
    .option("--metric-percentiles <list>", "percentiles to print", percentages, [99])
    .option("--json <file>", "write all that was measured to a file");
  return withWorkloadFlags(withTraffic);
}

function withWorkloadFlags(command: Command): Command {
  return command
    .option("--random-input-len <tokens>", "tokens of a prompt", nonNegativeInteger, 1024)
    .option("--random-output-len <tokens>", "most tokens of an answer", positiveInteger, 128)
    .option("--random-range-ratio <share>", "lengths vary by this share, below 1", properFraction, 0)
    .option("--random-prefix-len <tokens>", "tokens that all prompts begin with", nonNegativeInteger, 0)
    .addOption(
      new Option(
        "--prompt-format <format>",
        "token ids, or words of about a token (default: ids where possible)",
      ).choices(["ids", "text"]),
    )
    .option("--vocab-size <count>", "token ids are drawn below this", positiveInteger, 8192)
    .option("--seed <number>", "seed of prompts and arrivals", nonNegativeInteger, 0)
    .option("--ignore-eos", "answers go on to their full length")
    .option("--temperature <value>", "0 is greedy (default: the server's)", nonNegative);
}

function toOptions(flags: BenchServeFlags) {
  return {
    ...flags,
    model: flags.model ?? null,
    concurrencyMax: flags.maxConcurrency ?? Infinity,
    ignoreEos: flags.ignoreEos ?? false,
    objectives: flags.goodput ?? {},
    percentages: flags.metricPercentiles,
    workload: toWorkload(flags),
  };
}

function toWorkload(flags: BenchServeFlags): WorkloadOptions {
  if (flags.endpoint === "chat" && flags.promptFormat === "ids") {
    throw new SetupError("Cannot make prompts: expected --prompt-format text for --endpoint chat, got ids");
  }
  return {
    promptCount: flags.numPrompts,
    warmupCount: flags.numWarmups,
    seed: flags.seed,
    format: flags.promptFormat ?? (flags.endpoint === "chat" ? "text" : "ids"),
    vocabSize: flags.vocabSize,
    inputLength: flags.randomInputLen,
    outputLength: flags.randomOutputLen,
    prefixLength: flags.randomPrefixLen,
    rangeRatio: flags.randomRangeRatio,
  };
}
