// kv-write-int8: kv[block(t), 0, place(t), h, c] = round(k[t, h, c] / scale), scale = max over c of |k[t, h, c]| / 127,
// kv_scales[block(t), 0, place(t), h] = scale; likewise v under index 1
//
// HEAD_LANES lanes a head of a token's keys or values, which they read twice: more than one where a GPU waits for memory,
// one where barriers are slow. Bound by memory. A slot outside the cache is skipped. A head with a NaN or an infinity gets
// a scale that is one, so that it spreads as it would have.
override LANES: u32 = 64;
override HEAD_LANES: u32 = 1; // divides LANES
override K_FORMAT: u32 = 0;   // 0 f32, 2 f16
override V_FORMAT: u32 = 0;
struct Params {
  tokens: u32, k_row: u32, k_offset: u32, v_row: u32, v_offset: u32,
  kv_channels: u32, kv_heads: u32, blocks: u32, block_size: u32
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<vec2u>;            // [tokens, k_row]
@group(0) @binding(2) var<storage, read> v: array<vec2u>;            // [tokens, v_row]
@group(0) @binding(3) var<storage, read> tokens_meta: array<vec4u>;  // [tokens, 4]
@group(0) @binding(4) var<storage, read_write> kv: array<u32>;       // [blocks, 2, block_size, kv_channels]
@group(0) @binding(5) var<storage, read_write> kv_scales: array<f32>; // [blocks, 2, block_size, kv_heads]

var<workgroup> peaks: array<u32, LANES>;

fn halves(words: vec2u) -> vec4f { return vec4f(unpack2x16float(words.x), unpack2x16float(words.y)); }

/// The i-th four elements of k (`part` 0) or v.
fn load(part: u32, i: u32) -> vec4f {
  if (part == 0) {
    if (K_FORMAT == 2) { return halves(k[i]); }
    return bitcast<vec4f>(vec4u(k[2 * i], k[2 * i + 1]));
  }
  if (V_FORMAT == 2) { return halves(v[i]); }
  return bitcast<vec4f>(vec4u(v[2 * i], v[2 * i + 1]));
}

/// Integers of -127...127 as signed bytes.
fn pack(integers: vec4i) -> u32 {
  let bytes = vec4u(integers) & vec4u(0xff);
  return bytes.x | (bytes.y << 8) | (bytes.z << 16) | (bytes.w << 24);
}

/// The largest of the lanes of a head, whose first is `first`.
fn largest_of(lane: u32, first: u32, most: u32) -> u32 {
  if (HEAD_LANES == 1) { return most; }
  workgroupBarrier();
  peaks[lane] = most;
  workgroupBarrier();
  var largest = 0u;
  for (var i = 0u; i < HEAD_LANES; i++) { largest = max(largest, peaks[first + i]); }
  return largest;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = group.x * (LANES / HEAD_LANES) + lane / HEAD_LANES; // keys' heads, then values'
  let member = lane % HEAD_LANES;
  let is_there = index < 2 * params.kv_heads;
  let part = min(index / params.kv_heads, 1u);
  let head = index % params.kv_heads;
  let quads = select(0u, params.kv_channels / params.kv_heads / 4, is_there);
  for (var token = group.y; token < params.tokens; token += grid.y) {
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
    for (var quad = member; quad < quads; quad += HEAD_LANES) {
      largest = max(largest, bitcast<vec4u>(load(part, source + quad)) & vec4u(0x7fffffff));
    }
    let most = largest_of(lane, lane - member, max(max(largest.x, largest.y), max(largest.z, largest.w)));
    let scale = bitcast<f32>(most) / 127.0;
    let inverse = select(1.0 / scale, 0.0, scale < 1e-30); // its inverse would be no float
    if (member == 0 && is_there) { kv_scales[row] = select(scale, bitcast<f32>(most), most >= 0x7f800000); }
    for (var quad = member; quad < quads; quad += HEAD_LANES) {
      let nearest = clamp(round(load(part, source + quad) * inverse), vec4f(-127.0), vec4f(127.0));
      kv[row * quads + quad] = pack(vec4i(nearest));
    }
  }
}
