// gated-activation: y[t, c] = act(x[t, c]) * x[t, channels + c]
//
// Rows of x are gate | up. One invocation 4 channels of a token: channels is a multiple of 4 (checked by the wrapper).
// Both activations are x * sigmoid(..): gelu's (1 + tanh(u)) / 2 is sigmoid(2u), which needs no tanh, loses nothing to
// cancellation and, with an exponent that is never positive, cannot overflow. Bound by memory.
override LANES: u32 = 128;
override ACT: u32 = 0; // 0: silu, 1: gelu with the tanh approximation
struct Params { tokens: u32, channels: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;       // [tokens, x_row]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [tokens, channels]

fn sigmoid(x: vec4f) -> vec4f {
  let e = exp(-abs(x));
  return select(vec4f(1.0), e, x < vec4f(0.0)) / (1.0 + e);
}

fn activate(x: vec4f) -> vec4f {
  if (ACT == 0) { return x * sigmoid(x); }
  return x * sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x)); // 2 sqrt(2 / pi)
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let chunks = params.channels / 4;
  if (id.x >= chunks) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let gate = 2 * token * chunks + id.x;
    y[token * chunks + id.x] = activate(x[gate]) * x[gate + chunks];
  }
}
