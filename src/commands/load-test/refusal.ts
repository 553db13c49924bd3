/** What a server's error answer says, in one line, whichever of the known shapes it has. */

/** Longest part of a server's message that is shown. */
const messageCharsMax = 300;

interface ErrorFields {
  message?: unknown;
  param?: unknown;
}

/**
 * One line for an error body: `{"error":{"message","param"}}` (OpenAI, vLLM, llama-server, Ollama), the same without
 * `error` around it (SGLang), a string as the error, FastAPI's `detail`, or text. Names the parameter at fault.
 */
export function describeRefusal(body: unknown): string {
  const error = isObject(body) && "error" in body ? body.error : body;
  if (typeof error === "string") return cut(error);
  if (!isObject(error)) return "no reason given";
  const { message, param } = error as ErrorFields;
  if (typeof message !== "string") return cut(JSON.stringify("detail" in error ? error.detail : error));
  const named = typeof param === "string" && param !== "" ? `refuses the parameter ${param}: ` : "";
  return `${named}${cut(message)}`;
}

/** The same for the text of an answer. */
export function describeErrorText(text: string): string {
  try {
    return describeRefusal(JSON.parse(text));
  } catch {
    return text.trim() === "" ? "no reason given" : cut(text.trim());
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

function cut(text: string): string {
  return text.length > messageCharsMax ? `${text.slice(0, messageCharsMax)}...` : text;
}
