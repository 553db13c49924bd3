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
const SUMS: u32 = TOKENS * (ROWS + 1); // products [token, row], then squares [token]
var<workgroup> partial: array<f32, SUBGROUPS * SUMS>; // [subgroup, sum]

/// Eight consecutive elements of a row.
struct Eight { a: vec4f, b: vec4f }

/// Where a team's rows are: a head (gates, queries, keys and values counted through), and the channels of both pairs.
struct Quad { head: u32, channels: vec2u, turns: bool }

/// Known without a look at the params, which are slow to come, where there is one.
fn tokens() -> u32 {
  if (TOKENS == 1) { return 1; }
  return params.tokens;
}

/// The matrix's i-th eight, of i8 or i4: integers, each times what its place in its word makes it worth. An integer below
/// 2^23 under the exponent of 2^23 is 2^23 + itself, exactly: bits are masked in place, nothing is shifted or converted.
fn integers(i: u32) -> Eight {
  let exponent = vec4u(0x4b000000);
  if (FORMAT == 3) {
    let at = 2 * (i % 2);
    let bytes = vec2u(weight[i / 2][at], weight[i / 2][at + 1]) ^ vec2u(0x80808080);
    let halves = vec4u(bytes.x, bytes.x >> 16, bytes.y, bytes.y >> 16);
    let mask = vec4u(0xff, 0xff00, 0xff, 0xff00);
    let zero = vec4f(0x800080, 0x808000, 0x800080, 0x808000);
    return Eight(
      bitcast<vec4f>((halves.xxyy & mask) | exponent) - zero,
      bitcast<vec4f>((halves.zzww & mask) | exponent) - zero,
    );
  }
  let word = weight[i / 4][i % 4];
  let mask = vec4u(0xf, 0xf0, 0xf00, 0xf000);
  let zero = vec4f(0x800008, 0x800080, 0x800800, 0x808000);
  return Eight(
    bitcast<vec4f>((vec4u(word) & mask) | exponent) - zero,
    bitcast<vec4f>((vec4u(word >> 16) & mask) | exponent) - zero,
  );
}

/// What undoes the worth of a place, for inputs to be multiplied by.
fn places() -> vec4f {
  if (FORMAT == 3) { return vec4f(1.0, 0x1p-8, 1.0, 0x1p-8); }
  return vec4f(1.0, 0x1p-4, 0x1p-8, 0x1p-12);
}

/// The scale of the matrix's i-th eight. Rows are whole groups, so groups are counted through.
fn scale(i: u32) -> f32 {
  if (FORMAT < 3) { return 1.0; }
  let group = i / GROUP_EIGHTHS;
  return unpack2x16float(scales[group / 2] >> (16 * (group % 2))).x;
}

fn weights(i: u32) -> Eight {
  if (FORMAT == 0) { return Eight(bitcast<vec4f>(weight[2 * i]), bitcast<vec4f>(weight[2 * i + 1])); }
  if (FORMAT > 2) { return integers(i); }
  let words = weight[i];
  if (FORMAT == 1) {
    let even = bitcast<vec4f>(words << vec4u(16));
    let odd = bitcast<vec4f>(words & vec4u(0xffff0000));
    return Eight(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
  }
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
  );
}

/// The norm's weights for eight elements.
fn factors(k8: u32) -> Eight {
  if (NORM < 2) { return Eight(vec4f(1.0), vec4f(1.0)); }
  let one = select(0.0, 1.0, NORM == 3);
  return Eight(norm[2 * k8] + one, norm[2 * k8 + 1] + one);
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
    let squares = folded(team, TOKENS * ROWS + t, size);
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
  let row = INPUTS / 8;

  // What this lane finishes: a token of a team's quad. What depends on its position is read while products are under way.
  let out_t = local.x / TEAMS;
  let out_index = group.x * TEAMS + local.x % TEAMS;
  let finishes = out_t < min(TOKENS, tokens()) && out_index < quads;
  let out = quad_of(min(out_index, quads - 1));
  let info = tokens_meta[min(out_t, tokens() - 1)];

  let quad = quad_of(min(group.x * TEAMS + local.x / TEAM_LANES, quads - 1));
  let n = quad.head * HEAD_DIM + quad.channels;
  let starts = vec4u(n.x, n.x + 1, n.y, n.y + 1) * row;
  var sums: array<f32, SUMS>;
  for (var k = local.x % TEAM_LANES; k < row; k += TEAM_LANES) {
    var w: array<Eight, ROWS>;
    var worth: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
      w[r] = weights(starts[r] + k);
      worth[r] = scale(starts[r] + k);
    }
    let factor = factors(k);
    for (var t = 0u; t < TOKENS; t++) {
      let i = 2 * (min(t, tokens() - 1) * row + k);
      var a = x[i];
      var b = x[i + 1];
      if (NORM > 0) { sums[TOKENS * ROWS + t] += dot(a, a) + dot(b, b); }
      if (NORM > 1) {
        a *= factor.a;
        b *= factor.b;
      }
      if (FORMAT > 2) {
        a *= places();
        b *= places();
      }
      for (var r = 0u; r < ROWS; r++) {
        let product = dot(w[r].a, a) + dot(w[r].b, b);
        sums[t * ROWS + r] += select(product, product * worth[r], FORMAT > 2);
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
  for (var s = 0u; s < SUMS; s++) {
    let sum = subgroupAdd(sums[s]);
    if (lane == 0) { partial[local.x / size * SUMS + s] = sum; }
  }
  workgroupBarrier();
  if (!finishes) { return; }
  let value = products(local.x % TEAMS, out_t, out, size);
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
    let place = (info.y / BLOCK_SIZE * 2 + part) * BLOCK_SIZE + info.y % BLOCK_SIZE;
    let at = (place * KV_HEADS + head) * HEAD_DIM;
    store(at + out.channels.x, first);
    store(at + out.channels.y, second);
  }
}
