/** A scripted engine behind a socket, for the clients' own libraries. */
import { listen } from "../../src/routes/server.ts";
import type { ChatFormat } from "../../src/engine/client.ts";
import type { LogEntry } from "../../src/routes/services.ts";
import { say, type Script, ScriptedClient } from "../support/scripted-client.ts";
import { setUp } from "./support.ts";

export interface ScriptedServer {
  engine: ScriptedClient;
  baseURL: string;
  log: LogEntry[];
  close(): Promise<void>;
}

export async function serveScripted(format: Partial<ChatFormat> = {}): Promise<ScriptedServer> {
  const engine = new ScriptedClient(say(), { maxModelLen: 8192 });
  engine.text = { ...engine.text, chatFormat: () => ({ toolCalls: "hermes", thinks: true, ...format }) };
  const { app, log } = setUp(engine);
  const server = await listen(app, { host: "127.0.0.1", port: 0 });
  return { engine, baseURL: `${server.url}/v1`, log, close: () => server.close() };
}

export const parisWeather = '{"city":"Paris"}';

/** Thinks and asks for Paris' weather, a few characters at a time; once there is an answer to that, says so. */
export const weatherScript: Script = (request, signal) => {
  const prompt = String.fromCharCode(...request.promptIds);
  const call = `<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": ${parisWeather}}\n</tool_call>`;
  const text = prompt.includes("tool:") ? "It is sunny." : call;
  return say(...(text.match(/[^]{1,5}/g) ?? []))(request, signal);
};
