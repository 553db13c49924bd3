// add: y[t, c] = a[t, c] + b[t * b_step, c]
//
// b_step is 1, or 0 where b has one row for all tokens. One invocation 4 channels of a token: channels is a multiple
// of 4 (checked by the wrapper). Bound by memory.
override LANES: u32 = 128;
struct Params { tokens: u32, channels: u32, b_step: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;       // [tokens, channels]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;       // [b_rows, channels]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [tokens, channels]

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let chunks = params.channels / 4;
  if (id.x >= chunks) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let at = token * chunks + id.x;
    y[at] = a[at] + b[token * params.b_step * chunks + id.x];
  }
}
