/** Ways to break the engine, each of which the simulation must notice. */
import {
  KvManager,
  type KvManagerOptions,
  type PrefixQuery,
  type SequenceKv,
} from "../../src/engine/kv-cache/kv-manager.ts";
import { Scheduler, type SchedulerOptions } from "../../src/engine/scheduler/scheduler.ts";
import type { SchedulerRequest } from "../../src/engine/scheduler/request.ts";
import type { Rectangle, StepPlan } from "../../src/engine/step-plan.ts";
import { rowOfSampled, sampledRow } from "../../src/engine/step-plan.ts";
import type { Faults } from "./simulation.ts";

/** Now and then forgets a block when a sequence is released. */
class LeakyKv extends KvManager {
  #releases = 0;
  override release(kv: SequenceKv): void {
    if (++this.#releases % 3 === 0) kv.tables[0].pop();
    super.release(kv);
  }
}

/** Now and then gives a sequence a block that another one holds. */
class DoubleKv extends KvManager {
  #grown: SequenceKv[] = [];
  override grow(kv: SequenceKv, range: { start: number; end: number }): ReturnType<KvManager["grow"]> {
    const copies = super.grow(kv, range);
    const other = this.#grown.find(({ tables }) => tables !== kv.tables && tables[0][0] > 0);
    if (copies && other && kv.tables[0].length > 1)
      kv.tables[0][kv.tables[0].length - 1] = other.tables[0][0];
    this.#grown.push(kv);
    return copies;
  }
}

/** Takes all tenants for one. */
class SaltlessKv extends KvManager {
  override adopt(kv: SequenceKv, query: PrefixQuery): ReturnType<KvManager["adopt"]> {
    return super.adopt(kv, { ...query, salt: "" });
  }
  override commit(kv: SequenceKv, query: PrefixQuery, computed: number): void {
    super.commit(kv, { ...query, salt: "" }, computed);
  }
}

/** Offers a prompt's blocks to others before all of it has run through all passes. */
class HastyKv extends KvManager {
  readonly #blockSize: number;
  constructor(options: KvManagerOptions) {
    super(options);
    this.#blockSize = options.blockSize;
  }
  override commit(kv: SequenceKv, query: PrefixQuery): void {
    super.commit(kv, query, Math.min(query.ids.length, kv.tables[0].length * this.#blockSize));
  }
}

/** Gives back window blocks while the next token still sees them. */
class ForgetfulKv extends KvManager {
  override trim(kv: SequenceKv, computed: number): void {
    super.trim(kv, computed + 2);
  }
}

class DeafScheduler extends Scheduler {
  override cancel(): void {}
}

/** Forgets a cancelled request without giving its blocks back. */
class HoardingScheduler extends Scheduler {
  override cancel(requestId: string): void {
    for (const { request, kv } of this.sequences) if (request.id === requestId) clear(kv);
    super.cancel(requestId);
  }
}

function clear({ tables }: SequenceKv): void {
  for (const table of tables) table.length = 0;
}

/** Never comes to long prompts. */
class UnfairScheduler extends Scheduler {
  override add(request: SchedulerRequest): void {
    super.add(request);
    if (request.promptIds.length > 8) this.pause(request.id);
  }
  override resume(): void {}
}

/** A change of every rectangle that is planned; `runs` tells how often its sequence has started from nothing. */
type RectangleChange = (rectangle: Rectangle, runs: number) => Rectangle;

function tamperRectangles(change: RectangleChange): (plan: StepPlan) => StepPlan {
  const runs = new Map<string, number>();
  const changed = (rectangle: Rectangle, isStart: boolean) => {
    const name = `${rectangle.requestId}/${rectangle.choice}`;
    if (isStart && rectangle.start === 0) runs.set(name, (runs.get(name) ?? 0) + 1);
    return change(rectangle, runs.get(name) ?? 0);
  };
  return (plan) => ({
    ...plan,
    main: plan.main.map((rectangle) => changed(rectangle, true)),
    layered: plan.layered && {
      ...plan.layered,
      rectangle: changed(plan.layered.rectangle, plan.layered.from === 0),
    },
  });
}

const shorterPrefixOnResume: RectangleChange = (rectangle, runs) =>
  runs < 2 ? rectangle : { ...rectangle, prefixLength: Math.max(0, rectangle.prefixLength - 1) };

const bidirectionalReplay: RectangleChange = (rectangle) => {
  const { start, tokenIds, prefixLength } = rectangle;
  const end = start + tokenIds.length;
  return tokenIds.length > 1 && end > prefixLength ? { ...rectangle, prefixLength: end } : rectangle;
};

const restartedCounter: RectangleChange = (rectangle, runs) =>
  runs < 2
    ? rectangle
    : { ...rectangle, sampling: rectangle.sampling.map((row) => ({ ...row, step: row.step % 3 })) };

const wrongRow: RectangleChange = (rectangle) => {
  const other = (id: number) => sampledRow(Math.max(0, (rowOfSampled(id) ?? 0) - 1));
  return {
    ...rectangle,
    tokenIds: rectangle.tokenIds.map((id) => (rowOfSampled(id) === null ? id : other(id))),
  };
};

/** Sequences write into the blocks they share, instead of into copies. */
function writeThrough(): (plan: StepPlan) => StepPlan {
  /** By sequence and block it should have: the block it shares. */
  const shared = new Map<string, number>();
  const keyOf = ({ requestId, choice }: Rectangle, block: number) => `${requestId}/${choice}/${block}`;
  const redirected = (rectangle: Rectangle): Rectangle => {
    const [first, ...others] = rectangle.tables;
    return {
      ...rectangle,
      tables: [first.map((block) => shared.get(keyOf(rectangle, block)) ?? block), ...others],
    };
  };
  return (plan) => {
    for (const { from, to } of plan.copies.filter(({ group }) => group === 0)) {
      const writer = plan.main.find(({ tables }) => tables[0].includes(to));
      if (writer) shared.set(keyOf(writer, to), from);
    }
    return { ...plan, main: plan.main.map(redirected) };
  };
}

/** Runs a layer pass again that has run in the step before. */
function repeatPass(plan: StepPlan): StepPlan {
  const { layered } = plan;
  if (!layered || layered.from === 0) return plan;
  return { ...plan, layered: { ...layered, from: layered.from - 1, to: layered.to - 1 } };
}

export interface PlantedFault {
  name: string;
  /** Fresh parts for one simulation. */
  plant: () => Faults;
  /** What the first failure says. */
  caughtBy: RegExp;
}

const unequal = /alone it is|which nobody wrote|has no block/;
const unaccounted = /Cannot account for KV block/;

export const plantedFaults: readonly PlantedFault[] = [
  { name: "a leaked block", plant: () => kv(LeakyKv), caughtBy: unaccounted },
  {
    name: "a block held by two sequences",
    plant: () => kv(DoubleKv),
    caughtBy: /written twice|Cannot account for KV block/,
  },
  { name: "a cache hit across salts", plant: () => kv(SaltlessKv), caughtBy: unequal },
  { name: "blocks shared before they are written", plant: () => kv(HastyKv), caughtBy: unequal },
  { name: "window blocks given back too early", plant: () => kv(ForgetfulKv), caughtBy: unequal },
  { name: "a missed cancel", plant: () => scheduler(DeafScheduler), caughtBy: /has ended, and is scheduled/ },
  { name: "a cancelled request's blocks", plant: () => scheduler(HoardingScheduler), caughtBy: unaccounted },
  { name: "a long prompt never scheduled", plant: () => scheduler(UnfairScheduler), caughtBy: /starvation/ },
  { name: "a budget overrun", plant: () => ({ makeScheduler: spendthrift }), caughtBy: /budget .* overrun/ },
  { name: "another P on resume", plant: () => rectangles(shorterPrefixOnResume), caughtBy: unequal },
  { name: "a bidirectional replay", plant: () => rectangles(bidirectionalReplay), caughtBy: unequal },
  { name: "random numbers counted anew", plant: () => rectangles(restartedCounter), caughtBy: unequal },
  { name: "another sequence's id fed", plant: () => rectangles(wrongRow), caughtBy: unequal },
  {
    name: "no copy on write",
    plant: () => ({ tamper: writeThrough() }),
    caughtBy: /alone it is|written twice/,
  },
  { name: "copies not run", plant: () => ({ tamper: dropCopies }), caughtBy: unequal },
  {
    name: "a layer pass run twice",
    plant: () => ({ tamper: repeatPass }),
    caughtBy: /out of order|before the last pass/,
  },
];

function dropCopies(plan: StepPlan): StepPlan {
  return { ...plan, copies: [] };
}

function spendthrift(options: SchedulerOptions): Scheduler {
  const { limits } = options;
  return new Scheduler({
    ...options,
    limits: { ...limits, maxBatchedTokens: limits.maxBatchedTokens + 2 },
  });
}

function kv(Kind: new (options: KvManagerOptions) => KvManager): Faults {
  return { makeKv: (options) => new Kind(options) };
}

function scheduler(Kind: new (options: SchedulerOptions) => Scheduler): Faults {
  return { makeScheduler: (options) => new Kind(options) };
}

function rectangles(change: RectangleChange): Faults {
  return { tamper: tamperRectangles(change) };
}
