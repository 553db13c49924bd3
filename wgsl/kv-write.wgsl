// kv-write: kv[block(t), 0, place(t), c] = round(k[t, c]), kv[block(t), 1, place(t), c] = round(v[t, c])
//
// One invocation a vec4<u32> of the cache (4 elements of f32, 8 of 16 bits), so no two touch the same word; the first
// half of a token's invocations stores keys, the second values. Bound by memory. A slot outside the cache is skipped.
// f16 is clamped to its range (an overflow would be indeterminate in WGSL); a NaN stays a NaN in every format.
override LANES: u32 = 64;
override FORMAT: u32 = 0; // of kv; 0: f32, 1: bf16, 2: f16
struct Params {
  tokens: u32, k_row: u32, k_offset: u32, v_row: u32, v_offset: u32,
  kv_channels: u32, blocks: u32, block_size: u32
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;           // [tokens, k_row]
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;           // [tokens, v_row]
@group(0) @binding(3) var<storage, read> tokens_meta: array<vec4<u32>>; // [tokens, 4]
@group(0) @binding(4) var<storage, read_write> kv: array<vec4<u32>>;    // [blocks, 2, block_size, kv_channels]

fn is_nan(bits: vec4u) -> vec4<bool> { return (bits & vec4u(0x7fffffff)) > vec4u(0x7f800000); }

/// Four values as bf16, rounded to nearest even, in the low halves.
fn to_bf16(value: vec4f) -> vec4u {
  let bits = bitcast<vec4u>(value);
  let nearest = (bits + vec4u(0x7fff) + ((bits >> vec4u(16)) & vec4u(1))) >> vec4u(16);
  return select(nearest, vec4u(0x7fc0), is_nan(bits));
}

/// Four values as f16, in the low halves.
fn to_f16(value: vec4f) -> vec4u {
  let inside = clamp(value, vec4f(-65504.0), vec4f(65504.0));
  let xy = pack2x16float(inside.xy);
  let zw = pack2x16float(inside.zw);
  let packed = vec4u(xy & 0xffff, xy >> 16, zw & 0xffff, zw >> 16);
  return select(packed, vec4u(0x7e00), is_nan(bitcast<vec4u>(value)));
}

fn pack(a: vec4f, b: vec4f) -> vec4u {
  if (FORMAT == 0) { return bitcast<vec4u>(a); }
  var low = to_f16(a);
  var high = to_f16(b);
  if (FORMAT == 1) {
    low = to_bf16(a);
    high = to_bf16(b);
  }
  return vec4u(low.x | (low.y << 16), low.z | (low.w << 16), high.x | (high.y << 16), high.z | (high.w << 16));
}

/// Element `word` of a row of keys (part 0) or values (part 1).
fn packed(token: u32, part: u32, word: u32, quads: u32) -> vec4u {
  if (part == 0) {
    let at = (token * params.k_row + params.k_offset) / 4 + word * quads;
    return pack(k[at], k[at + quads - 1]);
  }
  let at = (token * params.v_row + params.v_offset) / 4 + word * quads;
  return pack(v[at], v[at + quads - 1]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let quads = select(2u, 1u, FORMAT == 0); // vec4<f32> in one word of the cache
  let words = params.kv_channels / (4 * quads); // in a row of the cache
  let part = id.x / words;
  let word = id.x % words;
  if (part >= 2) { return; }
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let slot = tokens_meta[token].y;
    if (slot >= params.blocks * params.block_size) { continue; }
    let row = (slot / params.block_size * 2 + part) * params.block_size + slot % params.block_size;
    kv[row * words + word] = packed(token, part, word, quads);
  }
}
