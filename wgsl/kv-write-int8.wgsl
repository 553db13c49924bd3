// kv-write-int8: kv[block(t), 0, place(t), h, c] = round(k[t, h, c] / scale), scale = max over c of |k[t, h, c]| / 127,
// kv_scales[block(t), 0, place(t), h] = scale; likewise v under index 1
//
// One invocation a head of a token's keys or values, which it reads twice. Bound by memory. A slot outside the cache is
// skipped. A head with a NaN or an infinity gets a scale that is one, so that it spreads as it would have.
override LANES: u32 = 64;
struct Params {
  tokens: u32, k_row: u32, k_offset: u32, v_row: u32, v_offset: u32,
  kv_channels: u32, kv_heads: u32, blocks: u32, block_size: u32
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<vec4f>;            // [tokens, k_row]
@group(0) @binding(2) var<storage, read> v: array<vec4f>;            // [tokens, v_row]
@group(0) @binding(3) var<storage, read> tokens_meta: array<vec4u>;  // [tokens, 4]
@group(0) @binding(4) var<storage, read_write> kv: array<u32>;       // [blocks, 2, block_size, kv_channels]
@group(0) @binding(5) var<storage, read_write> kv_scales: array<f32>; // [blocks, 2, block_size, kv_heads]

/// Four elements of a head that begins at `first`, in vectors of four.
fn load(part: u32, first: u32, quad: u32) -> vec4f {
  if (part == 0) { return k[first + quad]; }
  return v[first + quad];
}

/// Integers of -127...127 as signed bytes.
fn pack(integers: vec4i) -> u32 {
  let bytes = vec4u(integers) & vec4u(0xff);
  return bytes.x | (bytes.y << 8) | (bytes.z << 16) | (bytes.w << 24);
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let part = id.x / params.kv_heads;
  let head = id.x % params.kv_heads;
  if (part >= 2) { return; }
  let quads = params.kv_channels / params.kv_heads / 4;
  for (var token = id.y; token < params.tokens; token += grid.y) {
    let slot = tokens_meta[token].y;
    if (slot >= params.blocks * params.block_size) { continue; }
    let place = (slot / params.block_size * 2 + part) * params.block_size + slot % params.block_size;
    let row = place * params.kv_heads + head;
    let source = select(
      token * params.v_row + params.v_offset,
      token * params.k_row + params.k_offset,
      part == 0
    ) / 4 + head * quads;
    // As bits, magnitudes are in order, with infinity and NaN on top.
    var largest = vec4u();
    for (var quad = 0u; quad < quads; quad++) {
      largest = max(largest, bitcast<vec4u>(load(part, source, quad)) & vec4u(0x7fffffff));
    }
    let most = max(max(largest.x, largest.y), max(largest.z, largest.w));
    let scale = bitcast<f32>(most) / 127.0;
    let inverse = select(1.0 / scale, 0.0, scale < 1e-30); // its inverse would be no float
    kv_scales[row] = select(scale, bitcast<f32>(most), most >= 0x7f800000);
    for (var quad = 0u; quad < quads; quad++) {
      let nearest = clamp(round(load(part, source, quad) * inverse), vec4f(-127.0), vec4f(127.0));
      kv[row * quads + quad] = pack(vec4i(nearest));
    }
  }
}
