// rms-norm: a subgroup a token and group; its lanes share the channels, and their sums without a barrier.
enable subgroups;
override LANES: u32 = 4;
override WEIGHT: u32 = 0;
override ACCUMULATE: u32 = 0;
struct Params { tokens: u32, channels: u32, x_row: u32, x_offset: u32, y_row: u32, y_offset: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let token = min(id.x / 4, params.tokens - 1);
  let x_base = token * params.x_row + params.x_offset + id.y * params.channels;
  let y_base = token * params.y_row + params.y_offset + id.y * params.channels;
  var squares = 0.0;
  for (var step = 0u; step < params.channels; step += 4) {
    let c = step + lane;
    if (c < params.channels) { squares += x[x_base + c] * x[x_base + c]; }
  }
  let scale = 1.0 / sqrt(subgroupAdd(squares) / f32(params.channels) + params.eps);
  for (var step = 0u; step < params.channels; step += 4) {
    let c = step + lane;
    if (c >= params.channels) { continue; }
    var factor = scale;
    if (WEIGHT == 1) { factor *= weight[c]; }
    if (WEIGHT == 2) { factor *= 1.0 + weight[c]; }
    let value = x[x_base + c] * factor;
    if (ACCUMULATE == 1) { y[y_base + c] += value; } else { y[y_base + c] = value; }
  }
}
