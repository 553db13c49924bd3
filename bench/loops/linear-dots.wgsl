// linear: ROWS outputs of TOKENS tokens a lane, each a sum of its own, eight k at a time by dot products. One and one is
// the plainest loop there is.
override FORMAT: u32 = 0;
override GROUP_EIGHTHS: u32 = 4;
override BIAS: u32 = 0;
override ACCUMULATE: u32 = 0;
override LANES: u32 = 8;
const ROWS: u32 = 1;
const TOKENS: u32 = 1;
struct Params { tokens: u32, inputs: u32, outputs: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4u>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

struct Eight { a: vec4f, b: vec4f }

fn scale(i: u32) -> f32 {
  let group = i / GROUP_EIGHTHS;
  return unpack2x16float(scales[group / 2])[group % 2];
}

fn weights(i: u32) -> Eight {
  if (FORMAT == 0) { return Eight(bitcast<vec4f>(weight[2 * i]), bitcast<vec4f>(weight[2 * i + 1])); }
  if (FORMAT == 3) {
    let worth = scale(i);
    let first = vec4f(unpack4xI8(weight[i / 2][2 * (i % 2)]));
    let second = vec4f(unpack4xI8(weight[i / 2][2 * (i % 2) + 1]));
    return Eight(first * worth, second * worth);
  }
  if (FORMAT == 4) {
    let word = weight[i / 4][i % 4];
    let worth = scale(i);
    let low = vec4f((vec4u(word) >> vec4u(0, 4, 8, 12)) & vec4u(15)) - 8.0;
    let high = vec4f((vec4u(word) >> vec4u(16, 20, 24, 28)) & vec4u(15)) - 8.0;
    return Eight(low * worth, high * worth);
  }
  let words = weight[i];
  if (FORMAT == 1) {
    let low = bitcast<vec4f>(words * 65536);
    let high = bitcast<vec4f>(words & vec4u(0xffff0000));
    return Eight(vec4f(low.x, high.x, low.y, high.y), vec4f(low.z, high.z, low.w, high.w));
  }
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
  );
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
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
      let at = 2 * (min(first_token + t, params.tokens - 1) * eighths + k);
      let a = x[at];
      let b = x[at + 1];
      for (var r = 0u; r < ROWS; r++) { // unroll
        sums[t][r] += dot(w[r].a, a) + dot(w[r].b, b);
      }
    }
  }
  for (var t = 0u; t < TOKENS; t++) { // unroll
    for (var r = 0u; r < ROWS; r++) { // unroll
      let n = first_row + r;
      if (n < params.outputs && first_token + t < params.tokens) {
        let i = (first_token + t) * params.outputs + n;
        var value = sums[t][r];
        if (BIAS == 1) { value += bias[n]; }
        if (ACCUMULATE == 1) { value += y[i]; }
        y[i] = value;
      }
    }
  }
}
