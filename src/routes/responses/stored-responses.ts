/** `/v1/responses/{id}` and its `input_items`: what was stored, read and deleted. */
import type { Hono } from "hono";
import { z } from "zod";
import { NAME_CHARS_MAX, LISTED_ITEMS_DEFAULT, LISTED_ITEMS_MAX } from "../../limits.ts";
import { HttpError, quote } from "../errors.ts";
import type { AppEnv } from "../services.ts";
import { integerBetween, object, refusal, stringUpTo, validate } from "../validation.ts";
import type { ResponseStore, StoredItem, StoredResponse } from "./response-store.ts";

const noQuery = object({});

const listQuery = object({
  limit: z.preprocess(toNumber, integerBetween(1, LISTED_ITEMS_MAX)).default(LISTED_ITEMS_DEFAULT),
  order: z.enum(["asc", "desc"], { error: '"asc" or "desc"' }).default("desc"),
  after: stringUpTo(NAME_CHARS_MAX).optional(),
});

function toNumber(value: unknown): unknown {
  return typeof value === "string" && value !== "" ? Number(value) : value;
}

export function addStoredResponses(app: Hono<AppEnv>, store: ResponseStore): void {
  app.get("/v1/responses/:id", (c) => {
    validate(noQuery, c.req.query());
    return c.json(stored(store, c.req.param("id")).response);
  });
  app.delete("/v1/responses/:id", (c) => {
    const id = c.req.param("id");
    if (!store.delete(id)) throw notFound(id);
    return c.json({ id, object: "response", deleted: true });
  });
  app.get("/v1/responses/:id/input_items", (c) => {
    const query = validate(listQuery, c.req.query());
    return c.json(toPage(stored(store, c.req.param("id")).input, query));
  });
}

function stored(store: ResponseStore, id: string): StoredResponse {
  const found = store.get(id);
  if (!found) throw notFound(id);
  return found;
}

function notFound(id: string): HttpError {
  const message = `Cannot find response ${quote(id)}: expected one with store: true, got one that is not kept`;
  return new HttpError(404, message, { code: "response_not_found" });
}

/** Newest first unless asked otherwise, from behind the item `after`. */
function toPage(input: readonly StoredItem[], { limit, order, after }: z.output<typeof listQuery>): object {
  const items = order === "asc" ? input : input.toReversed();
  const start = after === undefined ? 0 : items.findIndex(({ id }) => id === after) + 1;
  if (after !== undefined && start === 0) {
    throw refusal("after", `expected the id of an input item, got ${quote(after)}`);
  }
  const data = items.slice(start, start + limit);
  const [first_id, last_id] = [data.at(0)?.id ?? null, data.at(-1)?.id ?? null];
  return { object: "list", data, first_id, last_id, has_more: start + limit < items.length };
}
