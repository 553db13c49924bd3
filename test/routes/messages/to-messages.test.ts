import { describe, expect, test } from "bun:test";
import { messages as schema } from "../../../src/routes/messages/content.ts";
import { toMessages } from "../../../src/routes/messages/to-messages.ts";
import { object, validate } from "../../../src/routes/validation.ts";

function messagesOf(messages: unknown) {
  return toMessages(undefined, validate(object({ messages: schema }), { messages }).messages);
}

const text = (value: string) => ({ type: "text", text: value, cache_control: { type: "ephemeral" } });
const result = (id: string, content: unknown) => ({ type: "tool_result", tool_use_id: id, content });

describe("messages for a template", () => {
  test("strings and text blocks, lines joined; the system prompt first", () => {
    const given = validate(object({ messages: schema }), {
      messages: [{ role: "user", content: [text("a"), text("b")] }],
    });
    expect(
      toMessages(
        [
          { type: "text", text: "be" },
          { type: "text", text: "brief" },
        ],
        given.messages,
      ),
    ).toEqual([
      { role: "system", content: "be\nbrief" },
      { role: "user", content: "a\nb" },
    ]);
  });

  test("thoughts, words and calls of an assistant are one message, results of tools each their own", () => {
    const use = (id: string) => ({ type: "tool_use", id, name: "look", input: { at: id } });
    expect(
      messagesOf([
        { role: "user", content: "look" },
        {
          role: "assistant",
          content: [{ type: "thinking", thinking: "Hm", signature: "" }, text("I look."), use("1"), use("2")],
        },
        {
          role: "user",
          content: [
            result("1", "x"),
            result("2", [text("y"), text("z")]),
            result("3", undefined),
            text("and?"),
          ],
        },
      ]),
    ).toEqual([
      { role: "user", content: "look" },
      {
        role: "assistant",
        content: "I look.",
        reasoning: "Hm",
        toolCalls: ["1", "2"].map((id) => ({ id, name: "look", arguments: JSON.stringify({ at: id }) })),
      },
      { role: "tool", content: "x", toolCallId: "1" },
      { role: "tool", content: "y\nz", toolCallId: "2" },
      { role: "tool", content: "", toolCallId: "3" },
      { role: "user", content: "and?" },
    ]);
  });

  test("messages of one role in a row are one turn", () => {
    const said = (role: string, content: string) => ({ role, content });
    expect(
      messagesOf([said("user", "a"), said("user", "b"), said("assistant", "c"), said("assistant", "d")]),
    ).toEqual([
      { role: "user", content: "a\nb" },
      { role: "assistant", content: "c\nd" },
    ]);
  });
});

describe("content that is not accepted is named", () => {
  const user = (...content: unknown[]) => [{ role: "user", content }];
  test.each([
    ["an image", user(text("a"), { type: "image", source: {} }), "messages[0].content[1].type", "image"],
    ["a document", user({ type: "document", source: {} }), "messages[0].content[0].type", "document"],
    [
      "an image of a tool",
      user(result("1", [{ type: "image" }])),
      "messages[0].content[0].content[0].type",
      "image",
    ],
    ["a call by the user", user({ type: "tool_use" }), "messages[0].content[0].type", "tool_use"],
    [
      "a result by the assistant",
      [{ role: "assistant", content: [result("1", "x")] }],
      "messages[0].content[0].type",
      "tool_result",
    ],
    ["an unknown role", [{ role: "tool", content: "a" }], "messages[0].role", "tool"],
    ["an unknown field", user({ ...text("a"), weight: 1 }), "messages[0].content[0].weight", "unknown"],
    [
      "input that is no object",
      [{ role: "assistant", content: [{ type: "tool_use", id: "1", name: "a", input: "{}" }] }],
      "messages[0].content[0].input",
      "{}",
    ],
    ["no message", [], "messages", "an array of 0"],
  ])("%s", (_name, messages, param, got) => {
    const refused = () => messagesOf(messages);
    expect(refused).toThrow(expect.objectContaining({ name: "InvalidRequestError", param }) as Error);
    expect(refused).toThrow(got);
  });
});
