// gemm: y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n]), or act(gate[t, n]) * up[t, n]
//
// Products on subgroup matrices (16 x 16 x 16, f16 in, f32 sums), for more tokens than a matrix-vector kernel likes.
// One workgroup a tile; subgroups have parts of it, and SPLIT of them share a part by taking turns along k. Each step
// stages 8 * PIECES columns of both operands in workgroup memory, while the next ones are on their way to registers.
// With HALVES = 2, for many tokens, the subgroups of one half of the rows multiply while those of the other stage; in
// step with each other, the two that share a scheduler would wait for the same things. All run the same loop, the second
// half a barrier later. The second barrier of a step lies before its last products, whose operands are in registers by
// then. A half stages its rows of weight and half of x; the second one, which stages after the first one has begun to
// multiply, is a step ahead with x, so that there are two stages of x.
// Workgroups of grid.z take one share of k each and write sums of their own, [share, token, row]. Tiles are walked in
// bands, so that neighbours find each other's operands in the cache. Bound by the matrix units and workgroup memory for
// many tokens, by reading weight for few. INPUTS / SHARES is a multiple of 8 * PIECES, ROWS of 16. What is read beyond
// the last row or token, if anything is there, is not written. Gated weights have the rows of gate first, then those of
// up.
// Loops over matrices are written out before compilation (src/gpu/unroll.ts): their counts are plain numbers.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
enable chromium_disable_uniformity_analysis; // the halves' barriers meet by their number, not by their place
diagnostic(off, chromium.subgroup_matrix_uniformity);

// Sizes that are known beforehand are constants: what is read from params delays the first loads by as long as they take.
override INPUTS: u32 = 32;
override ROWS: u32 = 16;
override SHARES: u32 = 1;        // of the inputs: grid.z
override FORMAT: u32 = 2;        // of weight: 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override BIAS: u32 = 0;          // 1: adds bias
override ACCUMULATE: u32 = 0;    // 1: adds to what y holds
override Y_FORMAT: u32 = 0;      // 0 f32, 2 f16
const GATED: u32 = 0;            // 1: silu(gate) * up, 2: gelu_tanh(gate) * up; ROWS_N is even
const PARTS_T: u32 = 2;          // parts of a tile along tokens, and along rows of weight
const PARTS_N: u32 = 2;
const ROWS_T: u32 = 4;           // matrices of a part, likewise
const ROWS_N: u32 = 4;
const SPLIT: u32 = 1;            // subgroups to a part
const TURNS: u32 = 2;            // matrices along k that each of them multiplies a step
const HALVES: u32 = 1;           // 2: half of the subgroups multiply while the others stage; SPLIT is 1
const AHEAD: u32 = 1;            // steps on their way to registers: 1 or 2
const CYCLE: u32 = 1;            // steps that are written out: a multiple of HALVES and of AHEAD
const EAGER: u32 = 0;            // 1: fetches the last step again rather than ask; steps are a multiple of CYCLE
const X_ITEMS: u32 = 4;          // pieces of x and weight that a lane stages a step
const W_ITEMS: u32 = 4;
const BAND: u32 = 8;             // tiles of tokens next to each other
struct Params { tokens: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4u>;       // [tokens, inputs]
@group(0) @binding(2) var<storage, read> weight: array<vec4u>;  // [rows, inputs]
@group(0) @binding(3) var<storage, read> scales: array<u32>;    // [scales]
@group(0) @binding(4) var<storage, read> bias: array<vec4u>;    // [biases]
@group(0) @binding(5) var<storage, read_write> y: array<vec4u>; // [y_rows, outputs]

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

const TILE_TOKENS: u32 = 16 * ROWS_T * PARTS_T;
const TILE_ROWS: u32 = 16 * ROWS_N * PARTS_N;
const PARTS: u32 = PARTS_T * PARTS_N;
const LANES: u32 = 32 * PARTS * SPLIT;
const TEAM: u32 = LANES / HALVES; // lanes that stage together

// What is staged is counted in pieces of 16 bytes: 8 columns. A row has one piece more than it needs, which puts the
// rows of a matrix into different banks.
const PIECES: u32 = 2 * TURNS * SPLIT; // of a step
const STRIDE: u32 = PIECES + 1;
const PASS: u32 = TEAM / PIECES;       // rows that a team stages at a time: a multiple of 32, or 16, or 8
const X_STAGE: u32 = TILE_TOKENS * STRIDE;
const STAGE: u32 = HALVES * X_STAGE + TILE_ROWS * STRIDE;
// In the end the memory takes 16 rows of sums of each subgroup, in pieces of four.
const SUM_STRIDE: u32 = 4 * ROWS_N + 1;
const SUM_AREA: u32 = 16 * SUM_STRIDE;
var<workgroup> tile: array<vec4u, max(STAGE, PARTS * SPLIT * SUM_AREA)>;
const_assert X_ITEMS * LANES == TILE_TOKENS * PIECES && W_ITEMS * LANES == TILE_ROWS * PIECES;

/// A lane's first piece of x and of weight, and its place in their stages; the others follow, PASS rows apart.
struct Source { x: u32, weight: u32, x_place: u32, weight_place: u32, column: u32 }
var<private> x_next: array<array<vec4u, X_ITEMS>, AHEAD>;
var<private> w_next: array<array<vec4u, W_ITEMS>, AHEAD>; // as stored, with the scale behind
alias PartSums = array<array<Sums, ROWS_N>, ROWS_T>;

/// The row of weight in row `i` of the tile, from the first on: gated, 16 rows of gate and 16 of up by turns.
fn weight_row(i: u32) -> u32 {
  if (GATED == 0) { return i; }
  return i / 32 * 16 + i % 16 + i / 16 % 2 * (ROWS / 2);
}

/// What a lane stages of the tile whose first token and row of weight are `first_t` and `first_n`.
fn source_of(lane: u32, half: u32, first_t: u32, first_n: u32) -> Source {
  let column = lane % PIECES;
  var row = lane % TEAM / PIECES;
  // Eight lanes write to all banks at once: a row of eight pieces, or of four each the rows r and r + 4.
  if (PIECES == 4) { row = (row & ~7u) | ((row >> 1) & 3) | ((row & 1) << 2); }
  let t = half * (TILE_TOKENS / HALVES) + row;
  let n = half * (TILE_ROWS / HALVES) + row;
  let pitch = INPUTS / 8;
  return Source(
    (first_t + t) * pitch + column + half * PIECES,
    (select(first_n, first_n / 2, GATED > 0) + weight_row(n)) * pitch + column,
    t * STRIDE + column,
    HALVES * X_STAGE + n * STRIDE + column,
    column,
  );
}

/// Eight elements of weight from piece `i` on, not yet widened, and their scale.
fn stored_weights(i: u32) -> vec4u {
  if (FORMAT == 2) { return weight[i]; }
  let group = i / GROUP_EIGHTHS;
  let scale = scales[group / 2] >> (group % 2 * 16);
  if (FORMAT == 3) { return vec4u(weight[i / 2][i % 2 * 2], weight[i / 2][i % 2 * 2 + 1], scale, 0); }
  return vec4u(weight[i / 4][i % 4], 0, scale, 0);
}

/// Two numbers from 0 to 255, 16 bits apart, less `zero`, times scale.
fn widen(pair: u32, zero: f16, scale: f16) -> u32 {
  // 0x6400 is 1024 in f16, whose last bit counts 1: exact.
  return bitcast<u32>((bitcast<vec2<f16>>(pair | 0x64006400) - vec2<f16>(1024 + zero)) * scale);
}

/// Eight weights as f16.
fn widened(stored: vec4u) -> vec4u {
  if (FORMAT == 2) { return stored; }
  let scale = bitcast<vec2<f16>>(stored.z).x;
  if (FORMAT == 3) {
    let a = stored.x ^ 0x80808080;
    let b = stored.y ^ 0x80808080;
    return vec4u(
      widen((a & 0xff) | ((a & 0xff00) << 8), 128, scale),
      widen(((a >> 16) & 0xff) | ((a >> 8) & 0xff0000), 128, scale),
      widen((b & 0xff) | ((b & 0xff00) << 8), 128, scale),
      widen(((b >> 16) & 0xff) | ((b >> 8) & 0xff0000), 128, scale),
    );
  }
  let a = stored.x;
  return vec4u(
    widen((a & 0xf) | ((a & 0xf0) << 12), 8, scale),
    widen(((a >> 8) & 0xf) | ((a << 4) & 0xf0000), 8, scale),
    widen(((a >> 16) & 0xf) | ((a >> 4) & 0xf0000), 8, scale),
    widen(((a >> 24) & 0xf) | ((a >> 12) & 0xf0000), 8, scale),
  );
}

fn fetch(slot: u32, source: Source, piece: u32) {
  let pitch = INPUTS / 8;
  for (var i = 0u; i < X_ITEMS; i++) { // unroll
    x_next[slot][i] = x[source.x + piece + i * PASS * pitch];
  }
  for (var i = 0u; i < W_ITEMS; i++) { // unroll
    w_next[slot][i] = stored_weights(source.weight + piece + weight_row(i * PASS) * pitch);
  }
}

/// Fetches step `step` of the share that begins at `piece`, if there is one.
fn fetch_next(slot: u32, source: Source, piece: u32, step: u32, steps: u32) {
  if (HALVES == 2) {
    // Under a condition that the compiler cannot do without, or it would move the loads to where they are staged.
    if (source.column + step * PIECES < steps * PIECES) { fetch(slot, source, piece + step * PIECES); }
  } else if (EAGER == 1) {
    fetch(slot, source, piece + min(step, steps - 1) * PIECES);
  } else if (step < steps) {
    fetch(slot, source, piece + step * PIECES);
  }
}

/// Puts a step where it is multiplied from; of x there may be two stages.
fn stage(slot: u32, source: Source, x_stage: u32) {
  for (var i = 0u; i < X_ITEMS; i++) { // unroll
    tile[source.x_place + x_stage * X_STAGE + i * PASS * STRIDE] = x_next[slot][i];
  }
  for (var i = 0u; i < W_ITEMS; i++) { // unroll
    tile[source.weight_place + i * PASS * STRIDE] = widened(w_next[slot][i]);
  }
}

/// The second half's x of the first step, since it is a step ahead from then on.
fn stage_first(source: Source, piece: u32) {
  for (var i = 0u; i < X_ITEMS; i++) { // unroll
    tile[source.x_place + i * PASS * STRIDE] = x[source.x - PIECES + piece + i * PASS * (INPUTS / 8)];
  }
}

/// Adds the products of a staged step, whose operands of this subgroup's part begin at `left_at` and `right_at`. What is
/// staged may be overwritten then.
fn multiply(sums: ptr<function, PartSums>, left_at: u32, right_at: u32) {
  for (var k = 0u; k < TURNS; k++) { // unroll
    var left: array<Left, ROWS_T>;
    var right: array<Right, ROWS_N>;
    for (var i = 0u; i < ROWS_T; i++) { // unroll
      left[i] = subgroupMatrixLoad<Left, row_major>(&tile, left_at + 16 * i * STRIDE + 2 * k * SPLIT, STRIDE);
    }
    for (var j = 0u; j < ROWS_N; j++) { // unroll
      right[j] = subgroupMatrixLoad<Right, col_major>(&tile, right_at + 16 * j * STRIDE + 2 * k * SPLIT, STRIDE);
    }
    if (HALVES == 2 && k == TURNS - 1) { workgroupBarrier(); }
    for (var j = 0u; j < ROWS_N; j++) { // unroll
      for (var i = 0u; i < ROWS_T; i++) { // unroll
        (*sums)[i][j] = subgroupMatrixMultiplyAccumulate(left[i], right[j], (*sums)[i][j]);
      }
    }
  }
  if (HALVES == 1) { workgroupBarrier(); }
}

fn activated(gate: vec4f) -> vec4f {
  if (GATED == 1) { return gate / (vec4f(1) + exp(-gate)); }
  let inner = clamp(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate), vec4f(-10), vec4f(10));
  return gate * (vec4f(1) - vec4f(1) / (exp(2 * inner) + vec4f(1)));
}

/// Four sums of a row, over all turns.
fn total(at: u32) -> vec4f {
  var sum = bitcast<vec4f>(tile[at]);
  for (var turn = 1u; turn < SPLIT; turn++) { sum += bitcast<vec4f>(tile[at + turn * PARTS * SUM_AREA]); }
  return sum;
}

/// Four outputs of the part whose sums begin at `at`.
fn four(at: u32, quad: u32) -> vec4f {
  if (GATED == 0) { return total(at + quad); }
  let gate = at + quad / 4 * 8 + quad % 4;
  return activated(total(gate)) * total(gate + 4);
}

fn with_bias(value: vec4f, n: u32) -> vec4f {
  if (BIAS == 0) { return value; }
  return value + bitcast<vec4f>(bias[n / 4]);
}

/// Writes eight outputs of a row of y, which is `row` long.
fn put(t: u32, n: u32, row: u32, a: vec4f, b: vec4f) {
  var low = with_bias(a, n);
  var high = with_bias(b, n + 4);
  if (Y_FORMAT == 0) {
    let i = (t * row + n) / 4;
    if (ACCUMULATE == 1) {
      low += bitcast<vec4f>(y[i]);
      high += bitcast<vec4f>(y[i + 1]);
    }
    y[i] = bitcast<vec4u>(low);
    y[i + 1] = bitcast<vec4u>(high);
  } else {
    let l = vec4<f16>(clamp(low, vec4f(-65504), vec4f(65504)));
    let h = vec4<f16>(clamp(high, vec4f(-65504), vec4f(65504)));
    y[(t * row + n) / 8] = vec4u(bitcast<vec2u>(l), bitcast<vec2u>(h));
  }
}

/// Writes the 16 rows of sums in workgroup memory that belong to one part.
fn put_rows(worker: u32, at: u32, first_t: u32, first_n: u32, share: u32) {
  const eights = select(2 * ROWS_N, ROWS_N, GATED > 0);
  let columns = select(ROWS, ROWS / 2, GATED > 0);
  for (var i = worker; i < 16 * eights; i += 32 * SPLIT) {
    let t = first_t + i / eights;
    let n = first_n + i % eights * 8;
    if (t < params.tokens && n < columns) {
      let row = at + i / eights * SUM_STRIDE;
      let quad = i % eights * 2;
      put(share * params.tokens + t, n, columns, four(row, quad), four(row, quad + 1));
    }
  }
}

/// The tile of a workgroup: (tokens, outputs).
fn tile_place(group: vec3u, grid: vec3u) -> vec2u {
  if (grid.y == 1) { return vec2u(0, group.x); }
  let index = group.y * grid.x + group.x;
  let band = index / (BAND * grid.x);
  let height = min(BAND, grid.y - band * BAND);
  let rest = index % (BAND * grid.x);
  return vec2u(band * BAND + rest % height, rest / height);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let place = tile_place(group, grid);
  let subgroup = subgroupBroadcastFirst(lane / 32);
  let part = subgroup % PARTS;
  let turn = subgroup / PARTS;
  let part_t = part % PARTS_T * 16 * ROWS_T;
  let part_n = part / PARTS_T * 16 * ROWS_N;
  let half = select(0u, 1u, HALVES == 2 && part_n >= TILE_ROWS / 2);
  let left_at = part_t * STRIDE + 2 * turn;
  let right_at = HALVES * X_STAGE + part_n * STRIDE + 2 * turn;
  var sums: PartSums;
  for (var i = 0u; i < ROWS_T; i++) { // unroll
    for (var j = 0u; j < ROWS_N; j++) { // unroll
      sums[i][j] = Sums(0f);
    }
  }
  let source = source_of(lane, half, place.x * TILE_TOKENS, place.y * TILE_ROWS);
  // For halves a number that the compiler does not know, see fetch_next.
  let steps = INPUTS / (8 * PIECES) / select(SHARES, grid.z, HALVES == 2);
  let piece = group.z * steps * PIECES;
  for (var i = 0u; i < AHEAD; i++) { // unroll
    if (i < steps) { fetch(i, source, piece + i * PIECES); }
  }
  if (HALVES == 2 && half == 1) {
    stage_first(source, piece);
    workgroupBarrier();
  }
  for (var first = 0u; first < steps; first += CYCLE) {
    for (var i = 0u; i < CYCLE; i++) { // unroll
      if (EAGER == 1 || first + i < steps) {
        stage(i % AHEAD, source, (i + half) % HALVES);
        if (HALVES == 1) { workgroupBarrier(); }
        fetch_next(i % AHEAD, source, piece, first + i + AHEAD, steps);
        if (HALVES == 2) { workgroupBarrier(); }
        multiply(&sums, left_at + i % HALVES * X_STAGE, right_at);
      }
    }
  }
  if (HALVES == 2 && half == 0) { workgroupBarrier(); }
  let columns = place.y * TILE_ROWS + part_n;
  let first_n = select(columns, columns / 2, GATED > 0);
  for (var i = 0u; i < ROWS_T; i++) { // unroll
    workgroupBarrier();
    for (var j = 0u; j < ROWS_N; j++) { // unroll
      subgroupMatrixStore<row_major>(&tile, subgroup * SUM_AREA + 4 * j, sums[i][j], SUM_STRIDE);
    }
    workgroupBarrier();
    let first_t = place.x * TILE_TOKENS + part_t + 16 * i;
    put_rows(turn * 32 + lane % 32, part * SUM_AREA, first_t, first_n, group.z);
  }
}
