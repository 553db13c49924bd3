// fused-linear: y[t, n] = act(p[t, n]) * p[t, outputs + n], or p[t, n]; (+ y[t, n]); p[t, m] = norm(x[t]) . weight[m] (+ bias[m])
//
// For up to 8 tokens on a GPU with subgroups of any size. A team of TEAM_LANES lanes has ROWS rows of the weight (a gated
// product's gates and ups side by side), for TOKENS tokens; TEAMS of them are a workgroup. Lanes stride over k by eight:
// 16 bytes of 16-bit weights. Sizes are overrides, since params are slow to come. The norm's factor is applied to the finished
// sums, so that nothing waits for it: squares are summed along with the products. Reads each weight once: bound by
// memory. TEAM_LANES is a multiple of the subgroup's size, SUBGROUPS the most of them in a workgroup; inputs is a
// multiple of 8. Rows and tokens beyond the last are read as the last and not written.
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
const SUMS: u32 = TOKENS * (ROWS + 1); // products [token, row], then squares [token]
var<workgroup> partial: array<f32, SUBGROUPS * SUMS>; // [subgroup, sum]

/// Eight consecutive elements of a row.
struct Eight { a: vec4f, b: vec4f }

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
fn product(team: u32, t: u32, r: u32, n: u32, size: u32) -> f32 {
  var value = folded(team, t * ROWS + r, size);
  if (NORM > 0) {
    let squares = folded(team, TOKENS * ROWS + t, size);
    value *= inverseSqrt(squares / f32(INPUTS) + params.eps);
  }
  if (BIAS == 1) { value += bias[n]; }
  return value;
}

/// Token and column of an output of the workgroup.
fn place(first: u32, index: u32) -> vec2u { return vec2u(index / GROUP_OUTPUTS, first + index % GROUP_OUTPUTS); }

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

  // What this lane's outputs are added to is read ahead.
  var before: array<f32, FINISHES>;
  if (ACCUMULATE == 1) {
    for (var i = 0u; i < FINISHES; i++) {
      let at = place(first, i * LANES + local.x);
      before[i] = y[min(at.x, tokens() - 1) * OUTPUTS + min(at.y, OUTPUTS - 1)];
    }
  }

  let row = INPUTS / 8;
  let n = first + local.x / TEAM_LANES * TEAM_OUTPUTS;
  var starts: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) {
    starts[r] = (min(n + r % TEAM_OUTPUTS, OUTPUTS - 1) + r / TEAM_OUTPUTS * OUTPUTS) * row;
  }
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
  for (var s = 0u; s < SUMS; s++) {
    let sum = subgroupAdd(sums[s]);
    if (lane == 0) { partial[local.x / size * SUMS + s] = sum; }
  }
  workgroupBarrier();
  for (var i = 0u; i < FINISHES; i++) {
    let index = i * LANES + local.x;
    let at = place(first, index);
    if (index >= TOKENS * GROUP_OUTPUTS || at.x >= tokens() || at.y >= OUTPUTS) { continue; }
    let team = index % GROUP_OUTPUTS / TEAM_OUTPUTS;
    let r = index % TEAM_OUTPUTS;
    var value = product(team, at.x, r, at.y, size);
    if (GATED) { value = activated(value) * product(team, at.x, TEAM_OUTPUTS + r, OUTPUTS + at.y, size); }
    if (ACCUMULATE == 1) { value += before[i]; }
    y[at.x * OUTPUTS + at.y] = value;
  }
}
