// attention-cpu: y[t, h] = sum over visible keys j of softmax_j(cap(scale * q[t, h] . k[j])) * v[j]
//
// For CPU adapters: one invocation a query and head, no barriers. Lanes of a SIMD group are heads of one query, which
// see the same keys and never diverge. Eight keys at a time share the loads of q and the rescaling of the sum.
// Visible keys are one interval that contains the query's own key; past its end that key is read again with weight 0,
// so nothing is read that was not written.
const HEAD_EIGHTHS = 16u; // head_dim / 8; loops take it from params, lest Mesa unroll them and compile for half a minute
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

struct Eight { a: vec4f, b: vec4f }
struct EightRows { a: vec4u, b: vec4u }
alias Row = array<Eight, HEAD_EIGHTHS>;

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

fn dot8(x: Eight, eighth: u32) -> f32 {
  let k = load(eighth);
  return dot(x.a, k.a) + dot(x.b, k.b);
}

/// What the elements of rows that begin at these eighths are to be multiplied with.
fn scales_of(row: vec4u) -> vec4f {
  if (FORMAT != 3) { return vec4f(1.0); }
  let at = row / HEAD_EIGHTHS;
  return vec4f(kv_scales[at.x], kv_scales[at.y], kv_scales[at.z], kv_scales[at.w]);
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

/// Where the keys' rows begin, in eighths.
fn rows_of(key: vec4u, table: u32, kv_head: u32) -> vec4u {
  let at = vec4u(table) + key / params.block_size;
  let block = vec4u(block_tables[at.x], block_tables[at.y], block_tables[at.z], block_tables[at.w]);
  let row = block * 2 * params.block_size + key % params.block_size;
  return (row * params.kv_heads + kv_head) * HEAD_EIGHTHS;
}

/// The dot products of the query with the keys of eight rows.
fn multiply_keys(query: ptr<function, Row>, row: EightRows) -> Eight {
  let eighths = params.head_dim / 8;
  var a = vec4f();
  var b = vec4f();
  for (var c = 0u; c < eighths; c++) {
    let x = (*query)[c];
    a += vec4f(dot8(x, row.a.x + c), dot8(x, row.a.y + c), dot8(x, row.a.z + c), dot8(x, row.a.w + c));
    b += vec4f(dot8(x, row.b.x + c), dot8(x, row.b.y + c), dot8(x, row.b.z + c), dot8(x, row.b.w + c));
  }
  return Eight(a, b);
}

/// sum = sum * keep + p . the values of eight rows
fn add_values(sum: ptr<function, Row>, keep: f32, p: Eight, row: EightRows) {
  let eighths = params.head_dim / 8;
  for (var c = 0u; c < eighths; c++) {
    let v0 = load(row.a.x + c);
    let v1 = load(row.a.y + c);
    let v2 = load(row.a.z + c);
    let v3 = load(row.a.w + c);
    let v4 = load(row.b.x + c);
    let v5 = load(row.b.y + c);
    let v6 = load(row.b.z + c);
    let v7 = load(row.b.w + c);
    let old = (*sum)[c];
    (*sum)[c] = Eight(
      old.a * keep + p.a.x * v0.a + p.a.y * v1.a + p.a.z * v2.a + p.a.w * v3.a
        + p.b.x * v4.a + p.b.y * v5.a + p.b.z * v6.a + p.b.w * v7.a,
      old.b * keep + p.a.x * v0.b + p.a.y * v1.b + p.a.z * v2.b + p.a.w * v3.b
        + p.b.x * v4.b + p.b.y * v5.b + p.b.z * v6.b + p.b.w * v7.b
    );
  }
}

/// cap * tanh(score / cap), in a form that neither overflows nor depends on the driver's tanh.
fn capped(score: vec4f) -> vec4f {
  if (params.soft_cap == 0.0) { return score; }
  let x = clamp(score / params.soft_cap, vec4f(-10.0), vec4f(10.0));
  return params.soft_cap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0));
}

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  let head = id.x;
  let token = id.z * grid.y + id.y;
  if (head >= params.heads || token >= params.tokens) { return; }
  let info = tokens_meta[token];
  let keys = visible(info.x, sequences[info.z].x, sequences[info.z].y);
  let table = info.z * params.blocks_per_sequence;
  let kv_head = head / (params.heads / params.kv_heads);
  let to_values = params.block_size * params.kv_heads * HEAD_EIGHTHS;

  let eighths = params.head_dim / 8;
  var query: Row;
  var sum: Row;
  let q_base = (token * params.q_row + params.q_offset) / 4 + head * 2 * HEAD_EIGHTHS;
  for (var c = 0u; c < eighths; c++) { query[c] = Eight(q[q_base + 2 * c], q[q_base + 2 * c + 1]); }
  var most = LOWEST;
  var weight = 0.0;
  for (var first = keys.x; first <= keys.y; first += 8) {
    let key_a = vec4u(first) + vec4u(0, 1, 2, 3);
    let key_b = key_a + vec4u(4);
    let seen_a = key_a <= vec4u(keys.y);
    let seen_b = key_b <= vec4u(keys.y);
    let row_a = rows_of(select(vec4u(info.x), key_a, seen_a), table, kv_head);
    let row_b = rows_of(select(vec4u(info.x), key_b, seen_b), table, kv_head);
    let products = multiply_keys(&query, EightRows(row_a, row_b));
    let score_a = capped(products.a * scales_of(row_a) * params.scale);
    let score_b = capped(products.b * scales_of(row_b) * params.scale);
    let top = max(score_a, score_b);
    let most_now = max(most, max(max(top.x, top.y), max(top.z, top.w)));
    let p_a = select(vec4f(), exp(score_a - most_now), seen_a);
    let p_b = select(vec4f(), exp(score_b - most_now), seen_b);
    let keep = exp(most - most_now);
    most = most_now;
    weight = weight * keep + dot(p_a + p_b, vec4f(1.0));
    let values = EightRows(row_a + to_values, row_b + to_values);
    add_values(&sum, keep, Eight(p_a * scales_of(values.a), p_b * scales_of(values.b)), values);
  }
  let y_base = (token * params.heads + head) * 2 * HEAD_EIGHTHS;
  for (var c = 0u; c < eighths; c++) {
    y[y_base + 2 * c] = sum[c].a / weight;
    y[y_base + 2 * c + 1] = sum[c].b / weight;
  }
}
