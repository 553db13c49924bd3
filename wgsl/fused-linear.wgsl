// fused-linear: y[t, n] = act(p[t, n]) * p[t, outputs + n], or p[t, n]; (+ y[t, n]); p[t, m] = norm(x[t]) . weight[m] (+ bias[m])
//
// For up to 8 tokens on a GPU with subgroups of any size. A team of TEAM_LANES lanes has ROWS rows of the weight (a gated
// product's gates and ups side by side), for TOKENS tokens; TEAMS of them are a workgroup, further tokens others. Lanes stride over a row by items
// of 16 bytes, UNROLL of each row in flight; while they come, all lanes of the workgroup put the inputs of a chunk of
// items, UNROLL for each lane of a team, into its memory. For f32, bf16 and f16 weights inputs are f32; for i8 and i4
// integers of 16 bits with a step for 32 of them, as two bytes each for products of four bytes: exact sums, and a
// rounding by 2^-16 of the largest of the 32. Sizes are overrides, since params are slow to come. The norm's factor is applied
// to the finished sums, so that nothing waits for it. Reads each weight once: bound by memory. TEAM_LANES is a multiple of
// the subgroup's size, SUBGROUPS the most of them in a workgroup; inputs is a multiple of 8, of i8 and i4 of 32. Inputs
// beyond the last are 0; rows and tokens beyond the last are read as the last and not written.
enable subgroups;
override FORMAT: u32 = 0;     // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override NORM: u32 = 0;       // of x: 0 none, 1 RMS, 2 RMS times w, 3 RMS times 1 + w
override ACT: u32 = 0;        // of a gated product: 0 silu, 1 gelu with the tanh approximation
override BIAS: u32 = 0;       // 1: adds bias
override ACCUMULATE: u32 = 0; // 1: adds to what y holds
override INPUTS: u32 = 8;
override OUTPUTS: u32 = 1;
const TOKENS: u32 = 1;
const ROWS: u32 = 2;
const GATED: bool = false;
const TEAMS: u32 = 4;
const TEAM_LANES: u32 = 32;
const SUBGROUPS: u32 = 32;
const UNROLL: u32 = 1;
const EIGHTHS: u32 = 1; // of an item: 8 weights of f32 (of which it has two loads) or 16 bits, 16 of i8, 32 of i4
const VECTORS: u32 = 2; // of 16 bytes, which an item's inputs take: 4 of i4
struct Params { tokens: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;      // [tokens, inputs]
@group(0) @binding(2) var<storage, read> weight: array<vec4u>; // [rows, inputs]
@group(0) @binding(3) var<storage, read> scales: array<u32>;   // [scales]
@group(0) @binding(4) var<storage, read> norm: array<vec4f>;   // [norms]
@group(0) @binding(5) var<storage, read> bias: array<f32>;     // [biases]
@group(0) @binding(6) var<storage, read_write> y: array<f32>;  // [tokens, outputs]

const LANES: u32 = TEAMS * TEAM_LANES;
const TEAM_OUTPUTS: u32 = select(ROWS, ROWS / 2, GATED); // of a team
const GROUP_OUTPUTS: u32 = TEAMS * TEAM_OUTPUTS;
const FINISHES: u32 = (TOKENS * GROUP_OUTPUTS + LANES - 1) / LANES; // outputs of a lane
const CHUNK: u32 = UNROLL * TEAM_LANES; // items
const SUMS: u32 = TOKENS * (ROWS + 1); // products [token, row], then squares [token]
var<workgroup> staged: array<vec4u, TOKENS * VECTORS * CHUNK>;
var<workgroup> steps: array<vec2u, TOKENS * CHUNK * EIGHTHS / 4>; // of 32 inputs, and eight times their sum in steps
var<workgroup> partial: array<f32, SUBGROUPS * SUMS>; // [subgroup, sum]

/// Eight consecutive elements of a row.
struct Eight { a: vec4f, b: vec4f }

/// An item as stored; all but f32 leave b empty.
struct Words { a: vec4u, b: vec4u }

/// Known without a look at the params, which are slow to come, where there is one.
fn tokens() -> u32 {
  if (TOKENS == 1) { return 1; }
  return params.tokens;
}

/// Where a token's i-th eight inputs of the chunk begin: [token, vector, item], since lanes read items side by side.
fn staged_at(t: u32, i: u32) -> u32 {
  return (t * VECTORS + i % EIGHTHS * (VECTORS / EIGHTHS)) * CHUNK + i / EIGHTHS;
}

/// Puts a token's i-th eight inputs of the chunk into workgroup memory, in the order of an item's weights. To be called by
/// all lanes with consecutive i: of i8 and i4, four of them find out the step.
fn stage(t: u32, i: u32, a: vec4f, b: vec4f) {
  let at = staged_at(t, i);
  let is_there = i < CHUNK * EIGHTHS;
  if (FORMAT < 3) {
    if (is_there) {
      staged[at] = bitcast<vec4u>(a);
      staged[at + CHUNK] = bitcast<vec4u>(b);
    }
    return;
  }
  // As bits, magnitudes are in order, with infinity and NaN on top, which make a step that is none and so spread.
  let sizes = max(bitcast<vec4u>(a) & vec4u(0x7fffffff), bitcast<vec4u>(b) & vec4u(0x7fffffff));
  var most = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
  most = max(most, subgroupShuffleXor(most, 1));
  most = max(most, subgroupShuffleXor(most, 2));
  let step = bitcast<f32>(most) / 32639.0; // 127 * 256 + 127
  let inverse = select(1.0 / step, 0.0, step < 1e-30); // its inverse would be no float
  var first = vec4i(round(a * inverse));
  var second = vec4i(round(b * inverse));
  let pairs = first + second;
  var sum = pairs.x + pairs.y + pairs.z + pairs.w;
  if (FORMAT == 4) {
    sum += subgroupShuffleXor(sum, 1);
    sum += subgroupShuffleXor(sum, 2);
    let even = vec4i(first.xz, second.xz);
    second = vec4i(first.yw, second.yw);
    first = even;
  }
  if (is_there) {
    let high = vec2u(pack4xI8((first + 128) >> vec4u(8)), pack4xI8((second + 128) >> vec4u(8)));
    staged[at] = vec4u(high, pack4xI8(first), pack4xI8(second));
    if (i % 4 == 0) { steps[(t * CHUNK * EIGHTHS + i) / 4] = vec2u(bitcast<u32>(step), bitcast<u32>(select(0, 8 * sum, FORMAT == 4))); }
  }
}

/// The matrix's i-th item.
fn load(i: u32) -> Words {
  if (FORMAT == 0) { return Words(weight[2 * i], weight[2 * i + 1]); }
  return Words(weight[i], vec4u());
}

/// The word that has the scale of the matrix's i-th item. Rows are whole groups, so groups are counted through.
fn scale_word(i: u32) -> u32 {
  if (FORMAT < 3) { return 0; }
  return scales[i * EIGHTHS / GROUP_EIGHTHS / 2];
}

fn scale(i: u32, word: u32) -> f32 {
  if (FORMAT < 3) { return 1.0; }
  return unpack2x16float(word >> (16 * (i * EIGHTHS / GROUP_EIGHTHS % 2))).x;
}

/// Eight weights of 32 or 16 bits.
fn widened(words: Words) -> Eight {
  if (FORMAT == 0) { return Eight(bitcast<vec4f>(words.a), bitcast<vec4f>(words.b)); }
  if (FORMAT == 1) {
    let even = bitcast<vec4f>(words.a << vec4u(16));
    let odd = bitcast<vec4f>(words.a & vec4u(0xffff0000));
    return Eight(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
  }
  return Eight(
    vec4f(unpack2x16float(words.a.x), unpack2x16float(words.a.y)),
    vec4f(unpack2x16float(words.a.z), unpack2x16float(words.a.w)),
  );
}

/// An item's weights times inputs; of i8 and i4 in steps and scales. An i4 is stored as itself + 8: `excess` is taken off.
fn product(words: Words, inputs: array<vec4u, VECTORS>, excess: i32) -> f32 {
  if (FORMAT < 3) {
    let w = widened(words);
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

/// The step of a token's place-th item, and its excess; of other formats than i8 and i4 1 and 0.
fn step_of(t: u32, place: u32) -> vec2u {
  if (FORMAT < 3) { return vec2u(bitcast<u32>(1.0), 0); }
  return steps[(t * CHUNK + place) * EIGHTHS / 4];
}

/// The norm's weights for eight elements.
fn factors(k8: u32) -> Eight {
  if (NORM < 2) { return Eight(vec4f(1.0), vec4f(1.0)); }
  let one = select(0.0, 1.0, NORM == 3);
  return Eight(norm[2 * k8] + one, norm[2 * k8 + 1] + one);
}

/// Stages the chunk that begins at item `chunk`, for TOKENS tokens from `token` on; adds to `squares` those of the lane's inputs, [token].
fn stage_chunk(lane: u32, token: u32, chunk: u32, squares: ptr<function, array<f32, TOKENS>>) {
  let row = INPUTS / 8;
  for (var base = 0u; base < CHUNK * EIGHTHS; base += LANES) {
    let i = base + lane;
    let k8 = chunk * EIGHTHS + i;
    let is_input = i < CHUNK * EIGHTHS && k8 < row;
    let factor = factors(min(k8, row - 1));
    for (var t = 0u; t < TOKENS; t++) {
      let at = 2 * (min(token + t, tokens() - 1) * row + min(k8, row - 1));
      let a = select(vec4f(), x[at], is_input);
      let b = select(vec4f(), x[at + 1], is_input);
      (*squares)[t] += dot(a, a) + dot(b, b);
      stage(t, i, a * factor.a, b * factor.b);
    }
  }
}

fn activated(gate: f32) -> f32 {
  var z = gate;
  if (ACT == 1) { z = 1.5957691216057308 * gate * (1.0 + 0.044715 * gate * gate); } // 2 sqrt(2 / pi)
  let e = exp(-abs(z));
  return gate * select(1.0, e, z < 0.0) / (1.0 + e);
}

/// Sum s of a team, over its subgroups.
fn folded(team: u32, s: u32, size: u32) -> f32 {
  let count = TEAM_LANES / size;
  var sum = 0.0;
  for (var i = 0u; i < count; i++) { sum += partial[(team * count + i) * SUMS + s]; }
  return sum;
}

/// p[t, n] of row r of a team.
fn finished(team: u32, t: u32, r: u32, n: u32, size: u32) -> f32 {
  var value = folded(team, t * ROWS + r, size);
  if (NORM > 0) {
    var squares = 0.0;
    for (var i = 0u; i < LANES / size; i++) { squares += partial[i * SUMS + TOKENS * ROWS + t]; }
    value *= inverseSqrt(squares / f32(INPUTS) + params.eps);
  }
  if (BIAS == 1) { value += bias[n]; }
  return value;
}

/// Token and column of an output of the workgroup.
fn output_at(first: u32, index: u32) -> vec2u { return vec2u(index / GROUP_OUTPUTS, first + index % GROUP_OUTPUTS); }

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) size: u32,
) {
  let first = (group.y * grid.x + group.x) * GROUP_OUTPUTS;
  let token = group.z * TOKENS;
  if (first >= OUTPUTS || token >= tokens()) { return; }

  // What this lane's outputs are added to is read ahead.
  var before: array<f32, FINISHES>;
  if (ACCUMULATE == 1) {
    for (var i = 0u; i < FINISHES; i++) {
      let at = output_at(first, i * LANES + local.x);
      before[i] = y[min(token + at.x, tokens() - 1) * OUTPUTS + min(at.y, OUTPUTS - 1)];
    }
  }

  let row = INPUTS / (8 * EIGHTHS); // items
  let n = first + local.x / TEAM_LANES * TEAM_OUTPUTS;
  let member = local.x % TEAM_LANES;
  var starts: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // unroll
    starts[r] = (min(n + r % TEAM_OUTPUTS, OUTPUTS - 1) + r / TEAM_OUTPUTS * OUTPUTS) * row;
  }
  var sums: array<f32, TOKENS * ROWS>;
  var squares: array<f32, TOKENS>;
  for (var chunk = 0u; chunk < row; chunk += CHUNK) {
    var words: array<Words, ROWS * UNROLL>;
    var scale_words: array<u32, ROWS * UNROLL>;
    for (var u = 0u; u < UNROLL; u++) { // unroll
      let item = min(chunk + member + u * TEAM_LANES, row - 1);
      for (var r = 0u; r < ROWS; r++) { // unroll
        words[u * ROWS + r] = load(starts[r] + item);
        scale_words[u * ROWS + r] = scale_word(starts[r] + item);
      }
    }
    if (chunk > 0) { workgroupBarrier(); }
    stage_chunk(local.x, token, chunk, &squares);
    workgroupBarrier();
    for (var u = 0u; u < UNROLL; u++) { // unroll
      let place = member + u * TEAM_LANES;
      let item = min(chunk + place, row - 1);
      for (var t = 0u; t < TOKENS; t++) {
        var inputs: array<vec4u, VECTORS>;
        for (var v = 0u; v < VECTORS; v++) { // unroll
          inputs[v] = staged[(t * VECTORS + v) * CHUNK + place];
        }
        let step = step_of(t, place);
        for (var r = 0u; r < ROWS; r++) { // unroll
          let factor = bitcast<f32>(step.x) * scale(starts[r] + item, scale_words[u * ROWS + r]);
          sums[t * ROWS + r] += factor * product(words[u * ROWS + r], inputs, bitcast<i32>(step.y));
        }
      }
    }
  }
  let subgroup = local.x / size;
  for (var t = 0u; t < TOKENS; t++) {
    for (var r = 0u; r < ROWS; r++) { // unroll
      let sum = subgroupAdd(sums[t * ROWS + r]);
      if (lane == 0) { partial[subgroup * SUMS + t * ROWS + r] = sum; }
    }
    let sum = subgroupAdd(squares[t]);
    if (lane == 0) { partial[subgroup * SUMS + TOKENS * ROWS + t] = sum; }
  }
  workgroupBarrier();
  for (var i = 0u; i < FINISHES; i++) {
    let index = i * LANES + local.x;
    let at = output_at(first, index);
    if (index >= TOKENS * GROUP_OUTPUTS || token + at.x >= tokens() || at.y >= OUTPUTS) { continue; }
    let team = index % GROUP_OUTPUTS / TEAM_OUTPUTS;
    let r = index % TEAM_OUTPUTS;
    var value = finished(team, at.x, r, at.y, size);
    if (GATED) { value = activated(value) * finished(team, at.x, TEAM_OUTPUTS + r, OUTPUTS + at.y, size); }
    if (ACCUMULATE == 1) { value += before[i]; }
    y[(token + at.x) * OUTPUTS + at.y] = value;
  }
}
