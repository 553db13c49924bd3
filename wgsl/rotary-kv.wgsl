// rotary-kv: q[t, h] = f16(turn(norm(x[t, q h]))), kv[block(t), 0, place(t), h] = f16(turn(norm(x[t, k h]))), values as they are
//
// Between the projection of queries, keys and values and attention on matrix units: what rms-norm, rotary and kv-write
// do, in one go. An invocation has eight channels of a head: four and the four they are turned with (rotate-half), or
// eight that stay. A workgroup has as many whole heads of one token as fit its LANES; the norm's squares are folded in
// its memory. cos_sin holds cos in the first half of a row, sin in the second. Bound by memory. A slot outside the cache
// is skipped. head_dim and rotary_dim are multiples of 8. f16 is clamped to its range; a NaN stays a NaN.
// An i8 cache is left to kv-write-int8, which rounds: q has the keys behind the queries, values stay in x.
override LANES: u32 = 128;
override X_FORMAT: u32 = 0; // 0 f32, 2 f16
override KV_INT8: u32 = 0;  // 1: kv is not written
override NORM: u32 = 0;     // of each head of queries and keys; 0: none, 1: RMS times w, 2: RMS times 1 + w
struct Params {
  tokens: u32, row: u32, q_offset: u32, k_offset: u32, v_offset: u32, heads: u32, kv_heads: u32,
  head_dim: u32, rotary_dim: u32, q_channels: u32, positions: u32, blocks: u32, block_size: u32, eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec2u>;           // [tokens, row]
@group(0) @binding(2) var<storage, read> cos_sin: array<vec4f>;     // [positions, rotary_dim]
@group(0) @binding(3) var<storage, read> q_weight: array<vec4f>;    // [q_weights]
@group(0) @binding(4) var<storage, read> k_weight: array<vec4f>;    // [k_weights]
@group(0) @binding(5) var<storage, read> tokens_meta: array<vec4u>; // [tokens, 4]
@group(0) @binding(6) var<storage, read_write> q: array<vec2u>;     // [tokens, q_channels]
@group(0) @binding(7) var<storage, read_write> kv: array<vec2u>;    // [blocks, 2, block_size, kv_channels]

var<workgroup> squares: array<f32, LANES>;

/// Four channels of x from element `i` on.
fn four(i: u32) -> vec4f {
  if (X_FORMAT == 2) { return vec4f(unpack2x16float(x[i / 4].x), unpack2x16float(x[i / 4].y)); }
  return bitcast<vec4f>(vec4u(x[i / 2], x[i / 2 + 1]));
}

/// Four values as f16.
fn to_f16(value: vec4f) -> vec2u {
  let inside = clamp(value, vec4f(-65504.0), vec4f(65504.0));
  let nan = (bitcast<vec4u>(value) & vec4u(0x7fffffff)) > vec4u(0x7f800000);
  let mark = select(vec4u(), vec4u(0x7e00, 0x7e000000, 0x7e00, 0x7e000000), nan);
  return vec2u(pack2x16float(inside.xy) | mark.x | mark.y, pack2x16float(inside.zw) | mark.z | mark.w);
}

/// The norm's factor for four channels of a head of queries or keys.
fn factor(is_key: bool, channel: u32) -> vec4f {
  let weight = select(q_weight[channel / 4], k_weight[channel / 4], is_key);
  return select(weight, vec4f(1.0) + weight, NORM == 2);
}

/// One over the RMS of the head whose squares begin at lane `first`.
fn norm_scale(first: u32, units: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < units; i++) { sum += squares[first + i]; }
  return 1.0 / sqrt(sum / f32(params.head_dim) + params.eps);
}

/// What an invocation has of every token.
struct Piece { head: u32, kv_head: u32, is_query: bool, is_value: bool, is_turned: bool, places: vec2u, column: u32 }

fn piece_of(head: u32, unit: u32) -> Piece {
  let is_query = head < params.heads;
  let is_value = head >= params.heads + params.kv_heads;
  let kv_head = (head - params.heads) % params.kv_heads;
  let is_turned = !is_value && unit < params.rotary_dim / 8;
  var places = vec2u(8 * unit, 8 * unit + 4); // the first four channels, and the other four
  if (is_turned) { places = vec2u(4 * unit, 4 * unit + params.rotary_dim / 2); }
  let offset = select(select(params.k_offset, params.v_offset, is_value), params.q_offset, is_query);
  let column = offset + select(kv_head, head, is_query) * params.head_dim;
  return Piece(head, kv_head, is_query, is_value, is_turned, places, column);
}

/// Turns eight channels, if they are to be turned, and stores them.
fn finish(token: u32, piece: Piece, first: vec4f, second: vec4f) {
  let info = tokens_meta[token];
  var low = first;
  var high = second;
  if (piece.is_turned) {
    let angle = (min(info.x, params.positions - 1) * params.rotary_dim + piece.places.x) / 4;
    let cosine = cos_sin[angle];
    let sine = cos_sin[angle + params.rotary_dim / 8];
    low = first * cosine - second * sine;
    high = second * cosine + first * sine;
  }
  if (piece.is_query || KV_INT8 == 1) {
    if (piece.is_value) { return; }
    let base = token * params.q_channels + piece.head * params.head_dim;
    q[(base + piece.places.x) / 4] = to_f16(low);
    q[(base + piece.places.y) / 4] = to_f16(high);
  } else if (info.y < params.blocks * params.block_size) {
    let block = info.y / params.block_size * 2 + u32(piece.is_value);
    let row = block * params.block_size + info.y % params.block_size;
    let base = (row * params.kv_heads + piece.kv_head) * params.head_dim;
    kv[(base + piece.places.x) / 4] = to_f16(low);
    kv[(base + piece.places.y) / 4] = to_f16(high);
  }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let units = params.head_dim / 8;
  let group_heads = LANES / units;
  let head = group.x * group_heads + lane / units;
  let is_there = lane < group_heads * units && head < params.heads + 2 * params.kv_heads;
  let piece = piece_of(head, lane % units);
  for (var token = group.y; token < params.tokens; token += grid.y) {
    var low = vec4f();
    var high = vec4f();
    if (is_there) {
      low = four(token * params.row + piece.column + piece.places.x);
      high = four(token * params.row + piece.column + piece.places.y);
    }
    if (NORM > 0) {
      workgroupBarrier();
      squares[lane] = dot(low, low) + dot(high, high);
      workgroupBarrier();
      if (is_there && !piece.is_value) {
        let scale = norm_scale(lane - lane % units, units);
        low *= scale * factor(!piece.is_query, piece.places.x);
        high *= scale * factor(!piece.is_query, piece.places.y);
      }
    }
    if (is_there) { finish(token, piece, low, high); }
  }
}
