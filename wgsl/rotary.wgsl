// rotary: (x[t, h, i], x[t, h, i + n]) turned by the angle of (position(t), i), for i < n = rotary_dim / 2
//
// In place, rotate-half; heads lie one behind the other from column `offset`, channels from rotary_dim on stay.
// One invocation a pair of every HEADS-th head, which share their cosine and sine. cos_sin holds cos in the first half of
// a row, sin in the second. Bound by memory.
override LANES: u32 = 64;
override HEADS: u32 = 1; // abreast, each with lanes of its own
struct Params {
  tokens: u32, row: u32, offset: u32, heads: u32, head_dim: u32, rotary_dim: u32, positions: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> cos_sin: array<f32>;     // [positions, rotary_dim]
@group(0) @binding(2) var<storage, read> tokens_meta: array<u32>; // [tokens, 4]
@group(0) @binding(3) var<storage, read_write> x: array<f32>;     // [tokens, row]

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let half = params.rotary_dim / 2;
  if (id.x >= HEADS * half) { return; }
  let pair = id.x % half;
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let position = min(tokens_meta[4 * token], params.positions - 1);
    let angle = position * params.rotary_dim + pair;
    let cosine = cos_sin[angle];
    let sine = cos_sin[angle + half];
    for (var head = id.x / half; head < params.heads; head += HEADS) {
      let at = token * params.row + params.offset + head * params.head_dim + pair;
      let x1 = x[at];
      let x2 = x[at + half];
      x[at] = x1 * cosine - x2 * sine;
      x[at + half] = x2 * cosine + x1 * sine;
    }
  }
}
