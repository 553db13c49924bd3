// embedding: y[t, c] = scale * table[id(t), c], where id(t) = ids[t], or sampled[ids[t] & 0x7fffffff] if its top bit is set
//
// One invocation 8 channels of a token: 16 or 32 bytes of the table. Bound by memory.
// The top bit lets a step be fed by the samples of the step before without a way through JavaScript.
// Indices outside a tensor read its last row; the engine validates what it is given.
override LANES: u32 = 128;
override FORMAT: u32 = 0; // of the table: 0 f32, 1 bf16, 2 f16
struct Params { tokens: u32, channels: u32, vocab: u32, sampled_rows: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;           // [tokens]
@group(0) @binding(2) var<storage, read> sampled: array<u32>;       // [sampled_rows]
@group(0) @binding(3) var<storage, read> table: array<vec4<u32>>;   // [vocab, channels]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>; // [tokens, channels]

fn rowOf(token: u32) -> u32 {
  var id = ids[token];
  if (id >> 31 == 1) { id = sampled[min(id & 0x7fffffff, params.sampled_rows - 1)]; }
  return min(id, params.vocab - 1);
}

/// Two 16-bit elements of a word, the one in the low half first.
fn widen(word: u32) -> vec2f {
  if (FORMAT == 2) { return unpack2x16float(word); }
  return vec2f(bitcast<f32>(word << 16), bitcast<f32>(word & 0xffff0000));
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let chunks = params.channels / 8;
  if (id.x >= chunks) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let source = rowOf(token) * chunks + id.x;
    let target_at = 2 * (token * chunks + id.x);
    if (FORMAT == 0) {
      y[target_at] = params.scale * bitcast<vec4f>(table[2 * source]);
      y[target_at + 1] = params.scale * bitcast<vec4f>(table[2 * source + 1]);
    } else {
      let words = table[source];
      y[target_at] = params.scale * vec4f(widen(words.x), widen(words.y));
      y[target_at + 1] = params.scale * vec4f(widen(words.z), widen(words.w));
    }
  }
}
