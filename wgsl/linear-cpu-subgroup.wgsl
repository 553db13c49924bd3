// linear-cpu-subgroup: y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n])
//
// For CPU adapters whose subgroups have 4 lanes (SwiftShader). One invocation a tile of ROWS outputs by TOKENS tokens,
// eight k at a time: every load there is one gather a 32-bit word and costs as much as ten multiplications, so rows share
// each x and tokens share each weight, and of x, which is the same for a whole subgroup, each lane loads a quarter and
// hands it round. Vectors are taken apart there, so swizzles cost nothing. bf16 is widened by a multiplication:
// SwiftShader does vector shifts one lane at a time. Products are added to a sum in the order of k, eight at a time, the
// same for every tile.
// inputs is a multiple of 8; rows and tokens beyond the last are read as the last and not written.
enable subgroups;
override FORMAT: u32 = 0;     // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override BIAS: u32 = 0;       // 1: adds bias
override ACCUMULATE: u32 = 0; // 1: adds to what y holds
override LANES: u32 = 8;
const ROWS: u32 = 8;
const TOKENS: u32 = 8;
struct Params { tokens: u32, inputs: u32, outputs: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // [tokens, inputs]
@group(0) @binding(2) var<storage, read> weight: array<vec4u>; // [outputs, inputs]
@group(0) @binding(3) var<storage, read> scales: array<u32>;   // [scales]
@group(0) @binding(4) var<storage, read> bias: array<f32>;     // [biases]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // [tokens, outputs]

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
  let worth = scale(i);
  if (FORMAT == 3) {
    let words = vec2u(weight[i / 2][2 * (i % 2)], weight[i / 2][2 * (i % 2) + 1]) ^ vec2u(0x80808080);
    let halves = vec4u(words.x, words.x >> 16, words.y, words.y >> 16);
    let even = (bitcast<vec4f>((halves & vec4u(0xff)) | exponent) - vec4f(0x800080)) * worth;
    let odd = (bitcast<vec4f>((halves & vec4u(0xff00)) | exponent) - vec4f(0x808000)) * (worth * 0x1p-8);
    return interleave(even, odd);
  }
  let word = weight[i / 4][i % 4];
  let halves = vec4u(word, word, word >> 16, word >> 16);
  let even = bitcast<vec4f>((halves & vec4u(0xf, 0xf00, 0xf, 0xf00)) | exponent);
  let odd = bitcast<vec4f>((halves & vec4u(0xf0, 0xf000, 0xf0, 0xf000)) | exponent);
  let places = worth * vec4f(1.0, 0x1p-8, 1.0, 0x1p-8);
  return interleave(
    (even - vec4f(0x800008, 0x800800, 0x800008, 0x800800)) * places,
    (odd - vec4f(0x800080, 0x808000, 0x800080, 0x808000)) * (0x1p-4 * places),
  );
}

fn interleave(even: vec4f, odd: vec4f) -> Eight {
  return Eight(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
}

/// The matrix's i-th eight.
fn weights(i: u32) -> Eight {
  if (FORMAT == 0) { return Eight(bitcast<vec4f>(weight[2 * i]), bitcast<vec4f>(weight[2 * i + 1])); }
  if (FORMAT > 2) { return quantized(i); }
  let words = weight[i];
  if (FORMAT == 1) {
    return interleave(bitcast<vec4f>(words * 65536), bitcast<vec4f>(words & vec4u(0xffff0000)));
  }
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
  );
}

/// What each of the four lanes has.
fn gathered(own: f32) -> vec4f {
  return vec4f(
    subgroupBroadcast(own, 0), subgroupBroadcast(own, 1), subgroupBroadcast(own, 2), subgroupBroadcast(own, 3),
  );
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let eighths = params.inputs / 8;
  let first_row = id.x * ROWS;
  let first_token = id.y * TOKENS;
  var sums: array<array<f32, ROWS>, TOKENS>;
  for (var k = 0u; k < eighths; k++) {
    var w: array<Eight, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // unroll
      w[r] = weights(min(first_row + r, params.outputs - 1) * eighths + k);
    }
    for (var t = 0u; t < TOKENS; t++) { // unroll
      let at = 8 * (min(first_token + t, params.tokens - 1) * eighths + k) + lane;
      let v = Eight(gathered(x[at]), gathered(x[at + 4]));
      for (var r = 0u; r < ROWS; r++) { // unroll
        sums[t][r] += dot(w[r].a, v.a) + dot(w[r].b, v.b);
      }
    }
  }
  for (var t = 0u; t < TOKENS; t++) { // unroll
    for (var r = 0u; r < ROWS; r++) { // unroll
      put(first_token + t, first_row + r, sums[t][r]);
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
