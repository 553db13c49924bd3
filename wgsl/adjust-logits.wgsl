// adjust-logits: x = logits[e] + bias; logits[e] = (x > 0 ? x / penalty : x * penalty) + addition, for each entry
//
// An entry is (element e = row * vocab + token, bias, penalty, addition), the last three as bits of f32. One invocation
// an entry, stepping by the size of the grid; no two entries name the same element. Bound by scattered memory access.
// An addition of the most negative finite number forbids the token: it is compared as bits and stored as it is, so that
// no arithmetic is done with it. Elements outside the logits are skipped.
override LANES: u32 = 64;
struct Params { entries: u32, elements: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> entries: array<vec4<u32>>;  // [entries, 4]
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;   // [rows, vocab]

const FORBIDDEN: u32 = 0xff7fffff;

fn adjusted(logit: f32, entry: vec4u) -> f32 {
  let bits = vec3f(bitcast<f32>(entry.y), bitcast<f32>(entry.z), bitcast<f32>(entry.w));
  if (entry.w == FORBIDDEN) { return bits.z; }
  let biased = logit + bits.x;
  return select(biased * bits.y, biased / bits.y, biased > 0.0) + bits.z;
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  for (var i = id.x; i < params.entries; i += grid.x * LANES) {
    let entry = entries[i];
    if (entry.x < params.elements) { logits[entry.x] = adjusted(logits[entry.x], entry); }
  }
}
