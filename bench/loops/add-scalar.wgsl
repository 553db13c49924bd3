// add: a lane an element, so that lanes side by side read words side by side.
override LANES: u32 = 64;
struct Params { tokens: u32, channels: u32, b_step: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  if (id.x >= params.channels) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let at = token * params.channels + id.x;
    y[at] = a[at] + b[token * params.b_step * params.channels + id.x];
  }
}
