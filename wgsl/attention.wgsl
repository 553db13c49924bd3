// attention: y[t, h] = sum over visible keys j of softmax_j(cap(scale * q[t, h] . k[j])) * v[j]
//
// One workgroup a query and head. KEYS keys at a time: PARTS lanes share a key's dot product, then the softmax with a
// running maximum, then lanes sum over (eighth of the channels, group of keys); groups are folded at the end.
// Visible keys are one interval that contains the query's own key; nothing outside it is read.
// Bound by the latency of the cache for one query, by its bandwidth for many.
override LANES: u32 = 256; // a multiple of 16, at most KEYS * PARTS / 8
override HEAD_EIGHTHS: u32 = 16; // head_dim / 8, at most LANES
override SPAN: u32 = 8; // half the number of groups of keys, that rounded up to a power of two
override FORMAT: u32 = 0; // of kv; 0: f32, 1: bf16, 2: f16, 3: i8
const KEYS = 512u;
const PARTS = 4u;
const LOWEST = -3e38;
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

struct Eight { a: vec4f, b: vec4f }

var<workgroup> query: array<Eight, HEAD_EIGHTHS>;
var<workgroup> rows: array<u32, KEYS>; // where each key's row begins, in eighths
var<workgroup> scores: array<f32, KEYS>; // score, then weight of each key
var<workgroup> scratch: array<f32, KEYS * PARTS>; // shares of scores [key, part]; in the end sums [8, lane]
var<workgroup> lane_values: array<f32, LANES>; // largest scores; in the end sums of weights

/// Eight consecutive integers of an i8 cache. Below 2^23 an integer under the exponent of 2^23 is 2^23 + itself, exactly:
/// bytes are masked in place, and what their place makes them worth is divided out.
fn integers(eighth: u32) -> Eight {
  let words = vec2u(kv[eighth / 2][2 * (eighth % 2)], kv[eighth / 2][2 * (eighth % 2) + 1]) ^ vec2u(0x80808080);
  let halves = vec4u(words.x, words.x >> 16, words.y, words.y >> 16);
  let mask = vec4u(0xff, 0xff00, 0xff, 0xff00);
  let exponent = vec4u(0x4b000000);
  let zero = vec4f(0x800080, 0x808000, 0x800080, 0x808000);
  let worth = vec4f(1.0, 0x1p-8, 1.0, 0x1p-8);
  return Eight(
    (bitcast<vec4f>((halves.xxyy & mask) | exponent) - zero) * worth,
    (bitcast<vec4f>((halves.zzww & mask) | exponent) - zero) * worth
  );
}

/// Eight consecutive elements of the cache; of i8 they are to be multiplied with the scale of their row.
fn load(eighth: u32) -> Eight {
  if (FORMAT == 0) {
    return Eight(bitcast<vec4f>(kv[2 * eighth]), bitcast<vec4f>(kv[2 * eighth + 1]));
  }
  if (FORMAT == 3) { return integers(eighth); }
  let words = kv[eighth];
  if (FORMAT == 1) {
    let low = bitcast<vec4f>(words << vec4u(16));
    let high = bitcast<vec4f>(words & vec4u(0xffff0000));
    return Eight(vec4f(low.x, high.x, low.y, high.y), vec4f(low.z, high.z, low.w, high.w));
  }
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w))
  );
}

/// What the elements of the row that begins at an eighth are to be multiplied with.
fn scale_of(row: u32) -> f32 {
  if (FORMAT != 3) { return 1.0; }
  return kv_scales[row / HEAD_EIGHTHS];
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

/// cap * tanh(score / cap), in a form that neither overflows nor depends on the driver's tanh.
fn capped(score: f32) -> f32 {
  if (params.soft_cap == 0.0) { return score; }
  let x = clamp(score / params.soft_cap, -10.0, 10.0);
  return params.soft_cap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0));
}

/// Looks up the rows of `count` keys from `first` on.
fn find_rows(lane: u32, first: u32, count: u32, table: u32, kv_head: u32) {
  for (var i = lane; i < count; i += LANES) {
    let key = first + i;
    let block = block_tables[table + key / params.block_size];
    let row = block * 2 * params.block_size + key % params.block_size;
    rows[i] = (row * params.kv_heads + kv_head) * HEAD_EIGHTHS;
  }
}

/// Each key's dot product with the query, in PARTS shares.
fn multiply_keys(lane: u32, count: u32) {
  let part = lane % PARTS;
  for (var i = lane / PARTS; i < count; i += LANES / PARTS) {
    let row = rows[i];
    var share = vec4f();
    for (var c = part; c < HEAD_EIGHTHS; c += PARTS) {
      let k = load(row + c);
      share += query[c].a * k.a + query[c].b * k.b;
    }
    scratch[i * PARTS + part] = dot(share, vec4f(1.0));
  }
}

/// Adds the shares up to scores; returns the largest score of the lane's keys.
fn finish_scores(lane: u32, count: u32) -> f32 {
  var largest = LOWEST;
  for (var i = lane; i < count; i += LANES) {
    var product = 0.0;
    for (var part = 0u; part < PARTS; part++) { product += scratch[i * PARTS + part]; }
    scores[i] = capped(product * scale_of(rows[i]) * params.scale);
    largest = max(largest, scores[i]);
  }
  return largest;
}

/// The largest of all lanes' values: first within 16 runs of lanes, then over the runs.
fn largest_of_all(lane: u32, value: f32) -> f32 {
  lane_values[lane] = value;
  workgroupBarrier();
  var largest = value;
  if (lane < 16) {
    for (var i = lane; i < LANES; i += 16) { largest = max(largest, lane_values[i]); }
  }
  workgroupBarrier();
  if (lane < 16) { lane_values[lane] = largest; }
  workgroupBarrier();
  largest = lane_values[0];
  for (var i = 1u; i < 16; i++) { largest = max(largest, lane_values[i]); }
  return largest;
}

/// Adds the sums and weights of all groups up into those of group 0.
fn fold_groups(lane: u32, group: u32, groups: u32) {
  for (var span = SPAN; span > 0; span /= 2) {
    workgroupBarrier();
    if (group < span && group + span < groups) {
      let other = lane + span * HEAD_EIGHTHS;
      for (var i = 0u; i < 8; i++) { scratch[i * LANES + lane] += scratch[i * LANES + other]; }
      lane_values[lane] += lane_values[other];
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) place: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32
) {
  let head = place.x;
  let token = place.z * grid.y + place.y;
  if (token >= params.tokens) { return; }
  let info = tokens_meta[token];
  let keys = visible(info.x, sequences[info.z].x, sequences[info.z].y);
  let table = info.z * params.blocks_per_sequence;
  let kv_head = head / (params.heads / params.kv_heads);
  let to_values = params.block_size * params.kv_heads * HEAD_EIGHTHS;
  let groups = LANES / HEAD_EIGHTHS;
  let group = lane / HEAD_EIGHTHS; // lanes with group = groups have no part in the values
  let eighth = lane % HEAD_EIGHTHS;

  let q_base = (token * params.q_row + params.q_offset) / 4 + head * 2 * HEAD_EIGHTHS;
  for (var c = lane; c < HEAD_EIGHTHS; c += LANES) {
    query[c] = Eight(q[q_base + 2 * c], q[q_base + 2 * c + 1]);
  }
  var sum = Eight(vec4f(), vec4f());
  var weight = 0.0;
  var most = LOWEST;
  for (var first = keys.x; first <= keys.y; first += KEYS) {
    let count = min(KEYS, keys.y - first + 1);
    find_rows(lane, first, count, table, kv_head);
    workgroupBarrier();
    multiply_keys(lane, count);
    workgroupBarrier();
    let most_now = max(most, largest_of_all(lane, finish_scores(lane, count)));
    for (var i = lane; i < count; i += LANES) { scores[i] = exp(scores[i] - most_now); }
    workgroupBarrier();
    let keep = exp(most - most_now);
    most = most_now;
    sum = Eight(sum.a * keep, sum.b * keep);
    weight *= keep;
    if (group < groups) {
      for (var i = group; i < count; i += groups) {
        let row = rows[i] + to_values;
        let v = load(row + eighth);
        let share = scores[i] * scale_of(row);
        sum = Eight(sum.a + share * v.a, sum.b + share * v.b);
        weight += scores[i];
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4; i++) {
    scratch[i * LANES + lane] = sum.a[i];
    scratch[(i + 4) * LANES + lane] = sum.b[i];
  }
  lane_values[lane] = weight;
  fold_groups(lane, group, groups);
  let y_base = (token * params.heads + head) * 2 * HEAD_EIGHTHS;
  for (var quad = lane; quad < 2 * HEAD_EIGHTHS; quad += LANES) {
    let source = quad / 2;
    let at = quad % 2 * 4 * LANES + source;
    let total = vec4f(scratch[at], scratch[at + LANES], scratch[at + 2 * LANES], scratch[at + 3 * LANES]);
    y[y_base + quad] = total / lane_values[source];
  }
}
