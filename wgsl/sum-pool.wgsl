// sum-pool: y[p, c] = sum over t of x[t, c], start(p) <= t < start(p) + count(p), where ranges[p] = (start, count)
//
// One invocation 4 channels of a pool; it walks down the rows, neighbours beside it. Bound by memory. Sums of RUN rows
// are summed up, so a rounding error grows with RUN + count / RUN and not with count. Rows outside x count as none.
override LANES: u32 = 128;
const RUN = 32u;
struct Params { pools: u32, channels: u32, tokens: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ranges: array<u32>;        // [pools, 2]
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;       // [tokens, channels]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [pools, channels]

fn sumOf(first: u32, end: u32, chunk: u32) -> vec4f {
  let chunks = params.channels / 4;
  var total = vec4f();
  for (var start = first; start < end; start += RUN) {
    var run = vec4f();
    for (var token = start; token < min(start + RUN, end); token++) { run += x[token * chunks + chunk]; }
    total += run;
  }
  return total;
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let chunks = params.channels / 4;
  if (id.x >= chunks) { return; }
  for (var pool = id.y; pool < params.pools; pool += grid.y) {
    let start = min(ranges[2 * pool], params.tokens);
    let end = start + min(ranges[2 * pool + 1], params.tokens - start);
    y[pool * chunks + id.x] = sumOf(start, end, id.x);
  }
}
