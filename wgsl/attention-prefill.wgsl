// attention-prefill: y[t, h] = sum over visible keys j of softmax_j(cap(scale * q[t, h] . k[j])) * v[j] (* sigmoid(gate))
//
// For many queries of a sequence at once, on subgroup matrices (16 x 16 x 16, f16 in, f32 sums). One workgroup a head
// and a tile of up to QUERIES queries of one sequence at consecutive positions. KEYS keys at a time are staged in
// workgroup memory. Two subgroups, the sides of a pair, share 32 queries: each has the scores of half of the keys, the
// weights of half of the queries, and half of the channels of the outputs, so that what a side loads serves 32 queries.
//
// A round is two intervals between barriers. In the first, scores become weights while those of the next round are
// multiplied; in the second, outputs are. Keys are staged and fetched in the second, values in the first, each a round
// ahead, and blocks looked up a round before that. Scores go through workgroup memory, since the elements of a matrix
// cannot be reached in registers. For the same reason sums are not rescaled at each new maximum: weights are relative to
// a reference that moves when a row's maximum is HEADROOM above it. Bound by the latency of all this: one workgroup fits
// a multiprocessor. The cache is f16, or i8, which is staged as f16; head_dim is HEAD.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

override FORMAT: u32 = 2;   // of kv: 2 f16, 3 i8
override Q_FORMAT: u32 = 2; // 0 f32, 2 f16
override Y_FORMAT: u32 = 2; // 0 f32, 2 f16
override GATE: u32 = 0;     // 1: times sigmoid(gate)
override GATE_FORMAT: u32 = 0; // 0 f32, 2 f16
override CAP: u32 = 0;      // 1: scores are capped
const FRAGMENTS: u32 = 8;   // matrices of a head: head_dim / 16
const HALF: u32 = 4;        // FRAGMENTS / 2
const SUBGROUPS: u32 = 4;   // two for 32 queries
const ITEMS: u32 = 4;       // pieces of keys that a lane stages: KEYS * PIECES / LANES, rounded up
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
alias Queries = array<array<Left, FRAGMENTS>, 2>;
alias Scores = array<Sums, 2>;
alias Outputs = array<array<Sums, HALF>, 2>;

const LOWEST: f32 = -3e38;
const HEADROOM: f32 = 8.0; // in powers of two: weights stay below 2^8, far from the end of f16
const LOG2_E: f32 = 1.4426950408889634;
const HEAD: u32 = 16 * FRAGMENTS;
const KEYS: u32 = 32;       // at a time: a lane of a subgroup looks up one of them
const LANES: u32 = 32 * SUBGROUPS;
const QUERIES: u32 = 16 * SUBGROUPS;

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
var<workgroup> said: array<u32, SUBGROUPS>; // by each subgroup: MOVED, LAST

const MOVED: u32 = 1; // there are rows whose reference moves
const LAST: u32 = 2;  // this is the last round

// On their way from the cache: keys of the round after the next, values of this one.
var<private> next_keys: array<vec4u, ITEMS>;
var<private> next_values: array<vec4u, ITEMS>;

const_assert 2 * HALF == FRAGMENTS && ITEMS * LANES >= KEYS * PIECES;

/// What a lane knows of its row: it sees `span` keys behind `low`.
struct Row { low: u32, span: u32, most: f32, weight: f32, factor: f32 }

/// The keys that any query of a tile sees, and those that all see.
struct Sight { first: u32, last: u32, all_first: u32, all_last: u32 }

/// First and last key that a query sees.
fn seen_from(position: u32, prefix: u32) -> vec2u {
  var seen = vec2u(0, select(position, prefix - 1, position < prefix));
  if (params.window > 0) {
    seen.x = position - min(position, params.window - 1);
    seen.y = min(seen.y, position + params.window - 1);
  }
  return seen;
}

fn prefix_of(sequence: u32) -> u32 { return min(sequences[sequence].x, sequences[sequence].y); }

/// Both ends of what is seen move forwards with the query.
fn sight_of(position: u32, count: u32, prefix: u32) -> Sight {
  let low = seen_from(position, prefix);
  let high = seen_from(position + count - 1, prefix);
  return Sight(low.x, high.y, high.x, low.y);
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

/// A key's place: of its block in the sequence's table, and in the block.
struct Place { entry: u32, within: u32 }

fn place_of(key: u32) -> Place { return Place(key / params.block_size, key % params.block_size); }

/// The place `step` further on, which is one of as many keys.
fn after(place: Place, step: Place) -> Place {
  let within = place.within + step.within;
  let is_next = within >= params.block_size;
  return Place(place.entry + step.entry + u32(is_next), select(within, within - params.block_size, is_next));
}

/// Where a key begins in the cache.
fn base_of(block: u32, within: u32, kv_head: u32) -> u32 {
  return ((block * 2 * params.block_size + within) * params.kv_heads + kv_head) * PIECES;
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

/// Of KEYS keys, of which each lane knows where one begins.
fn fetch_keys(lane: u32, base: u32, is_there: bool) {
  var at: array<u32, ITEMS>;
  for (var i = 0u; i < ITEMS; i++) { // unroll
    at[i] = subgroupShuffle(base, (i * LANES + lane) / PIECES % 32) + (i * LANES + lane) % PIECES;
  }
  // Under a condition that the compiler cannot do without, or it would move what is fetched to where it is staged.
  if (is_there) {
    for (var i = 0u; i < ITEMS; i++) { // unroll
      next_keys[i] = stored(at[i]);
    }
  }
}

fn fetch_values(lane: u32, base: u32, is_there: bool) {
  let offset = base + params.block_size * params.kv_heads * PIECES;
  var at: array<u32, ITEMS>;
  for (var i = 0u; i < ITEMS; i++) { // unroll
    at[i] = subgroupShuffle(offset, (i * LANES + lane) / PIECES % 32) + (i * LANES + lane) % PIECES;
  }
  if (is_there) {
    for (var i = 0u; i < ITEMS; i++) { // unroll
      next_values[i] = stored(at[i]);
    }
  }
}

fn stage(lane: u32, base: u32, pieces: ptr<private, array<vec4u, ITEMS>>) {
  for (var i = 0u; i < ITEMS; i++) { // unroll
    let item = i * LANES + lane;
    let at = base + item / PIECES * STRIDE + item % PIECES;
    if (i * LANES + LANES <= KEYS * PIECES || item < KEYS * PIECES) { tile[at] = as_f16((*pieces)[i]); }
  }
}

/// Scores of the pair's queries for the keys of a side.
fn multiply_keys(queries: ptr<function, Queries>, scores: ptr<function, Scores>, side: u32) {
  for (var r = 0u; r < 2; r++) { // unroll
    (*scores)[r] = Sums(0f);
  }
  for (var c = 0u; c < FRAGMENTS; c++) { // unroll
    let keys = subgroupMatrixLoad<Right, col_major>(&tile, 16 * side * STRIDE + 2 * c, STRIDE);
    for (var r = 0u; r < 2; r++) { // unroll
      (*scores)[r] = subgroupMatrixMultiplyAccumulate((*queries)[r][c], keys, (*scores)[r]);
    }
  }
}

/// Adds weights times values, of the channels of a side.
fn multiply_values(outputs: ptr<function, Outputs>, row: u32, side: u32) {
  for (var k = 0u; k < 2; k++) { // unroll
    var weights: array<Left, 2>;
    for (var r = 0u; r < 2; r++) { // unroll
      let at = WEIGHTS + (row + 16 * r) * WEIGHT_STRIDE + 2 * k;
      weights[r] = subgroupMatrixLoad<Left, row_major>(&tile, at, WEIGHT_STRIDE);
    }
    for (var c = 0u; c < HALF; c++) { // unroll
      let at = VALUES + 16 * k * STRIDE + 2 * (side * HALF + c);
      let values = subgroupMatrixLoad<Right, row_major>(&tile, at, STRIDE);
      for (var r = 0u; r < 2; r++) { // unroll
        (*outputs)[r][c] = subgroupMatrixMultiplyAccumulate(weights[r], values, (*outputs)[r][c]);
      }
    }
  }
}

fn store_scores(scores: ptr<function, Scores>, row: u32, side: u32) {
  for (var r = 0u; r < 2; r++) { // unroll
    let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * side;
    subgroupMatrixStore<row_major>(&tile, at, (*scores)[r], SCORE_STRIDE);
  }
}

/// Scores of half a row.
alias Half = array<array<vec4f, 2>, 2>;

fn read_scores(lane: u32, row_index: u32) -> Half {
  let base = SCORES + row_index * SCORE_STRIDE + lane % 32 / 16 * 4;
  var scores: Half;
  for (var i = 0u; i < 2; i++) { // unroll
    scores[i][0] = bitcast<vec4f>(tile[base + 2 * i]);
    scores[i][1] = bitcast<vec4f>(tile[base + 2 * i + 1]);
  }
  return scores;
}

/// A scaled score, in powers of two, as the soft cap leaves it.
fn capped(score: vec4f) -> vec4f {
  let x = clamp(score / (params.soft_cap * LOG2_E), vec4f(-10), vec4f(10));
  return params.soft_cap * LOG2_E * (vec4f(1) - vec4f(2) / (exp(2 * x) + vec4f(1)));
}

/// Four scores, LOWEST where there is nothing to see from key `key` on.
fn masked(score: vec4f, row: Row, key: u32) -> vec4f {
  let seen = vec4u(key, key + 1, key + 2, key + 3) - row.low <= vec4u(row.span);
  return select(vec4f(LOWEST), score, seen);
}

/// Half a row of scores in powers of two, LOWEST where there is nothing to see.
fn seen_scores(lane: u32, row_index: u32, row: Row, sight: Sight, first: u32) -> Half {
  var scores = read_scores(lane, row_index);
  for (var i = 0u; i < 2; i++) { // unroll
    scores[i][0] *= params.scale * LOG2_E;
    scores[i][1] *= params.scale * LOG2_E;
    if (CAP == 1) {
      scores[i][0] = capped(scores[i][0]);
      scores[i][1] = capped(scores[i][1]);
    }
  }
  // One branch for all of them: branches between the scores cost more than what they save.
  if (first < sight.all_first || first + KEYS - 1 > sight.all_last) {
    let key = first + lane % 32 / 16 * 16;
    for (var i = 0u; i < 2; i++) { // unroll
      scores[i][0] = masked(scores[i][0], row, key + 8 * i);
      scores[i][1] = masked(scores[i][1], row, key + 8 * i + 4);
    }
  }
  return scores;
}

/// Turns half a row of scores into weights; returns whether its reference moved.
fn weigh(lane: u32, row_index: u32, scores: Half, row: ptr<function, Row>) -> bool {
  let part = lane % 32 / 16 * 2;
  let highest = max(max(scores[0][0], scores[0][1]), max(scores[1][0], scores[1][1]));
  var largest = max(max(highest.x, highest.y), max(highest.z, highest.w));
  largest = max(largest, subgroupShuffleXor(largest, 16));
  let is_moved = largest > (*row).most + HEADROOM || ((*row).most == LOWEST && largest > LOWEST);
  (*row).factor = select(1.0, exp2((*row).most - largest), is_moved);
  (*row).most = select((*row).most, largest, is_moved);
  // A row that has seen nothing yet has LOWEST for its reference: its weights must not be exp2(0).
  let reference = select((*row).most, 0.0, (*row).most == LOWEST);
  var sum = vec4f();
  for (var i = 0u; i < 2; i++) { // unroll
    let a = exp2(scores[i][0] - reference);
    let b = exp2(scores[i][1] - reference);
    sum += a + b;
    tile[WEIGHTS + row_index * WEIGHT_STRIDE + part + i] =
      vec4u(bitcast<vec2u>(vec4<f16>(a)), bitcast<vec2u>(vec4<f16>(b)));
  }
  (*row).weight = (*row).weight * (*row).factor + dot(sum, vec4f(1));
  return is_moved;
}

/// Multiplies each row of outputs by its factor, as many columns at a time as the place of the scores takes.
fn rescale(outputs: ptr<function, Outputs>, lane: u32, row: u32, side: u32, row_index: u32, factor: f32) {
  for (var n = 0u; n < HALF; n++) { // unroll
    workgroupBarrier();
    for (var r = 0u; r < 2; r++) { // unroll
      let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * side;
      subgroupMatrixStore<row_major>(&tile, at, (*outputs)[r][n], SCORE_STRIDE);
    }
    workgroupBarrier();
    for (var i = lane % 32 / 16; i < KEYS / 4; i += 2) {
      let at = SCORES + row_index * SCORE_STRIDE + i;
      tile[at] = bitcast<vec4u>(bitcast<vec4f>(tile[at]) * factor);
    }
    workgroupBarrier();
    for (var r = 0u; r < 2; r++) { // unroll
      let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * side;
      (*outputs)[r][n] = subgroupMatrixLoad<Sums, row_major>(&tile, at, SCORE_STRIDE);
    }
  }
  workgroupBarrier();
}

fn sigmoid(value: vec4f) -> vec4f { return vec4f(1) / (vec4f(1) + exp(-value)); }

/// What eight channels of y are multiplied by, before the sigmoid.
fn gate_of(token: u32, column: u32) -> array<vec4f, 2> {
  let at = (token * params.gate_row + params.gate_offset + column) / 8;
  if (GATE_FORMAT == 0) { return array(bitcast<vec4f>(gate[2 * at]), bitcast<vec4f>(gate[2 * at + 1])); }
  let eight = gate[at];
  return array(vec4f(bitcast<vec4<f16>>(eight.xy)), vec4f(bitcast<vec4<f16>>(eight.zw)));
}

/// Writes eight channels of y, from `column` on.
fn write(token: u32, column: u32, low: vec4f, high: vec4f) {
  let at = (token * params.heads * HEAD + column) / 8;
  if (Y_FORMAT == 0) {
    y[2 * at] = bitcast<vec4u>(low);
    y[2 * at + 1] = bitcast<vec4u>(high);
  } else {
    y[at] = vec4u(clamped(low), clamped(high));
  }
}

/// Writes the rows of which the subgroup has the sums of weights.
fn finish(outputs: ptr<function, Outputs>, lane: u32, row: u32, side: u32, weight: f32, info: vec4u, head: u32) {
  let own = row + 16 * side;
  let piece = lane % 4;
  let column = head * HEAD + (piece / 2 * HALF) * 16 + piece % 2 * 8;
  // All asked for at once.
  var gates: array<array<array<vec4f, 2>, 2>, HALF>;
  if (GATE == 1) {
    for (var n = 0u; n < HALF; n++) { // unroll
      for (var i = 0u; i < 2; i++) { // unroll
        let place = min(own + 8 * i + lane % 32 / 4, info.y - 1);
        gates[n][i] = gate_of(info.x + place, column + 16 * n);
      }
    }
  }
  for (var n = 0u; n < HALF; n++) { // unroll
    workgroupBarrier();
    for (var r = 0u; r < 2; r++) { // unroll
      let at = SCORES + (row + 16 * r) * SCORE_STRIDE + 4 * side;
      subgroupMatrixStore<row_major>(&tile, at, (*outputs)[r][n], SCORE_STRIDE);
    }
    workgroupBarrier();
    for (var i = 0u; i < 2; i++) { // unroll
      let place = 8 * i + lane % 32 / 4;
      let inverse = 1 / subgroupShuffle(weight, place);
      let at = SCORES + (own + place) * SCORE_STRIDE + 2 * piece;
      var low = bitcast<vec4f>(tile[at]) * inverse;
      var high = bitcast<vec4f>(tile[at + 1]) * inverse;
      if (GATE == 1) {
        low *= sigmoid(gates[n][i][0]);
        high *= sigmoid(gates[n][i][1]);
      }
      if (own + place < info.y) { write(info.x + own + place, column + 16 * n, low, high); }
    }
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let info = tiles[group.y]; // first token, count, sequence
  if (info.y == 0) { return; }
  let position = tokens_meta[info.x].x;
  let prefix = prefix_of(info.z);
  let sight = sight_of(position, info.y, prefix);
  let table = info.z * params.blocks_per_sequence;
  let kv_head = head / (params.heads / params.kv_heads);
  let subgroup = subgroupBroadcastFirst(lane / 32);
  let side = subgroup % 2;
  let pair_row = subgroup / 2 * 32;
  let row_index = subgroup * 16 + lane % 16;
  let seen = seen_from(position + min(row_index, info.y - 1), prefix);
  var row = Row(seen.x, seen.y - seen.x, LOWEST, 0.0, 1.0);

  // Rounds begin at multiples of KEYS, lest a result depend on the tile; keys that nobody sees are taken for one that is seen.
  let begin = sight.first / KEYS * KEYS;
  let last_place = place_of(sight.last);
  let step = place_of(KEYS);
  let part = lane / PIECES; // the first of the keys that a lane fetches
  var bases: array<u32, 4>; // where keys of the first rounds begin
  for (var i = 0u; i < 4; i++) { // unroll
    let place = place_of(clamp(begin + i * KEYS + lane % 32, sight.first, sight.last));
    bases[i] = base_of(block_tables[table + place.entry], place.within, kv_head);
  }
  stage_queries(lane, info.x, info.y, head);
  fetch_keys(lane, bases[0], true);
  workgroupBarrier();
  var queries: Queries;
  var outputs: Outputs;
  for (var r = 0u; r < 2; r++) { // unroll
    for (var c = 0u; c < FRAGMENTS; c++) { // unroll
      queries[r][c] = subgroupMatrixLoad<Left, row_major>(&tile, (pair_row + 16 * r) * STRIDE + 2 * c, STRIDE);
    }
    for (var c = 0u; c < HALF; c++) { // unroll
      outputs[r][c] = Sums(0f);
    }
  }
  workgroupBarrier();
  stage(lane, 0, &next_keys);
  workgroupBarrier();
  fetch_keys(lane, bases[1], begin + KEYS + part <= sight.last);
  fetch_values(lane, bases[0], true);
  var scores: Scores;
  multiply_keys(&queries, &scores, side);
  store_scores(&scores, pair_row, side);
  workgroupBarrier();
  stage(lane, 0, &next_keys);
  fetch_keys(lane, bases[2], begin + 2 * KEYS + part <= sight.last);

  var next_base = bases[1]; // of the next round, and of those after it
  var second_base = bases[2];
  var third_base = bases[3];
  var cursor = place_of(begin + 4 * KEYS + lane % 32);
  var first = begin;
  loop {
    workgroupBarrier();
    let half = seen_scores(lane, row_index, row, sight, first);
    stage(lane, VALUES, &next_values);
    fetch_values(lane, next_base, first + KEYS + part <= sight.last);
    multiply_keys(&queries, &scores, side); // of the next round
    let is_moved = subgroupAny(weigh(lane, row_index, half, &row));
    if (lane % 32 == 0) { said[lane / 32] = select(0, MOVED, is_moved) | select(0, LAST, first + KEYS > sight.last); }
    let words = workgroupUniformLoad(&said);
    var any = 0u;
    for (var i = 0u; i < SUBGROUPS; i++) { any |= words[i]; }
    if ((any & MOVED) != 0 && first > begin) { rescale(&outputs, lane, pair_row, side, row_index, row.factor); }
    stage(lane, 0, &next_keys);
    fetch_keys(lane, third_base, first + 3 * KEYS + part <= sight.last);
    // Of the fourth round from here: all lanes if there is one, and some if not, again for the compiler.
    let is_seen = first + 4 * KEYS + lane % 32 <= sight.last;
    let entry = select(last_place.entry, cursor.entry, is_seen);
    var block = 0u;
    if (first + 4 * KEYS <= sight.last + lane % 32) { block = block_tables[table + entry]; }
    multiply_values(&outputs, pair_row, side);
    store_scores(&scores, pair_row, side);
    next_base = second_base;
    second_base = third_base;
    third_base = base_of(block, select(last_place.within, cursor.within, is_seen), kv_head);
    cursor = after(cursor, step);
    // Asked of memory: a loop whose length the driver can tell is written out by it, four times the code for the same speed.
    if ((any & LAST) != 0) { break; }
    first += KEYS;
  }
  workgroupBarrier();
  finish(&outputs, lane, pair_row, side, row.weight + subgroupShuffleXor(row.weight, 16), info, head);
}
