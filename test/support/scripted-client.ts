/**
 * An engine that says what its script says, for tests of the routes: no model, no thread, no time.
 * Its tokens are UTF-16 code units, so a prompt's ids are as many as its characters.
 */
import type {
  EngineClient,
  EngineStats,
  FinishReason,
  GenerationEvent,
  GenerationRequest,
  ModelCard,
  TextCodec,
} from "../../src/engine/client.ts";

export type Script = (request: GenerationRequest, signal: AbortSignal) => AsyncIterable<GenerationEvent>;

export interface Submission {
  request: GenerationRequest;
  signal: AbortSignal;
}

const model: ModelCard = {
  id: "scripted",
  created: 1_700_000_000,
  maxModelLen: 64,
  maxChoices: 1,
  vocabSize: 65_536,
  hiddenSize: 4,
  isPrefixLm: true,
  defaultSampling: { temperature: 0.5, topP: 0.25, topK: 7, minP: 0.125 },
};

const text: TextCodec = {
  encodePrompt: toCodeUnits,
  encodeChat: (messages) => toCodeUnits(messages.map(({ role, content }) => `${role}:${content};`).join("")),
  chatFormat: () => ({ toolCalls: "hermes", thinks: false }),
  decode: (ids) => String.fromCharCode(...ids),
  spell: (id) => `<${String.fromCharCode(id)}>`,
};

/** Of an engine that has done nothing yet. */
export const idleStats: EngineStats = {
  running: 0,
  waiting: 0,
  paused: 0,
  preemptions: 0,
  grammars: { kept: 0, threadLosses: 0 },
  promptTokens: 0,
  generationTokens: 0,
  kvBlocks: [{ used: 0, cached: 0, free: 31, total: 31 }],
  prefixCache: { queryTokens: 0, hitTokens: 0 },
  steps: 0,
  recentSteps: [],
  queueTimes: { secondsMax: [1, 10], counts: [0, 0, 0], sumSeconds: 0 },
  kernels: null,
};

export class ScriptedClient implements EngineClient {
  readonly model: ModelCard;
  text = text;
  readonly adapter = "a script";
  healthy = true;
  engineStats = idleStats;
  /** Everything submitted, in order. */
  readonly submissions: Submission[] = [];
  script: Script;

  constructor(script: Script = say("Hello", " world"), card: Partial<ModelCard> = {}) {
    this.script = script;
    this.model = { ...model, ...card };
  }

  submit(request: GenerationRequest, signal = new AbortController().signal): AsyncIterable<GenerationEvent> {
    this.submissions.push({ request, signal });
    return this.script(request, signal);
  }

  stats(): Promise<EngineStats> {
    return Promise.resolve(this.engineStats);
  }

  async close(): Promise<void> {
    this.healthy = false;
  }
}

/** Says the texts, one event each, and finishes. */
export function say(...texts: string[]): Script {
  return sayThenFinish(texts, "stop");
}

export function sayThenFinish(texts: readonly string[], reason: FinishReason): Script {
  return async function* ({ promptIds, wantsMeanState }) {
    if (wantsMeanState) yield { type: "prompt", cachedTokens: 0, meanState: Float32Array.of(1, 0, 0, 0) };
    yield* texts.map(said);
    const completionTokens = texts.join("").length;
    yield { type: "finish", choice: 0, reason, promptTokens: promptIds.length, completionTokens };
  };
}

/** Says the texts and throws. */
export function sayThenThrow(texts: readonly string[], error: unknown): Script {
  return async function* () {
    yield* texts.map(said);
    throw error;
  };
}

/** Says the texts, then nothing until the request is aborted, which ends the events. */
export function sayThenWait(...texts: string[]): Script {
  return async function* (_request, signal) {
    yield* texts.map(said);
    await aborted(signal);
  };
}

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve());
  });
}

function said(piece: string): GenerationEvent {
  return { type: "text", choice: 0, text: piece, tokenIds: toCodeUnits(piece) };
}

function toCodeUnits(value: string): number[] {
  return Array.from({ length: value.length }, (_, index) => value.charCodeAt(index));
}
