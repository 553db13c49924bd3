// mask-logits: logits[r, c] = lowest finite number, where bit c of masks[mask_of_row[r]] is not set
//
// One invocation SPAN tokens of a row, all in one word of the mask: SPAN divides 32. Rows whose index is that of no mask
// stay as they are, and so do allowed tokens. Bound by memory.
override LANES: u32 = 128;
override SPAN: u32 = 1;
struct Params { rows: u32, vocab: u32, masks: u32, words: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> masks: array<u32>;        // [masks, words]
@group(0) @binding(2) var<storage, read> mask_of_row: array<u32>;  // [rows]
@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // [rows, vocab]

// Not infinity: a compiler may assume that there is none.
const LOWEST: f32 = -0x1.fffffep+127;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let first = id.x * SPAN;
  if (first >= params.vocab) { return; }
  let last = min(first + SPAN, params.vocab);
  for (var row = id.y; row < params.rows; row += grid.y) {
    let mask = mask_of_row[row];
    if (mask >= params.masks) { continue; }
    let forbidden = ~masks[mask * params.words + first / 32];
    if (forbidden == 0) { continue; }
    for (var token = first; token < last; token++) {
      if (((forbidden >> (token % 32)) & 1) == 1) { logits[row * params.vocab + token] = LOWEST; }
    }
  }
}
