/** What clients have got, and what they should have got. */
import type { KvManager } from "../../src/engine/kv-cache/kv-manager.ts";
import type { SchedulerEvent, SchedulerRequest } from "../../src/engine/scheduler/request.ts";
import type { Sequence } from "../../src/engine/scheduler/sequence.ts";
import type { Scenario } from "./scenario.ts";
import { loneAnswer } from "./toy-model.ts";

interface AnswerAccount {
  ids: number[];
  /** "gone": cancelled or expired. */
  end: "stop" | "length" | "gone" | null;
}

interface Account {
  request: SchedulerRequest;
  answers: AnswerAccount[];
}

export class Ledger {
  readonly #scenario: Scenario;
  readonly #accounts = new Map<string, Account>();
  readonly #paused = new Set<string>();
  /** Tokens that all KV blocks together can hold. */
  readonly #capacity: number;

  constructor(scenario: Scenario, kv: KvManager) {
    const { maxModelLen } = scenario.limits;
    this.#scenario = scenario;
    this.#capacity = 0;
    while (this.#capacity < maxModelLen && kv.canEverHold(this.#capacity + 1)) this.#capacity++;
  }

  get size(): number {
    return this.#accounts.size;
  }

  isAdmissible({ promptIds, answers }: SchedulerRequest): boolean {
    const { maxModelLen, maxSequences } = this.#scenario.limits;
    return promptIds.length + 1 <= Math.min(maxModelLen, this.#capacity) && answers.length <= maxSequences;
  }

  add(request: SchedulerRequest): void {
    this.#accounts.set(request.id, {
      request,
      answers: request.answers.map(() => ({ ids: [], end: null })),
    });
  }

  has(id: string): boolean {
    return this.#accounts.has(id);
  }

  request(id: string): SchedulerRequest {
    return this.#account(id).request;
  }

  hasIds(id: string, choice: number): boolean {
    return (this.#accounts.get(id)?.answers[choice].ids.length ?? 0) > 0;
  }

  /** Nothing more may come, of the request or of one of its answers. What has ended has ended. */
  cancelled(id: string, choice?: number): void {
    const answers = this.#accounts.get(id)?.answers ?? [];
    for (const answer of choice === undefined ? answers : [answers[choice]]) answer.end ??= "gone";
  }

  setPaused(id: string, isPaused: boolean): void {
    if (isPaused) this.#paused.add(id);
    else this.#paused.delete(id);
  }

  /** Requests that could run: they have not ended, and their clients read. */
  runnable(): string[] {
    const isRunnable = ({ request, answers }: Account) =>
      answers.some(({ end }) => end === null) && !this.#paused.has(request.id);
    return [...this.#accounts.values()].filter(isRunnable).map(({ request }) => request.id);
  }

  note(events: readonly SchedulerEvent[]): void {
    for (const event of events) {
      if (event.type === "expired") {
        this.cancelled(event.requestId);
        continue;
      }
      const answer = this.#account(event.requestId).answers[event.choice];
      if (answer.end !== null) throw new Error(`request ${event.requestId} got ${event.type} after its end`);
      if (event.type === "tokens") answer.ids.push(...event.ids);
      else answer.end = event.reason;
    }
  }

  /** What has ended has no sequence any more. */
  checkGone(sequences: readonly Sequence[]): void {
    for (const { request, choice, answerCount } of sequences) {
      const { answers } = this.#account(request.id);
      if (answers.slice(choice, choice + answerCount).every(({ end }) => end !== null))
        throw new Error(`request ${request.id} has ended, and is scheduled still`);
    }
  }

  /** All answers have ended, and are those of the request alone. */
  checkEnd(): void {
    for (const { request, answers } of this.#accounts.values()) {
      answers.forEach((answer, choice) => this.#checkAnswer(request, choice, answer));
    }
  }

  #checkAnswer(request: SchedulerRequest, choice: number, { ids, end }: AnswerAccount): void {
    const name = `answer ${choice} of request ${request.id}`;
    if (end === null) throw new Error(`${name} never ended`);
    const { model, limits } = this.#scenario;
    const tokensMax = Math.min(limits.maxModelLen, this.#capacity + 1) - request.promptIds.length;
    const lone = loneAnswer(model, request, choice, tokensMax);
    const expected = end === "gone" ? lone.ids.slice(0, ids.length) : lone.ids;
    if (ids.join() !== expected.join())
      throw new Error(`${name} is ${ids.join()}, alone it is ${expected.join()}`);
    if (end !== "gone" && end !== lone.reason)
      throw new Error(`${name} ended by ${end}, alone by ${lone.reason}`);
  }

  #account(id: string): Account {
    const account = this.#accounts.get(id);
    if (!account) throw new Error(`request ${id} was never submitted`);
    return account;
  }
}
