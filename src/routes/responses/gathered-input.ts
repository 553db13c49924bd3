/** What a response answers: the items that were sent, behind those of the responses before. */
import { MESSAGES_MAX } from "../../limits.ts";
import { HttpError, quote } from "../errors.ts";
import { refusal } from "../validation.ts";
import type { Item, SentItem } from "./items.ts";
import type { ResponseParameters } from "./parameters.ts";
import type { ResponseStore, StoredItem } from "./response-store.ts";

export interface Gathered {
  /** All of the conversation, from its beginning. */
  items: readonly Item[];
  /** What this request sent of it. */
  sent: readonly StoredItem[];
}

/** Throws for a response or an item that is not stored, or not any more. */
export function gather(asked: ResponseParameters, store: ResponseStore, newId: () => string): Gathered {
  const sent = asked.input.map((item, index) => withId(resolve(item, index, store), newId));
  const items = [...itemsBefore(asked.previous_response_id, store), ...sent];
  if (items.length > MESSAGES_MAX) {
    throw refusal(
      "previous_response_id",
      `expected at most ${MESSAGES_MAX} items together, got ${items.length}`,
    );
  }
  return { items, sent };
}

/** Input and output of the response, behind those of the responses before it. */
function itemsBefore(last: string | undefined, store: ResponseStore): Item[] {
  const turns: Item[][] = [];
  for (let id = last; id !== undefined;) {
    const stored = store.get(id);
    if (!stored) throw notStored(id);
    turns.unshift([...stored.input, ...stored.response.output]);
    id = stored.response.previous_response_id ?? undefined;
  }
  return turns.flat();
}

function notStored(id: string): HttpError {
  const message = `Cannot go on from response ${quote(id)}: expected one with store: true, got one that is not kept`;
  return new HttpError(400, message, { code: "previous_response_not_found", param: "previous_response_id" });
}

function resolve(item: SentItem, index: number, store: ResponseStore): Item {
  if (item.type !== "item_reference") return item;
  const found = store.item(item.id);
  if (found) return found;
  const reason = `expected an item of a response with store: true, or (as clients send it with store: false) the item itself, got ${quote(item.id)}`;
  throw refusal(`input[${index}].id`, reason);
}

const idPrefixes = { message: "msg_", function_call: "fc_", function_call_output: "fco_", reasoning: "rs_" };

function withId(item: Item, newId: () => string): StoredItem {
  return { ...item, id: item.id ?? `${idPrefixes[item.type]}${newId()}` };
}
