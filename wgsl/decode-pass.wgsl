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
// In a product, a team of lanes has a part of a row and keeps its inputs in registers; items of 16 bytes of the weights are
// loaded AHEAD of their use, those of the next product before its inputs are waited for. The branches around these loads,
// always taken, keep drivers from putting them off. Weights of i8 and i4 are multiplied as in fused-linear, and their
// scales lie behind them in the same binding. Bound by memory, by instructions for i4, and by the latency of five steps.
enable subgroups;
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
const SUBGROUP: u32 = 4;  // lanes
const SUBGROUPS: u32 = 4; // of a workgroup
const HIDDEN: u32 = 64;
const INTERMEDIATE: u32 = 64;
const HEADS: u32 = 2;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 32;
const QKV_ROWS: u32 = 192;
const SPLITS: u32 = 1;    // most shares of a head's keys
const COPIES: u32 = 1;    // of what all workgroups wait for, so that fewer wait for the same
const EIGHTHS: u32 = 1;   // of an item: 8 weights of f32 (of which it has two loads) or 16 bits, 16 of i8, 32 of i4
const VECTORS: u32 = 2;   // of 16 bytes, which an item's inputs take: 4 of i4
const AHEAD: u32 = 4;     // items of a lane in flight
const KEYS: u32 = 2;      // of a lane in flight
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
const CHANNELS_OF_LANE: u32 = 4; // of attention's result
const STAGED: u32 = 16;      // most inputs of a product, in vectors of 16 bytes
const STEPS: u32 = 1;        // of i8 and i4: most inputs of a product, in 32s
const RAW: u32 = 1;          // of i8 and i4: inputs staged at a time, in fours
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
const LANES: u32 = SUBGROUP * SUBGROUPS;
const CHANNELS: u32 = HEADS * HEAD_DIM;
const KV_ROWS: u32 = KV_HEADS * HEAD_DIM;
const QUERY_ROW: u32 = QKV_ROWS - CHANNELS - 2 * KV_ROWS; // gates come before
const KEY_ROW: u32 = QUERY_ROW + CHANNELS;
const VALUE_ROW: u32 = KEY_ROW + KV_ROWS;
const ROWS = vec4u(QKV_ROWS, HIDDEN, INTERMEDIATE, HIDDEN);
const INPUTS = vec4u(HIDDEN, CHANNELS, HIDDEN, INTERMEDIATE);
const WIDTH = vec4u(1, 1, 2, 1); // rows that make an output
const GROUPS = vec4u(LANES) / TEAM / PARTS; // of teams, with rows of their own
const SUMS = ROUNDS * WIDTH; // of a lane
const LOADS = SUMS * ITEMS;
const FIRST = vec4u(0, LOADS.x, LOADS.x + LOADS.y, LOADS.x + LOADS.y + LOADS.z); // load of a product, of all
const LOADS_ALL: u32 = FIRST.w + LOADS.w;

// Where words lie in a set.
const STATS: u32 = QKV_ROWS;                           // [head, split]: maximum and sum of weights
const SHARES: u32 = STATS + 2 * HEADS * SPLITS;        // [head, split, head_dim]
const STREAM: u32 = SHARES + CHANNELS * SPLITS;        // [copy, hidden]
const ACTIVATED: u32 = STREAM + COPIES * HIDDEN;       // [copy, intermediate]
const SET: u32 = ACTIVATED + COPIES * INTERMEDIATE;
const SETS_AT: u32 = 64;

// Attention: lanes of a key, query heads of a kv head, keys of the workgroup at a time.
const KEY_LANES: u32 = HEAD_DIM / 8;
const GROUP_HEADS: u32 = HEADS / KV_HEADS;
const HEAD_SUBGROUPS: u32 = SUBGROUPS / GROUP_HEADS;
const SUBGROUP_KEYS: u32 = SUBGROUP / KEY_LANES;
const KEYS_AT_ONCE: u32 = HEAD_SUBGROUPS * SUBGROUP_KEYS;
const SLICE: u32 = HEAD_DIM / 4; // vec4f of a head
const LOWEST: f32 = -3e38;
const LOOKS: u32 = 8;  // words of a lane looked for at once
const SHARES_AT_ONCE: u32 = 4;

var<private> patience: u32 = PATIENCE; // none once somebody has given up
var<workgroup> staged: array<vec4u, STAGED>; // [vector, item]
var<workgroup> raw: array<vec4f, RAW>;
var<workgroup> steps: array<vec2u, STEPS>; // of 32 inputs, and eight times their sum in steps
var<workgroup> partial: array<f32, PARTIALS>;
var<workgroup> squares: array<f32, SUBGROUPS>;
var<workgroup> residual: array<f32, (HIDDEN + WORKGROUPS - 1) / WORKGROUPS>;
var<workgroup> heads_in: array<vec4f, (GROUP_HEADS + 2) * SLICE>; // queries, key and value
var<workgroup> values: array<vec4f, SUBGROUPS * SLICE>;
var<workgroup> mosts: array<f32, SUBGROUPS>;
var<workgroup> weights: array<f32, SUBGROUPS>;
var<workgroup> stats: array<vec2f, HEADS * SPLITS>; // [head, split]: maximum and sum of weights of a share
var<workgroup> factors: array<f32, HEADS * SPLITS>; // of a share's values in the result

/// Eight consecutive elements.
struct Eight { a: vec4f, b: vec4f }

/// An item, or eight keys or values, as stored; all but f32 leave b empty.
struct Words { a: vec4u, b: vec4u }

/// Who a lane is.
struct Lane { group: u32, local: u32, member: u32, subgroup: u32 }

/// The token, its first and last key, and the shares they are dealt out in.
struct Query { info: vec4u, keys: vec2u, shares: u32 }

// ---- Handing over -------------------------------------------------------------------------------------------------

fn put(at: u32, value: f32) {
  let bits = bitcast<u32>(value);
  atomicStore(&handoff[at], select(bits, 0x80000000, bits == 0));
}

/// To be called by who has waited `tries` times; true when that is enough.
fn gives_up(tries: u32) -> bool {
  if (tries < patience) { return false; }
  atomicStore(&handoff[1], 1);
  return true;
}

fn take(at: u32) -> f32 {
  var word = atomicLoad(&handoff[at]);
  for (var tries = 0u; word == 0; tries++) {
    if (gives_up(tries)) { break; }
    word = atomicLoad(&handoff[at]);
  }
  return bitcast<f32>(word);
}

/// First row of a workgroup.
fn begin(rows: u32, group: u32) -> u32 { return group * rows / WORKGROUPS; }

// ---- Inputs -------------------------------------------------------------------------------------------------------

/// Puts input i of `count` where teams find it; of i8 and i4 where `round_inputs` does.
fn put_input(i: u32, count: u32, value: f32) {
  if (FORMAT > 2) {
    raw[i / 4 % RAW][i % 4] = value;
  } else {
    staged[i / 4 % 2 * (count / 8) + i / 8][i % 4] = bitcast<u32>(value);
  }
}

/// Makes the inputs from `first` to `end` integers, eight a lane; called by all lanes, which four by four find out a step.
fn round_inputs(first: u32, end: u32, count: u32, local: u32) {
  if (FORMAT < 3) { return; }
  workgroupBarrier();
  for (var base = first / 8; base < end / 8; base += LANES) {
    let i = base + local;
    let at = min(i, end / 8 - 1) * 2 % RAW;
    let a = raw[at];
    let b = raw[at + 1];
    // As bits, magnitudes are in order, with infinity and NaN on top, which make a step that is none and so spread.
    let sizes = max(bitcast<vec4u>(a) & vec4u(0x7fffffff), bitcast<vec4u>(b) & vec4u(0x7fffffff));
    var most = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
    most = max(most, subgroupShuffleXor(most, 1));
    most = max(most, subgroupShuffleXor(most, 2));
    let step = bitcast<f32>(most) / 32639.0; // 127 * 256 + 127
    let inverse = select(1.0 / step, 0.0, step < 1e-30); // its inverse would be no float
    var early = vec4i(round(a * inverse));
    var late = vec4i(round(b * inverse));
    let pairs = early + late;
    var sum = pairs.x + pairs.y + pairs.z + pairs.w;
    if (FORMAT == 4) {
      sum += subgroupShuffleXor(sum, 1);
      sum += subgroupShuffleXor(sum, 2);
      let even = vec4i(early.xz, late.xz);
      late = vec4i(early.yw, late.yw);
      early = even;
    }
    if (i < end / 8) {
      let high = vec2u(pack4xI8((early + 128) >> vec4u(8)), pack4xI8((late + 128) >> vec4u(8)));
      staged[i % EIGHTHS * (count / 8 / EIGHTHS) + i / EIGHTHS] = vec4u(high, pack4xI8(early), pack4xI8(late));
      if (i % 4 == 0) { steps[i / 4] = vec2u(bitcast<u32>(step), bitcast<u32>(select(0, 8 * sum, FORMAT == 4))); }
    }
  }
}

/// Stages x or, from `at` on, what others hand over, times the norm's weights; leaves squares of it, before that, by subgroup.
fn stage(me: Lane, count: u32, is_x: bool, at: u32, norm: u32) {
  var square = 0.0;
  for (var base = 0u; base < count; base += LOOKS * LANES) {
    var words: array<u32, LOOKS>;
    var norm_weights: array<f32, LOOKS>;
    var is_missing = false;
    for (var k = 0u; k < LOOKS; k++) { // unroll
      let i = base + k * LANES + me.local;
      norm_weights[k] = 1.0;
      if (i < count) {
        if (NORM > 1 && norm < 2) { norm_weights[k] = norms[norm * HIDDEN + i] + select(0.0, 1.0, NORM == 3); }
        if (is_x) { words[k] = bitcast<u32>(x[i]); } else { words[k] = atomicLoad(&handoff[at + i]); }
        is_missing = is_missing || words[k] == 0;
      }
    }
    for (var tries = 0u; !is_x && is_missing; tries++) {
      if (gives_up(tries)) { break; }
      is_missing = false;
      for (var k = 0u; k < LOOKS; k++) { // unroll
        let i = base + k * LANES + me.local;
        if (i < count) {
          words[k] = atomicLoad(&handoff[at + i]);
          is_missing = is_missing || words[k] == 0;
        }
      }
    }
    if (FORMAT > 2 && base > 0) { workgroupBarrier(); }
    for (var k = 0u; k < LOOKS; k++) { // unroll
      let i = base + k * LANES + me.local;
      if (i < count) {
        let value = bitcast<f32>(words[k]);
        square += value * value;
        put_input(i, count, value * norm_weights[k]);
      }
    }
    round_inputs(base, min(base + LOOKS * LANES, count), count, me.local);
  }
  let sum = subgroupAdd(square);
  if (me.member == 0) { squares[me.subgroup] = sum; }
}

/// What the norm of the staged inputs multiplies finished sums by.
fn norm_factor() -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < SUBGROUPS; i++) { sum += squares[i]; }
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

/// Load `i` of the lane's in product p, as the index of an item: [round, row of an output, item]. Rows beyond the last are the last.
fn item_at(p: u32, i: u32, me: Lane) -> u32 {
  let sum = i / ITEMS[p];
  let team = me.local / TEAM[p];
  let last = max(begin(ROWS[p], me.group + 1), 1u) - 1;
  let row = min(begin(ROWS[p], me.group) + sum / WIDTH[p] * GROUPS[p] + team / PARTS[p], last) + sum % WIDTH[p] * ROWS[p];
  let place = (i % ITEMS[p] * PARTS[p] + team % PARTS[p]) * TEAM[p] + me.local % TEAM[p];
  return row * (INPUTS[p] / 8 / EIGHTHS) + place;
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

/// An item's weights times inputs; of i8 and i4 in steps and scales. An i4 is stored as itself + 8: `excess` is taken off.
fn product(words: Words, inputs: array<vec4u, VECTORS>, excess: i32) -> f32 {
  if (FORMAT < 3) {
    let w = widened(words, FORMAT);
    return dot(w.a, bitcast<vec4f>(inputs[0])) + dot(w.b, bitcast<vec4f>(inputs[1]));
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
    high += dot4I8Packed(first, inputs[v].x) + dot4I8Packed(second, inputs[v].y);
    low += dot4I8Packed(first, inputs[v].z) + dot4I8Packed(second, inputs[v].w);
  }
  return f32(256 * high + low - excess);
}

/// What a product of an item at a place of a row is worth.
fn worth(p: u32, i: u32, step: f32, word: u32, me: Lane) -> f32 {
  if (FORMAT < 3) { return 1.0; }
  return step * unpack2x16float(word >> (16 * (item_at(p, i, me) * EIGHTHS / GROUP_EIGHTHS % 2))).x;
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

/// Shares that the keys are dealt out in.
fn shares_of(keys: vec2u) -> u32 {
  return clamp((keys.y - keys.x + SHARE_KEYS) / SHARE_KEYS, 1u, SPLITS);
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

/// Takes queries, key and value of a kv head: turned, queries scaled.
fn take_heads(me: Lane, words: u32, kv_head: u32, position: u32) {
  for (var n = me.local; n < (GROUP_HEADS + 2) * HEAD_DIM; n += LANES) {
    let head = n / HEAD_DIM;
    let d = n % HEAD_DIM;
    let turns = head <= GROUP_HEADS && d < ROTARY_DIM;
    let half = ROTARY_DIM / 2;
    let is_first = d < half;
    var cosine = 1.0;
    var sine = 0.0;
    if (turns) {
      let angle = min(position, params.positions - 1) * ROTARY_DIM + select(d - half, d, is_first);
      cosine = cos_sin[angle];
      sine = select(1.0, -1.0, is_first) * cos_sin[angle + half];
    }
    let own_at = words + source_of(n, kv_head);
    let other_at = select(own_at, select(own_at - half, own_at + half, is_first), turns);
    var own = atomicLoad(&handoff[own_at]);
    var other = atomicLoad(&handoff[other_at]);
    for (var tries = 0u; own == 0 || other == 0; tries++) {
      if (gives_up(tries)) { break; }
      own = atomicLoad(&handoff[own_at]);
      other = atomicLoad(&handoff[other_at]);
    }
    let value = bitcast<f32>(own) * cosine + bitcast<f32>(other) * sine;
    heads_in[n / 4][n % 4] = value * select(1.0, params.scale, head < GROUP_HEADS);
  }
}

/// The workgroup's shares of attention: values relative to their maximum, the maximum and the sum of weights.
fn attend(group: u32, me: Lane, words: u32, query_of: Query) {
  let info = query_of.info;
  let keys = query_of.keys;
  let taken = query_of.shares;
  let position = info.x;
  let table = info.z * BLOCKS_PER_SEQUENCE;
  let to_values = BLOCK_SIZE * KV_HEADS * KEY_LANES;
  let head = me.subgroup % GROUP_HEADS;
  let eighth = me.member % KEY_LANES;
  let slot = me.subgroup / GROUP_HEADS * SUBGROUP_KEYS + me.member / KEY_LANES;
  let share_size = (keys.y - keys.x + taken) / taken;
  for (var task = group; task < KV_HEADS * taken; task += WORKGROUPS) {
    let kv_head = task % KV_HEADS;
    let share = task / KV_HEADS;
    let first = keys.x + share * share_size;
    let end = min(first + share_size, keys.y + 1);
    var k: array<Words, KEYS>;
    var v: array<Words, KEYS>;
    for (var u = 0u; u < KEYS; u++) { // unroll
      let row = row_of(min(first + slot + u * KEYS_AT_ONCE, keys.y), table, kv_head) + eighth;
      k[u] = load(row);
      v[u] = load(row + to_values);
    }
    if (WORKGROUPS < KV_HEADS) { workgroupBarrier(); }
    take_heads(me, words, kv_head, position);
    workgroupBarrier();
    let at = 2 * eighth;
    let query = Eight(heads_in[head * SLICE + at], heads_in[head * SLICE + at + 1]);
    let own_key = as_stored(heads_in[GROUP_HEADS * SLICE + at], heads_in[GROUP_HEADS * SLICE + at + 1]);
    let own_value = as_stored(heads_in[(GROUP_HEADS + 1) * SLICE + at], heads_in[(GROUP_HEADS + 1) * SLICE + at + 1]);
    if (share == 0 && me.local < KEY_LANES && info.y < params.blocks * BLOCK_SIZE) {
      let row = info.y / BLOCK_SIZE * 2 * BLOCK_SIZE + info.y % BLOCK_SIZE;
      let place = (row * KV_HEADS + kv_head) * KEY_LANES + eighth;
      store(place, own_key);
      store(place + to_values, own_value);
    }
    var most = LOWEST;
    var weight = 0.0;
    var sum = Eight(vec4f(), vec4f());
    for (var base = first; base < end; base += KEYS * KEYS_AT_ONCE) {
      var scores: array<f32, KEYS>;
      var now = most;
      for (var u = 0u; u < KEYS; u++) { // unroll
        let key = base + slot + u * KEYS_AT_ONCE;
        if (base > first) {
          let row = row_of(min(key, keys.y), table, kv_head) + eighth;
          k[u] = load(row);
          v[u] = load(row + to_values);
        }
        // A key beyond the last is the last, lest the weight of 0 meet a NaN.
        if (min(key, keys.y) == position) {
          k[u] = own_key;
          v[u] = own_value;
        }
        let wide = widened(k[u], KV_FORMAT);
        var score = dot(query.a, wide.a) + dot(query.b, wide.b);
        for (var mask = KEY_LANES / 2; mask > 0; mask /= 2) { score += subgroupShuffleXor(score, mask); }
        scores[u] = select(LOWEST, capped(score), key < end);
        now = max(now, scores[u]);
      }
      let keep = exp(most - now);
      most = now;
      weight *= keep;
      sum.a *= keep;
      sum.b *= keep;
      for (var u = 0u; u < KEYS; u++) { // unroll
        let factor = select(0.0, exp(scores[u] - now), base + slot + u * KEYS_AT_ONCE < end);
        let wide = widened(v[u], KV_FORMAT);
        weight += factor;
        sum.a += factor * wide.a;
        sum.b += factor * wide.b;
      }
    }
    put_share(me, words, Share(kv_head, share, most, weight, sum));
    workgroupBarrier();
  }
}

/// A lane's part of a share.
struct Share { kv_head: u32, index: u32, most: f32, weight: f32, sum: Eight }

/// Adds up the lanes' parts of a share and hands it over.
fn put_share(me: Lane, words: u32, part: Share) {
  let head = me.subgroup % GROUP_HEADS;
  var most = part.most;
  for (var mask = KEY_LANES; mask < SUBGROUP; mask *= 2) { most = max(most, subgroupShuffleXor(most, mask)); }
  if (me.member == 0) { mosts[me.subgroup] = most; }
  workgroupBarrier();
  for (var i = 0u; i < HEAD_SUBGROUPS; i++) { most = max(most, mosts[i * GROUP_HEADS + head]); }
  let factor = exp(part.most - most);
  var weight = part.weight * factor;
  var a = part.sum.a * factor;
  var b = part.sum.b * factor;
  for (var mask = KEY_LANES; mask < SUBGROUP; mask *= 2) {
    weight += subgroupShuffleXor(weight, mask);
    a += subgroupShuffleXor(a, mask);
    b += subgroupShuffleXor(b, mask);
  }
  if (me.member == 0) { weights[me.subgroup] = weight; }
  if (me.member < KEY_LANES) {
    values[me.subgroup * SLICE + 2 * me.member] = a;
    values[me.subgroup * SLICE + 2 * me.member + 1] = b;
  }
  workgroupBarrier();
  for (var n = me.local; n < GROUP_HEADS * HEAD_DIM; n += LANES) {
    let h = n / HEAD_DIM;
    let d = n % HEAD_DIM;
    var sum = 0.0;
    for (var i = 0u; i < HEAD_SUBGROUPS; i++) { sum += values[(i * GROUP_HEADS + h) * SLICE + d / 4][d % 4]; }
    let at = (part.kv_head * GROUP_HEADS + h) * SPLITS + part.index;
    put(words + SHARES + at * HEAD_DIM + d, sum);
    if (d == 0) {
      var all = 0.0;
      var top = LOWEST;
      for (var i = 0u; i < HEAD_SUBGROUPS; i++) {
        all += weights[i * GROUP_HEADS + h];
        top = max(top, mosts[i * GROUP_HEADS + h]);
      }
      put(words + STATS + 2 * at, top);
      put(words + STATS + 2 * at + 1, all);
    }
  }
}

/// Stages attention's result: the shares, each by its weight, times the sigmoid of the gate.
fn combine(me: Lane, words: u32, taken: u32) {
  var gates: array<u32, CHANNELS_OF_LANE>;
  var shares: array<u32, CHANNELS_OF_LANE * SHARES_AT_ONCE>;
  var sums: array<f32, CHANNELS_OF_LANE>;
  for (var c = 0u; c < CHANNELS_OF_LANE; c++) { // unroll
    let channel = min(c * LANES + me.local, CHANNELS - 1);
    if (GATED == 1) { gates[c] = atomicLoad(&handoff[words + channel]); }
    for (var s = 0u; s < SHARES_AT_ONCE; s++) { // unroll
      shares[c * SHARES_AT_ONCE + s] = atomicLoad(&handoff[share_at(words, channel, min(s, taken - 1))]);
    }
  }
  for (var i = me.local; i < HEADS * taken; i += LANES) {
    let at = i / taken * SPLITS + i % taken;
    let most = take(words + STATS + 2 * at);
    stats[at] = vec2f(most, take(words + STATS + 2 * at + 1));
  }
  workgroupBarrier();
  for (var i = me.local; i < HEADS * taken; i += LANES) {
    let head = i / taken * SPLITS;
    var most = LOWEST;
    for (var s = 0u; s < taken; s++) { most = max(most, stats[head + s].x); }
    var weight = 0.0;
    for (var s = 0u; s < taken; s++) { weight += exp(stats[head + s].x - most) * stats[head + s].y; }
    factors[head + i % taken] = exp(stats[head + i % taken].x - most) / weight;
  }
  workgroupBarrier();
  for (var first = 0u; first < taken; first += SHARES_AT_ONCE) {
    for (var c = 0u; c < CHANNELS_OF_LANE; c++) { // unroll
      let channel = min(c * LANES + me.local, CHANNELS - 1);
      for (var s = 0u; s < SHARES_AT_ONCE; s++) { // unroll
        if (first > 0) { shares[c * SHARES_AT_ONCE + s] = atomicLoad(&handoff[share_at(words, channel, min(first + s, taken - 1))]); }
      }
    }
    for (var c = 0u; c < CHANNELS_OF_LANE; c++) { // unroll
      let channel = min(c * LANES + me.local, CHANNELS - 1);
      for (var s = 0u; s < SHARES_AT_ONCE; s++) { // unroll
        let at = min(first + s, taken - 1);
        var value = bitcast<f32>(shares[c * SHARES_AT_ONCE + s]);
        if (shares[c * SHARES_AT_ONCE + s] == 0) { value = take(share_at(words, channel, at)); }
        sums[c] += select(0.0, factors[channel / HEAD_DIM * SPLITS + at] * value, first + s < taken);
      }
    }
  }
  for (var c = 0u; c < CHANNELS_OF_LANE; c++) { // unroll
    let channel = c * LANES + me.local;
    if (channel < CHANNELS) {
      if (GATED == 1) {
        var gate = bitcast<f32>(gates[c]);
        if (gates[c] == 0) { gate = take(words + channel); }
        let e = exp(-abs(gate));
        sums[c] *= select(1.0, e, gate < 0.0) / (1.0 + e);
      }
      put_input(channel, CHANNELS, sums[c]);
    }
  }
  round_inputs(0, CHANNELS, CHANNELS, me.local);
}

fn share_at(words: u32, channel: u32, share: u32) -> u32 {
  return words + SHARES + (channel / HEAD_DIM * SPLITS + share) * HEAD_DIM + channel % HEAD_DIM;
}

// -------------------------------------------------------------------------------------------------------------------

/// Hands over what is to be waited for by all.
fn put_copies(at: u32, stride: u32, value: f32) {
  for (var copy = 0u; copy < COPIES; copy++) { put(at + copy * stride, value); }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(subgroup_invocation_id) member: u32,
) {
  let group = workgroup.x;
  let me = Lane(group, local.x, member, local.x / SUBGROUP);
  var items: array<Words, AHEAD>; // in flight, and the words that have their scales
  var scales: array<u32, AHEAD>;
  for (var k = 0u; k < AHEAD; k++) { // unroll
    const q = select(select(select(0u, 1u, k >= FIRST.y), 2u, k >= FIRST.z), 3u, k >= FIRST.w);
    if (k < LOADS_ALL) {
      let at = item_at(q, k - FIRST[q], me);
      items[k] = item_words(q, at);
      scales[k] = scale_word(q, at);
    }
  }
  var words = 0u;
  var turn = 0u;
  var query: Query;
  for (var p = 0u; p < PRODUCTS; p++) { // unroll
    if (WORKGROUPS == 1) { workgroupBarrier(); } // subgroups of one workgroup need not run at once
    if (p == QKV) { stage(me, HIDDEN, true, 0, 0); }
    if (p == OUTPUT) {
      attend(group, me, words, query);
      if (WORKGROUPS == 1) { workgroupBarrier(); }
      combine(me, words, query.shares);
    }
    if (p == GATE_UP) { stage(me, HIDDEN, false, words + STREAM + group % COPIES * HIDDEN, 1); }
    if (p == DOWN) { stage(me, INTERMEDIATE, false, words + ACTIVATED + group % COPIES * INTERMEDIATE, 2); }
    workgroupBarrier();
    if (p == QKV && params.always > 0) {
      // Only now, lest the first weights wait for it.
      let start = begin(HIDDEN, group);
      for (var r = local.x; r < begin(HIDDEN, group + 1) - start; r += LANES) { residual[r] = x[start + r]; }
      turn = atomicLoad(&handoff[0]) & 1;
      if (atomicLoad(&handoff[1]) != 0) { patience = 0; }
      words = SETS_AT + turn * SET;
      let info = tokens_meta[0];
      let sequence = sequences[info.z];
      let keys = visible(info.x, sequence.x, sequence.y);
      query = Query(info, keys, shares_of(keys));
    }

    let team = local.x / TEAM[p];
    let lane = local.x % TEAM[p];
    var inputs: array<array<vec4u, VECTORS>, ITEMS_MAX>;
    var input_steps: array<vec2u, ITEMS_MAX>;
    for (var c = 0u; c < ITEMS_MAX; c++) { // unroll
      if (c < ITEMS[p]) {
        let place = (c * PARTS[p] + team % PARTS[p]) * TEAM[p] + lane;
        for (var v = 0u; v < VECTORS; v++) { // unroll
          inputs[c][v] = staged[v * (INPUTS[p] / 8 / EIGHTHS) + place];
        }
        if (FORMAT > 2) { input_steps[c] = steps[place * EIGHTHS / 4]; }
      }
    }
    var sums: array<vec4f, SUMS_MAX / 4>;
    for (var l = 0u; l < LOADS_MAX; l++) { // unroll
      if (l < LOADS[p]) {
        const slot = (FIRST[p] + l) % AHEAD;
        let item = items[slot];
        let scale = scales[slot];
        if (l + AHEAD < LOADS[p]) {
          let at = item_at(p, l + AHEAD, me);
          items[slot] = item_words(p, at);
          scales[slot] = scale_word(p, at);
        }
        const c = l % ITEMS[p];
        const sum = l / ITEMS[p] % SUMS_MAX;
        let factor = worth(p, l, bitcast<f32>(input_steps[c].x), scale, me);
        sums[sum / 4][sum % 4] += factor * product(item, inputs[c], bitcast<i32>(input_steps[c].y));
      }
    }
    if (params.always > 0) {
      for (var k = 0u; k < AHEAD; k++) { // unroll
        const n = FIRST[p] + LOADS[p] + k;
        const q = select(select(select(0u, 1u, n >= FIRST.y), 2u, n >= FIRST.z), 3u, n >= FIRST.w);
        if (n >= FIRST[p] + AHEAD && n < LOADS_ALL) {
          let at = item_at(q, n - FIRST[q], me);
          items[n % AHEAD] = item_words(q, at);
          scales[n % AHEAD] = scale_word(q, at);
        }
      }
    }
    for (var f = 0u; f < FOLDS; f++) { // unroll
      if (4 * f < SUMS[p]) {
        let sum = folded(sums[f], lane, TEAM[p]);
        let index = 4 * f + lane / (TEAM[p] / 4);
        let set_of_teams = team / PARTS[p];
        if (lane % (TEAM[p] / 4) == 0 && index < SUMS[p] && set_of_teams < GROUPS[p]) {
          partial[(index * GROUPS[p] + set_of_teams) * PARTS[p] + team % PARTS[p]] = sum;
        }
      }
    }
    workgroupBarrier();
    let start = begin(ROWS[p], group);
    for (var r = local.x; r < begin(ROWS[p], group + 1) - start; r += LANES) {
      let value = row_sum(p, r, 0);
      if (p == QKV) { put(words + start + r, value * norm_factor()); }
      if (p == OUTPUT) {
        residual[r] += value;
        put_copies(words + STREAM + start + r, HIDDEN, residual[r]);
      }
      if (p == GATE_UP) {
        let factor = norm_factor();
        put_copies(words + ACTIVATED + start + r, INTERMEDIATE, activated(value * factor) * row_sum(p, r, 1) * factor);
      }
      if (p == DOWN) { x[start + r] = residual[r] + value; }
    }
    if (p == QKV) {
      let next_words = SETS_AT + (1 - turn) * SET;
      for (var i = 0u; i < SET; i += WORKGROUPS * LANES) {
        let at = i + group * LANES + local.x;
        if (at < SET) { atomicStore(&handoff[next_words + at], 0); }
      }
    }
  }
  // Whoever has come so far has heard from all, and all have looked which turn it is.
  if (group == 0 && local.x == 0) { atomicStore(&handoff[0], 1 - turn); }
}
