// attention-decode: y[t, h] = sum over visible keys j of softmax_j(cap(scale * q[t, h] . k[j])) * v[j], or shares of it
//
// For few queries, each on its own, on a GPU with subgroups of KEY_LANES lanes or more. A workgroup has a share (split) of
// a query's keys, and GROUP_HEADS query heads that share their kv head, so that keys and values are loaded once for them.
// KEY_LANES lanes have a key at a time, KEYS keys in flight; each such team keeps a running maximum, sum and weighted mean,
// folded within subgroups and then in workgroup memory. A query takes as many splits as it has multiples of SPLIT_KEYS
// keys, at most all; what is left over writes nothing. With PARTIAL a share leaves its values relative to its maximum,
// then [maximum, sum of weights, splits taken, 0]: combine-linear adds them up. Otherwise there is one split, which
// finishes the result and applies the gate. With OWN, q is a projection's row, in which the token's own key and value are
// too: query and key are turned here (as in rotary-kv), the key is seen without the cache, and both are put there, in
// f16, at the token's slot, if it has one. Then token i is the only one of sequence i, and sees no key behind its own.
// factors are the scales of an i8 cache; with OWN, of each position, rotary_dim / 2 cosines and as many sines.
// Bound by latency for one query, by the cache's bandwidth for many.
enable subgroups;
override FORMAT: u32 = 0;  // of kv; 0: f32, 1: bf16, 2: f16, 3: i8
override Q_FORMAT: u32 = 0; // 0 f32, 2 f16
override Y_FORMAT: u32 = 0; // of a finished result, likewise; f16 is clamped to its range
override PARTIAL: u32 = 0; // 1: y is [token, head, split, head_dim + 4]
override GATED: u32 = 0;   // 1: a finished result is multiplied by sigmoid(gate)
override GATE_FORMAT: u32 = 0; // 0 f32, 2 f16
override GATE_ROW: u32 = 0;
override HEADS: u32 = 1;
override KV_HEADS: u32 = 1;
override Q_ROW: u32 = 8;
override Q_OFFSET: u32 = 0;
override GATE_OFFSET: u32 = 0;
override BLOCK_SIZE: u32 = 1;
override BLOCKS_PER_SEQUENCE: u32 = 1;
override WINDOW: u32 = 0;
override SPLITS: u32 = 1;
override SPLIT_KEYS: u32 = 64; // fewest keys worth a split
override OWN: u32 = 0;   // 1: the token's own key and value come in its row of q; FORMAT is 2, SPLITS 1
override K_OFFSET: u32 = 0;
override V_OFFSET: u32 = 0;
override ROTARY_EIGHTHS: u32 = 2; // rotary_dim / 8, even
override POSITIONS: u32 = 1;
override BLOCKS: u32 = 1;
const GROUP_HEADS: u32 = 1;
const HEAD_EIGHTHS: u32 = 16; // head_dim / 8
const KEY_LANES: u32 = 4;     // a power of two
const KEYS: u32 = 2;
const AHEAD: u32 = 0;         // 1: a round's keys and values are asked for a round before
const LANES: u32 = 64;        // a multiple of the subgroup's size
const SUBGROUPS: u32 = 16;    // most of a workgroup
const LOWEST: f32 = -3e38;
struct Params { scale: f32, soft_cap: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4u>;           // [tokens, q_row]
@group(0) @binding(2) var<storage, read_write> kv: array<vec4u>;    // [blocks, 2, block_size, kv_channels]
@group(0) @binding(3) var<storage, read> factors: array<vec4f>;     // [factors]
@group(0) @binding(4) var<storage, read> tokens_meta: array<vec4u>; // [tokens, 4]
@group(0) @binding(5) var<storage, read> sequences: array<vec4u>;   // [sequences, 4]
@group(0) @binding(6) var<storage, read> block_tables: array<u32>;  // [sequences, blocks_per_sequence]
@group(0) @binding(7) var<storage, read> gate: array<vec4u>;        // [tokens, gate_row]
@group(0) @binding(8) var<storage, read_write> y: array<vec4u>;     // [tokens, y_row]

const TEAMS: u32 = LANES / KEY_LANES;
const SHARE: u32 = (HEAD_EIGHTHS + KEY_LANES - 1) / KEY_LANES; // eighths of a lane
const SLICE: u32 = 2 * HEAD_EIGHTHS; // vec4f of a head
var<workgroup> mosts: array<f32, GROUP_HEADS * SUBGROUPS>;
var<workgroup> weights: array<f32, GROUP_HEADS * SUBGROUPS>;
var<workgroup> values: array<vec4f, SUBGROUPS * SLICE>; // of one head: [subgroup, slice]

override TO_VALUES: u32 = BLOCK_SIZE * KV_HEADS * HEAD_EIGHTHS; // from a key to its value, in eighths

/// Eight consecutive elements.
struct Eight { a: vec4f, b: vec4f }

/// The same as stored; 16-bit elements leave b empty, 8-bit ones half of a too.
struct Words { a: vec4u, b: vec4u }

// A lane's keys and values of a round, on their way, and what they are to be multiplied with.
var<private> k: array<Words, KEYS * SHARE>;
var<private> v: array<Words, KEYS * SHARE>;
var<private> scales: array<vec2f, KEYS>; // of a key and its value

fn load(i: u32) -> Words {
  if (FORMAT == 0) { return Words(kv[2 * i], kv[2 * i + 1]); }
  if (FORMAT == 3) {
    let at = 2 * (i % 2);
    return Words(vec4u(kv[i / 2][at], kv[i / 2][at + 1], 0, 0), vec4u());
  }
  return Words(kv[i], vec4u());
}

/// Eight integers. Under the exponent of 2^23 or, in the second byte, of 2^15, an integer is added to that power exactly.
fn integers(words: vec2u) -> Eight {
  let bytes = words ^ vec2u(0x80808080);
  let halves = vec4u(bytes.x, bytes.x >> 16, bytes.y, bytes.y >> 16);
  let mask = vec4u(0xff, 0xff00, 0xff, 0xff00);
  let exponent = vec4u(0x4b000000, 0x47000000, 0x4b000000, 0x47000000);
  let zero = vec4f(0x800080, 0x8080, 0x800080, 0x8080);
  return Eight(
    bitcast<vec4f>((halves.xxyy & mask) | exponent) - zero,
    bitcast<vec4f>((halves.zzww & mask) | exponent) - zero,
  );
}

/// What the elements of the row that begins at an eighth are to be multiplied with.
fn scale_of(row: u32) -> f32 {
  if (FORMAT != 3) { return 1.0; }
  let head = row / HEAD_EIGHTHS;
  return factors[head / 4][head % 4];
}

fn widened(words: Words) -> Eight {
  if (FORMAT == 0) { return Eight(bitcast<vec4f>(words.a), bitcast<vec4f>(words.b)); }
  if (FORMAT == 3) { return integers(words.a.xy); }
  if (FORMAT == 1) {
    let even = bitcast<vec4f>(words.a << vec4u(16));
    let odd = bitcast<vec4f>(words.a & vec4u(0xffff0000));
    return Eight(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
  }
  return halves(words.a);
}

/// Eight f16.
fn halves(words: vec4u) -> Eight {
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
  );
}

/// Eight queries from element `at` on.
fn queries(at: u32) -> Eight {
  if (Q_FORMAT == 2) { return halves(q[at / 8]); }
  return Eight(bitcast<vec4f>(q[at / 4]), bitcast<vec4f>(q[at / 4 + 1]));
}

/// Eight gates from element `at` on.
fn gates(at: u32) -> Eight {
  if (GATE_FORMAT == 2) { return halves(gate[at / 8]); }
  return Eight(bitcast<vec4f>(gate[at / 4]), bitcast<vec4f>(gate[at / 4 + 1]));
}

/// Four values as f16; a NaN stays a NaN.
fn packed(value: vec4f) -> vec2u {
  let inside = clamp(value, vec4f(-65504.0), vec4f(65504.0));
  let nan = (bitcast<vec4u>(value) & vec4u(0x7fffffff)) > vec4u(0x7f800000);
  let mark = select(vec4u(), vec4u(0x7e00, 0x7e000000, 0x7e00, 0x7e000000), nan);
  return vec2u(pack2x16float(inside.xy) | mark.x | mark.y, pack2x16float(inside.zw) | mark.z | mark.w);
}

/// Eight values as the cache has them.
fn as_stored(value: Eight) -> vec4u {
  return vec4u(packed(value.a), packed(value.b));
}

/// What a projection's eighth and the one it is paired with are multiplied with to turn it.
struct Turn { cosine: Eight, sine: Eight }

fn turn_of(eighth: u32, position: u32) -> Turn {
  if (OWN == 0 || eighth >= ROTARY_EIGHTHS) { return Turn(Eight(vec4f(1.0), vec4f(1.0)), Eight()); }
  let half = ROTARY_EIGHTHS / 2;
  let cosine = (min(position, POSITIONS - 1) * ROTARY_EIGHTHS + eighth % half) * 2;
  let sine = cosine + ROTARY_EIGHTHS;
  let sign = select(1.0, -1.0, eighth < half);
  return Turn(Eight(factors[cosine], factors[cosine + 1]), Eight(sign * factors[sine], sign * factors[sine + 1]));
}

/// The eighth that one is turned with.
fn paired(eighth: u32) -> u32 {
  return (eighth + ROTARY_EIGHTHS / 2) % ROTARY_EIGHTHS;
}

/// An eighth of the head that begins at element `head_at` of q, turned if the row is a projection's.
fn turned(head_at: u32, eighth: u32, turn: Turn) -> Eight {
  let plain = queries(head_at + 8 * eighth);
  if (OWN == 0) { return plain; }
  let other = queries(head_at + 8 * paired(eighth));
  return Eight(
    plain.a * turn.cosine.a + other.a * turn.sine.a,
    plain.b * turn.cosine.b + other.b * turn.sine.b,
  );
}

/// First and last key that the query at `position` sees.
fn visible(position: u32, prefix: u32, context: u32) -> vec2u {
  var first = 0u;
  var last = position;
  if (position < prefix) { last = max(last, min(prefix, context) - 1); }
  if (WINDOW > 0) {
    first = position - min(position, WINDOW - 1);
    last = min(last, position + WINDOW - 1);
  }
  return vec2u(first, last);
}

/// cap * tanh(score / cap), in a form that neither overflows nor depends on the driver's tanh.
fn capped(score: f32) -> f32 {
  if (params.soft_cap == 0.0) { return score; }
  let x = clamp(score / params.soft_cap, -10.0, 10.0);
  return params.soft_cap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0));
}

/// The exponent is never positive, so nothing overflows.
fn sigmoid(x: vec4f) -> vec4f {
  let e = exp(-abs(x));
  return select(vec4f(1.0), e, x < vec4f(0.0)) / (1.0 + e);
}

/// Sum over the KEY_LANES lanes of a key.
fn team_sum(value: f32) -> f32 {
  var sum = value;
  for (var mask = KEY_LANES / 2; mask > 0; mask /= 2) { sum += subgroupShuffleXor(sum, mask); }
  return sum;
}

/// Stores a finished result's i-th eight.
fn finish(i: u32, gating: Eight, result: Eight) {
  var a = result.a;
  var b = result.b;
  if (GATED == 1) {
    a *= sigmoid(gating.a);
    b *= sigmoid(gating.b);
  }
  if (Y_FORMAT == 2) {
    y[i] = as_stored(Eight(a, b));
  } else {
    y[2 * i] = bitcast<vec4u>(a);
    y[2 * i + 1] = bitcast<vec4u>(b);
  }
}

/// Where a place of a block begins in the cache, in eighths.
fn place_of(block: u32, place: u32, kv_head: u32) -> u32 {
  return ((block * 2 * BLOCK_SIZE + place) * KV_HEADS + kv_head) * HEAD_EIGHTHS;
}

/// A lane's e-th eighth, or the last one where it has none.
fn eighth_of(part: u32, e: u32) -> u32 {
  return min(part + e * KEY_LANES, HEAD_EIGHTHS - 1);
}

/// Where a key's row begins in the cache, in eighths.
fn row_of(key: u32, table: u32, kv_head: u32) -> u32 {
  return place_of(block_tables[table + key / BLOCK_SIZE], key % BLOCK_SIZE, kv_head);
}

/// Which keys are a lane's: key `team` of each that it takes, up to `end`, and which eighths of them.
struct Places { table: u32, kv_head: u32, team: u32, part: u32, end: u32 }

/// Asks for the keys and values of the round that begins at `base`, if there is one; those beyond the last are the last.
fn fetch(places: Places, base: u32) {
  if (base < places.end) {
    var rows: array<u32, KEYS>;
    for (var u = 0u; u < KEYS; u++) {
      rows[u] = row_of(min(base + u * TEAMS + places.team, places.end - 1), places.table, places.kv_head);
      for (var e = 0u; e < SHARE; e++) { k[u * SHARE + e] = load(rows[u] + eighth_of(places.part, e)); }
      scales[u] = vec2f(scale_of(rows[u]), scale_of(rows[u] + TO_VALUES));
    }
    for (var u = 0u; u < KEYS; u++) {
      for (var e = 0u; e < SHARE; e++) { v[u * SHARE + e] = load(rows[u] + TO_VALUES + eighth_of(places.part, e)); }
    }
  }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) place: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) size: u32,
) {
  let head = place.x * GROUP_HEADS;
  let token = place.y;
  let split = place.z;
  let team = local.x / KEY_LANES;
  let subgroup = local.x / size;
  let part = local.x % KEY_LANES; // has eighths part, part + KEY_LANES, ...
  let info = tokens_meta[token];
  // What only the end needs is asked for now: an answer takes longer than the work there.
  var gating: array<Eight, GROUP_HEADS>;
  if (GATED == 1 && local.x < HEAD_EIGHTHS) {
    for (var h = 0u; h < GROUP_HEADS; h++) {
      gating[h] = gates(token * GATE_ROW + GATE_OFFSET + 8 * ((head + h) * HEAD_EIGHTHS + local.x));
    }
  }
  var sequence_at = token;
  var sequence = vec4u();
  if (OWN == 0) {
    sequence_at = info.z;
    sequence = sequences[sequence_at];
  }
  let keys = visible(info.x, sequence.x, sequence.y);
  let behind = keys.y + 1 - OWN; // the keys that are in the cache
  let count = behind - keys.x;
  let taken = clamp((count + SPLIT_KEYS - 1) / SPLIT_KEYS, 1u, SPLITS);
  if (split >= taken) { return; }
  let share = (count + taken - 1) / taken;
  let begin = keys.x + split * share;
  let end = min(begin + share, behind);
  let table = sequence_at * BLOCKS_PER_SEQUENCE;
  let kv_head = head / (HEADS / KV_HEADS);

  let places = Places(table, kv_head, team, part, end);
  if (AHEAD == 1) { fetch(places, begin); }

  // The token's own key and value are the first team's.
  var turns: array<Turn, SHARE>;
  var own: array<Eight, SHARE>;
  var own_paired: array<Eight, SHARE>;
  var own_value: array<Eight, SHARE>;
  let own_at = token * Q_ROW + 8 * kv_head * HEAD_EIGHTHS;
  if (OWN == 1 && team == 0) {
    for (var e = 0u; e < SHARE; e++) {
      let eighth = eighth_of(part, e);
      own[e] = queries(own_at + K_OFFSET + 8 * eighth);
      own_paired[e] = queries(own_at + K_OFFSET + 8 * paired(eighth));
      own_value[e] = queries(own_at + V_OFFSET + 8 * eighth);
    }
  }
  var query: array<Eight, GROUP_HEADS * SHARE>;
  for (var e = 0u; e < SHARE; e++) {
    turns[e] = turn_of(eighth_of(part, e), info.x);
    for (var h = 0u; h < GROUP_HEADS; h++) {
      let at = token * Q_ROW + Q_OFFSET + 8 * (head + h) * HEAD_EIGHTHS;
      let factor = select(0.0, params.scale, part + e * KEY_LANES < HEAD_EIGHTHS);
      let found = turned(at, eighth_of(part, e), turns[e]);
      query[h * SHARE + e] = Eight(found.a * factor, found.b * factor);
    }
  }
  var sums: array<Eight, GROUP_HEADS * SHARE>;
  var weight: array<f32, GROUP_HEADS>;
  var most: array<f32, GROUP_HEADS>;
  for (var h = 0u; h < GROUP_HEADS; h++) { most[h] = LOWEST; }
  if (OWN == 1) {
    if (team == 0) {
      let is_kept = head % (HEADS / KV_HEADS) == 0 && info.y < BLOCKS * BLOCK_SIZE;
      let kept_at = place_of(info.y / BLOCK_SIZE, info.y % BLOCK_SIZE, kv_head);
      for (var e = 0u; e < SHARE; e++) {
        let key = as_stored(Eight(
          own[e].a * turns[e].cosine.a + own_paired[e].a * turns[e].sine.a,
          own[e].b * turns[e].cosine.b + own_paired[e].b * turns[e].sine.b,
        ));
        let value = as_stored(own_value[e]);
        if (is_kept && part + e * KEY_LANES < HEAD_EIGHTHS) {
          kv[kept_at + eighth_of(part, e)] = key;
          kv[kept_at + eighth_of(part, e) + TO_VALUES] = value;
        }
        own[e] = halves(key);
        for (var h = 0u; h < GROUP_HEADS; h++) { sums[h * SHARE + e] = halves(value); }
      }
    }
    for (var h = 0u; h < GROUP_HEADS; h++) {
      var product = vec4f();
      for (var e = 0u; e < SHARE; e++) {
        product += query[h * SHARE + e].a * own[e].a + query[h * SHARE + e].b * own[e].b;
      }
      let score = capped(team_sum(dot(product, vec4f(1.0))));
      most[h] = select(LOWEST, score, team == 0);
      weight[h] = select(0.0, 1.0, team == 0);
    }
  }
  for (var base = begin; base < end; base += TEAMS * KEYS) {
    if (AHEAD == 0) { fetch(places, base); }
    var scores: array<f32, GROUP_HEADS * KEYS>;
    for (var u = 0u; u < KEYS; u++) {
      for (var h = 0u; h < GROUP_HEADS; h++) {
        var product = vec4f();
        for (var e = 0u; e < SHARE; e++) {
          let key = widened(k[u * SHARE + e]);
          product += query[h * SHARE + e].a * key.a + query[h * SHARE + e].b * key.b;
        }
        let score = capped(team_sum(dot(product, vec4f(1.0))) * scales[u].x);
        scores[h * KEYS + u] = select(LOWEST, score, base + u * TEAMS + team < end);
      }
    }
    for (var h = 0u; h < GROUP_HEADS; h++) {
      var most_now = most[h];
      for (var u = 0u; u < KEYS; u++) { most_now = max(most_now, scores[h * KEYS + u]); }
      let keep = exp(most[h] - most_now);
      most[h] = most_now;
      weight[h] *= keep;
      for (var e = 0u; e < SHARE; e++) {
        sums[h * SHARE + e].a *= keep;
        sums[h * SHARE + e].b *= keep;
      }
      for (var u = 0u; u < KEYS; u++) {
        let p = select(0.0, exp(scores[h * KEYS + u] - most_now), base + u * TEAMS + team < end);
        weight[h] += p;
        for (var e = 0u; e < SHARE; e++) {
          let value = widened(v[u * SHARE + e]);
          sums[h * SHARE + e].a += p * scales[u].y * value.a;
          sums[h * SHARE + e].b += p * scales[u].y * value.b;
        }
      }
    }
    if (AHEAD == 1) { fetch(places, base + TEAMS * KEYS); }
  }

  // The teams of a subgroup, then the subgroups.
  for (var h = 0u; h < GROUP_HEADS; h++) {
    var most_all = most[h];
    for (var mask = KEY_LANES; mask < size; mask *= 2) { most_all = max(most_all, subgroupShuffleXor(most_all, mask)); }
    let factor = exp(most[h] - most_all);
    weight[h] *= factor;
    for (var e = 0u; e < SHARE; e++) {
      sums[h * SHARE + e].a *= factor;
      sums[h * SHARE + e].b *= factor;
    }
    for (var mask = KEY_LANES; mask < size; mask *= 2) {
      weight[h] += subgroupShuffleXor(weight[h], mask);
      for (var e = 0u; e < SHARE; e++) {
        sums[h * SHARE + e].a += subgroupShuffleXor(sums[h * SHARE + e].a, mask);
        sums[h * SHARE + e].b += subgroupShuffleXor(sums[h * SHARE + e].b, mask);
      }
    }
    most[h] = most_all;
    if (lane == 0) {
      mosts[h * SUBGROUPS + subgroup] = most_all;
      weights[h * SUBGROUPS + subgroup] = weight[h];
    }
  }
  let subgroups = LANES / size;
  for (var h = 0u; h < GROUP_HEADS; h++) {
    workgroupBarrier();
    var most_all = LOWEST;
    for (var i = 0u; i < subgroups; i++) { most_all = max(most_all, mosts[h * SUBGROUPS + i]); }
    let factor = exp(most[h] - most_all);
    for (var e = 0u; e < SHARE; e++) {
      let eighth = part + e * KEY_LANES;
      if (lane < KEY_LANES && eighth < HEAD_EIGHTHS) {
        values[subgroup * SLICE + 2 * eighth] = sums[h * SHARE + e].a * factor;
        values[subgroup * SLICE + 2 * eighth + 1] = sums[h * SHARE + e].b * factor;
      }
    }
    workgroupBarrier();
    var weight_all = 0.0;
    for (var i = 0u; i < subgroups; i++) {
      weight_all += weights[h * SUBGROUPS + i] * exp(mosts[h * SUBGROUPS + i] - most_all);
    }
    let y_head = token * HEADS + head + h;
    let share_at = (y_head * SPLITS + split) * (SLICE + 1);
    if (local.x < HEAD_EIGHTHS) {
      let eighth = local.x;
      var sum = Eight(vec4f(), vec4f());
      for (var i = 0u; i < subgroups; i++) {
        sum.a += values[i * SLICE + 2 * eighth];
        sum.b += values[i * SLICE + 2 * eighth + 1];
      }
      if (PARTIAL == 1) {
        y[share_at + 2 * eighth] = bitcast<vec4u>(sum.a);
        y[share_at + 2 * eighth + 1] = bitcast<vec4u>(sum.b);
      } else {
        finish(y_head * HEAD_EIGHTHS + eighth, gating[h], Eight(sum.a / weight_all, sum.b / weight_all));
      }
    }
    if (PARTIAL == 1 && local.x == 0) {
      y[share_at + SLICE] = bitcast<vec4u>(vec4f(most_all, weight_all, f32(taken), 0.0));
    }
  }
}
