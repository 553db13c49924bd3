/** The assistant's answers, each whole. */
import type { ToolCall } from "../../engine/client.ts";
import type { NamedLogprobs } from "../token-names.ts";
import type { AssistantAnswers, AssistantEvent, AssistantFinish } from "./conversation.ts";

export interface AssistantMessage {
  text: string;
  reasoning: string;
  toolCalls: readonly ToolCall[];
  /** Empty unless the request asked for log-probabilities. */
  tokens: readonly NamedLogprobs[];
  finish: AssistantFinish;
}

/** All answers at once, in order. Throws what the events throw. */
export async function collectMessages({
  events,
  choiceCount,
}: AssistantAnswers): Promise<AssistantMessage[]> {
  const drafts = Array.from({ length: choiceCount }, newDraft);
  const finishes: AssistantFinish[] = [];
  for await (const event of events) {
    if (event.type === "finish") finishes[event.choice] = event;
    else add(event, drafts[event.choice]);
  }
  return drafts.map((draft, choice) => ({ ...draft, finish: finishes[choice] }));
}

type Draft = ReturnType<typeof newDraft>;

function newDraft() {
  return { text: "", reasoning: "", toolCalls: [] as ToolCall[], tokens: [] as NamedLogprobs[] };
}

function add(event: Exclude<AssistantEvent, AssistantFinish>, draft: Draft): void {
  switch (event.type) {
    case "text":
    case "reasoning":
      draft[event.type] += event.text;
      draft.tokens.push(...event.tokens);
      return;
    case "tool-call":
      draft.toolCalls[event.index] = { id: event.id, name: event.name, arguments: "" };
      return;
    case "tool-arguments":
      draft.toolCalls[event.index].arguments += event.text;
  }
}
