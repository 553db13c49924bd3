/** Where a load goes: a server on this machine, and the model it serves. */
import { SetupError } from "../../errors.ts";
import type { Endpoint } from "./client.ts";
import { open, readText } from "./http.ts";

const paths: Record<Endpoint, string> = { chat: "chat/completions", completions: "completions" };

/** The base of an OpenAI-compatible API, ending in `/v1/`. Throws `SetupError` unless it is on this machine. */
export function parseBaseUrl(text: string): URL {
  const url = URL.parse(text);
  if (url?.protocol !== "http:") {
    throw new SetupError(`Cannot run a load test: expected --url to begin with http://, got "${text}"`);
  }
  if (!isLoopback(url.hostname)) {
    const message = "expected a server on this machine (localhost, 127.0.0.1 or [::1])";
    throw new SetupError(`Cannot run a load test: ${message}, got "${url.hostname}"`);
  }
  const path = url.pathname.replace(/\/+$/, "");
  return new URL(`${path.endsWith("/v1") ? path : `${path}/v1`}/`, url);
}

/** A URL's host is in its canonical form: 127.1 has become 127.0.0.1. */
function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d{1,3}){3}$/.test(hostname);
}

export function endpointUrl(base: URL, endpoint: Endpoint): URL {
  return new URL(paths[endpoint], base);
}

export interface ServedModel {
  id: string;
  /** Tokens of prompt and answer together; null if the server does not tell. */
  maxModelLen: number | null;
}

interface ModelEntry {
  id?: unknown;
  max_model_len?: unknown;
}

/** The model called `name`, or the server's first. Throws `SetupError` if the server cannot be asked or has no such model. */
export async function findModel(base: URL, name: string | null): Promise<ServedModel> {
  const models = await listModels(base);
  const found = name === null ? models[0] : models.find(({ id }) => id === name);
  if (found) {
    const { id, max_model_len: maxModelLen } = found;
    return { id: String(id), maxModelLen: typeof maxModelLen === "number" ? maxModelLen : null };
  }
  const names = models.map(({ id }) => String(id)).join(", ") || "none";
  throw new SetupError(
    `Cannot run a load test: expected the server to have ${name ?? "a model"}, got ${names}`,
  );
}

/** Answers longer than this are no list of models. */
const modelListCharsMax = 1024 * 1024;

async function listModels(base: URL): Promise<ModelEntry[]> {
  const url = new URL("models", base);
  try {
    const message = await open(url);
    const text = await readText(message, modelListCharsMax);
    if (message.statusCode !== 200) throw new Error(`HTTP ${message.statusCode}`);
    const { data } = JSON.parse(text) as { data?: unknown };
    if (!Array.isArray(data)) throw new Error("another kind of answer");
    return data as ModelEntry[];
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    throw new SetupError(`Cannot run a load test: expected a list of models at ${url.href}, got ${found}`, {
      cause: error,
    });
  }
}
