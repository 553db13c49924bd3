// combine-linear: y[t, n] = a[t] . weight[n] (+ bias[n]) (+ y[t, n]), a = attention's result out of the shares of attention-decode
//
// For few tokens on a GPU with subgroups of any size. The product is that of fused-linear; what a workgroup stages while
// its first weights are under way is the sum of the shares of all heads, times sigmoid(gate) where there are gates. Bound
// by memory. inputs, heads * head_dim, is a multiple of 8, of i8 and i4 of 32.
enable subgroups;
override FORMAT: u32 = 0;     // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override GATED: u32 = 0;      // 1: attention's result is multiplied by sigmoid(gate)
override BIAS: u32 = 0;       // 1: adds bias
override ACCUMULATE: u32 = 0; // 1: adds to what y holds
override OUTPUTS: u32 = 1;
override HEAD_DIM: u32 = 8;
override SPLITS: u32 = 2;
override GATE_ROW: u32 = 0;
override GATE_OFFSET: u32 = 0;
const TOKENS: u32 = 1;
const ROWS: u32 = 2;
const TEAMS: u32 = 4;
const TEAM_LANES: u32 = 32;
const SUBGROUPS: u32 = 32;
const UNROLL: u32 = 1;
const EIGHTHS: u32 = 1; // of an item
const VECTORS: u32 = 2; // of an item's inputs
const INPUTS: u32 = 128;
const ROUND: u32 = 4; // shares read at a time
struct Params { tokens: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> shares: array<vec4f>; // [tokens, share_row]
@group(0) @binding(2) var<storage, read> gate: array<vec4f>;   // [tokens, gate_row]
@group(0) @binding(3) var<storage, read> weight: array<vec4u>; // [outputs, inputs]
@group(0) @binding(4) var<storage, read> scales: array<u32>;   // [scales]
@group(0) @binding(5) var<storage, read> bias: array<f32>;     // [biases]
@group(0) @binding(6) var<storage, read_write> y: array<f32>;  // [tokens, outputs]

const LANES: u32 = TEAMS * TEAM_LANES;
const GROUP_OUTPUTS: u32 = TEAMS * ROWS;
const CHUNK: u32 = UNROLL * TEAM_LANES; // items
const SUMS: u32 = TOKENS * ROWS;
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

/// The exponent is never positive, so nothing overflows.
fn sigmoid(x: vec4f) -> vec4f {
  let e = exp(-abs(x));
  return select(vec4f(1.0), e, x < vec4f(0.0)) / (1.0 + e);
}

/// Eight channels of attention's result: the shares, weighted by how far their maxima lie below the largest.
fn combined(t: u32, k8: u32) -> Eight {
  let slice = HEAD_DIM / 4;
  let step = slice + 1;
  let heads = INPUTS / HEAD_DIM;
  let base = (t * heads + 2 * k8 / slice) * SPLITS * step;
  let c = 2 * k8 % slice;
  var gates = Eight(vec4f(), vec4f());
  if (GATED == 1) {
    let at = (t * GATE_ROW + GATE_OFFSET) / 4 + 2 * k8;
    gates = Eight(gate[at], gate[at + 1]);
  }
  var taken = 1u;
  var most = -3e38;
  var weight = 0.0;
  var a = vec4f();
  var b = vec4f();
  for (var s = 0u; s < taken; s += ROUND) {
    // All are read before it is known how many there are: what nobody wrote counts for nothing.
    var values: array<Eight, ROUND>;
    var ends: array<vec4f, ROUND>;
    for (var i = 0u; i < ROUND; i++) { // unroll
      let at = base + min(s + i, SPLITS - 1) * step;
      values[i] = Eight(shares[at + c], shares[at + c + 1]);
      ends[i] = shares[at + slice];
    }
    if (s == 0) { taken = u32(ends[0].z); }
    var most_now = max(most, ends[0].x);
    for (var i = 1u; i < ROUND; i++) {
      if (s + i < taken) { most_now = max(most_now, ends[i].x); }
    }
    let keep = exp(most - most_now);
    most = most_now;
    weight *= keep;
    a *= keep;
    b *= keep;
    for (var i = 0u; i < ROUND; i++) { // unroll
      if (s + i < taken) {
        let factor = exp(ends[i].x - most);
        weight += factor * ends[i].y;
        a += factor * values[i].a;
        b += factor * values[i].b;
      }
    }
  }
  if (GATED == 1) { return Eight(a / weight * sigmoid(gates.a), b / weight * sigmoid(gates.b)); }
  return Eight(a / weight, b / weight);
}

/// Stages the chunk that begins at item `chunk`, for TOKENS tokens from `token` on.
fn stage_chunk(lane: u32, token: u32, chunk: u32) {
  let row = INPUTS / 8;
  for (var base = 0u; base < CHUNK * EIGHTHS; base += LANES) {
    let i = base + lane;
    let k8 = chunk * EIGHTHS + i;
    let is_input = i < CHUNK * EIGHTHS && k8 < row;
    for (var t = 0u; t < TOKENS; t++) {
      let source = min(token + t, tokens() - 1);
      var inputs = Eight(vec4f(), vec4f());
      if (is_input) { inputs = combined(source, k8); }
      stage(t, i, inputs.a, inputs.b);
    }
  }
}

/// Sum s of a team, over its subgroups.
fn folded(team: u32, s: u32, size: u32) -> f32 {
  let count = TEAM_LANES / size;
  var sum = 0.0;
  for (var i = 0u; i < count; i++) { sum += partial[(team * count + i) * SUMS + s]; }
  return sum;
}

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

  // The output that this lane finishes; what it adds to is read ahead.
  let place = local.x / GROUP_OUTPUTS;
  let out_t = token + place;
  let out_n = first + local.x % GROUP_OUTPUTS;
  let finishes = place < TOKENS && out_t < tokens() && out_n < OUTPUTS;
  let out = out_t * OUTPUTS + out_n;
  var before = 0.0;
  if (ACCUMULATE == 1 && finishes) { before = y[out]; }

  let row = INPUTS / (8 * EIGHTHS); // items
  let n = first + local.x / TEAM_LANES * ROWS;
  let member = local.x % TEAM_LANES;
  var starts: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // unroll
    starts[r] = min(n + r, OUTPUTS - 1) * row;
  }
  var sums: array<f32, TOKENS * ROWS>;
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
    stage_chunk(local.x, token, chunk);
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
  }
  workgroupBarrier();
  if (!finishes) { return; }
  var value = folded(local.x % GROUP_OUTPUTS / ROWS, place * ROWS + local.x % ROWS, size);
  if (BIAS == 1) { value += bias[out_n]; }
  if (ACCUMULATE == 1) { value += before; }
  y[out] = value;
}
