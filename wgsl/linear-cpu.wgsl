// linear-cpu: y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]) (+ y[t, n])
//
// For CPU adapters. One invocation a tile of 8 outputs by TOKENS tokens, eight k at a time: every load there is one
// gather a 32-bit word and costs as much as ten multiplications, so 8 rows share each x and TOKENS tokens share each
// weight. The tile is written out, since an array under a loop index would be gathered too. bf16 is widened by a
// multiplication: SwiftShader does vector shifts one lane at a time. Products are added to a sum in the order of k,
// eight at a time, the same for every TOKENS.
// inputs is a multiple of 8; rows and tokens beyond the last are read as the last and not written.
override FORMAT: u32 = 0;     // of weight: 0 f32, 1 bf16, 2 f16, 3 i8, 4 i4
override GROUP_EIGHTHS: u32 = 4; // of i8 and i4: consecutive inputs that share a scale (an f16), in eights
override BIAS: u32 = 0;       // 1: adds bias
override ACCUMULATE: u32 = 0; // 1: adds to what y holds
override TOKENS: u32 = 8;     // 1, 2, 4 or 8
override LANES: u32 = 8;
struct Params { tokens: u32, inputs: u32, outputs: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;      // [tokens, inputs]
@group(0) @binding(2) var<storage, read> weight: array<vec4u>; // [outputs, inputs]
@group(0) @binding(3) var<storage, read> scales: array<u32>;   // [scales]
@group(0) @binding(4) var<storage, read> bias: array<f32>;     // [biases]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // [tokens, outputs]

/// Eight consecutive elements of a row: those of even and of odd index.
struct Eight { even: vec4f, odd: vec4f }

/// Four rows by eight consecutive k: one vector over rows a k.
struct Rows { k0: vec4f, k1: vec4f, k2: vec4f, k3: vec4f, k4: vec4f, k5: vec4f, k6: vec4f, k7: vec4f }

fn deinterleave(a: vec4f, b: vec4f) -> Eight {
  return Eight(vec4f(a.x, a.z, b.x, b.z), vec4f(a.y, a.w, b.y, b.w));
}

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
    return Eight(
      (bitcast<vec4f>((halves & vec4u(0xff)) | exponent) - vec4f(0x800080)) * worth,
      (bitcast<vec4f>((halves & vec4u(0xff00)) | exponent) - vec4f(0x808000)) * (worth * 0x1p-8),
    );
  }
  let word = weight[i / 4][i % 4];
  let halves = vec4u(word, word, word >> 16, word >> 16);
  let even = bitcast<vec4f>((halves & vec4u(0xf, 0xf00, 0xf, 0xf00)) | exponent);
  let odd = bitcast<vec4f>((halves & vec4u(0xf0, 0xf000, 0xf0, 0xf000)) | exponent);
  let places = worth * vec4f(1.0, 0x1p-8, 1.0, 0x1p-8);
  return Eight(
    (even - vec4f(0x800008, 0x800800, 0x800008, 0x800800)) * places,
    (odd - vec4f(0x800080, 0x808000, 0x800080, 0x808000)) * (0x1p-4 * places),
  );
}

fn weights(row: u32, k8: u32) -> Eight {
  let i = min(row, params.outputs - 1) * (params.inputs / 8) + k8;
  if (FORMAT == 0) { return deinterleave(bitcast<vec4f>(weight[2 * i]), bitcast<vec4f>(weight[2 * i + 1])); }
  if (FORMAT > 2) { return quantized(i); }
  let words = weight[i];
  if (FORMAT == 1) { return Eight(bitcast<vec4f>(words * 65536), bitcast<vec4f>(words & vec4u(0xffff0000))); }
  let a = unpack2x16float(words.x);
  let b = unpack2x16float(words.y);
  let c = unpack2x16float(words.z);
  let d = unpack2x16float(words.w);
  return Eight(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y));
}

fn rows(row: u32, k8: u32) -> Rows {
  let a = weights(row, k8);
  let b = weights(row + 1, k8);
  let c = weights(row + 2, k8);
  let d = weights(row + 3, k8);
  return Rows(
    vec4f(a.even.x, b.even.x, c.even.x, d.even.x), vec4f(a.odd.x, b.odd.x, c.odd.x, d.odd.x),
    vec4f(a.even.y, b.even.y, c.even.y, d.even.y), vec4f(a.odd.y, b.odd.y, c.odd.y, d.odd.y),
    vec4f(a.even.z, b.even.z, c.even.z, d.even.z), vec4f(a.odd.z, b.odd.z, c.odd.z, d.odd.z),
    vec4f(a.even.w, b.even.w, c.even.w, d.even.w), vec4f(a.odd.w, b.odd.w, c.odd.w, d.odd.w),
  );
}

struct Token { a: vec4f, b: vec4f }

fn token(t: u32, k8: u32) -> Token {
  let i = min(t, params.tokens - 1) * (params.inputs / 4) + 2 * k8;
  return Token(x[i], x[i + 1]);
}

fn product(w: Rows, v: Token) -> vec4f {
  return w.k0 * v.a.x + w.k1 * v.a.y + w.k2 * v.a.z + w.k3 * v.a.w
       + w.k4 * v.b.x + w.k5 * v.b.y + w.k6 * v.b.z + w.k7 * v.b.w;
}

fn put(t: u32, n: u32, sum: f32) {
  if (n < params.outputs) {
    let i = t * params.outputs + n;
    var value = sum;
    if (BIAS == 1) { value += bias[n]; }
    if (ACCUMULATE == 1) { value += y[i]; }
    y[i] = value;
  }
}

fn put8(t: u32, n: u32, low: vec4f, high: vec4f) {
  if (t < params.tokens) {
    put(t, n, low.x);
    put(t, n + 1, low.y);
    put(t, n + 2, low.z);
    put(t, n + 3, low.w);
    put(t, n + 4, high.x);
    put(t, n + 5, high.y);
    put(t, n + 6, high.z);
    put(t, n + 7, high.w);
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let n = id.x * 8;
  let t = id.y * TOKENS;
  // a: outputs n...n+3, b: n+4...n+7; the number is the token.
  var a0 = vec4f(); var a1 = vec4f(); var a2 = vec4f(); var a3 = vec4f();
  var a4 = vec4f(); var a5 = vec4f(); var a6 = vec4f(); var a7 = vec4f();
  var b0 = vec4f(); var b1 = vec4f(); var b2 = vec4f(); var b3 = vec4f();
  var b4 = vec4f(); var b5 = vec4f(); var b6 = vec4f(); var b7 = vec4f();
  for (var k8 = 0u; k8 < params.inputs / 8; k8++) {
    let wa = rows(n, k8);
    let wb = rows(n + 4, k8);
    let v0 = token(t, k8);
    a0 += product(wa, v0);
    b0 += product(wb, v0);
    if (TOKENS > 1) {
      let v1 = token(t + 1, k8);
      a1 += product(wa, v1);
      b1 += product(wb, v1);
    }
    if (TOKENS > 2) {
      let v2 = token(t + 2, k8);
      a2 += product(wa, v2);
      b2 += product(wb, v2);
      let v3 = token(t + 3, k8);
      a3 += product(wa, v3);
      b3 += product(wb, v3);
    }
    if (TOKENS > 4) {
      let v4 = token(t + 4, k8);
      a4 += product(wa, v4);
      b4 += product(wb, v4);
      let v5 = token(t + 5, k8);
      a5 += product(wa, v5);
      b5 += product(wb, v5);
      let v6 = token(t + 6, k8);
      a6 += product(wa, v6);
      b6 += product(wb, v6);
      let v7 = token(t + 7, k8);
      a7 += product(wa, v7);
      b7 += product(wb, v7);
    }
  }
  put8(t, n, a0, b0);
  if (TOKENS > 1) { put8(t + 1, n, a1, b1); }
  if (TOKENS > 2) {
    put8(t + 2, n, a2, b2);
    put8(t + 3, n, a3, b3);
  }
  if (TOKENS > 4) {
    put8(t + 4, n, a4, b4);
    put8(t + 5, n, a5, b5);
    put8(t + 6, n, a6, b6);
    put8(t + 7, n, a7, b7);
  }
}
