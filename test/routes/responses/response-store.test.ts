import { describe, expect, test } from "bun:test";
import { ended, type ResponseObject, toHead } from "../../../src/routes/responses/response-object.ts";
import { parameters } from "../../../src/routes/responses/parameters.ts";
import { ResponseStore, type StoredResponse } from "../../../src/routes/responses/response-store.ts";
import { ScriptedClient } from "../../support/scripted-client.ts";

function stored(id: string, chars = 0): StoredResponse {
  const head = toHead(parameters.parse({}), { id, created: 1 }, new ScriptedClient().model);
  const finish = { type: "finish", choice: 0, reason: "stop" } as const;
  const counts = { promptTokens: 1, completionTokens: 1, reasoningTokens: 0 };
  const response: ResponseObject = { ...head, ...ended([], { ...finish, ...counts }, 2) };
  const content = [{ type: "input_text" as const, text: "x".repeat(chars) }];
  return { response, input: [{ id: `msg_${id}`, type: "message", role: "user", content }] };
}

const bytes = 2 * JSON.stringify(stored("a")).length;

describe("ResponseStore", () => {
  test("gives back what was put, until it is deleted", () => {
    const store = new ResponseStore();
    store.put(stored("a", 3));
    expect(store.get("a")).toEqual(stored("a", 3));
    expect(store.item("msg_a")).toEqual(stored("a", 3).input[0]);
    expect([store.get("b"), store.item("msg_b")]).toEqual([undefined, undefined]);
    expect([store.delete("a"), store.delete("a")]).toEqual([true, false]);
    expect([store.get("a"), store.item("msg_a")]).toEqual([undefined, undefined]);
  });

  test("of too many the one that was not asked for the longest is forgotten", () => {
    const store = new ResponseStore({ count: 2, bytes: 1e9 });
    store.put(stored("a"));
    store.put(stored("b"));
    store.get("a");
    store.put(stored("c"));
    expect(["a", "b", "c"].filter((id) => store.get(id))).toEqual(["a", "c"]);
    expect(store.item("msg_b")).toBeUndefined();
  });

  test("what is too large together is forgotten from the oldest on", () => {
    const store = new ResponseStore({ count: 100, bytes: 3 * bytes });
    for (const id of ["a", "b", "c"]) store.put(stored(id));
    store.put(stored("d", 1));
    expect(["a", "b", "c", "d"].filter((id) => store.get(id))).toEqual(["c", "d"]);
    store.delete("c");
    store.put(stored("e"));
    expect(["d", "e"].filter((id) => store.get(id))).toEqual(["d", "e"]);
  });

  test("an item that was sent again belongs to the later response", () => {
    const store = new ResponseStore();
    store.put(stored("a"));
    store.put({ ...stored("b"), input: stored("a").input });
    store.delete("a");
    expect(store.item("msg_a")).toEqual(stored("a").input[0]);
  });
});
