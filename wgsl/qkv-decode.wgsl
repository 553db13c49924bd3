// qkv-decode: p[t] = norm(x[t]) W^T (+ bias), rows of W gates | queries | keys | values, a head's channels side by side;
// y[t] = gates | rotated queries, kv[slot(t), 0] = round(rotated keys), kv[slot(t), 1] = round(values)
//
// For up to 8 tokens on a GPU with subgroups of any size; the product as in fused-linear. A team has four rows: of the
// channels that turn (rotate-half, i and i + rotary_dim / 2 by one angle) two neighbours and their partners, of others
// four neighbours. So one lane finishes whole words of the cache. Reads each weight once: bound by memory. head_dim and
// rotary_dim are multiples of 4. A slot outside the cache is not written; f16 is clamped to its range. An i8 cache's scales
// need whole heads, which no team has: kv-write-int8 stores what this leaves in y.
enable subgroups;
override FORMAT: u32 = 0;    // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override KV_FORMAT: u32 = 0; // of kv, likewise; of i8 nothing is stored: y has keys and values too, behind the queries
override NORM: u32 = 0;      // of x: 0 none, 1 RMS, 2 RMS times w, 3 RMS times 1 + w
override BIAS: u32 = 0;      // 1: adds bias
override INPUTS: u32 = 8;
override Y_HEADS: u32 = 1;    // gates and queries
override GATE_HEADS: u32 = 0;
override KV_HEADS: u32 = 1;
override HEAD_DIM: u32 = 4;
override ROTARY_DIM: u32 = 0;
override BLOCK_SIZE: u32 = 1;
const TOKENS: u32 = 1;
const TEAMS: u32 = 4;
const TEAM_LANES: u32 = 32;
const SUBGROUPS: u32 = 32;
const UNROLL: u32 = 1;
const EIGHTHS: u32 = 1; // of an item
const VECTORS: u32 = 2; // of an item's inputs
struct Params { tokens: u32, positions: u32, blocks: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // [tokens, inputs]
@group(0) @binding(2) var<storage, read> weight: array<vec4u>;      // [rows, inputs]
@group(0) @binding(3) var<storage, read> scales: array<u32>;        // [scales]
@group(0) @binding(4) var<storage, read> norm: array<vec4f>;        // [norms]
@group(0) @binding(5) var<storage, read> bias: array<f32>;          // [biases]
@group(0) @binding(6) var<storage, read> cos_sin: array<vec2f>;     // [positions, rotary_dim]
@group(0) @binding(7) var<storage, read> tokens_meta: array<vec4u>; // [tokens, 4]
@group(0) @binding(8) var<storage, read_write> y: array<vec2f>;     // [tokens, y_row]
@group(0) @binding(9) var<storage, read_write> kv: array<u32>;      // [blocks, 2, block_size, kv_channels]

const ROWS: u32 = 4;
const LANES: u32 = TEAMS * TEAM_LANES;
const CHUNK: u32 = UNROLL * TEAM_LANES; // items
const SUMS: u32 = TOKENS * (ROWS + 1); // products [token, row], then squares [token]
var<workgroup> staged: array<vec4u, TOKENS * VECTORS * CHUNK>;
var<workgroup> steps: array<vec2u, TOKENS * CHUNK * EIGHTHS / 4>; // of 32 inputs, and eight times their sum in steps
var<workgroup> partial: array<f32, SUBGROUPS * SUMS>; // [subgroup, sum]

/// Eight consecutive elements of a row.
struct Eight { a: vec4f, b: vec4f }

/// An item as stored; all but f32 leave b empty.
struct Words { a: vec4u, b: vec4u }

/// Where a team's rows are: a head (gates, queries, keys and values counted through), and the channels of both pairs.
struct Quad { head: u32, channels: vec2u, turns: bool }

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

/// The quad of a team, of all that the workgroups have.
fn quad_of(index: u32) -> Quad {
  let head = index / (HEAD_DIM / 4);
  let quad = index % (HEAD_DIM / 4);
  let in_heads = head >= GATE_HEADS && head < Y_HEADS + KV_HEADS;
  if (4 * quad < ROTARY_DIM) {
    return Quad(head, vec2u(2 * quad, 2 * quad + ROTARY_DIM / 2), in_heads);
  }
  return Quad(head, vec2u(4 * quad, 4 * quad + 2), false);
}

/// Sum s of a team, over its subgroups.
fn folded(team: u32, s: u32, size: u32) -> f32 {
  let count = TEAM_LANES / size;
  var sum = 0.0;
  for (var i = 0u; i < count; i++) { sum += partial[(team * count + i) * SUMS + s]; }
  return sum;
}

/// The finished products of a team.
fn products(team: u32, t: u32, quad: Quad, size: u32) -> vec4f {
  var value = vec4f();
  for (var r = 0u; r < ROWS; r++) { value[r] = folded(team, t * ROWS + r, size); }
  if (NORM > 0) {
    var squares = 0.0;
    for (var i = 0u; i < LANES / size; i++) { squares += partial[i * SUMS + TOKENS * ROWS + t]; }
    value *= inverseSqrt(squares / f32(INPUTS) + params.eps);
  }
  if (BIAS == 1) {
    let n = quad.head * HEAD_DIM + quad.channels;
    value += vec4f(bias[n.x], bias[n.x + 1], bias[n.y], bias[n.y + 1]);
  }
  return value;
}

fn is_nan(bits: vec2u) -> vec2<bool> { return (bits & vec2u(0x7fffffff)) > vec2u(0x7f800000); }

/// Two values as a word of the cache, rounded to nearest even.
fn packed(value: vec2f) -> u32 {
  let bits = bitcast<vec2u>(value);
  if (KV_FORMAT == 1) {
    let nearest = (bits + vec2u(0x7fff) + ((bits >> vec2u(16)) & vec2u(1))) >> vec2u(16);
    let halves = select(nearest, vec2u(0x7fc0), is_nan(bits));
    return halves.x | (halves.y << 16);
  }
  let word = pack2x16float(clamp(value, vec2f(-65504.0), vec2f(65504.0)));
  let halves = select(vec2u(word & 0xffff, word >> 16), vec2u(0x7e00), is_nan(bits));
  return halves.x | (halves.y << 16);
}

/// Stores two neighbouring channels, `element` counted through the whole cache.
fn store(element: u32, value: vec2f) {
  if (KV_FORMAT == 0) {
    kv[element] = bitcast<u32>(value.x);
    kv[element + 1] = bitcast<u32>(value.y);
  } else {
    kv[element / 2] = packed(value);
  }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) size: u32,
) {
  let quads = (Y_HEADS + 2 * KV_HEADS) * HEAD_DIM / 4;
  let token = group.y * TOKENS;

  // What this lane finishes: a token of a team's quad. What depends on its position is read while products are under way.
  let place = local.x / TEAMS;
  let out_t = token + place;
  let out_index = group.x * TEAMS + local.x % TEAMS;
  let finishes = place < TOKENS && out_t < tokens() && out_index < quads;
  let out = quad_of(min(out_index, quads - 1));
  let info = tokens_meta[min(out_t, tokens() - 1)];

  let quad = quad_of(min(group.x * TEAMS + local.x / TEAM_LANES, quads - 1));
  let n = quad.head * HEAD_DIM + quad.channels;
  let row = INPUTS / (8 * EIGHTHS); // items
  let starts = vec4u(n.x, n.x + 1, n.y, n.y + 1) * row;
  let member = local.x % TEAM_LANES;
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
  var cosine = vec2f(1.0);
  var sine = vec2f();
  if (finishes && out.turns) {
    let angle = (min(info.x, params.positions - 1) * ROTARY_DIM + out.channels.x) / 2;
    cosine = cos_sin[angle];
    sine = cos_sin[angle + ROTARY_DIM / 4];
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
  if (!finishes) { return; }
  let value = products(local.x % TEAMS, place, out, size);
  var first = value.xy;
  var second = value.zw;
  if (out.turns) {
    first = value.xy * cosine - value.zw * sine;
    second = value.zw * cosine + value.xy * sine;
  }
  let y_heads = select(Y_HEADS, Y_HEADS + 2 * KV_HEADS, KV_FORMAT == 3);
  if (out.head < y_heads) {
    let at = (out_t * y_heads + out.head) * HEAD_DIM;
    y[(at + out.channels.x) / 2] = first;
    y[(at + out.channels.y) / 2] = second;
  } else if (info.y < params.blocks * BLOCK_SIZE) {
    let part = (out.head - Y_HEADS) / KV_HEADS; // 0: keys, 1: values
    let head = (out.head - Y_HEADS) % KV_HEADS;
    let slot = (info.y / BLOCK_SIZE * 2 + part) * BLOCK_SIZE + info.y % BLOCK_SIZE;
    let at = (slot * KV_HEADS + head) * HEAD_DIM;
    store(at + out.channels.x, first);
    store(at + out.channels.y, second);
  }
}
