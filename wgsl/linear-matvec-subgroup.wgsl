// linear-matvec-subgroup: y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n])
//
// For up to 8 tokens on a GPU with subgroups of any size. A workgroup has GROUP_ROWS outputs; each of its subgroups
// takes ROWS of them at a time, for TOKENS tokens. Lanes stride over k by eight, so that a lane loads 16 bytes of 16-bit
// weights at once. Reads each weight once: bound by memory. ROWS divides GROUP_ROWS; inputs is a multiple of 8. Rows and
// tokens beyond the last are read as the last and not written.
enable subgroups;
override FORMAT: u32 = 0;     // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override BIAS: u32 = 0;       // 1: adds bias
override ACCUMULATE: u32 = 0; // 1: adds to what y holds
const TOKENS: u32 = 1;
const ROWS: u32 = 2;
const GROUP_ROWS: u32 = 8;
const LANES: u32 = 128;
struct Params { tokens: u32, inputs: u32, outputs: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;      // [tokens, inputs]
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

fn weights(i: u32) -> Eight {
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
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) size: u32,
) {
  let first = (group.y * grid.x + group.x) * GROUP_ROWS;
  if (first >= params.outputs) { return; }
  let row = params.inputs / 8;
  let subgroups = max(LANES / size, 1u);
  // The count is the same for all lanes, so that subgroupAdd stays in uniform control flow.
  for (var done = 0u; done < GROUP_ROWS; done += subgroups * ROWS) {
    let offset = done + local.x / size * ROWS;
    let n = first + offset;
    var sums: array<f32, ROWS * TOKENS>;
    for (var k8 = lane; k8 < row; k8 += size) {
      var w: array<Eight, ROWS>;
      for (var r = 0u; r < ROWS; r++) { w[r] = weights(min(n + r, params.outputs - 1) * row + k8); }
      for (var t = 0u; t < TOKENS; t++) {
        let i = 2 * (min(t, params.tokens - 1) * row + k8);
        let a = x[i];
        let b = x[i + 1];
        for (var r = 0u; r < ROWS; r++) { sums[t * ROWS + r] += dot(w[r].a, a) + dot(w[r].b, b); }
      }
    }
    for (var t = 0u; t < TOKENS; t++) {
      for (var r = 0u; r < ROWS; r++) {
        let sum = subgroupAdd(sums[t * ROWS + r]);
        if (lane == 0 && offset < GROUP_ROWS) { put(t, n + r, sum); }
      }
    }
  }
}
