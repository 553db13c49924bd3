// linear-matmul: y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n])
//
// For many tokens on a GPU. One workgroup of 16 x 16 lanes a tile of 64 * PER_LANE outputs by as many tokens: it stages
// STEP columns of both operands in workgroup memory, turned so that a row there is one k; then every lane adds the
// products of its 4 * PER_LANE outputs and tokens in registers. Bound by f32 arithmetic and workgroup memory.
// inputs is a multiple of 8; rows and tokens beyond the last are read as the last and not written.
override FORMAT: u32 = 0;     // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override BIAS: u32 = 0;       // 1: adds bias
override ACCUMULATE: u32 = 0; // 1: adds to what y holds
const PER_LANE: u32 = 1;      // vectors of four a lane, in both directions: 1 or 2
const STEP: u32 = 32;         // k at a time, a multiple of 8
struct Params { tokens: u32, inputs: u32, outputs: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;      // [tokens, inputs]
@group(0) @binding(2) var<storage, read> weight: array<vec4u>; // [outputs, inputs]
@group(0) @binding(3) var<storage, read> scales: array<u32>;   // [scales]
@group(0) @binding(4) var<storage, read> bias: array<f32>;     // [biases]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // [tokens, outputs]

const LANES: u32 = 256;
const TILE: u32 = 16 * PER_LANE; // in vectors of four
const ITEMS: u32 = TILE * STEP / 8; // pieces of four rows by eight k that an operand has
var<workgroup> x_tile: array<vec4f, STEP * TILE>; // [k, 4 tokens]
var<workgroup> w_tile: array<vec4f, STEP * TILE>; // [k, 4 outputs]

const SUMS: u32 = 4 * PER_LANE * PER_LANE;
var<private> sums: array<vec4f, SUMS>; // [token of the lane, 4 outputs]

/// Eight consecutive elements of a row.
struct Eight { a: vec4f, b: vec4f }

/// The scale of the matrix's i-th eight. Rows are whole groups, so groups are counted through.
fn scale(i: u32) -> f32 {
  let group = i / GROUP_EIGHTHS;
  let pair = unpack2x16float(scales[group / 2]);
  return select(pair.x, pair.y, group % 2 == 1);
}

/// The matrix's i-th eight, of i8 or i4. An integer below 2^23 under the exponent of 2^23 is 2^23 + itself, exactly:
/// bits are masked in place, and what their place makes them worth is divided out.
fn quantized(i: u32) -> Eight {
  let exponent = vec4u(0x4b000000);
  if (FORMAT == 3) {
    let words = vec2u(weight[i / 2][2 * (i % 2)], weight[i / 2][2 * (i % 2) + 1]) ^ vec2u(0x80808080);
    let halves = vec4u(words.x, words.x >> 16, words.y, words.y >> 16);
    let mask = vec4u(0xff, 0xff00, 0xff, 0xff00);
    let zero = vec4f(0x800080, 0x808000, 0x800080, 0x808000);
    let worth = scale(i) * vec4f(1.0, 0x1p-8, 1.0, 0x1p-8);
    return Eight(
      (bitcast<vec4f>((halves.xxyy & mask) | exponent) - zero) * worth,
      (bitcast<vec4f>((halves.zzww & mask) | exponent) - zero) * worth,
    );
  }
  let word = weight[i / 4][i % 4];
  let mask = vec4u(0xf, 0xf0, 0xf00, 0xf000);
  let zero = vec4f(0x800008, 0x800080, 0x800800, 0x808000);
  let worth = scale(i) * vec4f(1.0, 0x1p-4, 0x1p-8, 0x1p-12);
  return Eight(
    (bitcast<vec4f>((vec4u(word) & mask) | exponent) - zero) * worth,
    (bitcast<vec4f>((vec4u(word >> 16) & mask) | exponent) - zero) * worth,
  );
}

fn weights(n: u32, k8: u32) -> Eight {
  let i = min(n, params.outputs - 1) * (params.inputs / 8) + k8;
  if (FORMAT == 0) { return Eight(bitcast<vec4f>(weight[2 * i]), bitcast<vec4f>(weight[2 * i + 1])); }
  if (FORMAT > 2) { return quantized(i); }
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

fn states(t: u32, k8: u32) -> Eight {
  let i = 2 * (min(t, params.tokens - 1) * (params.inputs / 8) + k8);
  return Eight(x[i], x[i + 1]);
}

/// Stages four rows of x by eight k.
fn stage_x(t: u32, k8: u32, at: u32) {
  let r0 = states(t, k8);
  let r1 = states(t + 1, k8);
  let r2 = states(t + 2, k8);
  let r3 = states(t + 3, k8);
  x_tile[at] = vec4f(r0.a.x, r1.a.x, r2.a.x, r3.a.x);
  x_tile[at + TILE] = vec4f(r0.a.y, r1.a.y, r2.a.y, r3.a.y);
  x_tile[at + 2 * TILE] = vec4f(r0.a.z, r1.a.z, r2.a.z, r3.a.z);
  x_tile[at + 3 * TILE] = vec4f(r0.a.w, r1.a.w, r2.a.w, r3.a.w);
  x_tile[at + 4 * TILE] = vec4f(r0.b.x, r1.b.x, r2.b.x, r3.b.x);
  x_tile[at + 5 * TILE] = vec4f(r0.b.y, r1.b.y, r2.b.y, r3.b.y);
  x_tile[at + 6 * TILE] = vec4f(r0.b.z, r1.b.z, r2.b.z, r3.b.z);
  x_tile[at + 7 * TILE] = vec4f(r0.b.w, r1.b.w, r2.b.w, r3.b.w);
}

/// Stages four rows of weight by eight k.
fn stage_w(n: u32, k8: u32, at: u32) {
  let r0 = weights(n, k8);
  let r1 = weights(n + 1, k8);
  let r2 = weights(n + 2, k8);
  let r3 = weights(n + 3, k8);
  w_tile[at] = vec4f(r0.a.x, r1.a.x, r2.a.x, r3.a.x);
  w_tile[at + TILE] = vec4f(r0.a.y, r1.a.y, r2.a.y, r3.a.y);
  w_tile[at + 2 * TILE] = vec4f(r0.a.z, r1.a.z, r2.a.z, r3.a.z);
  w_tile[at + 3 * TILE] = vec4f(r0.a.w, r1.a.w, r2.a.w, r3.a.w);
  w_tile[at + 4 * TILE] = vec4f(r0.b.x, r1.b.x, r2.b.x, r3.b.x);
  w_tile[at + 5 * TILE] = vec4f(r0.b.y, r1.b.y, r2.b.y, r3.b.y);
  w_tile[at + 6 * TILE] = vec4f(r0.b.z, r1.b.z, r2.b.z, r3.b.z);
  w_tile[at + 7 * TILE] = vec4f(r0.b.w, r1.b.w, r2.b.w, r3.b.w);
}

/// Adds the products of eight staged columns.
fn add_products(first: u32, lane_t: u32, lane_n: u32) {
  for (var k = first; k < first + 8; k++) {
    for (var p = 0u; p < PER_LANE; p++) {
      let w = w_tile[k * TILE + p * 16 + lane_n];
      for (var q = 0u; q < PER_LANE; q++) {
        let v = x_tile[k * TILE + q * 16 + lane_t];
        let at = 4 * q * PER_LANE + p;
        sums[at] += v.x * w;
        sums[at + PER_LANE] += v.y * w;
        sums[at + 2 * PER_LANE] += v.z * w;
        sums[at + 3 * PER_LANE] += v.w * w;
      }
    }
  }
}

fn put(t: u32, n: u32, sum: f32) {
  if (t < params.tokens && n < params.outputs) {
    let i = t * params.outputs + n;
    var value = sum;
    if (BIAS == 1) { value += bias[n]; }
    if (ACCUMULATE == 1) { value += y[i]; }
    y[i] = value;
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let first_n = group.x * 4 * TILE;
  let first_t = group.y * 4 * TILE;
  let lane_n = local.x % 16;
  let lane_t = local.x / 16;
  let row = params.inputs / 8;
  for (var step = 0u; step < row; step += STEP / 8) {
    for (var item = local.x; item < 2 * ITEMS; item += LANES) {
      let line = item % TILE;
      let k8 = item % ITEMS / TILE;
      let at = k8 * 8 * TILE + line;
      if (step + k8 < row) {
        if (item < ITEMS) { stage_x(first_t + 4 * line, step + k8, at); }
        else { stage_w(first_n + 4 * line, step + k8, at); }
      }
    }
    workgroupBarrier();
    for (var k8 = 0u; k8 < min(STEP / 8, row - step); k8++) { add_products(8 * k8, lane_t, lane_n); }
    workgroupBarrier();
  }
  for (var s = 0u; s < SUMS; s++) {
    let t = first_t + (s / PER_LANE / 4 * 16 + lane_t) * 4 + s / PER_LANE % 4;
    let n = first_n + (s % PER_LANE * 16 + lane_n) * 4;
    put(t, n, sums[s].x);
    put(t, n + 1, sums[s].y);
    put(t, n + 2, sums[s].z);
    put(t, n + 3, sums[s].w);
  }
}
