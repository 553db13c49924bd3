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
  /** JSON text: its size is known, and nobody can change it. */
  text: string;
  itemIds: readonly string[];
}

export class ResponseStore {
  readonly #limits: { count: number; bytes: number };
  /** The one asked for the longest ago first. */
  readonly #entries = new Map<string, Entry>();
  /** From an item to its response. */
  readonly #owners = new Map<string, string>();
  #bytes = 0;

  constructor(limits = { count: STORED_RESPONSES_MAX, bytes: STORED_RESPONSES_BYTES_MAX }) {
    this.#limits = limits;
  }

  put(stored: StoredResponse): void {
    const { response, input } = stored;
    const itemIds = [...input, ...response.output].map(({ id }) => id);
    const entry = { text: JSON.stringify(stored), itemIds };
    this.#entries.set(response.id, entry);
    for (const id of itemIds) this.#owners.set(id, response.id);
    this.#bytes += bytesOf(entry);
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
    return JSON.parse(entry.text) as StoredResponse;
  }

  /** The item of that id in any stored response. */
  item(id: string): Item | undefined {
    const stored = this.get(this.#owners.get(id) ?? "");
    return stored && [...stored.input, ...stored.response.output].find((item) => item.id === id);
  }

  /** Whether there was such a response. */
  delete(id: string): boolean {
    const entry = this.#entries.get(id);
    if (!entry) return false;
    this.#entries.delete(id);
    this.#bytes -= bytesOf(entry);
    // An item that was sent again belongs to the later response.
    for (const item of entry.itemIds) if (this.#owners.get(item) === id) this.#owners.delete(item);
    return true;
  }
}

function bytesOf({ text }: Entry): number {
  return 2 * text.length;
}
