// decode-pass: a layer's pass of one token, x += attention(norm(x)); x += down(act(g) * u) with g | u = gate_up norm(x)
//
// WORKGROUPS workgroups, all of which the device must run at once, stay for the whole pass and hand each other what they
// find: 1. rows of gates | queries | keys | values, 2. shares of attention over a kv head's keys, 3. rows of the output
// projection on the shares' combination, 4. of gates and ups, 5. of down. Each has an even part of every product's rows.
//
// A word that is handed over is its own flag: 0 until it is there (a value of +0 is sent as -0), so that atomics without
// any order suffice, and no fence is needed. Words lie in two sets, used in turns: a pass clears the set of the next.
// Whoever waits gives up after PATIENCE looks and leaves a mark in handoff[1]; results are worthless then.
//
// Some subgroups are messengers, which take words and hand them over, stage inputs and do attention, and ask for a
// product's weights only then. The others ask for the next product's before its inputs are there. Whoever waits for a word
// also waits for all weights that it has asked for: a GPU counts what it waits for in few places. In a product, a team of
// lanes has a part of a row and keeps its inputs in registers; items of 16 bytes of the weights are loaded AHEAD of their
// use. Weights of i8 and i4 are multiplied as in fused-linear; their scales lie behind them in the same binding.
// Bound by memory, and by the latency of five steps.
enable subgroups;
diagnostic(off, subgroup_uniformity); // whole subgroups are messengers, or not
override FORMAT: u32 = 0;        // of the weights: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override KV_FORMAT: u32 = 0;     // of kv: 0 f32, 1 bf16, 2 f16
override NORM: u32 = 1;          // of x: 1 RMS, 2 RMS times w, 3 RMS times 1 + w
override ACT: u32 = 0;           // 0 silu, 1 gelu with the tanh approximation
override GATED: u32 = 0;         // 1: attention's result is multiplied by sigmoid(gate)
override ROTARY_DIM: u32 = 0;
override BLOCK_SIZE: u32 = 1;
override BLOCKS_PER_SEQUENCE: u32 = 1;
override WINDOW: u32 = 0;
override SHARE_KEYS: u32 = 64;   // fewest keys worth a share
override PATIENCE: u32 = 200000; // a tenth of a second on an H100
const HAS_F16: bool = false;
alias Pair = f32; // vec2<f16> where there is f16
const WORKGROUPS: u32 = 1;
const SUBGROUP: u32 = 4;    // lanes
const SUBGROUPS: u32 = 4;   // of a workgroup
const MESSENGERS: u32 = 2;  // of them
const HIDDEN: u32 = 64;
const INTERMEDIATE: u32 = 64;
const HEADS: u32 = 2;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 32;
const QKV_ROWS: u32 = 192;
const SPLITS: u32 = 1;      // most shares of a head's keys
const COPIES: u32 = 1;      // of what all workgroups wait for, so that fewer wait for the same
const EIGHTHS: u32 = 1;     // of an item: 8 weights of f32 (of which it has two loads) or 16 bits, 16 of i8, 32 of i4
const VECTORS: u32 = 2;     // of 16 bytes, which an item's inputs take: 4 of i4
const AHEAD: u32 = 4;       // items of a lane in flight
const KEYS: u32 = 2;        // of a lane in flight
// By product: lanes of a team, teams that share a row, items of a lane, rows of a team (pairs of rows for gate_up).
const TEAM = vec4u(4, 4, 4, 4);
const PARTS = vec4u(1, 1, 1, 1);
const ITEMS = vec4u(2, 2, 2, 2);
const ROUNDS = vec4u(48, 16, 16, 16);
const SCALES_AT = vec4u(0, 0, 0, 0); // in 16 bytes, of i8 and i4
const LOADS_MAX: u32 = 96;   // of a product and lane
const ITEMS_MAX: u32 = 2;
const SUMS_MAX: u32 = 48;    // a multiple of 4
const FOLDS: u32 = 12;       // SUMS_MAX / 4
const PARTIALS: u32 = 192;   // sums of parts of rows
const STAGED: u32 = 16;      // most inputs of a product, in vectors of 16 bytes
const STEPS: u32 = 1;        // of i8 and i4: most inputs of a product, in 32s
// Of a messenger:
const EIGHTS_MAX: u32 = 1;   // eights of a product's inputs
const WORDS_MAX: u32 = 8;    // words of a product's inputs
const PUTS_MAX: u32 = 12;    // words of a product's rows
const HEAD_WORDS: u32 = 8;   // of the queries, key and value of a kv head
const SHARE_WORDS: u32 = 2;  // of a share
const SHARES_AT_ONCE: u32 = 4;
struct Params { eps: f32, scale: f32, soft_cap: f32, positions: u32, blocks: u32, always: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;        // [tokens, hidden]
@group(0) @binding(2) var<storage, read> qkv: array<vec4u>;          // [qkv_rows, hidden]
@group(0) @binding(3) var<storage, read> output: array<vec4u>;       // [hidden, channels]
@group(0) @binding(4) var<storage, read> gate_up: array<vec4u>;      // [gate_up_rows, hidden]
@group(0) @binding(5) var<storage, read> down: array<vec4u>;         // [hidden, intermediate]
@group(0) @binding(6) var<storage, read> norms: array<f32>;          // [norms]
@group(0) @binding(7) var<storage, read> cos_sin: array<f32>;        // [positions, rotary_dim]
@group(0) @binding(8) var<storage, read> tokens_meta: array<vec4u>;  // [tokens, 4]
@group(0) @binding(9) var<storage, read> sequences: array<vec4u>;    // [sequences, 4]
@group(0) @binding(10) var<storage, read> block_tables: array<u32>;  // [sequences, blocks_per_sequence]
@group(0) @binding(11) var<storage, read_write> kv: array<vec4u>;    // [blocks, 2, block_size, kv_channels]
@group(0) @binding(12) var<storage, read_write> handoff: array<atomic<u32>>; // [handoff_words]

const PRODUCTS: u32 = 4;
const QKV: u32 = 0;
const OUTPUT: u32 = 1;
const GATE_UP: u32 = 2;
const DOWN: u32 = 3;
const MESSENGER_LANES: u32 = SUBGROUP * MESSENGERS;
const LANES: u32 = SUBGROUP * SUBGROUPS;
const CHANNELS: u32 = HEADS * HEAD_DIM;
const KV_ROWS: u32 = KV_HEADS * HEAD_DIM;
const QUERY_ROW: u32 = QKV_ROWS - CHANNELS - 2 * KV_ROWS; // gates come before
const KEY_ROW: u32 = QUERY_ROW + CHANNELS;
const VALUE_ROW: u32 = KEY_ROW + KV_ROWS;
const ROWS = vec4u(QKV_ROWS, HIDDEN, INTERMEDIATE, HIDDEN);
const INPUTS = vec4u(HIDDEN, CHANNELS, HIDDEN, INTERMEDIATE);
const WIDTH = vec4u(1, 1, 2, 1); // rows that make an output
const ROW_ITEMS = INPUTS / 8 / EIGHTHS;
const GROUPS = vec4u(LANES) / TEAM / PARTS; // of teams, with rows of their own
const SURE = ROWS / WORKGROUPS / GROUPS; // rounds in which all groups have a row
const SUMS = ROUNDS * WIDTH; // of a lane
const LOADS = SUMS * ITEMS;
const FIRST = vec4u(0, LOADS.x, LOADS.x + LOADS.y, LOADS.x + LOADS.y + LOADS.z); // load of a product, of all
const LOADS_ALL: u32 = FIRST.w + LOADS.w;
const NOWHERE: u32 = 0x0fffffff; // the item of a row that is not the workgroup's: beyond the end, which costs no load

// Where words lie in a set. What a product takes is [copy, i % 8, i / 8].
const STATS: u32 = QKV_ROWS;                           // [head, split]: maximum and sum of weights
const SHARES: u32 = STATS + 2 * HEADS * SPLITS;        // [head, split, d % 8, d / 8]
const STREAM: u32 = SHARES + CHANNELS * SPLITS;
const ACTIVATED: u32 = STREAM + COPIES * HIDDEN;
const SET: u32 = ACTIVATED + COPIES * INTERMEDIATE;
const SETS_AT: u32 = 64;
const COPIES_OF = vec4u(1, COPIES, COPIES, COPIES); // of a row's word; of x only the first is written

// Attention: lanes of a key, query heads of a kv head, keys of the workgroup at a time.
const KEY_LANES: u32 = HEAD_DIM / 8;
const GROUP_HEADS: u32 = HEADS / KV_HEADS;
const HEAD_SUBGROUPS: u32 = MESSENGERS / GROUP_HEADS;
const SUBGROUP_KEYS: u32 = SUBGROUP / KEY_LANES;
const KEYS_AT_ONCE: u32 = HEAD_SUBGROUPS * SUBGROUP_KEYS;
const SLICE: u32 = HEAD_DIM / 4; // vec4f of a head
const LOWEST: f32 = -3e38;

var<workgroup> staged: array<vec4u, STAGED>; // [vector, item]
var<workgroup> steps: array<vec2u, STEPS>; // of 32 inputs, and eight times their sum in steps
var<workgroup> partial: array<f32, PARTIALS>;
var<workgroup> squares: array<f32, MESSENGERS>;
var<workgroup> heads_in: array<vec4f, (GROUP_HEADS + 2) * SLICE>; // queries, key and value
var<workgroup> values: array<vec4f, MESSENGERS * SLICE>;
var<workgroup> stats: array<vec2f, MESSENGERS>; // maximum and sum of weights

// Of a messenger.
var<private> patience: u32 = PATIENCE; // none once somebody has given up
var<private> words_at: u32; // where this pass's set begins
var<private> factor: f32; // of the norm
var<private> residual: array<f32, PUTS_MAX>;
var<private> query: Query;
var<private> cosines: array<f32, HEAD_WORDS>;
var<private> sines: array<f32, HEAD_WORDS>;
var<private> gates: array<f32, SHARE_WORDS>;
var<private> k: array<Words, KEYS>;
var<private> v: array<Words, KEYS>;

/// Eight consecutive elements.
struct Eight { a: vec4f, b: vec4f }

/// An item, or eight keys or values, as stored; all but f32 leave b empty.
struct Words { a: vec4u, b: vec4u }

/// An item and the word that has its scale.
struct Item { words: Words, scale: u32 }

/// An item's inputs; of i8 and i4 their step and eight times their sum in steps.
struct Inputs { vectors: array<vec4u, VECTORS>, step: f32, excess: i32 }

/// Who a lane is.
struct Lane { group: u32, local: u32, member: u32, subgroup: u32, is_messenger: bool }

/// The token, its first and last key, and the shares they are dealt out in.
struct Query { info: vec4u, keys: vec2u, shares: u32, share_size: u32 }

// ---- Handing over -------------------------------------------------------------------------------------------------

fn put(at: u32, value: f32) {
  let bits = bitcast<u32>(value);
  atomicStore(&handoff[at], select(bits, 0x80000000, bits == 0));
}

/// To be called by who has looked `tries` times in vain; true when that is enough.
fn gives_up(tries: u32) -> bool {
  if (tries < patience) { return false; }
  atomicStore(&handoff[1], 1);
  return true;
}

/// First row of a workgroup.
fn begin(rows: u32, group: u32) -> u32 { return group * rows / WORKGROUPS; }

/// Sum over a subgroup.
fn over_subgroup(value: f32) -> f32 {
  var sum = value;
  for (var mask = SUBGROUP / 2; mask > 0; mask /= 2) { sum += subgroupShuffleXor(sum, mask); }
  return sum;
}

// ---- Inputs -------------------------------------------------------------------------------------------------------

/// Puts the eight inputs from 8 i on where teams find them, of i8 and i4 as integers; four neighbours find out a step.
fn put_inputs(i: u32, count: u32, is_there: bool, value: Eight) {
  if (FORMAT < 3) {
    if (is_there) {
      staged[i] = bitcast<vec4u>(value.a);
      staged[count / 8 + i] = bitcast<vec4u>(value.b);
    }
    return;
  }
  // As bits, magnitudes are in order, with infinity and NaN on top, which make a step that is none and so spread.
  let sizes = max(bitcast<vec4u>(value.a) & vec4u(0x7fffffff), bitcast<vec4u>(value.b) & vec4u(0x7fffffff));
  var most = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
  most = max(most, subgroupShuffleXor(most, 1));
  most = max(most, subgroupShuffleXor(most, 2));
  let step = bitcast<f32>(most) / 32639.0; // 127 * 256 + 127
  let inverse = select(1.0 / step, 0.0, step < 1e-30); // its inverse would be no float
  var early = vec4i(round(value.a * inverse));
  var late = vec4i(round(value.b * inverse));
  let pairs = early + late;
  var sum = pairs.x + pairs.y + pairs.z + pairs.w;
  if (FORMAT == 4) {
    sum += subgroupShuffleXor(sum, 1);
    sum += subgroupShuffleXor(sum, 2);
    let even = vec4i(early.xz, late.xz);
    late = vec4i(early.yw, late.yw);
    early = even;
  }
  if (is_there) {
    let high = vec2u(pack4xI8((early + 128) >> vec4u(8)), pack4xI8((late + 128) >> vec4u(8)));
    staged[i % EIGHTHS * (count / 8 / EIGHTHS) + i / EIGHTHS] = vec4u(high, pack4xI8(early), pack4xI8(late));
    if (i % 4 == 0) { steps[i / 4] = vec2u(bitcast<u32>(step), bitcast<u32>(select(0, 8 * sum, FORMAT == 4))); }
  }
}

/// Stages x times the norm's weights; leaves squares of it, before that, by subgroup.
fn stage_x(me: Lane) {
  var square = 0.0;
  for (var n = 0u; n < EIGHTS_MAX; n++) { // unroll
    if (n * MESSENGER_LANES < HIDDEN / 8) {
      let is_there = n * MESSENGER_LANES + me.local < HIDDEN / 8;
      let i = min(n * MESSENGER_LANES + me.local, HIDDEN / 8 - 1);
      var value: array<u32, 8>;
      for (var j = 0u; j < 8; j++) { // unroll
        let found = x[8 * i + j];
        value[j] = bitcast<u32>(found * norm_weight(0, 8 * i + j));
        if (is_there) { square += found * found; }
      }
      put_inputs(i, HIDDEN, is_there, eight(value));
    }
  }
  put_squares(me, square);
}

/// Stages what others hand over from `at` on, times the norm's weights; leaves squares of it, before that, by subgroup.
fn stage(me: Lane, count: u32, at: u32, norm: u32) {
  var words: array<u32, WORDS_MAX>;
  for (var tries = 0u; ; tries++) {
    var least = 0xffffffffu;
    for (var n = 0u; n < WORDS_MAX; n++) { // unroll
      if (n * MESSENGER_LANES < count) {
        words[n] = atomicLoad(&handoff[at + min(n * MESSENGER_LANES + me.local, count - 1)]);
        least = min(least, words[n]);
      }
    }
    if (least > 0 || gives_up(tries)) { break; }
  }
  var square = 0.0;
  for (var n = 0u; n < WORDS_MAX; n++) { // unroll
    if (n * MESSENGER_LANES < count) {
      let i = n * MESSENGER_LANES + me.local;
      if (i < count) {
        let value = bitcast<f32>(words[n]);
        square += value * value;
        let input = bitcast<u32>(value * norm_weight(norm, i));
        if (FORMAT < 3) {
          staged[i / 4 % 2 * (count / 8) + i / 8][i % 4] = input;
        } else {
          staged[i / 4][i % 4] = input;
        }
      }
    }
  }
  if (norm < 2) { put_squares(me, square); }
}

/// Makes staged inputs integers.
fn round_inputs(me: Lane, count: u32) {
  workgroupBarrier();
  var values: array<Eight, EIGHTS_MAX>;
  for (var n = 0u; n < EIGHTS_MAX; n++) { // unroll
    let i = min(n * MESSENGER_LANES + me.local, count / 8 - 1);
    if (me.is_messenger) { values[n] = Eight(bitcast<vec4f>(staged[2 * i]), bitcast<vec4f>(staged[2 * i + 1])); }
  }
  workgroupBarrier();
  if (me.is_messenger) {
    for (var n = 0u; n < EIGHTS_MAX; n++) { // unroll
      if (n * MESSENGER_LANES < count / 8) {
        let i = n * MESSENGER_LANES + me.local;
        put_inputs(min(i, count / 8 - 1), count, i < count / 8, values[n]);
      }
    }
  }
}

fn norm_weight(norm: u32, i: u32) -> f32 {
  if (NORM == 1 || norm == 2) { return 1.0; }
  return norms[norm * HIDDEN + i] + select(0.0, 1.0, NORM == 3);
}

fn put_squares(me: Lane, square: f32) {
  let sum = over_subgroup(square);
  if (me.member == 0) { squares[me.subgroup] = sum; }
}

fn eight(words: array<u32, 8>) -> Eight {
  return Eight(
    bitcast<vec4f>(vec4u(words[0], words[1], words[2], words[3])),
    bitcast<vec4f>(vec4u(words[4], words[5], words[6], words[7])),
  );
}

/// What the norm of the staged inputs multiplies finished sums by.
fn norm_factor() -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < MESSENGERS; i++) { sum += squares[i]; }
  return inverseSqrt(sum / f32(HIDDEN) + params.eps);
}

// ---- Products -----------------------------------------------------------------------------------------------------

fn item_words(p: u32, at: u32) -> Words {
  var i = at;
  if (FORMAT == 0) { i = 2 * at; }
  var words: Words;
  switch p {
    case QKV: {
      words.a = qkv[i];
      if (FORMAT == 0) { words.b = qkv[i + 1]; }
    }
    case OUTPUT: {
      words.a = output[i];
      if (FORMAT == 0) { words.b = output[i + 1]; }
    }
    case GATE_UP: {
      words.a = gate_up[i];
      if (FORMAT == 0) { words.b = gate_up[i + 1]; }
    }
    default: {
      words.a = down[i];
      if (FORMAT == 0) { words.b = down[i + 1]; }
    }
  }
  return words;
}

/// The word that has the scale of an item. Rows are whole groups, so groups are counted through.
fn scale_word(p: u32, at: u32) -> u32 {
  if (FORMAT < 3) { return 0; }
  let word = at * EIGHTHS / GROUP_EIGHTHS / 2;
  let i = SCALES_AT[p] + word / 4;
  switch p {
    case QKV: { return qkv[i][word % 4]; }
    case OUTPUT: { return output[i][word % 4]; }
    case GATE_UP: { return gate_up[i][word % 4]; }
    default: { return down[i][word % 4]; }
  }
}

/// Load `i` of the lane's in product p, as the index of an item: [round, row of an output, item].
fn item_at(p: u32, i: u32, me: Lane) -> u32 {
  let sum = i / ITEMS[p];
  let round = sum / WIDTH[p];
  let team = me.local / TEAM[p];
  let start = begin(ROWS[p], me.group);
  let at = (start + team / PARTS[p]) * ROW_ITEMS[p] + team % PARTS[p] * TEAM[p] + me.local % TEAM[p];
  let offset = (round * GROUPS[p] + sum % WIDTH[p] * ROWS[p]) * ROW_ITEMS[p] + i % ITEMS[p] * PARTS[p] * TEAM[p];
  let row = round * GROUPS[p] + team / PARTS[p];
  return select(at + offset, NOWHERE, round >= SURE[p] && row >= begin(ROWS[p], me.group + 1) - start);
}

/// Load `i` of the lane's in product p.
fn fetched(p: u32, i: u32, me: Lane) -> Item {
  let at = item_at(p, i, me);
  return Item(item_words(p, at), scale_word(p, at));
}

/// The inputs of a lane's c-th item of each row.
fn inputs_of(p: u32, c: u32, me: Lane) -> Inputs {
  let place = (c * PARTS[p] + me.local / TEAM[p] % PARTS[p]) * TEAM[p] + me.local % TEAM[p];
  var inputs: Inputs;
  for (var b = 0u; b < VECTORS; b++) { // unroll
    inputs.vectors[b] = staged[b * ROW_ITEMS[p] + place];
  }
  if (FORMAT > 2) {
    let step = steps[place * EIGHTHS / 4];
    inputs.step = bitcast<f32>(step.x);
    inputs.excess = bitcast<i32>(step.y);
  }
  return inputs;
}

/// Two f16.
fn two_halves(word: u32) -> vec2f {
  if (HAS_F16) { return vec2f(bitcast<Pair>(word)); } // faster on an H100
  return unpack2x16float(word);
}

/// Eight elements of 32 or 16 bits.
fn widened(words: Words, format: u32) -> Eight {
  if (format == 0) { return Eight(bitcast<vec4f>(words.a), bitcast<vec4f>(words.b)); }
  if (format == 1) {
    let even = bitcast<vec4f>(words.a << vec4u(16));
    let odd = bitcast<vec4f>(words.a & vec4u(0xffff0000));
    return Eight(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
  }
  return Eight(
    vec4f(two_halves(words.a.x), two_halves(words.a.y)),
    vec4f(two_halves(words.a.z), two_halves(words.a.w)),
  );
}

/// Item `i` of the lane's in product p times its inputs. An i4 is stored as itself + 8: `excess` is taken off.
fn product(p: u32, i: u32, me: Lane, item: Item, inputs: Inputs) -> f32 {
  let words = item.words;
  let vectors = inputs.vectors;
  if (FORMAT < 3) {
    let w = widened(words, FORMAT);
    return dot(w.a, bitcast<vec4f>(vectors[0])) + dot(w.b, bitcast<vec4f>(vectors[1]));
  }
  var high = 0;
  var low = 0;
  for (var v = 0u; v < VECTORS; v++) { // unroll
    var first = words.a[2 * v % 4];
    var second = words.a[(2 * v + 1) % 4];
    if (FORMAT == 4) {
      first = words.a[v] & 0x0f0f0f0f;
      second = (words.a[v] >> 4) & 0x0f0f0f0f;
    }
    high += dot4I8Packed(first, vectors[v].x) + dot4I8Packed(second, vectors[v].y);
    low += dot4I8Packed(first, vectors[v].z) + dot4I8Packed(second, vectors[v].w);
  }
  let scale = unpack2x16float(item.scale >> (16 * (item_at(p, i, me) * EIGHTHS / GROUP_EIGHTHS % 2))).x;
  return inputs.step * scale * f32(256 * high + low - inputs.excess);
}

/// Sums of four values over a team: value 2 * (upper half of the team) + (upper half of that half) is left in each quarter.
fn folded(four: vec4f, member: u32, team: u32) -> f32 {
  let is_upper = (member & (team / 2)) != 0;
  let two = select(four.xy, four.zw, is_upper) + subgroupShuffleXor(select(four.zw, four.xy, is_upper), team / 2);
  let is_odd = (member & (team / 4)) != 0;
  var one = select(two.x, two.y, is_odd) + subgroupShuffleXor(select(two.y, two.x, is_odd), team / 4);
  for (var mask = team / 8; mask > 0; mask /= 2) { one += subgroupShuffleXor(one, mask); }
  return one;
}

/// Leaves a lane's sums in product p, by round and row of an output, where `row_sum` finds them.
fn put_sums(p: u32, me: Lane, sums: array<vec4f, FOLDS>) {
  let team = me.local / TEAM[p];
  let lane = me.local % TEAM[p];
  let set_of_teams = team / PARTS[p];
  for (var f = 0u; f < FOLDS; f++) { // unroll
    if (4 * f < SUMS[p]) {
      let sum = folded(sums[f], lane, TEAM[p]);
      let index = 4 * f + lane / (TEAM[p] / 4);
      if (lane % (TEAM[p] / 4) == 0 && index < SUMS[p] && set_of_teams < GROUPS[p]) {
        partial[(index * GROUPS[p] + set_of_teams) * PARTS[p] + team % PARTS[p]] = sum;
      }
    }
  }
}

/// Sum of a workgroup's row in product p; of gate_up `up` tells which of the two.
fn row_sum(p: u32, row: u32, up: u32) -> f32 {
  let first = ((row / GROUPS[p] * WIDTH[p] + up) * GROUPS[p] + row % GROUPS[p]) * PARTS[p];
  var sum = 0.0;
  for (var i = 0u; i < PARTS[p]; i++) { sum += partial[first + i]; }
  return sum;
}

fn activated(gate: f32) -> f32 {
  var z = gate;
  if (ACT == 1) { z = 1.5957691216057308 * gate * (1.0 + 0.044715 * gate * gate); } // 2 sqrt(2 / pi)
  let e = exp(-abs(z));
  return gate * select(1.0, e, z < 0.0) / (1.0 + e);
}

/// Hands over the workgroup's rows of product p.
fn put_rows(p: u32, me: Lane) {
  let start = begin(ROWS[p], me.group);
  let rows = begin(ROWS[p], me.group + 1) - start;
  for (var n = 0u; n < PUTS_MAX; n++) { // unroll
    if (n * MESSENGER_LANES < (ROWS[p] + WORKGROUPS - 1) / WORKGROUPS * COPIES_OF[p]) {
      let r = (n * MESSENGER_LANES + me.local) / COPIES_OF[p];
      let copy = me.local % COPIES_OF[p];
      if (r < rows) {
        let value = row_sum(p, r, 0);
        if (p == QKV) { put(words_at + start + r, value * factor); }
        if (p == OUTPUT) {
          residual[n] += value;
          put(words_at + STREAM + copy * HIDDEN + start + r, residual[n]);
        }
        if (p == GATE_UP) {
          let result = activated(value * factor) * row_sum(p, r, 1) * factor;
          put(words_at + ACTIVATED + copy * INTERMEDIATE + start + r, result);
        }
        if (p == DOWN && copy == 0) { x[start + r] = residual[n] + value; }
      }
    }
  }
}

// ---- Attention ----------------------------------------------------------------------------------------------------

fn is_nan(bits: vec4u) -> vec4<bool> { return (bits & vec4u(0x7fffffff)) > vec4u(0x7f800000); }

/// Four values as 16-bit elements, rounded to nearest even; a NaN stays a NaN, f16 is clamped to its range.
fn packed(value: vec4f) -> vec2u {
  let bits = bitcast<vec4u>(value);
  if (KV_FORMAT == 1) {
    let nearest = (bits + vec4u(0x7fff) + ((bits >> vec4u(16)) & vec4u(1))) >> vec4u(16);
    let halves = select(nearest, vec4u(0x7fc0), is_nan(bits));
    return vec2u(halves.x | (halves.y << 16), halves.z | (halves.w << 16));
  }
  let inside = clamp(value, vec4f(-65504.0), vec4f(65504.0));
  let mark = select(vec4u(), vec4u(0x7e00, 0x7e000000, 0x7e00, 0x7e000000), is_nan(bits));
  return vec2u(pack2x16float(inside.xy) | mark.x | mark.y, pack2x16float(inside.zw) | mark.z | mark.w);
}

/// Eight values as the cache has them.
fn as_stored(a: vec4f, b: vec4f) -> Words {
  if (KV_FORMAT == 0) { return Words(bitcast<vec4u>(a), bitcast<vec4u>(b)); }
  return Words(vec4u(packed(a), packed(b)), vec4u());
}

fn load(i: u32) -> Words {
  if (KV_FORMAT == 0) { return Words(kv[2 * i], kv[2 * i + 1]); }
  return Words(kv[i], vec4u());
}

fn store(i: u32, words: Words) {
  if (KV_FORMAT == 0) {
    kv[2 * i] = words.a;
    kv[2 * i + 1] = words.b;
  } else {
    kv[i] = words.a;
  }
}

/// First and last key that the query at `position` sees.
fn visible(position: u32, prefix: u32, context: u32) -> vec2u {
  var first = 0u;
  var last = position;
  if (position < prefix) { last = max(last, min(prefix, context) - 1); }
  if (WINDOW > 0) {
    first = position - min(position, WINDOW - 1);
    last = min(last, position + WINDOW - 1);
  }
  return vec2u(first, last);
}

/// cap * tanh(score / cap), in a form that neither overflows nor depends on the driver's tanh.
fn capped(score: f32) -> f32 {
  if (params.soft_cap == 0.0) { return score; }
  let z = clamp(score / params.soft_cap, -10.0, 10.0);
  return params.soft_cap * (1.0 - 2.0 / (exp(2.0 * z) + 1.0));
}

/// The token's query: its keys are dealt out in shares of one size, but for the last.
fn query_of(info: vec4u) -> Query {
  let sequence = sequences[info.z];
  let keys = visible(info.x, sequence.x, sequence.y);
  let shares = clamp((keys.y - keys.x + SHARE_KEYS) / SHARE_KEYS, 1u, SPLITS);
  return Query(info, keys, shares, (keys.y - keys.x + shares) / shares);
}

/// Where a key's row begins in the cache, in eighths.
fn row_of(key: u32, table: u32, kv_head: u32) -> u32 {
  let row = block_tables[table + key / BLOCK_SIZE] * 2 * BLOCK_SIZE + key % BLOCK_SIZE;
  return (row * KV_HEADS + kv_head) * KEY_LANES;
}

/// Where element n of heads_in comes from, among the first product's rows.
fn source_of(n: u32, kv_head: u32) -> u32 {
  let head = n / HEAD_DIM;
  if (head < GROUP_HEADS) { return QUERY_ROW + kv_head * GROUP_HEADS * HEAD_DIM + n; }
  return select(VALUE_ROW, KEY_ROW, head == GROUP_HEADS) + kv_head * HEAD_DIM + n % HEAD_DIM;
}

/// What a messenger can do before the first words are there: learns of the token and its set, clears the next, loads.
fn prepare(me: Lane) {
  let start = begin(HIDDEN, me.group);
  let rows = begin(HIDDEN, me.group + 1) - start;
  for (var n = 0u; n < PUTS_MAX; n++) { // unroll
    let r = (n * MESSENGER_LANES + me.local) / COPIES;
    if (r < rows) { residual[n] = x[start + r]; }
  }
  let turn = atomicLoad(&handoff[0]) & 1;
  if (atomicLoad(&handoff[1]) != 0) { patience = 0; }
  words_at = SETS_AT + turn * SET;
  let info = query.info;
  let half = ROTARY_DIM / 2;
  for (var n = 0u; n < HEAD_WORDS; n++) { // unroll
    let at = n * MESSENGER_LANES + me.local;
    let d = at % HEAD_DIM;
    cosines[n] = 1.0;
    if (at / HEAD_DIM <= GROUP_HEADS && d < ROTARY_DIM) {
      let angle = min(info.x, params.positions - 1) * ROTARY_DIM + select(d - half, d, d < half);
      cosines[n] = cos_sin[angle];
      sines[n] = select(1.0, -1.0, d < half) * cos_sin[angle + half];
    }
  }
}

/// Clears the set of the next pass.
fn clear_next(me: Lane) {
  let next = select(SETS_AT, SETS_AT + SET, words_at == SETS_AT);
  let first = me.group * MESSENGER_LANES + me.local;
  for (var i = 0u; i < SET; i += WORKGROUPS * MESSENGER_LANES) {
    if (i + first < SET) { atomicStore(&handoff[next + i + first], 0); }
  }
}

/// Loads the first keys of a share, and their values.
fn load_share(me: Lane, task: u32) {
  if (task / KV_HEADS >= query.shares) { return; }
  load_keys(me, task % KV_HEADS, query.keys.x + task / KV_HEADS * query.share_size);
}

/// The key of a lane, of those the workgroup has at a time.
fn slot_of(me: Lane) -> u32 { return me.subgroup / GROUP_HEADS * SUBGROUP_KEYS + me.member / KEY_LANES; }

/// Loads the lane's keys from `first` on. Beyond the last it is the last, lest a weight of 0 meet a NaN.
fn load_keys(me: Lane, kv_head: u32, first: u32) {
  for (var u = 0u; u < KEYS; u++) { // unroll
    let key = min(first + slot_of(me) + u * KEYS_AT_ONCE, query.keys.y);
    let row = row_of(key, query.info.z * BLOCKS_PER_SEQUENCE, kv_head) + me.member % KEY_LANES;
    k[u] = load(row);
    v[u] = load(row + BLOCK_SIZE * KV_HEADS * KEY_LANES);
  }
}

/// Takes queries, key and value of a kv head, turned, queries scaled, and the gates of the channels that it hands over.
fn take_heads(me: Lane, kv_head: u32) {
  const COUNT = (GROUP_HEADS + 2) * HEAD_DIM;
  let half = ROTARY_DIM / 2;
  var own: array<u32, HEAD_WORDS>;
  var other: array<u32, HEAD_WORDS>;
  for (var tries = 0u; ; tries++) {
    var least = 0xffffffffu;
    for (var n = 0u; n < HEAD_WORDS; n++) { // unroll
      let at = min(n * MESSENGER_LANES + me.local, COUNT - 1);
      let d = at % HEAD_DIM;
      let source = words_at + source_of(at, kv_head);
      let turns = at / HEAD_DIM <= GROUP_HEADS && d < ROTARY_DIM;
      own[n] = atomicLoad(&handoff[source]);
      other[n] = atomicLoad(&handoff[select(source, select(source - half, source + half, d < half), turns)]);
      least = min(least, min(own[n], other[n]));
    }
    for (var n = 0u; n < SHARE_WORDS; n++) { // unroll
      if (GATED == 1) {
        let at = min(n * MESSENGER_LANES + me.local, GROUP_HEADS * HEAD_DIM - 1);
        let word = atomicLoad(&handoff[words_at + kv_head * GROUP_HEADS * HEAD_DIM + channel_of(at)]);
        gates[n] = bitcast<f32>(word);
        least = min(least, word);
      }
    }
    if (least > 0 || gives_up(tries)) { break; }
  }
  for (var n = 0u; n < HEAD_WORDS; n++) { // unroll
    let at = n * MESSENGER_LANES + me.local;
    let value = bitcast<f32>(own[n]) * cosines[n] + bitcast<f32>(other[n]) * sines[n];
    if (at < COUNT) { heads_in[at / 4][at % 4] = value * select(1.0, params.scale, at < GROUP_HEADS * HEAD_DIM); }
  }
}

/// Channel of a kv head's query heads, of the word in place `at`.
fn channel_of(at: u32) -> u32 {
  return at / HEAD_DIM * HEAD_DIM + at % KEY_LANES * 8 + at % HEAD_DIM / KEY_LANES;
}

/// The workgroup's shares of attention: values relative to their maximum, the maximum and the sum of weights.
fn attend(me: Lane) {
  for (var i = 0u; i < KV_HEADS * SPLITS; i += WORKGROUPS) {
    let task = i + me.group;
    let is_mine = me.is_messenger && task / KV_HEADS < query.shares;
    if (is_mine) { take_heads(me, task % KV_HEADS); }
    workgroupBarrier();
    if (is_mine) { weigh(me, task % KV_HEADS, task / KV_HEADS); }
    workgroupBarrier();
    if (is_mine) {
      put_share(me, task % KV_HEADS, task / KV_HEADS);
      if (i + WORKGROUPS < KV_HEADS * SPLITS) { load_share(me, task + WORKGROUPS); }
    }
    if (WORKGROUPS < KV_HEADS * SPLITS) { workgroupBarrier(); }
  }
}

/// A subgroup's part of a share: the sum of values by their weights.
fn weigh(me: Lane, kv_head: u32, share: u32) {
  let info = query.info;
  let first = query.keys.x + share * query.share_size;
  let end = min(first + query.share_size, query.keys.y + 1);
  let at = 2 * (me.member % KEY_LANES);
  let q = me.subgroup % GROUP_HEADS * SLICE + at;
  let asked = Eight(heads_in[q], heads_in[q + 1]);
  let own_key = as_stored(heads_in[GROUP_HEADS * SLICE + at], heads_in[GROUP_HEADS * SLICE + at + 1]);
  let own_value = as_stored(heads_in[(GROUP_HEADS + 1) * SLICE + at], heads_in[(GROUP_HEADS + 1) * SLICE + at + 1]);
  if (share == 0 && me.local < KEY_LANES && info.y < params.blocks * BLOCK_SIZE) {
    let row = info.y / BLOCK_SIZE * 2 * BLOCK_SIZE + info.y % BLOCK_SIZE;
    let place = (row * KV_HEADS + kv_head) * KEY_LANES + me.local;
    store(place, own_key);
    store(place + BLOCK_SIZE * KV_HEADS * KEY_LANES, own_value);
  }
  var most = LOWEST;
  var weight = 0.0;
  var sum = Eight(vec4f(), vec4f());
  for (var base = first; base < end; base += KEYS * KEYS_AT_ONCE) {
    if (base > first) { load_keys(me, kv_head, base); }
    var scores: array<f32, KEYS>;
    var now = most;
    for (var u = 0u; u < KEYS; u++) { // unroll
      let key = base + slot_of(me) + u * KEYS_AT_ONCE;
      if (min(key, query.keys.y) == info.x) {
        k[u] = own_key;
        v[u] = own_value;
      }
      let wide = widened(k[u], KV_FORMAT);
      var score = dot(asked.a, wide.a) + dot(asked.b, wide.b);
      for (var mask = KEY_LANES / 2; mask > 0; mask /= 2) { score += subgroupShuffleXor(score, mask); }
      scores[u] = select(LOWEST, capped(score), key < end);
      now = max(now, scores[u]);
    }
    for (var mask = KEY_LANES; mask < SUBGROUP; mask *= 2) { now = max(now, subgroupShuffleXor(now, mask)); }
    let keep = exp(most - now);
    most = now;
    weight *= keep;
    sum.a *= keep;
    sum.b *= keep;
    for (var u = 0u; u < KEYS; u++) { // unroll
      let share_of_key = select(0.0, exp(scores[u] - now), base + slot_of(me) + u * KEYS_AT_ONCE < end);
      let wide = widened(v[u], KV_FORMAT);
      weight += share_of_key;
      sum.a += share_of_key * wide.a;
      sum.b += share_of_key * wide.b;
    }
  }
  for (var mask = KEY_LANES; mask < SUBGROUP; mask *= 2) {
    weight += subgroupShuffleXor(weight, mask);
    sum.a += subgroupShuffleXor(sum.a, mask);
    sum.b += subgroupShuffleXor(sum.b, mask);
  }
  if (me.member == 0) { stats[me.subgroup] = vec2f(most, weight); }
  if (me.member < KEY_LANES) {
    values[me.subgroup * SLICE + at] = sum.a;
    values[me.subgroup * SLICE + at + 1] = sum.b;
  }
}

/// Adds up the subgroups' parts of a share and hands it over, times the sigmoid of the gates.
fn put_share(me: Lane, kv_head: u32, share: u32) {
  for (var n = 0u; n < SHARE_WORDS; n++) { // unroll
    let at = n * MESSENGER_LANES + me.local;
    if (at < GROUP_HEADS * HEAD_DIM) {
      let head = at / HEAD_DIM;
      let d = channel_of(at) % HEAD_DIM;
      var most = LOWEST;
      for (var i = 0u; i < HEAD_SUBGROUPS; i++) { most = max(most, stats[i * GROUP_HEADS + head].x); }
      var weight = 0.0;
      var sum = 0.0;
      for (var i = 0u; i < HEAD_SUBGROUPS; i++) {
        let part = i * GROUP_HEADS + head;
        let scale = exp(stats[part].x - most);
        weight += scale * stats[part].y;
        sum += scale * values[part * SLICE + d / 4][d % 4];
      }
      if (GATED == 1) {
        let e = exp(-abs(gates[n]));
        sum *= select(1.0, e, gates[n] < 0.0) / (1.0 + e);
      }
      let index = (kv_head * GROUP_HEADS + head) * SPLITS + share;
      put(words_at + SHARES + index * HEAD_DIM + at % HEAD_DIM, sum);
      if (at % HEAD_DIM == 0) {
        put(words_at + STATS + 2 * index, most);
        put(words_at + STATS + 2 * index + 1, weight);
      }
    }
  }
}

/// Stages attention's result: the shares, each by its weight.
fn combine(me: Lane) {
  for (var n = 0u; n < EIGHTS_MAX; n++) { // unroll
    if (n * MESSENGER_LANES < CHANNELS / 8) {
      let i = min(n * MESSENGER_LANES + me.local, CHANNELS / 8 - 1);
      put_inputs(i, CHANNELS, n * MESSENGER_LANES + me.local < CHANNELS / 8, combined(i));
    }
  }
}

/// Eight channels of attention's result.
fn combined(i: u32) -> Eight {
  var most = LOWEST;
  var weight = 0.0;
  var sum = Eight(vec4f(), vec4f());
  for (var first = 0u; first < query.shares; first += SHARES_AT_ONCE) {
    var words: array<array<u32, 8>, SHARES_AT_ONCE>;
    var parts: array<vec2u, SHARES_AT_ONCE>;
    for (var tries = 0u; ; tries++) {
      var least = 0xffffffffu;
      for (var s = 0u; s < SHARES_AT_ONCE; s++) { // unroll
        if (first + s < query.shares) {
          let share = i / KEY_LANES * SPLITS + first + s;
          let at = words_at + SHARES + share * HEAD_DIM + i % KEY_LANES;
          for (var j = 0u; j < 8; j++) { // unroll
            words[s][j] = atomicLoad(&handoff[at + j * KEY_LANES]);
            least = min(least, words[s][j]);
          }
          parts[s].x = atomicLoad(&handoff[words_at + STATS + 2 * share]);
          parts[s].y = atomicLoad(&handoff[words_at + STATS + 2 * share + 1]);
          least = min(least, min(parts[s].x, parts[s].y));
        }
      }
      if (least > 0 || gives_up(tries)) { break; }
    }
    for (var s = 0u; s < SHARES_AT_ONCE; s++) { // unroll
      if (first + s < query.shares) {
        let part = bitcast<vec2f>(parts[s]);
        let value = eight(words[s]);
        let now = max(most, part.x);
        let keep = exp(most - now);
        let scale = exp(part.x - now);
        most = now;
        weight = weight * keep + part.y * scale;
        sum.a = sum.a * keep + value.a * scale;
        sum.b = sum.b * keep + value.b * scale;
      }
    }
  }
  return Eight(sum.a / weight, sum.b / weight);
}

// -------------------------------------------------------------------------------------------------------------------

/// Stages the inputs of product p, but for x.
fn bring_inputs(p: u32, me: Lane) {
  if (p == OUTPUT) {
    attend(me);
    if (WORKGROUPS == 1) { workgroupBarrier(); }
  }
  if (me.is_messenger) {
    if (p == OUTPUT) { combine(me); }
    if (p == GATE_UP) { stage(me, HIDDEN, words_at + STREAM + me.group % COPIES * HIDDEN, 1); }
    if (p == DOWN) { stage(me, INTERMEDIATE, words_at + ACTIVATED + me.group % COPIES * INTERMEDIATE, 2); }
  }
  if (FORMAT > 2 && p > OUTPUT) { round_inputs(me, INPUTS[p]); }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(subgroup_invocation_id) member: u32,
) {
  let me = Lane(workgroup.x, local.x, member, local.x / SUBGROUP, local.x < MESSENGER_LANES);
  var items: array<Item, AHEAD>; // in flight
  if (me.is_messenger) { stage_x(me); }
  if (params.always > 0) { // keeps drivers from putting off these loads
    for (var a = 0u; a < AHEAD; a++) { // unroll
      const q = select(select(select(0u, 1u, a >= FIRST.y), 2u, a >= FIRST.z), 3u, a >= FIRST.w);
      if (a < LOADS_ALL) { items[a] = fetched(q, a - FIRST[q], me); }
    }
  }
  for (var p = 0u; p < PRODUCTS; p++) { // unroll
    if (WORKGROUPS == 1) { workgroupBarrier(); } // subgroups of one workgroup need not run at once
    bring_inputs(p, me);
    if (p > 0 && me.is_messenger) {
      for (var a = 0u; a < AHEAD; a++) { // unroll
        if (a < LOADS[p]) { items[(FIRST[p] + a) % AHEAD] = fetched(p, a, me); }
      }
    }
    workgroupBarrier();
    if (p == QKV && params.always > 0) { query = query_of(tokens_meta[0]); } // by all lanes: shares are the same for all
    if (p == QKV && me.is_messenger) { prepare(me); }
    if ((p == QKV || p == GATE_UP) && me.is_messenger) { factor = norm_factor(); }
    var inputs: array<Inputs, ITEMS_MAX>;
    for (var c = 0u; c < ITEMS_MAX; c++) { // unroll
      if (c < ITEMS[p]) { inputs[c] = inputs_of(p, c, me); }
    }
    var sums: array<vec4f, FOLDS>;
    for (var l = 0u; l < LOADS_MAX; l++) { // unroll
      if (l < LOADS[p]) {
        const slot = (FIRST[p] + l) % AHEAD;
        const sum = l / ITEMS[p] % SUMS_MAX;
        let item = items[slot];
        if (l + AHEAD < LOADS[p]) { items[slot] = fetched(p, l + AHEAD, me); }
        sums[sum / 4][sum % 4] += product(p, l, me, item, inputs[l % ITEMS[p]]);
      }
    }
    if (!me.is_messenger) {
      for (var a = 0u; a < AHEAD; a++) { // unroll
        const n = FIRST[p] + LOADS[p] + a;
        const q = select(select(select(0u, 1u, n >= FIRST.y), 2u, n >= FIRST.z), 3u, n >= FIRST.w);
        if (n >= FIRST[p] + AHEAD && n < LOADS_ALL) { items[n % AHEAD] = fetched(q, n - FIRST[q], me); }
      }
    }
    put_sums(p, me, sums);
    workgroupBarrier();
    if (me.is_messenger) { put_rows(p, me); }
    if (p == QKV && me.is_messenger) {
      load_share(me, me.group);
      clear_next(me);
    }
  }
  // Whoever has come so far has heard from all, and all have looked which turn it is.
  if (me.group == 0 && local.x == 0) { atomicStore(&handoff[0], select(0u, 1u, words_at == SETS_AT)); }
}
