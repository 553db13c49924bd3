// rms-norm-cpu: y[t, g, c] = x[t, g, c] * w[c] / sqrt(mean over c of x[t, g, c]^2 + eps)
//
// One invocation a token and group, no barriers: for CPU adapters, whose few lanes wait long at a barrier.
// Reads x twice, the second time out of the cache. Four partial sums keep the rounding error of a long row small.
override LANES: u32 = 64;
override WEIGHT: u32 = 0;     // 0: no weight, 1: times w, 2: times 1 + w
override ACCUMULATE: u32 = 0; // 1: y += instead of y =
struct Params { tokens: u32, channels: u32, x_row: u32, x_offset: u32, y_row: u32, y_offset: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // [tokens, x_row]
@group(0) @binding(2) var<storage, read> weight: array<f32>;  // [weights]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [tokens, y_row]

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.x;
  let x_base = token * params.x_row + params.x_offset + id.y * params.channels;
  let y_base = token * params.y_row + params.y_offset + id.y * params.channels;
  if (token >= params.tokens) { return; }
  var sum = vec4f();
  let whole = params.channels / 4 * 4;
  for (var c = 0u; c < whole; c += 4) {
    let value = vec4f(x[x_base + c], x[x_base + c + 1], x[x_base + c + 2], x[x_base + c + 3]);
    sum += value * value;
  }
  for (var c = whole; c < params.channels; c++) { sum.x += x[x_base + c] * x[x_base + c]; }
  let scale = 1.0 / sqrt(dot(sum, vec4f(1.0)) / f32(params.channels) + params.eps);
  for (var c = 0u; c < params.channels; c++) {
    var factor = scale;
    if (WEIGHT == 1) { factor *= weight[c]; }
    if (WEIGHT == 2) { factor *= 1.0 + weight[c]; }
    let value = x[x_base + c] * factor;
    if (ACCUMULATE == 1) { y[y_base + c] += value; } else { y[y_base + c] = value; }
  }
}
