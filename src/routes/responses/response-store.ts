/**
 * Responses that a client asked to keep (`store: true`), in memory only: of too many, or too large together, the one
 * that was not asked for the longest is forgotten.
 */
import { STORED_RESPONSES_BYTES_MAX, STORED_RESPONSES_MAX } from "../../limits.ts";
import type { Item } from "./items.ts";
import type { ResponseObject } from "./response-object.ts";

export interface StoredResponse {
  response: ResponseObject;
  /** What the request sent, without what it continued; each has an id. */
  input: readonly StoredItem[];
}

export type StoredItem = Item & { id: string };

interface Entry {
  stored: StoredResponse;
  /** Of its JSON text, at two a character. */
  bytes: number;
}

interface OwnedItem {
  item: Item;
  responseId: string;
}

export class ResponseStore {
  readonly #limits: { count: number; bytes: number };
  /** The one asked for the longest ago first. */
  readonly #entries = new Map<string, Entry>();
  readonly #items = new Map<string, OwnedItem>();
  #bytes = 0;

  constructor(limits = { count: STORED_RESPONSES_MAX, bytes: STORED_RESPONSES_BYTES_MAX }) {
    this.#limits = limits;
  }

  put(stored: StoredResponse): void {
    const { id: responseId } = stored.response;
    const bytes = 2 * JSON.stringify(stored).length;
    this.#entries.set(responseId, { stored, bytes });
    this.#bytes += bytes;
    for (const item of itemsOf(stored)) this.#items.set(item.id, { item, responseId });
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.#limits.count && this.#bytes <= this.#limits.bytes) break;
      this.delete(oldest);
    }
  }

  get(id: string): StoredResponse | undefined {
    const entry = this.#entries.get(id);
    if (!entry) return undefined;
    this.#entries.delete(id);
    this.#entries.set(id, entry);
    return entry.stored;
  }

  /** The item of that id in any stored response. */
  item(id: string): Item | undefined {
    const owned = this.#items.get(id);
    if (owned) this.get(owned.responseId);
    return owned?.item;
  }

  /** Whether there was such a response. */
  delete(id: string): boolean {
    const entry = this.#entries.get(id);
    if (!entry) return false;
    this.#entries.delete(id);
    this.#bytes -= entry.bytes;
    for (const item of itemsOf(entry.stored)) {
      // One that was sent again belongs to the later response.
      if (this.#items.get(item.id)?.responseId === id) this.#items.delete(item.id);
    }
    return true;
  }
}

function itemsOf({ input, response }: StoredResponse): StoredItem[] {
  return [...input, ...response.output];
}
