// attention-cpu-subgroup: y[t, h] = sum over visible keys j of softmax_j(cap(scale * q[t, h] . k[j])) * v[j]
//
// For CPU adapters whose subgroups have 4 lanes (SwiftShader). A subgroup a query and head: its lanes share the channels,
// and of four keys at a time each lane finds the row, and weighs the score, of one. Loops over channels are written out,
// since an array under a loop index would be gathered, as every load from memory is.
// Visible keys are one interval that contains the query's own key; past its end that key is read again with weight 0,
// so nothing is read that was not written. head_dim is 16 * QUADS.
enable subgroups;
const QUADS: u32 = 4; // of channels, a lane
const LOWEST = -3e38;
override LANES: u32 = 4;
override FORMAT: u32 = 0; // of kv; 0: f32, 1: bf16, 2: f16, 3: i8
struct Params {
  tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, q_row: u32, q_offset: u32,
  block_size: u32, blocks_per_sequence: u32, window: u32, scale: f32, soft_cap: f32
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;           // [tokens, q_row]
@group(0) @binding(2) var<storage, read> kv: array<vec4<u32>>;          // [blocks, 2, block_size, kv_channels]
@group(0) @binding(3) var<storage, read> kv_scales: array<f32>;         // [scales]
@group(0) @binding(4) var<storage, read> tokens_meta: array<vec4<u32>>; // [tokens, 4]
@group(0) @binding(5) var<storage, read> sequences: array<vec4<u32>>;   // [sequences, 4]
@group(0) @binding(6) var<storage, read> block_tables: array<u32>;      // [sequences, blocks_per_sequence]
@group(0) @binding(7) var<storage, read_write> y: array<vec4<f32>>;     // [tokens, y_row]

/// Four consecutive elements of the cache; of i8 they are to be multiplied with the scale of their row.
fn load(quad: u32) -> vec4f {
  if (FORMAT == 0) { return bitcast<vec4f>(kv[quad]); }
  if (FORMAT == 3) { return integers(kv[quad / 4][quad % 4]); }
  let words = vec2u(kv[quad / 2][2 * (quad % 2)], kv[quad / 2][2 * (quad % 2) + 1]);
  if (FORMAT == 2) { return vec4f(unpack2x16float(words.x), unpack2x16float(words.y)); }
  let low = bitcast<vec2f>(words * 65536);
  let high = bitcast<vec2f>(words & vec2u(0xffff0000));
  return vec4f(low.x, high.x, low.y, high.y);
}

/// Four integers of i8. Below 2^23 an integer under the exponent of 2^23 is 2^23 + itself, exactly: bytes are masked in
/// place, and what their place makes them worth is divided out.
fn integers(word: u32) -> vec4f {
  let biased = word ^ 0x80808080;
  let halves = vec4u(biased, biased, biased >> 16, biased >> 16);
  let numbers = bitcast<vec4f>((halves & vec4u(0xff, 0xff00, 0xff, 0xff00)) | vec4u(0x4b000000));
  return (numbers - vec4f(0x800080, 0x808000, 0x800080, 0x808000)) * vec4f(1.0, 0x1p-8, 1.0, 0x1p-8);
}

/// First and last key that the query at `position` sees.
fn visible(position: u32, prefix: u32, context: u32) -> vec2u {
  var first = 0u;
  var last = position;
  if (position < prefix) { last = max(last, min(prefix, context) - 1); }
  if (params.window > 0) {
    first = position - min(position, params.window - 1);
    last = min(last, position + params.window - 1);
  }
  return vec2u(first, last);
}

/// Where the row of a key and head begins, in rows.
fn row_of(key: u32, table: u32, kv_head: u32) -> u32 {
  let block = block_tables[table + key / params.block_size];
  return (block * 2 * params.block_size + key % params.block_size) * params.kv_heads + kv_head;
}

/// What each of the four lanes has.
fn gathered(own: f32) -> vec4f {
  return vec4f(
    subgroupBroadcast(own, 0), subgroupBroadcast(own, 1), subgroupBroadcast(own, 2), subgroupBroadcast(own, 3),
  );
}

/// cap * tanh(score / cap), in a form that neither overflows nor depends on the driver's tanh.
fn capped(score: f32) -> f32 {
  if (params.soft_cap == 0.0) { return score; }
  let x = clamp(score / params.soft_cap, -10.0, 10.0);
  return params.soft_cap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0));
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let head = min(id.x / 4, params.heads - 1); // a head too many is the last once more
  let token = min(group.z * grid.y + group.y, params.tokens - 1); // the same for a workgroup: a subgroup stays together
  let info = tokens_meta[token];
  let keys = visible(info.x, sequences[info.z].x, sequences[info.z].y);
  let table = info.z * params.blocks_per_sequence;
  let kv_head = head / (params.heads / params.kv_heads);
  let to_values = params.block_size * params.kv_heads;

  var query: array<vec4f, QUADS>;
  var sum: array<vec4f, QUADS>;
  let q_base = (token * params.q_row + params.q_offset) / 4 + head * 4 * QUADS + lane;
  for (var c = 0u; c < QUADS; c++) { // unroll
    query[c] = q[q_base + 4 * c];
  }
  var most = LOWEST;
  var weight = 0.0;
  for (var first = keys.x; first <= keys.y; first += 4) {
    let is_seen = first + lane <= keys.y;
    let own_row = row_of(select(info.x, first + lane, is_seen), table, kv_head);
    let rows = bitcast<vec4u>(gathered(bitcast<f32>(own_row))) * (4 * QUADS) + lane;
    var products = vec4f();
    for (var c = 0u; c < QUADS; c++) { // unroll
      products += vec4f(
        dot(query[c], load(rows.x + 4 * c)), dot(query[c], load(rows.y + 4 * c)),
        dot(query[c], load(rows.z + 4 * c)), dot(query[c], load(rows.w + 4 * c)),
      );
    }
    let dots = subgroupAdd(products);
    let own = select(select(dots.x, dots.y, lane == 1), select(dots.z, dots.w, lane == 3), lane > 1);
    var scales = vec2f(1.0);
    if (FORMAT == 3) { scales = vec2f(kv_scales[own_row], kv_scales[own_row + to_values]); }
    let score = select(LOWEST, capped(own * scales.x * params.scale), is_seen);
    let most_now = max(most, subgroupMax(score));
    let p = select(0.0, exp(score - most_now), is_seen);
    let keep = exp(most - most_now);
    most = most_now;
    weight = weight * keep + p;
    let shares = gathered(p * scales.y);
    let values = rows + to_values * 4 * QUADS;
    for (var c = 0u; c < QUADS; c++) { // unroll
      sum[c] = sum[c] * keep + shares.x * load(values.x + 4 * c) + shares.y * load(values.y + 4 * c)
        + shares.z * load(values.z + 4 * c) + shares.w * load(values.w + 4 * c);
    }
  }
  let all = subgroupAdd(weight);
  let y_base = (token * params.heads + head) * 4 * QUADS + lane;
  for (var c = 0u; c < QUADS; c++) { // unroll
    y[y_base + 4 * c] = sum[c] / all;
  }
}
