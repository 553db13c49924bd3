// add-shares: x[t, c] += sum over s of partials[s, t, c]
//
// Behind a product that was split along k, where no norm follows that could add its shares up (add-norm-f16). One
// invocation 4 channels of a token: channels is a multiple of 4 (checked by the wrapper). Bound by memory.
override LANES: u32 = 128;
struct Params { tokens: u32, channels: u32, shares: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;  // [tokens, channels]
@group(0) @binding(2) var<storage, read> partials: array<vec4f>; // [partial_rows, channels]

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let quads = params.channels / 4;
  if (id.x >= quads) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    var value = x[token * quads + id.x];
    for (var s = 0u; s < params.shares; s++) { value += partials[(s * params.tokens + token) * quads + id.x]; }
    x[token * quads + id.x] = value;
  }
}
