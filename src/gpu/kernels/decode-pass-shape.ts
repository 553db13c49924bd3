/** How the lanes of `decodePass` are shared out, and what of that its shader is told. */
import type { GpuTraits } from "../gpu.ts";
import { groups } from "../kernel.ts";
import type { Dtype } from "../tensor.ts";
import { itemOf } from "./teams.ts";

/** Sizes of a layer's pass. */
export interface PassSizes {
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Rows of gates (if gated), queries, keys and values. */
  qkvRows: number;
  /** Of all four matrices. */
  format: Dtype;
}

/** What may be chosen; the defaults are what was fastest on an H100 (docs/log.md). */
export interface PassChoice {
  /** All of them must run at once. */
  workgroups: number;
  subgroups: number;
  /** Subgroups that take words, stage them and hand them over, too. */
  messengers: number;
  /** Items of a lane in flight. */
  ahead: number;
  /** Keys of a lane in flight. */
  keys: number;
  /** Fewest keys worth a share. */
  shareKeys: number;
  copies: number;
  /** Most shares of a head's keys. */
  splits: number;
}

/** By product: qkv, output, gate_up, down. */
type Each = [qkv: number, output: number, gateUp: number, down: number];

export interface PassShape {
  workgroups: number;
  shareKeys: number;
  /** Words that are handed over, both sets with what is before them. */
  handoffWords: number;
  /** Consts of the shader that follow from all that. */
  consts: Readonly<Record<string, string>>;
}

const subgroupsWanted = 16;
const messengersWanted = 8;
const copiesWanted = 4;
/** Fewest workgroups worth a copy of what they wait for. */
const readersOfCopy = 32;
/** As registers allow: an item of f32 has two loads, one of integers its scale and more inputs. */
const aheadOf: Partial<Record<Dtype, number>> = { f32: 6, i8: 8, i4: 8 };
/** Fewer workgroups would have too much to do each: the shader's loops over it are written out. */
const loadsMax = 128;
const splitsMax = 16;
/** Of inputs of a lane, 16 bytes each: more would not fit its registers. */
const inputVectorsMax = 8;
/** Of inputs of a messenger. */
const eightsMax = 8;
const headerWords = 64;
/** Place of the product whose rows come in pairs. */
const gateUp = 2;

export function defaultChoice({ residentWorkgroups = 1 }: GpuTraits, sizes: PassSizes): PassChoice {
  return {
    workgroups: residentWorkgroups,
    subgroups: subgroupsWanted,
    messengers: messengersWanted,
    ahead: aheadOf[sizes.format] ?? 12,
    keys: 4,
    shareKeys: 64,
    copies: Math.max(1, Math.min(copiesWanted, Math.floor(residentWorkgroups / readersOfCopy))),
    splits: Math.max(1, Math.min(splitsMax, Math.floor(residentWorkgroups / sizes.kvHeads))),
  };
}

/** What a workgroup of a pass takes of the device: its lanes, and most of its memory. */
export function passRoom({ subgroupMaxSize, workgroupBytesMax }: GpuTraits): {
  lanes: number;
  bytes: number;
} {
  return { lanes: subgroupsWanted * subgroupMaxSize, bytes: Math.min(32768, workgroupBytesMax) };
}

/** The shape of a pass on this device, or what it lacks. */
export function passShape(traits: GpuTraits, sizes: PassSizes, choice: PassChoice): PassShape | string {
  const lacking = lackOf(traits, sizes, choice);
  if (lacking) return lacking;
  const teams = teamsOf(traits, sizes, choice);
  if (!teams) return "inputs that teams can share";
  if (Math.max(...teams.loads) > loadsMax) return "more workgroups at once";
  const memory = memoryOf(sizes, teams);
  const bytes = bytesOf(sizes, choice, memory);
  if (bytes > traits.workgroupBytesMax) return `${bytes} bytes of a workgroup's memory`;
  const { hidden, intermediate, heads, kvHeads, headDim, qkvRows, format } = sizes;
  const sumsMax = 4 * groups(Math.max(...teams.sums), 4);
  const numbers = {
    ...memory,
    WORKGROUPS: choice.workgroups,
    SUBGROUP: traits.subgroupMinSize,
    SUBGROUPS: choice.subgroups,
    MESSENGERS: choice.messengers,
    HIDDEN: hidden,
    INTERMEDIATE: intermediate,
    HEADS: heads,
    KV_HEADS: kvHeads,
    HEAD_DIM: headDim,
    QKV_ROWS: qkvRows,
    SPLITS: choice.splits,
    COPIES: choice.copies,
    EIGHTHS: itemOf(format).eighths,
    VECTORS: itemOf(format).vectors,
    AHEAD: choice.ahead,
    KEYS: choice.keys,
    LOADS_MAX: Math.max(...teams.loads),
    ITEMS_MAX: Math.max(...teams.items),
    SUMS_MAX: sumsMax,
    FOLDS: sumsMax / 4,
    ...messengerWords(traits, sizes, choice),
  };
  const { team: TEAM, parts: PARTS, items: ITEMS, rounds: ROUNDS } = teams;
  const words = qkvRows + choice.splits * heads * (2 + headDim) + choice.copies * (hidden + intermediate);
  return {
    workgroups: choice.workgroups,
    shareKeys: choice.shareKeys,
    handoffWords: headerWords + 2 * words,
    consts: { ...mapped(numbers, String), ...mapped({ TEAM, PARTS, ITEMS, ROUNDS }, vec4u) },
  };
}

function mapped<Value>(values: Readonly<Record<string, Value>>, to: (value: Value) => string) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, to(value)]));
}

/** What a messenger has to do, in the shader's terms. */
function messengerWords({ subgroupMinSize }: GpuTraits, sizes: PassSizes, choice: PassChoice) {
  const { heads, kvHeads, headDim } = sizes;
  const lanes = subgroupMinSize * choice.messengers;
  const copies: Each = [1, choice.copies, choice.copies, choice.copies];
  const puts = rowsOf(sizes).map((rows, product) => groups(rows, choice.workgroups) * copies[product]);
  return {
    WORDS_MAX: groups(Math.max(...inputsOf(sizes)), lanes),
    EIGHTS_MAX: groups(Math.max(...inputsOf(sizes)) / 8, lanes),
    PUTS_MAX: groups(Math.max(...puts), lanes),
    HEAD_WORDS: groups((heads / kvHeads + 2) * headDim, lanes),
    SHARE_WORDS: groups((heads / kvHeads) * headDim, lanes),
  };
}

function inputsOf({ hidden, intermediate, heads, headDim }: PassSizes): Each {
  return [hidden, heads * headDim, hidden, intermediate];
}

/** Rows of what a product gives; of gate_up pairs of rows. */
function rowsOf({ hidden, intermediate, qkvRows }: PassSizes): Each {
  return [qkvRows, hidden, intermediate, hidden];
}

function lackOf(traits: GpuTraits, sizes: PassSizes, choice: PassChoice): string | undefined {
  const { heads, kvHeads, headDim, format } = sizes;
  const { subgroupMinSize: subgroup, subgroupMaxSize, workgroupLanesMax } = traits;
  const lanes = subgroup * choice.subgroups;
  const keyLanes = headDim / 8;
  const rowsMin = Math.min(...rowsOf(sizes));
  const needs: Readonly<Record<string, boolean>> = {
    "subgroups of one size": subgroup === subgroupMaxSize,
    [`${lanes} lanes a workgroup`]: lanes <= workgroupLanesMax,
    "a headDim of 8 times a power of two": Number.isInteger(Math.log2(keyLanes)) && keyLanes <= subgroup,
    "query heads of a kv head to divide messengers": choice.messengers % (heads / kvHeads) === 0,
    [`at most ${rowsMin} workgroups`]: choice.workgroups <= rowsMin,
    "copies to divide the messengers": (subgroup * choice.messengers) % choice.copies === 0,
    "more messengers": messengerWords(traits, sizes, choice).EIGHTS_MAX <= eightsMax,
    "inputs of whole items": inputsOf(sizes).every((count) => count % itemInputs(format) === 0),
  };
  return Object.keys(needs).find((what) => !needs[what]);
}

interface TeamsOfAll extends Record<"team" | "parts" | "items" | "rounds" | "sums" | "loads", Each> {
  /** Sets of teams that have rows of their own. */
  sets: Each;
}

function teamsOf(traits: GpuTraits, sizes: PassSizes, choice: PassChoice): TeamsOfAll | undefined {
  const lanes = traits.subgroupMinSize * choice.subgroups;
  const rows = rowsOf(sizes);
  const found = inputsOf(sizes).map((count) => teamsFor(count, lanes, traits.subgroupMinSize, sizes.format));
  const teams = found.filter((team) => team !== undefined);
  if (teams.length < found.length) return undefined;
  const each = (pick: (team: TeamShape, product: number) => number) => teams.map(pick) as Each;
  const sets = each(({ team, parts }) => Math.floor(lanes / team / parts));
  const rounds = each((_, product) => groups(groups(rows[product], choice.workgroups), sets[product]));
  const sums = each((_, product) => rounds[product] * (product === gateUp ? 2 : 1));
  return {
    team: each(({ team }) => team),
    parts: each(({ parts }) => parts),
    items: each(({ items }) => items),
    sets,
    rounds,
    sums,
    loads: each(({ items }, product) => sums[product] * items),
  };
}

/** Sizes of what a workgroup keeps in its memory. */
function memoryOf(sizes: PassSizes, { sums, sets, parts }: TeamsOfAll) {
  const { format } = sizes;
  const inputsMax = Math.max(...inputsOf(sizes));
  const isInteger = format === "i8" || format === "i4";
  return {
    PARTIALS: Math.max(...sums.map((count, product) => count * sets[product] * parts[product])),
    STAGED: inputsMax / 4,
    STEPS: isInteger ? inputsMax / 32 : 1,
  };
}

function bytesOf(
  { heads, kvHeads, headDim }: PassSizes,
  { messengers }: PassChoice,
  { PARTIALS, STAGED, STEPS }: ReturnType<typeof memoryOf>,
): number {
  const ofHeads = (heads / kvHeads + 2 + messengers) * headDim;
  return 4 * (PARTIALS + 3 * messengers + ofHeads) + 16 * STAGED + 8 * STEPS;
}

/** As WGSL has it. */
export function vec4u(values: readonly number[]): string {
  return `vec4u(${values.join(", ")})`;
}

/** Inputs that an item's weights are for. */
function itemInputs(format: Dtype): number {
  return 8 * itemOf(format).eighths;
}

interface TeamShape {
  team: number;
  parts: number;
  items: number;
}

/** As few teams to a row as leave a lane's inputs in its registers, and few lanes without work. */
function teamsFor(inputs: number, lanes: number, subgroup: number, format: Dtype): TeamShape | undefined {
  const itemCount = inputs / itemInputs(format);
  let team = subgroup;
  while (team > 4 && itemCount % team > 0) team /= 2;
  const [units, teams] = [itemCount / team, lanes / team];
  const itemsMax = Math.max(1, inputVectorsMax / itemOf(format).vectors);
  const fitting = Array.from({ length: teams }, (_, i) => i + 1).filter(
    (parts) => Number.isInteger(units / parts) && units / parts <= itemsMax,
  );
  const idle = (parts: number) => teams % parts;
  const parts = fitting.sort((a, b) => idle(a) - idle(b) || a - b).at(0);
  return parts ? { team, parts, items: units / parts } : undefined;
}
