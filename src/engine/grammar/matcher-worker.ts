// A thread of matchers: xgrammar behind the messages of `protocol.ts`. It may be ended at any time.
import { Matchers } from "./matchers.ts";
import type { FromMatchers, MoveResult, ToMatchers } from "./protocol.ts";
import { loadXGrammar } from "./xgrammar.ts";

const { library, said } = loadXGrammar();
let matchers: Matchers | undefined;

async function handle(message: ToMatchers): Promise<MoveResult[] | null> {
  switch (message.type) {
    case "start":
      matchers = await Matchers.create(library, message.model);
      return [];
    case "compile":
      await matchers?.compile(message.grammar, message.source);
      return [];
    case "move": {
      const results: MoveResult[] = [];
      for (const move of message.moves) if (matchers) results.push(await matchers.move(move));
      return results;
    }
    case "forget":
      matchers?.forget(message.grammar);
      return null;
    case "close":
      matchers?.close(message.matcher);
      return null;
  }
}

function post(message: FromMatchers): void {
  postMessage(message);
}

/** Messages one after the other: some take more than a turn. */
let last = Promise.resolve();

globalThis.addEventListener("message", ({ data }: MessageEvent<ToMatchers>) => {
  last = last.then(async () => {
    try {
      const results = await handle(data);
      if (results) post({ type: "done", results });
    } catch (error) {
      post({ type: "failed", message: reasonOf(said(), error) });
    }
  });
});

/** What the library wrote before it aborted, without the place in its source; the error itself says nothing. */
function reasonOf(lines: readonly string[], error: unknown): string {
  const fatal = lines.findLast((line) => line.includes("FATAL")) ?? lines.at(0) ?? String(error);
  return fatal.replace(/^.*?\.(cc|h):\d+:\s*/s, "");
}
