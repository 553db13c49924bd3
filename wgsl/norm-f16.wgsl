// norm-f16: y[t, c] = f16(x[t, c] * w[c] / sqrt(mean over c of x[t, c]^2 + eps)), or f16(x[t, c])
//
// The stream's way into a product on matrix units, which takes f16. One workgroup a token; lanes stride over vectors of
// four channels, lane sums are folded in workgroup memory. Reads x twice, the second time out of a cache: bound by
// memory. LANES is a power of two. f16 is clamped to its range; a NaN stays a NaN.
override LANES: u32 = 128;
override WEIGHT: u32 = 0; // 0: no weight, 1: times w, 2: times 1 + w, 3: no norm at all
struct Params { tokens: u32, channels: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // [tokens, channels]
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;  // [weights]
@group(0) @binding(3) var<storage, read_write> y: array<vec2u>; // [tokens, channels]

var<workgroup> sums: array<f32, LANES>;

/// Four values as f16.
fn to_f16(value: vec4f) -> vec2u {
  let inside = clamp(value, vec4f(-65504.0), vec4f(65504.0));
  let nan = (bitcast<vec4u>(value) & vec4u(0x7fffffff)) > vec4u(0x7f800000);
  let mark = select(vec4u(), vec4u(0x7e00, 0x7e000000, 0x7e00, 0x7e000000), nan);
  return vec2u(pack2x16float(inside.xy) | mark.x | mark.y, pack2x16float(inside.zw) | mark.z | mark.w);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token = group.y * grid.x + group.x;
  if (token >= params.tokens) { return; }
  let quads = params.channels / 4;
  let base = token * quads;
  var sum = 0.0;
  for (var c = lane; c < quads; c += LANES) {
    let value = x[base + c];
    sum += dot(value, value);
  }
  sums[lane] = sum;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  var scale = 1.0 / sqrt(sums[0] / f32(params.channels) + params.eps);
  if (WEIGHT == 3) { scale = 1.0; }
  for (var c = lane; c < quads; c += LANES) {
    var value = x[base + c] * scale;
    if (WEIGHT == 1) { value *= weight[c]; }
    if (WEIGHT == 2) { value *= vec4f(1.0) + weight[c]; }
    y[base + c] = to_f16(value);
  }
}
