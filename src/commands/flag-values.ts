/** The texts of command-line flags as values; what does not parse is commander's to refuse. */
import { InvalidArgumentError } from "commander";
import { type QuantizationGroup, quantizationGroups } from "../engine/weights/quantization.ts";
import type { Objectives } from "./load-test/metrics.ts";

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError("expected a whole number from 1 on.");
  return value;
}

export function nonNegativeInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0 || text.trim() === "")
    throw new InvalidArgumentError("expected a whole number from 0 on.");
  return value;
}

export function portNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > 65535 || text.trim() === "") {
    throw new InvalidArgumentError("expected a port from 0 (any free one) to 65535.");
  }
  return value;
}

/** "a,b" of one flag or of several; nothing may be empty. */
export function listed(text: string, before: string[] = []): string[] {
  const values = text.split(",").map((part) => part.trim());
  if (values.includes("")) throw new InvalidArgumentError("expected values with commas between them.");
  return [...before, ...values];
}

export function nonNegative(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value < Infinity) || text.trim() === "")
    throw new InvalidArgumentError("expected a number from 0 on.");
  return value;
}

/** Above 0; "inf" is `Infinity`. */
export function positiveOrInfinite(text: string): number {
  const value = text === "inf" ? Infinity : Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("expected a number above 0, or inf.");
  return value;
}

/** From 0 to below 1. */
export function properFraction(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value < 1) || text.trim() === "")
    throw new InvalidArgumentError("expected a number from 0 to below 1.");
  return value;
}

/** Above 0 and at most 1. */
export function share(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 1)) throw new InvalidArgumentError("expected a number above 0 and at most 1.");
  return value;
}

/** "1,8,64" */
export function positiveIntegers(text: string): number[] {
  return text.split(",").map(positiveInteger);
}

/** "2048:256" */
export function promptAndBudget(text: string): { prompt: number; budget: number } {
  const [prompt, budget] = fields(text, 2, "prompt:budget");
  return { prompt, budget };
}

/** "256:64:256:128" */
export function closedLoad(text: string) {
  const [requests, concurrency, tokens, outputs] = fields(text, 4, "requests:concurrency:prompt:answer");
  return { requests, concurrency, tokens, outputs };
}

function fields(text: string, count: number, form: string): number[] {
  const parts = text.split(":");
  if (parts.length !== count) throw new InvalidArgumentError(`expected ${form}.`);
  return parts.map(positiveInteger);
}

/** The group sizes that kernels know. */
export function quantizationGroup(text: string): QuantizationGroup {
  const found = quantizationGroups.find((group) => String(group) === text);
  if (found === undefined) throw new InvalidArgumentError(`expected ${quantizationGroups.join(" or ")}.`);
  return found;
}

/** "50,99": numbers from 0 to 100. */
export function percentages(text: string): number[] {
  return text.split(",").map((part) => {
    const value = Number(part);
    if (!(value >= 0 && value <= 100) || part.trim() === "")
      throw new InvalidArgumentError("expected numbers from 0 to 100 with commas between them.");
    return value;
  });
}

const objectiveNames = ["ttft", "tpot", "e2el"] as const;

/** "ttft:200,tpot:50": milliseconds that a good request may take. */
export function objectives(text: string): Objectives {
  const result: Objectives = {};
  for (const part of text.split(",")) {
    const [name, limit = "", ...others] = part.split(":");
    const known = objectiveNames.find((candidate) => candidate === name);
    if (!known || others.length > 0 || !(Number(limit) >= 0) || limit.trim() === "")
      throw new InvalidArgumentError("expected ttft, tpot or e2el with milliseconds: ttft:200,tpot:50.");
    result[known] = Number(limit);
  }
  return result;
}
