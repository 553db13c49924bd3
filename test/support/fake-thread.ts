/** An engine's thread within the test's own: keeps what it is sent, and says what the test says. */
import type { FromEngine, ReadyInfo, ToEngine } from "../../src/engine/protocol.ts";
import type { StartTimer } from "../../src/engine/timer.ts";

export class FakeThread {
  readonly sent: ToEngine[] = [];
  onmessage: ((event: { data: FromEngine }) => void) | null = null;
  onerror: ((event: ErrorEvent) => void) | null = null;
  isTerminated = false;
  readonly #info: ReadyInfo;

  constructor(info: Partial<ReadyInfo> = {}) {
    this.#info = { adapter: "none", maxModelLen: 32, isPrefixLm: true, maxSequences: 4, ...info };
  }

  /** As what a client takes it for. */
  get worker(): Worker {
    return this as unknown as Worker;
  }

  postMessage(message: ToEngine): void {
    if (this.isTerminated) throw new Error("the thread has ended");
    this.sent.push(message);
    if (message.type === "load") queueMicrotask(() => this.say({ type: "ready", info: this.#info }));
    if (message.type === "close") queueMicrotask(() => this.say({ type: "closed" }));
  }

  say(message: FromEngine): void {
    this.onmessage?.({ data: message });
  }

  terminate(): void {
    this.isTerminated = true;
  }

  /** What was sent about a request, its submission left out. */
  sentOf(id: string): ToEngine[] {
    return this.sent.filter((message) => "id" in message && message.id === id);
  }
}

/** Timers that run out when a test says so. */
export class FakeTimers {
  readonly running = new Map<number, { delayMs: number; callback: () => void }>();
  #count = 0;

  readonly start: StartTimer = (delayMs, callback) => {
    const timer = ++this.#count;
    this.running.set(timer, { delayMs, callback });
    return () => void this.running.delete(timer);
  };

  get delays(): number[] {
    return [...this.running.values()].map(({ delayMs }) => delayMs);
  }

  /** Lets those that run now run out. */
  expire(): void {
    const expired = [...this.running.values()];
    this.running.clear();
    for (const { callback } of expired) callback();
  }
}
