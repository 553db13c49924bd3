// add-norm-f16: x[t, c] += sum over s of partials[s, t, c]; y[t, c] = f16(x[t, c] * w[c] / sqrt(mean of x[t, :]^2 + eps))
//
// norm-f16 behind a product that was split along k: its shares are added to the stream on the way. One workgroup a
// token; lanes stride over vectors of four channels, which stay in registers while lane sums are folded in workgroup
// memory, in the order of norm-f16. Bound by memory. LANES is a multiple of FOLD, which is one of 4. f16 is clamped to
// its range; a NaN stays a NaN.
// Sizes that are known beforehand are constants: what is read from params delays all the rest.
override CHANNELS: u32 = 4;
override EPS: f32 = 1e-6;
override LANES: u32 = 128;
override FOLD: u32 = 32; // lanes that fold the sums of all
override SHARES: u32 = 1;
override WEIGHT: u32 = 0; // 0: no weight, 1: times w, 2: times 1 + w
const QUADS: u32 = 3; // vectors of a lane, at most
struct Params { tokens: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;  // [tokens, channels]
@group(0) @binding(2) var<storage, read> partials: array<vec4f>; // [partial_rows, channels]
@group(0) @binding(3) var<storage, read> weight: array<vec4f>;   // [weights]
@group(0) @binding(4) var<storage, read_write> y: array<vec2u>;  // [tokens, channels]

var<workgroup> sums: array<f32, LANES>;
var<workgroup> folded: array<f32, FOLD>;

/// Four values as f16.
fn to_f16(value: vec4f) -> vec2u {
  let inside = clamp(value, vec4f(-65504.0), vec4f(65504.0));
  let nan = (bitcast<vec4u>(value) & vec4u(0x7fffffff)) > vec4u(0x7f800000);
  let mark = select(vec4u(), vec4u(0x7e00, 0x7e000000, 0x7e00, 0x7e000000), nan);
  return vec2u(pack2x16float(inside.xy) | mark.x | mark.y, pack2x16float(inside.zw) | mark.z | mark.w);
}

/// The sum over all lanes.
fn total(lane: u32, sum: f32) -> f32 {
  sums[lane] = sum;
  workgroupBarrier();
  if (lane < FOLD) {
    var part = 0.0;
    for (var i = lane; i < LANES; i += FOLD) { part += sums[i]; }
    folded[lane] = part;
  }
  workgroupBarrier();
  var all = vec4f();
  for (var i = 0u; i < FOLD; i += 4) { all += vec4f(folded[i], folded[i + 1], folded[i + 2], folded[i + 3]); }
  return dot(all, vec4f(1.0));
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token = group.y * grid.x + group.x;
  var tokens = grid.x;
  if (grid.y > 1) { tokens = params.tokens; }
  if (token >= tokens) { return; }
  let quads = CHANNELS / 4;
  let base = token * quads;
  var values: array<vec4f, QUADS>;
  var sum = 0.0;
  for (var q = 0u; q < QUADS; q++) {
    let c = q * LANES + lane;
    if (c < quads) {
      var value = x[base + c];
      for (var s = 0u; s < SHARES; s++) { value += partials[(s * tokens + token) * quads + c]; }
      x[base + c] = value;
      values[q] = value;
      sum += dot(value, value);
    }
  }
  let scale = 1.0 / sqrt(total(lane, sum) / f32(CHANNELS) + EPS);
  for (var q = 0u; q < QUADS; q++) {
    let c = q * LANES + lane;
    if (c < quads) {
      var value = values[q] * scale;
      if (WEIGHT == 1) { value *= weight[c]; }
      if (WEIGHT == 2) { value *= vec4f(1.0) + weight[c]; }
      y[base + c] = to_f16(value);
    }
  }
}
