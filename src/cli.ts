#!/usr/bin/env bun
/**
 * The composition root: commands and flags, and the only reader of arguments, environment, clock and randomness.
 * What a command does is in `commands/`.
 */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import process from "node:process";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Command, Option } from "commander";
import packageJson from "../package.json" with { type: "json" };
import { cacheFolder } from "./cache-folder.ts";
import { addBenchCommands } from "./commands/bench-command.ts";
import { exit } from "./commands/exit.ts";
import type { Environment } from "./commands/environment.ts";
import {
  listed,
  nonNegative,
  portNumber,
  positiveInteger,
  positiveIntegers,
  quantizationGroup,
  share,
} from "./commands/flag-values.ts";
import { generate } from "./commands/generate.ts";
import { serve, type ServeOptions } from "./commands/serve.ts";
import { logFormats, logLevels, type LogOptions } from "./commands/server-log.ts";
import { tune } from "./commands/tune.ts";
import { verifyFolder } from "./commands/verify.ts";
import { toolCallStyles } from "./engine/client.ts";
import { CheckpointError, SetupError } from "./engine/errors.ts";
import { defaultEngineOptions, type EngineOptions, kvDtypes, loadFormats } from "./engine/load-engine.ts";
import { orderings } from "./engine/scheduler/roster.ts";
import { weightDtypes } from "./engine/weights/loader.ts";
import { quantizationGroups, quantizations } from "./engine/weights/quantization.ts";
import { gpuChoices } from "./gpu/device/open-device.ts";
import { type ChatSettings, reasoningParsers } from "./routes/services.ts";

const embeddedModel = fileURLToPath(new URL("../models/hrm-text-tiny", import.meta.url));

const environment: Environment = {
  clock: () => performance.timeOrigin + performance.now(),
  sleep: (delayMs, signal) =>
    setTimeout(delayMs, undefined, { signal }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    }),
  newId: () => crypto.randomUUID().replaceAll("-", ""),
  randomSeed: () => crypto.getRandomValues(new BigUint64Array(1))[0],
  write: (text) => process.stdout.write(text),
  report: (line) => process.stderr.write(`${line}\n`),
  isInteractive: process.stderr.isTTY,
  onStop: (stop) => {
    const signals = ["SIGINT", "SIGTERM"] as const;
    // Only once, whichever it is: with the second the process ends as if nobody had listened.
    const stopOnce = () => {
      for (const signal of signals) process.removeListener(signal, stopOnce);
      stop();
    };
    for (const signal of signals) process.on(signal, stopOnce);
  },
};

/** Flags that every command which loads a model has. */
interface EngineFlags {
  model: string;
  gpu: EngineOptions["gpu"];
  dtype: EngineOptions["dtype"];
  quantization: EngineOptions["quantization"];
  quantizationGroup: EngineOptions["quantizationGroup"];
  quantizationCache: string;
  kvCacheDtype: EngineOptions["kvDtype"];
  loadFormat: EngineOptions["loadFormat"];
  maxModelLen?: number;
  blockSize: number;
  maxNumBatchedTokens?: number;
  maxNumSeqs?: number;
  numBlocks?: number;
  gpuMemoryUtilization: number;
  chunkedPrefill: boolean;
  prefixCaching: boolean;
  schedulingPolicy: EngineOptions["ordering"];
  deterministic?: boolean;
  tuning: string;
  trace?: string;
  profile?: boolean;
  gpuChecks?: boolean;
}

function withEngineFlags(command: Command): Command {
  const { quantization } = defaultEngineOptions;
  const { gpu, dtype, kvDtype, loadFormat, blockSize, memoryUtilization, ordering } = defaultEngineOptions;
  return command
    .addOption(
      new Option("--gpu <choice>", "adapter to run on").choices(gpuChoices).default(gpu).env("PRELUDE_GPU"),
    )
    .addOption(
      new Option("--dtype <dtype>", "format of weights on the device").choices(weightDtypes).default(dtype),
    )
    .addOption(
      new Option("--quantization <format>", "round the weights of products to integers")
        .choices(quantizations)
        .default(quantization),
    )
    .option(
      "--quantization-group <weights>",
      `weights of a row that share a scale: ${quantizationGroups.join(" or ")}`,
      quantizationGroup,
      defaultEngineOptions.quantizationGroup,
    )
    .option(
      "--quantization-cache <dir>",
      "keeps quantised weights for the next start; none: nowhere",
      join(cacheFolder(), "quantized"),
    )
    .addOption(
      new Option("--kv-cache-dtype <dtype>", "format of keys and values").choices(kvDtypes).default(kvDtype),
    )
    .addOption(
      new Option("--load-format <format>", "dummy makes random weights")
        .choices(loadFormats)
        .default(loadFormat),
    )
    .option(
      "--max-model-len <tokens>",
      "most tokens of prompt and answer (default: the model's)",
      positiveInteger,
    )
    .option("--block-size <tokens>", "tokens in a KV block", positiveInteger, blockSize)
    .option("--max-num-batched-tokens <tokens>", "work of a step (default: by adapter)", positiveInteger)
    .option("--max-num-seqs <count>", "sequences that run at once (default: by adapter)", positiveInteger)
    .option("--num-blocks <count>", "KV blocks (default: what the device grants)", positiveInteger)
    .option("--gpu-memory-utilization <share>", "of the free memory, for KV blocks", share, memoryUtilization)
    .option("--no-chunked-prefill", "never cut a prompt along its tokens")
    .option("--no-prefix-caching", "compute every prompt anew")
    .addOption(
      new Option("--scheduling-policy <policy>", "who goes first").choices(orderings).default(ordering),
    )
    .option("--deterministic", "the same bits whatever else runs (slower)")
    .addOption(
      new Option(
        "--tuning <file>",
        "choices that prelude tune made; auto: for this adapter; none: the defaults",
      )
        .default("auto")
        .env("PRELUDE_TUNING"),
    )
    .option("--trace <file>", "write a timeline of the engine's steps, in Chrome's trace format")
    .option("--profile", "time every kernel on the GPU and print the totals at the end")
    .option("--gpu-checks", "keep the GPU's validation and bounds checks on (slower)");
}

function engineOptions(flags: EngineFlags): EngineOptions {
  return {
    ...defaultEngineOptions,
    modelDir: modelFolder(flags.model),
    gpu: flags.gpu,
    dtype: flags.dtype,
    quantization: flags.quantization,
    quantizationGroup: flags.quantizationGroup,
    quantizationCache: flags.quantizationCache === "none" ? null : resolve(flags.quantizationCache),
    kvDtype: flags.kvCacheDtype,
    loadFormat: flags.loadFormat,
    maxModelLen: flags.maxModelLen ?? null,
    blockSize: flags.blockSize,
    maxBatchedTokens: flags.maxNumBatchedTokens ?? null,
    maxSequences: flags.maxNumSeqs ?? null,
    numBlocks: flags.numBlocks ?? null,
    memoryUtilization: flags.gpuMemoryUtilization,
    chunkedPrefill: flags.chunkedPrefill,
    prefixCaching: flags.prefixCaching,
    ordering: flags.schedulingPolicy,
    deterministic: flags.deterministic ?? false,
    tuning: flags.tuning === "auto" || flags.tuning === "none" ? flags.tuning : resolve(flags.tuning),
    traceFile: flags.trace === undefined ? null : resolve(flags.trace),
    profile: flags.profile ?? false,
    gpuChecks: flags.gpuChecks ?? false,
  };
}

function modelFolder(path: string): string {
  const dir = resolve(path);
  if (!existsSync(dir))
    throw new SetupError(`Cannot load a model: expected a checkpoint folder, got ${path} (no such folder)`);
  return dir;
}

function modelName(flags: EngineFlags, name?: string): string {
  return name ?? basename(resolve(flags.model));
}

interface ServeFlags extends EngineFlags {
  host: string;
  port: number;
  servedModelName?: string;
  toolCallParser: ChatSettings["toolCallParser"];
  reasoningParser: ChatSettings["reasoningParser"];
  trustRequestChatTemplate?: boolean;
  apiKey?: string[];
  publicModels?: boolean;
  publicHealth: boolean;
  corsOrigin?: string[];
  /** Seconds. */
  drainTimeout: number;
  logFormat: LogOptions["format"];
  logLevel: LogOptions["level"];
  logPrompts?: boolean;
}

function serveOptions(flags: ServeFlags): ServeOptions {
  const { version } = packageJson;
  return {
    engine: engineOptions(flags),
    modelName: modelName(flags, flags.servedModelName),
    host: flags.host,
    port: flags.port,
    chat: {
      trustRequestTemplates: flags.trustRequestChatTemplate ?? false,
      toolCallParser: flags.toolCallParser,
      reasoningParser: flags.reasoningParser,
    },
    access: {
      apiKeys: flags.apiKey ?? [],
      publicModels: flags.publicModels ?? false,
      publicHealth: flags.publicHealth,
      corsOrigins: flags.corsOrigin ?? [],
    },
    about: { version, runtime: runtimeName() },
    log: { format: flags.logFormat, level: flags.logLevel },
    logsPrompts: flags.logPrompts ?? false,
    drainMs: flags.drainTimeout * 1000,
  };
}

/** "Bun 1.4.5", "Deno 2.9.5". */
function runtimeName(): string {
  const { bun, deno } = process.versions as { bun?: string; deno?: string };
  return bun === undefined ? `Deno ${deno}` : `Bun ${bun}`;
}

function program(): Command {
  const root = new Command("prelude")
    .description(packageJson.description)
    .version(packageJson.version)
    .showHelpAfterError("(--help lists commands and flags)");

  withEngineFlags(root.command("serve"))
    .description("serve a model over an OpenAI-compatible API")
    .option("--model <dir>", "checkpoint folder", embeddedModel)
    .option("--served-model-name <name>", "name that requests use (default: the folder's)")
    .option("--host <host>", "address to listen on", "127.0.0.1")
    .option("--port <port>", "port to listen on", portNumber, 8000)
    .addOption(
      new Option(
        "--tool-call-parser <style>",
        "how the model writes calls of tools (auto: by its chat template)",
      )
        .choices(["auto", ...toolCallStyles])
        .default("auto"),
    )
    .addOption(
      new Option(
        "--reasoning-parser <style>",
        "how the model thinks before it answers (auto: by its chat template)",
      )
        .choices(reasoningParsers)
        .default("auto"),
    )
    .option("--trust-request-chat-template", "let requests bring a chat template, a program that runs here")
    .addOption(
      new Option("--api-key <key>", "key that requests must have; may be given several times, or as a list")
        .argParser(listed)
        .env("PRELUDE_API_KEY"),
    )
    .option("--public-models", "answer /v1/models without a key")
    .option("--no-public-health", "ask for a key at /health and /ready too")
    .option("--cors-origin <origin>", "web origin whose pages may call; may be given several times", listed)
    .option("--drain-timeout <seconds>", "time for requests under way when stopping", nonNegative, 30)
    .addOption(
      new Option("--log-format <format>", "lines for people, or JSON").choices(logFormats).default("pretty"),
    )
    .addOption(new Option("--log-level <level>", "least that is logged").choices(logLevels).default("info"))
    .option("--log-prompts", "log the text of every prompt")
    .action((flags: ServeFlags) => serve(serveOptions(flags), environment));

  withEngineFlags(root.command("generate"))
    .description("answer one prompt on the terminal")
    .argument("<prompt>", "what to ask; the model's chat template is applied")
    .option("--model <dir>", "checkpoint folder", embeddedModel)
    .option("--raw", "continue the prompt as it is, without the chat template")
    .option("--max-tokens <count>", "most tokens to generate", positiveInteger, 256)
    .option("--temperature <value>", "0 is greedy (default: the model's)", nonNegative)
    .option("--seed <number>", "seed of the random numbers", positiveInteger)
    .option("--json", "print one JSON object instead of streaming text")
    .action(
      (
        prompt: string,
        flags: EngineFlags & {
          raw?: boolean;
          maxTokens: number;
          temperature?: number;
          seed?: number;
          json?: boolean;
        },
      ) =>
        generate(
          { ...flags, prompt, engine: engineOptions(flags), modelName: modelName(flags) },
          environment,
        ),
    );

  withEngineFlags(root.command("verify"))
    .description("compare a checkpoint's outputs with the reference.json or golden.json in its folder")
    .argument("<dir>", "checkpoint folder")
    .option("--json", "print one JSON object")
    .option("--verbose", "print every case even where there are many")
    .action(
      async (model: string, flags: Omit<EngineFlags, "model"> & { json?: boolean; verbose?: boolean }) => {
        const engine = engineOptions({ ...flags, model });
        const passed = await verifyFolder({ engine, json: flags.json, verbose: flags.verbose }, environment);
        process.exitCode = passed ? 0 : 1;
      },
    );

  const engineFlags = {
    add: (command: Command) =>
      withEngineFlags(command).option(
        "--model <dir>",
        "folder of the checkpoint or its config.json",
        embeddedModel,
      ),
    read: (flags: EngineFlags) => engineOptions(flags),
  };
  withEngineFlags(root.command("tune"))
    .description(
      "measure the kernels' variants for a model's shapes here, and keep the fastest for later starts",
    )
    .option("--model <dir>", "folder of the checkpoint or its config.json", embeddedModel)
    .option(
      "--tokens <counts>",
      "tokens of the steps to tune for: 1,8,512 (default: by adapter)",
      positiveIntegers,
    )
    .option(
      "--context <tokens>",
      "keys behind decoding sequences, together (default: by adapter)",
      positiveInteger,
    )
    .option("--time-limit <seconds>", "begin no shape after so long", positiveInteger, 120)
    .option("--json", "print one JSON object")
    .action(
      (flags: EngineFlags & { tokens?: number[]; context?: number; timeLimit: number; json?: boolean }) =>
        tune(
          {
            engine: engineOptions(flags),
            tokenCounts: flags.tokens,
            context: flags.context,
            timeLimitMs: 1000 * flags.timeLimit,
            json: flags.json,
          },
          environment,
        ),
    );

  addBenchCommands(root, engineFlags, environment, (code) => (process.exitCode = code));
  return root;
}

/** Errors of the setup are for the user to mend and shown as a line; anything else is a bug and keeps its stack. */
function describe(error: unknown): string {
  if (error instanceof SetupError || error instanceof CheckpointError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

try {
  await program().parseAsync();
} catch (error) {
  process.stderr.write(`prelude: ${describe(error)}\n`);
  process.exitCode = 1;
}
await exit(Number(process.exitCode ?? 0));
