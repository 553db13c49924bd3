/** The name of a request in headers and in the log. */
import type { Context } from "hono";
import { REQUEST_ID_CHARS_MAX } from "../limits.ts";
import type { AppEnv } from "./services.ts";

/** What can go into a header and a log line as it is. */
export const REQUEST_ID = new RegExp(`^[\\w.:-]{1,${REQUEST_ID_CHARS_MAX}}$`);

export function setRequestId(c: Context<AppEnv>, requestId: string): void {
  c.set("requestId", requestId);
  c.header("x-request-id", requestId);
  // Where Anthropic's clients look for it.
  c.header("request-id", requestId);
}
