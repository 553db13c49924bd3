// attention-prefill: y[t, h] = sum over visible keys j of softmax_j(cap(scale * q[t, h] . k[j])) * v[j] (* sigmoid(gate))
//
// For many queries of a sequence at once, on subgroup matrices (16 x 16 x 16, f16 in, f32 sums). One workgroup a head
// and a tile of up to QUERIES queries of one sequence at consecutive positions; a subgroup owns 16 * ROWS of them. KEYS
// keys and their values are staged in workgroup memory at a time, while the next ones are on their way to registers.
// Scores go through workgroup memory, since the elements of a matrix cannot be reached in registers. For the same reason
// sums are not rescaled at each new maximum: weights are relative to a reference that moves when a row's maximum is
// HEADROOM above it. Bound by barriers and what lies between them: one workgroup fits a multiprocessor. The
// cache is f16, or i8, which is staged as f16; head_dim is HEAD.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

override FORMAT: u32 = 2;   // of kv: 2 f16, 3 i8
override Q_FORMAT: u32 = 2; // 0 f32, 2 f16
override Y_FORMAT: u32 = 2; // 0 f32, 2 f16
override GATE: u32 = 0;     // 1: times sigmoid(gate)
override GATE_FORMAT: u32 = 0; // 0 f32, 2 f16
const FRAGMENTS: u32 = 8;   // matrices of a head: head_dim / 16
const KEY_ROWS: u32 = 2;    // matrices of keys at a time: KEYS / 16; divides FRAGMENTS
const ROUNDS: u32 = 4;      // FRAGMENTS / KEY_ROWS
const ROWS: u32 = 1;        // matrices of queries a subgroup has: 1 or 2
const SUBGROUPS: u32 = 4;
const ITEMS: u32 = 4;       // pieces of keys that a lane stages
const EIGHTHS: u32 = 2;     // pieces of weights that a lane makes: KEYS / 8, shared by the 2 / ROWS lanes of a row
struct Params {
  heads: u32, kv_heads: u32, q_row: u32, q_offset: u32, gate_row: u32, gate_offset: u32,
  block_size: u32, blocks_per_sequence: u32, window: u32, scale: f32, soft_cap: f32
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4u>;           // [tokens, q_row]
@group(0) @binding(2) var<storage, read> kv: array<vec4u>;          // [blocks, 2, block_size, kv_channels]
@group(0) @binding(3) var<storage, read> kv_scales: array<f32>;     // [scales]
@group(0) @binding(4) var<storage, read> tokens_meta: array<vec4u>; // [tokens, 4]
@group(0) @binding(5) var<storage, read> sequences: array<vec4u>;   // [sequences, 4]
@group(0) @binding(6) var<storage, read> block_tables: array<u32>;  // [sequences, blocks_per_sequence]
@group(0) @binding(7) var<storage, read> tiles: array<vec4u>;       // [tiles, 4]
@group(0) @binding(8) var<storage, read> gate: array<vec4u>;        // [tokens, gate_row]
@group(0) @binding(9) var<storage, read_write> y: array<vec4u>;     // [tokens, y_row]

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;
alias Queries = array<array<Left, FRAGMENTS>, ROWS>;
alias Outputs = array<array<Sums, FRAGMENTS>, ROWS>;

const LOWEST: f32 = -3e38;
const HEADROOM: f32 = 8.0; // in powers of two: weights stay below 2^8, far from the end of f16
const LOG2_E: f32 = 1.4426950408889634;
const HEAD: u32 = 16 * FRAGMENTS;
const KEYS: u32 = 16 * KEY_ROWS;
const LANES: u32 = 32 * SUBGROUPS;
const QUERIES: u32 = 16 * ROWS * SUBGROUPS;

// Workgroup memory is counted in pieces of 16 bytes; rows have one more than they need, against bank conflicts.
const PIECES: u32 = HEAD / 8;
const STRIDE: u32 = PIECES + 1;
const SCORE_STRIDE: u32 = KEYS / 4 + 1;
const WEIGHT_STRIDE: u32 = KEYS / 8 + 1;
const VALUES: u32 = KEYS * STRIDE;                      // [KEYS, HEAD] f16; keys are at 0
const SCORES: u32 = 2 * KEYS * STRIDE;                  // [QUERIES, KEYS] f32
const WEIGHTS: u32 = SCORES + QUERIES * SCORE_STRIDE;   // [QUERIES, KEYS] f16
const END: u32 = WEIGHTS + QUERIES * WEIGHT_STRIDE;
var<workgroup> tile: array<vec4u, max(QUERIES * STRIDE, END)>;
var<workgroup> moves: array<u32, SUBGROUPS>; // whether a subgroup has rows whose reference moves

// On their way from the cache: a round lies between a look into the block table and the fetch, and another before staging.
var<private> next_keys: array<vec4u, ITEMS>;
var<private> next_values: array<vec4u, ITEMS>;
var<private> rows: array<u32, ITEMS>;       // where the keys fetched last are
var<private> later_rows: array<u32, ITEMS>; // and those to be fetched next

const ROW_LANES: u32 = 2 / ROWS; // lanes that share a row of scores
const_assert ROUNDS * KEY_ROWS == FRAGMENTS && ITEMS * LANES >= KEYS * PIECES && EIGHTHS * ROW_LANES == KEYS / 8;

/// What a lane knows of its row.
struct Row { position: u32, most: f32, weight: f32, factor: f32 }

/// The keys that a tile of queries may see, and what decides which of them sees which.
struct Sight { first: u32, last: u32, prefix: u32, low: u32, high: u32 }

fn sight_of(position: u32, count: u32, sequence: u32) -> Sight {
  let context = sequences[sequence].y;
  let prefix = min(sequences[sequence].x, context);
  let to = position + count - 1;
  var last = to;
  if (position < prefix) { last = max(last, prefix - 1); }
  var first = 0u;
  if (params.window > 0) {
    first = position - min(position, params.window - 1);
    last = min(last, to + params.window - 1);
  }
  return Sight(first, min(last, context - 1), prefix, position, to);
}

fn sees(sight: Sight, position: u32, key: u32) -> bool {
  let in_window = params.window == 0 || (max(position, key) - min(position, key) < params.window);
  return key <= sight.last && (key <= position || (position < sight.prefix && key < sight.prefix)) && in_window;
}

/// Whether every query of the tile sees all KEYS keys from `first` on.
fn all_seen(sight: Sight, first: u32) -> bool {
  let end = first + KEYS - 1;
  let causal = end <= sight.low || (sight.high < sight.prefix && end < sight.prefix);
  let near = params.window == 0 || (sight.high < first + params.window && end < sight.low + params.window);
  return causal && near && end <= sight.last;
}

fn clamped(value: vec4f) -> vec2u {
  return bitcast<vec2u>(vec4<f16>(clamp(value, vec4f(-65504), vec4f(65504))));
}

fn stage_queries(lane: u32, first: u32, count: u32, head: u32) {
  for (var i = lane; i < QUERIES * PIECES; i += LANES) {
    let row = first + min(i / PIECES, count - 1);
    let at = (row * params.q_row + params.q_offset + head * HEAD) / 8 + i % PIECES;
    var piece = vec4u();
    if (Q_FORMAT == 2) { piece = q[at]; }
    else { piece = vec4u(clamped(bitcast<vec4f>(q[2 * at])), clamped(bitcast<vec4f>(q[2 * at + 1]))); }
    tile[i / PIECES * STRIDE + i % PIECES] = piece;
  }
}

/// Looks up KEYS keys from `first` on; those behind the last are taken for it.
fn look_up(lane: u32, first: u32, table: u32, kv_head: u32, last: u32) {
  for (var i = 0u; i < ITEMS; i++) { // unroll
    let item = i * LANES + lane;
    let key = min(first + item / PIECES, last);
    let block = block_tables[table + key / params.block_size];
    let row = block * 2 * params.block_size + key % params.block_size;
    later_rows[i] = (row * params.kv_heads + kv_head) * PIECES + item % PIECES;
  }
}

/// Eight elements of the cache as stored; of i8 two words, and the bits of their head's scale.
fn stored(piece: u32) -> vec4u {
  if (FORMAT == 2) { return kv[piece]; }
  let at = 2 * (piece % 2);
  return vec4u(kv[piece / 2][at], kv[piece / 2][at + 1], bitcast<u32>(kv_scales[piece / PIECES]), 0);
}

/// The same in f16.
fn as_f16(piece: vec4u) -> vec4u {
  if (FORMAT == 2) { return piece; }
  let scale = bitcast<f32>(piece.z);
  return vec4u(clamped(vec4f(unpack4xI8(piece.x)) * scale), clamped(vec4f(unpack4xI8(piece.y)) * scale));
}

fn fetch_keys() {
  for (var i = 0u; i < ITEMS; i++) { // unroll
    rows[i] = later_rows[i];
    next_keys[i] = stored(rows[i]);
  }
}

/// Of the keys fetched last.
fn fetch_values() {
  let offset = params.block_size * params.kv_heads * PIECES;
  for (var i = 0u; i < ITEMS; i++) { // unroll
    next_values[i] = stored(rows[i] + offset);
  }
}

fn stage_keys(lane: u32) {
  for (var i = 0u; i < ITEMS; i++) { // unroll
    let item = i * LANES + lane;
    if (item < KEYS * PIECES) { tile[item / PIECES * STRIDE + item % PIECES] = as_f16(next_keys[i]); }
  }
}

fn stage_values(lane: u32) {
  for (var i = 0u; i < ITEMS; i++) { // unroll
    let item = i * LANES + lane;
    if (item < KEYS * PIECES) { tile[VALUES + item / PIECES * STRIDE + item % PIECES] = as_f16(next_values[i]); }
  }
}

/// Scores of the subgroup's queries, whose first is `row`.
fn multiply_keys(queries: ptr<function, Queries>, row: u32) {
  var scores: array<array<Sums, KEY_ROWS>, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // unroll
    for (var j = 0u; j < KEY_ROWS; j++) { // unroll
      scores[r][j] = Sums(0f);
    }
  }
  for (var c = 0u; c < FRAGMENTS; c++) { // unroll
    for (var j = 0u; j < KEY_ROWS; j++) { // unroll
      let keys = subgroupMatrixLoad<Right, col_major>(&tile, 16 * j * STRIDE + 2 * c, STRIDE);
      for (var r = 0u; r < ROWS; r++) { // unroll
        scores[r][j] = subgroupMatrixMultiplyAccumulate((*queries)[r][c], keys, scores[r][j]);
      }
    }
  }
  for (var r = 0u; r < ROWS; r++) { // unroll
    for (var j = 0u; j < KEY_ROWS; j++) { // unroll
      let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * j;
      subgroupMatrixStore<row_major>(&tile, at, scores[r][j], SCORE_STRIDE);
    }
  }
}

fn multiply_values(outputs: ptr<function, Outputs>, row: u32) {
  for (var k = 0u; k < KEY_ROWS; k++) { // unroll
    var weights: array<Left, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unroll
      let at = WEIGHTS + (row + 16 * r) * WEIGHT_STRIDE + 2 * k;
      weights[r] = subgroupMatrixLoad<Left, row_major>(&tile, at, WEIGHT_STRIDE);
    }
    for (var c = 0u; c < FRAGMENTS; c++) { // unroll
      let values = subgroupMatrixLoad<Right, row_major>(&tile, VALUES + 16 * k * STRIDE + 2 * c, STRIDE);
      for (var r = 0u; r < ROWS; r++) { // unroll
        (*outputs)[r][c] = subgroupMatrixMultiplyAccumulate(weights[r], values, (*outputs)[r][c]);
      }
    }
  }
}

/// Scores of a row, or of half of it.
alias Scores = array<array<vec4f, 2>, EIGHTHS>;

/// A scaled score, in powers of two, as the soft cap leaves it.
fn capped(score: vec4f) -> vec4f {
  let x = clamp(score / (params.soft_cap * LOG2_E), vec4f(-10), vec4f(10));
  return params.soft_cap * LOG2_E * (vec4f(1) - vec4f(2) / (exp(2 * x) + vec4f(1)));
}

/// Four scores, LOWEST where there is nothing to see from key `key` on.
fn masked(score: vec4f, sight: Sight, position: u32, key: u32) -> vec4f {
  let seen = vec4<bool>(
    sees(sight, position, key), sees(sight, position, key + 1),
    sees(sight, position, key + 2), sees(sight, position, key + 3),
  );
  return select(vec4f(LOWEST), score, seen);
}

/// Turns a row of scores into weights; returns whether its reference moved.
fn weigh(lane: u32, row_index: u32, row: ptr<function, Row>, sight: Sight, first: u32) -> bool {
  let part = lane % 32 / (16 * ROWS) * EIGHTHS;
  let base = SCORES + row_index * SCORE_STRIDE + 2 * part;
  let scale = params.scale * LOG2_E;
  var scores: Scores;
  for (var i = 0u; i < EIGHTHS; i++) { // unroll
    scores[i][0] = bitcast<vec4f>(tile[base + 2 * i]) * scale;
    scores[i][1] = bitcast<vec4f>(tile[base + 2 * i + 1]) * scale;
  }
  // Once for all of them: branches between the scores cost more than what they save.
  if (params.soft_cap > 0) {
    for (var i = 0u; i < EIGHTHS; i++) { // unroll
      scores[i][0] = capped(scores[i][0]);
      scores[i][1] = capped(scores[i][1]);
    }
  }
  if (!all_seen(sight, first)) {
    for (var i = 0u; i < EIGHTHS; i++) { // unroll
      scores[i][0] = masked(scores[i][0], sight, (*row).position, first + 8 * (part + i));
      scores[i][1] = masked(scores[i][1], sight, (*row).position, first + 8 * (part + i) + 4);
    }
  }
  var most = vec4f(LOWEST);
  for (var i = 0u; i < EIGHTHS; i++) { // unroll
    most = max(most, max(scores[i][0], scores[i][1]));
  }
  var largest = max(max(most.x, most.y), max(most.z, most.w));
  if (ROW_LANES == 2) { largest = max(largest, subgroupShuffleXor(largest, 16)); }
  let is_moved = largest > (*row).most + HEADROOM || ((*row).most == LOWEST && largest > LOWEST);
  (*row).factor = 1.0;
  if (is_moved) {
    (*row).factor = exp2((*row).most - largest);
    (*row).most = largest;
    (*row).weight *= (*row).factor;
  }
  // A row that has seen nothing yet has LOWEST for its reference: its weights must not be exp2(0).
  let reference = select((*row).most, 0.0, (*row).most == LOWEST);
  var sum = vec4f();
  for (var i = 0u; i < EIGHTHS; i++) { // unroll
    let a = exp2(scores[i][0] - reference);
    let b = exp2(scores[i][1] - reference);
    sum += a + b;
    tile[WEIGHTS + row_index * WEIGHT_STRIDE + part + i] =
      vec4u(bitcast<vec2u>(vec4<f16>(a)), bitcast<vec2u>(vec4<f16>(b)));
  }
  (*row).weight += dot(sum, vec4f(1));
  return is_moved;
}

/// Multiplies each row of outputs by its factor, as many columns at a time as the place of the scores takes.
fn rescale(outputs: ptr<function, Outputs>, lane: u32, row: u32, row_index: u32, factor: f32) {
  for (var n = 0u; n < ROUNDS; n++) { // unroll
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) { // unroll
      for (var j = 0u; j < KEY_ROWS; j++) { // unroll
        let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * j;
        subgroupMatrixStore<row_major>(&tile, at, (*outputs)[r][n * KEY_ROWS + j], SCORE_STRIDE);
      }
    }
    workgroupBarrier();
    for (var i = lane % 32 / (16 * ROWS); i < KEYS / 4; i += ROW_LANES) {
      let at = SCORES + row_index * SCORE_STRIDE + i;
      tile[at] = bitcast<vec4u>(bitcast<vec4f>(tile[at]) * factor);
    }
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) { // unroll
      for (var j = 0u; j < KEY_ROWS; j++) { // unroll
        let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * j;
        (*outputs)[r][n * KEY_ROWS + j] = subgroupMatrixLoad<Sums, row_major>(&tile, at, SCORE_STRIDE);
      }
    }
  }
  workgroupBarrier();
}

fn sigmoid(value: vec4f) -> vec4f { return vec4f(1) / (vec4f(1) + exp(-value)); }

/// Writes eight channels of y, from `column` on.
fn write(token: u32, column: u32, a: vec4f, b: vec4f) {
  var low = a;
  var high = b;
  if (GATE == 1) {
    let at = (token * params.gate_row + params.gate_offset + column) / 8;
    if (GATE_FORMAT == 0) {
      low *= sigmoid(bitcast<vec4f>(gate[2 * at]));
      high *= sigmoid(bitcast<vec4f>(gate[2 * at + 1]));
    } else {
      low *= sigmoid(vec4f(bitcast<vec4<f16>>(gate[at].xy)));
      high *= sigmoid(vec4f(bitcast<vec4<f16>>(gate[at].zw)));
    }
  }
  let at = (token * params.heads * HEAD + column) / 8;
  if (Y_FORMAT == 0) {
    y[2 * at] = bitcast<vec4u>(low);
    y[2 * at + 1] = bitcast<vec4u>(high);
  } else {
    y[at] = vec4u(clamped(low), clamped(high));
  }
}

/// Writes the outputs of a subgroup's queries, of which `weight` is the sum of the lane's row's weights.
fn finish(outputs: ptr<function, Outputs>, lane: u32, row: u32, weight: f32, info: vec4u, head: u32) {
  for (var n = 0u; n < ROUNDS; n++) { // unroll
    workgroupBarrier();
    for (var r = 0u; r < ROWS; r++) { // unroll
      for (var j = 0u; j < KEY_ROWS; j++) { // unroll
        let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * j;
        subgroupMatrixStore<row_major>(&tile, at, (*outputs)[r][n * KEY_ROWS + j], SCORE_STRIDE);
      }
    }
    workgroupBarrier();
    for (var i = 0u; i < ROWS * KEY_ROWS; i++) {
      let piece = (i * 32 + lane % 32) % (2 * KEY_ROWS);
      let place = (i * 32 + lane % 32) / (2 * KEY_ROWS);
      let total = subgroupShuffle(weight, place);
      if (row + place < info.y) {
        let at = SCORES + (row + place) * SCORE_STRIDE + 2 * piece;
        let column = head * HEAD + n * KEYS + 8 * piece;
        write(info.x + row + place, column, bitcast<vec4f>(tile[at]) / total, bitcast<vec4f>(tile[at + 1]) / total);
      }
    }
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) place: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = place.x;
  let info = tiles[place.y]; // first token, count, sequence
  if (info.y == 0) { return; }
  let sight = sight_of(tokens_meta[info.x].x, info.y, info.z);
  let table = info.z * params.blocks_per_sequence;
  let kv_head = head / (params.heads / params.kv_heads);
  let subgroup_row = subgroupBroadcastFirst(lane / 32) * 16 * ROWS;
  let row_index = subgroup_row + lane % (16 * ROWS);
  var row = Row(sight.low + min(row_index, info.y - 1), LOWEST, 0.0, 1.0);

  look_up(lane, sight.first, table, kv_head, sight.last);
  fetch_keys();
  look_up(lane, sight.first + KEYS, table, kv_head, sight.last);
  stage_queries(lane, info.x, info.y, head);
  workgroupBarrier();
  var queries: Queries;
  var outputs: Outputs;
  for (var r = 0u; r < ROWS; r++) { // unroll
    for (var c = 0u; c < FRAGMENTS; c++) { // unroll
      queries[r][c] = subgroupMatrixLoad<Left, row_major>(&tile, (subgroup_row + 16 * r) * STRIDE + 2 * c, STRIDE);
      outputs[r][c] = Sums(0f);
    }
  }
  workgroupBarrier();
  stage_keys(lane);
  workgroupBarrier();
  fetch_values();
  fetch_keys();
  look_up(lane, sight.first + 2 * KEYS, table, kv_head, sight.last);
  multiply_keys(&queries, subgroup_row);
  for (var first = sight.first; first <= sight.last; first += KEYS) {
    workgroupBarrier();
    stage_values(lane);
    stage_keys(lane);
    let is_moved = subgroupAny(weigh(lane, row_index, &row, sight, first));
    if (lane % 32 == 0) { moves[lane / 32] = u32(is_moved); }
    let moved = workgroupUniformLoad(&moves);
    var any = 0u;
    for (var i = 0u; i < SUBGROUPS; i++) { any |= moved[i]; }
    if (any != 0 && first > sight.first) { rescale(&outputs, lane, subgroup_row, row_index, row.factor); }
    // Under a condition that the compiler cannot do without, or it would move what is fetched to where it is staged.
    if (first + KEYS + lane / PIECES <= sight.last) {
      fetch_values();
      fetch_keys();
      look_up(lane, first + 3 * KEYS, table, kv_head, sight.last);
    }
    multiply_values(&outputs, subgroup_row);
    multiply_keys(&queries, subgroup_row);
  }
  workgroupBarrier();
  var weight = row.weight;
  if (ROW_LANES == 2) { weight += subgroupShuffleXor(weight, 16); }
  finish(&outputs, lane, subgroup_row, weight, info, head);
}
