// sigmoid-gate: y[t, c] *= sigmoid(gate[t, gate_offset + c]), in place
//
// One invocation 4 channels of a token: sizes and the offset are multiples of 4 (checked by the wrapper).
// Bound by memory.
override LANES: u32 = 128;
struct Params { tokens: u32, channels: u32, gate_row: u32, gate_offset: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<vec4<f32>>;    // [tokens, gate_row]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [tokens, channels]

/// The exponent is never positive, so nothing overflows.
fn sigmoid(x: vec4f) -> vec4f {
  let e = exp(-abs(x));
  return select(vec4f(1.0), e, x < vec4f(0.0)) / (1.0 + e);
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let chunks = params.channels / 4;
  if (id.x >= chunks) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let at = token * chunks + id.x;
    y[at] *= sigmoid(gate[(token * params.gate_row + params.gate_offset) / 4 + id.x]);
  }
}
