/** The examples of the documentation: fenced blocks, and which of them is whose answer. */
import { readdirSync, readFileSync } from "node:fs";
import { project } from "../support/shared.ts";

export interface Example {
  /** File and line. */
  place: string;
  kind: "command" | "program";
  /** As it is written, but for comments and line breaks that a shell would not see. */
  source: string;
  /** What is shown as its answer. */
  answer: string | null;
}

interface Block {
  place: string;
  language: string;
  text: string;
  /** It comes right behind the block before. */
  follows: boolean;
}

/** Every page that users read. */
export const pages = [
  "README.md",
  "models/hrm-text-tiny/README.md",
  ...readdirSync(project("docs"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`)
    .sort(),
];

/** All examples of a page. Throws for a block of which nobody knows whether it is one. */
export function examplesOf(page: string): Example[] {
  const examples: Example[] = [];
  for (const block of blocksOf(page)) {
    const last = examples.at(-1);
    if (block.language === "sh") examples.push(...commandsOf(block));
    else if (block.language === "ts") examples.push(programOf(block));
    else if (block.text.startsWith("$ ")) examples.push(transcriptOf(block));
    // A drawing or a tree of folders.
    else if (block.language === "") continue;
    else if (["json", "text"].includes(block.language) && block.follows && last) last.answer = block.text;
    else
      throw new Error(
        `Cannot tell what ${block.place} is: expected sh, ts or an answer, got ${block.language}`,
      );
  }
  return examples;
}

function blocksOf(page: string): Block[] {
  const text = readFileSync(project(page), "utf8");
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(({ 1: language, 2: body, index }) => {
    const before = text.slice(0, index);
    return {
      place: `${page}:${before.split("\n").length}`,
      language,
      text: body.trimEnd(),
      follows: before.endsWith("```\n"),
    };
  });
}

function commandsOf({ place, text }: Block): Example[] {
  const lines = text.replaceAll(/\\\n\s*/g, "").split("\n");
  const sources = lines.map((line) => line.replace(/\s+# .*$/, "").trim()).filter((line) => line !== "");
  return sources.map((source) => ({ place, kind: "command", source, answer: null }));
}

function programOf({ place, text }: Block): Example {
  return { place, kind: "program", source: text, answer: null };
}

/** A command behind a prompt, and what it prints. */
function transcriptOf({ place, text }: Block): Example {
  const [command, ...answer] = text.split("\n");
  return { place, kind: "command", source: command.slice(2), answer: answer.join("\n") };
}
