/** What a server says while it runs: JSON lines for machines, or a line a request for people. Never a prompt, unless that is wished. */
import { type DestinationStream, type Logger, pino } from "pino";
import type { LogEntry } from "../routes/services.ts";

export const logFormats = ["pretty", "json"] as const;
export const logLevels = ["debug", "info", "warn", "error", "silent"] as const;

export interface LogOptions {
  format: (typeof logFormats)[number];
  level: (typeof logLevels)[number];
}

export interface ServerLog {
  /** A request, an answer, or an error. */
  entry: (entry: LogEntry) => void;
  /** What is to be read whatever the level: how the server starts and ends. */
  notice: (line: string) => void;
}

interface Outlet {
  /** Milliseconds since the epoch. */
  clock: () => number;
  /** A line, without its end. */
  report: (line: string) => void;
}

export function serverLog({ format, level }: LogOptions, { clock, report }: Outlet): ServerLog {
  const lines: DestinationStream = {
    write: (line) => report(format === "json" ? line.trimEnd() : prettyLine(line)),
  };
  const timestamp = () => `,"time":"${new Date(clock()).toISOString()}"`;
  const formatters = { level: (label: string) => ({ level: label }) };
  const logger = pino({ level, base: null, timestamp, formatters }, lines);
  const notices = pino({ base: null, timestamp, formatters }, lines);
  return {
    entry: (entry) => write(logger, entry),
    notice: (line) => (format === "json" ? notices.info(line) : report(line)),
  };
}

/** Probes and scrapes come all day. */
const quietPaths = new Set(["/health", "/ready", "/metrics"]);

function write(logger: Logger, entry: LogEntry): void {
  const { type, ...fields } = entry;
  if (entry.type === "error") {
    logger.error({ requestId: entry.requestId, error: describe(entry.error) }, type);
  } else if (entry.type === "request" && quietPaths.has(entry.path)) {
    logger.debug(fields, type);
  } else {
    logger.info(fields, type);
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** "06:19:57.123 INFO  request requestId=req-1 method=POST status=200" of a line of JSON. */
function prettyLine(json: string): string {
  const { level, time, msg, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const values = Object.entries(fields).map(([name, value]) => `${name}=${prettyValue(value)}`);
  return [String(time).slice(11, 23), String(level).toUpperCase().padEnd(5), String(msg), ...values].join(
    " ",
  );
}

/** Text from outside stays on its line: what is not a plain word is quoted as JSON. */
function prettyValue(value: unknown): string {
  if (typeof value === "number") return String(Math.round(value * 10) / 10);
  if (typeof value === "string" && /^[\w.:/-]+$/.test(value)) return value;
  return JSON.stringify(value);
}
