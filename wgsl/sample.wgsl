// sample: sampled[r] = arg max over kept c of (logits[r, c] - max of the row) / temperature + gumbel(seed, step, c)
//
// One workgroup a row. Filters are thresholds on the order-preserving key of a logit: each raises `low`, the least key
// that is kept, so equal logits share their fate (ties with the k-th of top_k, or at the edge of top_p, are kept).
// A threshold is found by search: each pass weighs the tokens from four cuts on and goes on between two of them.
// Temperature 0 takes one pass, plain sampling two, each of top_k and top_p about eight more: bound by the latency of
// reading a row (it stays in the cache), hence four loads at a time. Sums have a fixed order, so draws repeat.
// LANES is a power of two. NaN is never chosen, unless the row holds nothing else (then 0).
override LANES: u32 = 256;
struct Params { rows: u32, vocab: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [rows, vocab]
@group(0) @binding(2) var<storage, read> settings: array<u32>;      // [rows, 8]
@group(0) @binding(3) var<storage, read_write> sampled: array<u32>; // [rows]

// Gumbel terms lie in [-3.2, 45.1]: a token this far below the best one cannot be drawn.
const NEVER_DRAWN: f32 = -50.0;
const COLDEST: f32 = 1e-5; // a lower temperature is greedy

/// What all lanes know of their row. Distances from the best logit, not logits, are divided by the temperature.
struct Row { start: u32, best_key: u32, best: f32, temperature: f32 }
struct Leaders { keys: vec4u, tokens: vec4u }
struct Words { first: vec4u, second: vec4u }

var<workgroup> bests: array<vec2u, LANES>;
var<workgroup> sums: array<vec4f, LANES>;

/// Keys order as their floats do; NaN is 0, and -0 equals 0.
fn orderedKeys(values: vec4f) -> vec4u {
  let bits = bitcast<vec4u>(values);
  let keys = select(bits | vec4u(0x80000000), ~bits, bits > vec4u(0x80000000));
  return select(keys, vec4u(0), (bits & vec4u(0x7fffffff)) > vec4u(0x7f800000));
}

/// The floats of keys, with infinities made finite.
fn valuesOf(keys: vec4u) -> vec4f {
  let bits = select(~keys, keys & vec4u(0x7fffffff), keys >= vec4u(0x80000000));
  return clamp(bitcast<vec4f>(bits), vec4f(-1e38), vec4f(1e38));
}

/// The tokens that a lane takes at a time.
fn fourFrom(token: u32) -> vec4u {
  return token + LANES * vec4u(0, 1, 2, 3);
}

/// Their keys; 0 behind the end of the row.
fn keysAt(start: u32, token: u32) -> vec4u {
  let tokens = fourFrom(token);
  let at = start + min(tokens, vec4u(params.vocab - 1));
  let keys = orderedKeys(vec4f(logits[at.x], logits[at.y], logits[at.z], logits[at.w]));
  return select(vec4u(0), keys, tokens < vec4u(params.vocab));
}

/// log of the probability of a key relative to the best one: at most 0, and never infinite.
fn scaled(row: Row, keys: vec4u) -> vec4f {
  return max(valuesOf(keys) - row.best, vec4f(-1e30)) / row.temperature;
}

/// The larger key, the lower token on a tie; both are (key, token).
fn better(a: vec2u, b: vec2u) -> vec2u {
  return select(b, a, a.x > b.x || (a.x == b.x && a.y < b.y));
}

/// The best of four columns of tokens; call with ascending tokens, so that the lowest one stays on a tie.
fn lead(leaders: Leaders, keys: vec4u, tokens: vec4u) -> Leaders {
  let wins = keys > leaders.keys;
  return Leaders(select(leaders.keys, keys, wins), select(leaders.tokens, tokens, wins));
}

fn foldBest(lane: u32, mine: Leaders) -> vec2u {
  let left = better(vec2u(mine.keys.x, mine.tokens.x), vec2u(mine.keys.y, mine.tokens.y));
  let right = better(vec2u(mine.keys.z, mine.tokens.z), vec2u(mine.keys.w, mine.tokens.w));
  bests[lane] = better(left, right);
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { bests[lane] = better(bests[lane], bests[lane + half]); }
  }
  return workgroupUniformLoad(&bests[0]);
}

fn foldSum(lane: u32, mine: vec4f) -> vec4f {
  sums[lane] = mine;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  return workgroupUniformLoad(&sums[0]);
}

/// (key, token) of the largest logit.
fn argMax(lane: u32, start: u32) -> vec2u {
  var mine: Leaders;
  for (var token = lane; token < params.vocab; token += 4 * LANES) {
    mine = lead(mine, keysAt(start, token), fourFrom(token));
  }
  return foldBest(lane, mine);
}

/// How much the tokens from each of four ascending cuts on weigh: their count, or their probability (the best's is 1).
fn weigh(lane: u32, row: Row, cuts: vec4u, counting: bool) -> vec4f {
  var sum = vec4f();
  for (var token = lane; token < params.vocab; token += 4 * LANES) {
    let keys = keysAt(row.start, token);
    if (all(keys < vec4u(cuts.x))) { continue; }
    let weights = weightsOf(row, keys, counting);
    sum += select(vec4f(), vec4f(weights.x), vec4u(keys.x) >= cuts);
    sum += select(vec4f(), vec4f(weights.y), vec4u(keys.y) >= cuts);
    sum += select(vec4f(), vec4f(weights.z), vec4u(keys.z) >= cuts);
    sum += select(vec4f(), vec4f(weights.w), vec4u(keys.w) >= cuts);
  }
  return foldSum(lane, sum);
}

fn weightsOf(row: Row, keys: vec4u, counting: bool) -> vec4f {
  if (counting) { return vec4f(1.0); }
  return exp(scaled(row, keys));
}

/// The greatest key from which on the tokens of key >= first still weigh `amount` (a count, or a share of their sum).
fn raise(lane: u32, row: Row, first: u32, amount: f32, counting: bool) -> u32 {
  var low = first; // the tokens from here on weigh enough...
  var high = row.best_key + 1; // ...those from here on do not
  var low_weight = weigh(lane, row, vec4u(low), counting).x;
  var high_weight = 0.0;
  let enough = max(select(amount * low_weight, amount, counting), 1e-30);
  while (high - low > 1 && low_weight > enough) {
    let step = max((high - low) / 5, 1);
    let cuts = low + step * vec4u(1, 2, 3, 4);
    let weights = weigh(lane, row, cuts, counting);
    for (var i = 0u; i < 4; i++) {
      if (weights[i] >= enough) {
        low = cuts[i];
        low_weight = weights[i];
      } else if (cuts[i] < high) {
        high = cuts[i];
        high_weight = weights[i];
      }
    }
    // Each token between weighs at least as much as one at `low`: there is room for one token, so `low` will do.
    if (low_weight - high_weight < 1.5 * weightsOf(row, vec4u(low), counting).x) { break; }
  }
  return low;
}

/// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3") of (step, token).
fn threefry(key: vec2u, step: u32, tokens: vec4u) -> Words {
  let last = 0x1bd11bda ^ key.x ^ key.y;
  var x = Words(vec4u(step + key.x), tokens + key.y);
  x = inject(turn(turn(turn(turn(x, 13), 15), 26), 6), key.y, last + 1);
  x = inject(turn(turn(turn(turn(x, 17), 29), 16), 24), last, key.x + 2);
  x = inject(turn(turn(turn(turn(x, 13), 15), 26), 6), key.x, key.y + 3);
  x = inject(turn(turn(turn(turn(x, 17), 29), 16), 24), key.y, last + 4);
  return inject(turn(turn(turn(turn(x, 13), 15), 26), 6), last, key.x + 5);
}

fn turn(x: Words, bits: u32) -> Words {
  let first = x.first + x.second;
  return Words(first, ((x.second << vec4u(bits)) | (x.second >> vec4u(32 - bits))) ^ first);
}

fn inject(x: Words, first: u32, second: u32) -> Words {
  return Words(x.first + first, x.second + second);
}

/// -log(-log(1 - u)) of a uniform u. The winner has a small u: there it keeps all digits, and log near 1 is avoided.
fn gumbel(bits: Words) -> vec4f {
  let u = (vec4f(bits.first) + (vec4f(bits.second) + 0.5) * 0x1p-32) * 0x1p-32;
  // -log(1 - u) = 2 artanh(s); for u < 1/2 is s < 1/3, and seven terms are exact to float32.
  let s = u / (2.0 - u);
  let q = s * s;
  let series = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11 + q / 13)))));
  let rest = (vec4f(~bits.first) + 0.5) * 0x1p-32; // 1 - u
  return -log(select(2.0 * s * series, -log(rest), bits.first >= vec4u(0x80000000)));
}

/// The token that wins among those of key >= low: one draw from their softmax.
fn draw(lane: u32, row: Row, low: u32, seed: vec2u, step: u32) -> u32 {
  var mine: Leaders;
  for (var token = lane; token < params.vocab; token += 4 * LANES) {
    let keys = keysAt(row.start, token);
    if (all(keys < vec4u(low))) { continue; }
    let tokens = fourFrom(token);
    let scores = orderedKeys(scaled(row, keys) + gumbel(threefry(seed, step, tokens)));
    mine = lead(mine, select(vec4u(0), scores, keys >= vec4u(low)), tokens);
  }
  return foldBest(lane, mine).y;
}

/// The least key that a token needs: of those that can be drawn, then min_p, top_k and top_p.
fn threshold(lane: u32, row: Row, at: u32) -> u32 {
  let top_k = settings[at + 1];
  let top_p = bitcast<f32>(settings[at + 2]);
  let min_p = bitcast<f32>(settings[at + 3]);
  let reach = select(NEVER_DRAWN, max(log(min_p), NEVER_DRAWN), min_p > 0.0);
  var low = min(orderedKeys(vec4f(row.best + reach * row.temperature)).x, row.best_key);
  if (top_k > 0) { low = raise(lane, row, low, f32(top_k), true); }
  if (top_p < 1.0) { low = raise(lane, row, low, top_p, false); }
  return low;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let index = group.y * grid.x + group.x;
  if (index >= params.rows) { return; }
  let lane = local.x;
  let at = 8 * index;
  let temperature = bitcast<f32>(settings[at]);
  let best = argMax(lane, index * params.vocab);
  var token = best.y;
  if (temperature >= COLDEST && best.x > 0) {
    let row = Row(index * params.vocab, best.x, valuesOf(vec4u(best.x)).x, temperature);
    let low = threshold(lane, row, at);
    token = draw(lane, row, low, vec2u(settings[at + 4], settings[at + 5]), settings[at + 6]);
  }
  if (lane == 0) { sampled[index] = token; }
}
