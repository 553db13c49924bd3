// combine-linear: y[t, n] = a[t] . weight[n] (+ bias[n]) (+ y[t, n]), a = attention's result out of the shares of attention-decode
//
// For few tokens on a GPU with subgroups of any size. Every workgroup first adds up the shares of all heads in its memory,
// while its first weights are under way, times sigmoid(gate) where there are gates; then the product as in fused-linear.
// Bound by memory. inputs, heads * head_dim, is a multiple of 8, and TOKENS * inputs values fit the workgroup's memory.
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
const UNROLL: u32 = 2;
const SUBGROUPS: u32 = 32;
const INPUTS: u32 = 128;
struct Params { tokens: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> shares: array<vec4f>; // [tokens, share_row]
@group(0) @binding(2) var<storage, read> gate: array<vec4f>;   // [tokens, gate_row]
@group(0) @binding(3) var<storage, read> weight: array<vec4u>; // [outputs, inputs]
@group(0) @binding(4) var<storage, read> scales: array<u32>;   // [scales]
@group(0) @binding(5) var<storage, read> bias: array<f32>;     // [biases]
@group(0) @binding(6) var<storage, read_write> y: array<f32>;  // [tokens, outputs]

const WHOLE: bool = INPUTS % (8 * TEAM_LANES * UNROLL) == 0; // no lane has less to do than others
const LANES: u32 = TEAMS * TEAM_LANES;
const GROUP_OUTPUTS: u32 = TEAMS * ROWS;
const SUMS: u32 = TOKENS * ROWS;
const EIGHTHS: u32 = INPUTS / 8; // of a row
var<workgroup> partial: array<f32, SUBGROUPS * SUMS>;        // [subgroup, sum]
var<workgroup> attended: array<vec4f, TOKENS * 2 * EIGHTHS>; // [token, first or second half of an eighth, eighth]

/// Eight consecutive elements of a row.
struct Eight { a: vec4f, b: vec4f }

/// The same as stored: 16-bit elements in a, fewer bits in its first words, before the scale's bits.
struct Words { a: vec4u, b: vec4u }

/// Rows are whole groups, so groups are counted through the matrix.
fn scale_bits(i: u32) -> u32 {
  let group = i / GROUP_EIGHTHS;
  return scales[group / 2] >> (16 * (group % 2));
}

/// Known without a look at the params, which are slow to come, where there is one.
fn tokens() -> u32 {
  if (TOKENS == 1) { return 1; }
  return params.tokens;
}

fn load(i: u32) -> Words {
  if (FORMAT == 0) { return Words(weight[2 * i], weight[2 * i + 1]); }
  if (FORMAT == 3) {
    let at = 2 * (i % 2);
    return Words(vec4u(weight[i / 2][at], weight[i / 2][at + 1], scale_bits(i), 0), vec4u());
  }
  if (FORMAT == 4) { return Words(vec4u(weight[i / 4][i % 4], 0, scale_bits(i), 0), vec4u()); }
  return Words(weight[i], vec4u());
}

/// Eight integers, each times what its place in its word makes it worth. An integer below 2^23 under the exponent of
/// 2^23 is 2^23 + itself, exactly: bits are masked in place, and nothing is shifted or converted.
fn integers(words: vec4u) -> Eight {
  let exponent = vec4u(0x4b000000);
  if (FORMAT == 3) {
    let bytes = words.xy ^ vec2u(0x80808080);
    let halves = vec4u(bytes.x, bytes.x >> 16, bytes.y, bytes.y >> 16);
    let mask = vec4u(0xff, 0xff00, 0xff, 0xff00);
    let zero = vec4f(0x800080, 0x808000, 0x800080, 0x808000);
    return Eight(
      bitcast<vec4f>((halves.xxyy & mask) | exponent) - zero,
      bitcast<vec4f>((halves.zzww & mask) | exponent) - zero,
    );
  }
  let mask = vec4u(0xf, 0xf0, 0xf00, 0xf000);
  let zero = vec4f(0x800008, 0x800080, 0x800800, 0x808000);
  return Eight(
    bitcast<vec4f>((vec4u(words.x) & mask) | exponent) - zero,
    bitcast<vec4f>((vec4u(words.x >> 16) & mask) | exponent) - zero,
  );
}

/// What undoes the worth of a place, for inputs to be multiplied by.
fn places() -> vec4f {
  if (FORMAT == 3) { return vec4f(1.0, 0x1p-8, 1.0, 0x1p-8); }
  return vec4f(1.0, 0x1p-4, 0x1p-8, 0x1p-12);
}

/// The scale of eight quantised elements, to be multiplied with their product.
fn scaled(words: Words, product: f32) -> f32 {
  if (FORMAT > 2) { return product * unpack2x16float(words.a.z).x; }
  return product;
}

fn widened(words: Words) -> Eight {
  if (FORMAT > 2) { return integers(words.a); }
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

/// The exponent is never positive, so nothing overflows.
fn sigmoid(x: vec4f) -> vec4f {
  let e = exp(-abs(x));
  return select(vec4f(1.0), e, x < vec4f(0.0)) / (1.0 + e);
}

/// Four channels of attention's result: the shares, weighted by how far their maxima lie below the largest.
fn combined(t: u32, quad: u32) -> vec4f {
  let slice = HEAD_DIM / 4;
  let step = slice + 1;
  let heads = INPUTS / HEAD_DIM;
  let base = (t * heads + quad / slice) * SPLITS * step;
  let c = quad % slice;
  var taken = 1u;
  var most = -3e38;
  var weight = 0.0;
  var sum = vec4f();
  for (var s = 0u; s < taken; s += 4) {
    // All four are read before it is known how many there are: what nobody wrote counts for nothing.
    var values: array<vec4f, 4>;
    var ends: array<vec4f, 4>;
    for (var i = 0u; i < 4; i++) {
      let at = base + min(s + i, SPLITS - 1) * step;
      values[i] = shares[at + c];
      ends[i] = shares[at + slice];
    }
    if (s == 0) { taken = u32(ends[0].z); }
    for (var i = 1u; i < 4; i++) {
      if (s + i >= taken) { ends[i] = ends[0]; }
    }
    let most_now = max(most, max(max(ends[0].x, ends[1].x), max(ends[2].x, ends[3].x)));
    let keep = exp(most - most_now);
    most = most_now;
    weight *= keep;
    sum *= keep;
    for (var i = 0u; i < 4; i++) {
      if (s + i < taken) {
        let factor = exp(ends[i].x - most);
        weight += factor * ends[i].y;
        sum += factor * values[i];
      }
    }
  }
  sum /= weight;
  if (GATED == 1) { sum *= sigmoid(gate[(t * GATE_ROW + GATE_OFFSET) / 4 + quad]); }
  return sum;
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
  if (first >= OUTPUTS) { return; }

  // The output that this lane finishes; what it adds to is read ahead.
  let out_t = local.x / GROUP_OUTPUTS;
  let out_n = first + local.x % GROUP_OUTPUTS;
  let finishes = local.x < TOKENS * GROUP_OUTPUTS && out_t < tokens() && out_n < OUTPUTS;
  let out = out_t * OUTPUTS + out_n;
  var before = 0.0;
  if (ACCUMULATE == 1 && finishes) { before = y[out]; }

  let n = first + local.x / TEAM_LANES * ROWS;
  let member = local.x % TEAM_LANES;
  var words: array<Words, ROWS * UNROLL>;
  for (var u = 0u; u < UNROLL; u++) {
    for (var r = 0u; r < ROWS; r++) {
      words[u * ROWS + r] = load(min(n + r, OUTPUTS - 1) * EIGHTHS + min(member + u * TEAM_LANES, EIGHTHS - 1));
    }
  }
  for (var i = local.x; i < TOKENS * 2 * EIGHTHS; i += LANES) {
    let quad = i % (2 * EIGHTHS);
    let t = i / (2 * EIGHTHS);
    attended[(2 * t + quad % 2) * EIGHTHS + quad / 2] = combined(min(t, tokens() - 1), quad);
  }
  workgroupBarrier();
  var sums: array<f32, SUMS>;
  for (var k = member; k < EIGHTHS; k += TEAM_LANES * UNROLL) {
    for (var u = 0u; u < UNROLL; u++) {
      let k8 = k + u * TEAM_LANES;
      if (WHOLE || k8 < EIGHTHS) {
        var w: array<Eight, ROWS>;
        for (var r = 0u; r < ROWS; r++) { w[r] = widened(words[u * ROWS + r]); }
        for (var t = 0u; t < TOKENS; t++) {
          var a = attended[2 * t * EIGHTHS + k8];
          var b = attended[(2 * t + 1) * EIGHTHS + k8];
          if (FORMAT > 2) {
            a *= places();
            b *= places();
          }
          for (var r = 0u; r < ROWS; r++) {
            sums[t * ROWS + r] += scaled(words[u * ROWS + r], dot(w[r].a, a) + dot(w[r].b, b));
          }
        }
      }
    }
    if (TEAM_LANES * UNROLL < EIGHTHS && k + TEAM_LANES * UNROLL < EIGHTHS) {
      for (var u = 0u; u < UNROLL; u++) {
        for (var r = 0u; r < ROWS; r++) {
          let next = min(k + (UNROLL + u) * TEAM_LANES, EIGHTHS - 1);
          words[u * ROWS + r] = load(min(n + r, OUTPUTS - 1) * EIGHTHS + next);
        }
      }
    }
  }
  for (var s = 0u; s < SUMS; s++) {
    let sum = subgroupAdd(sums[s]);
    if (lane == 0) { partial[local.x / size * SUMS + s] = sum; }
  }
  workgroupBarrier();
  if (!finishes) { return; }
  var value = folded(local.x % GROUP_OUTPUTS / ROWS, out_t * ROWS + local.x % ROWS, size);
  if (BIAS == 1) { value += bias[out_n]; }
  if (ACCUMULATE == 1) { value += before; }
  y[out] = value;
}
