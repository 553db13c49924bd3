// rotary: a lane a pair of one head.
override LANES: u32 = 64;
struct Params {
  tokens: u32, row: u32, offset: u32, heads: u32, head_dim: u32, rotary_dim: u32, positions: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> cos_sin: array<f32>;
@group(0) @binding(2) var<storage, read> tokens_meta: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let half = params.rotary_dim / 2;
  if (id.x >= params.heads * half) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let position = min(tokens_meta[4 * token], params.positions - 1);
    let angle = position * params.rotary_dim + id.x % half;
    let at = token * params.row + params.offset + id.x / half * params.head_dim + id.x % half;
    let x1 = x[at];
    let x2 = x[at + half];
    x[at] = x1 * cos_sin[angle] - x2 * cos_sin[angle + half];
    x[at + half] = x2 * cos_sin[angle] + x1 * cos_sin[angle + half];
  }
}
