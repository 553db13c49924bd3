// rms-norm: y[t, g, c] = x[t, g, c] * w[c] / sqrt(mean over c of x[t, g, c]^2 + eps)
//
// One workgroup a token and group (a group is a head, or the whole row); lanes stride over channels, lane sums are
// folded in workgroup memory. Reads x twice: bound by memory. LANES is a power of two (checked by the wrapper).
override LANES: u32 = 256;
override WEIGHT: u32 = 0;     // 0: no weight, 1: times w, 2: times 1 + w
override ACCUMULATE: u32 = 0; // 1: y += instead of y =
struct Params { tokens: u32, channels: u32, x_row: u32, x_offset: u32, y_row: u32, y_offset: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // [tokens, x_row]
@group(0) @binding(2) var<storage, read> weight: array<f32>;  // [weights]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [tokens, y_row]

var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.x;
  let x_base = group.x * params.x_row + params.x_offset + group.y * params.channels;
  let y_base = group.x * params.y_row + params.y_offset + group.y * params.channels;
  var sum = 0.0;
  for (var c = lane; c < params.channels; c += LANES) {
    let value = x[x_base + c];
    sum += value * value;
  }
  sums[lane] = sum;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let scale = 1.0 / sqrt(sums[0] / f32(params.channels) + params.eps);
  for (var c = lane; c < params.channels; c += LANES) {
    var factor = scale;
    if (WEIGHT == 1) { factor *= weight[c]; }
    if (WEIGHT == 2) { factor *= 1.0 + weight[c]; }
    let value = x[x_base + c] * factor;
    if (ACCUMULATE == 1) { y[y_base + c] += value; } else { y[y_base + c] = value; }
  }
}
