// rendezvous: result[1] = how many of these workgroups run at once
//
// Each counts itself in; the first waits a good while for others and says how many have come, the others wait for that.
// A workgroup that cannot start before another ends is not among them. Nobody waits for ever.
override LANES: u32 = 64;
const BYTES: u32 = 16; // of workgroup memory, which bounds how many fit a core
struct Params { patience: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> result: array<atomic<u32>>; // [4]

const CAME: u32 = 0;
const COUNTED: u32 = 1;
const IS_DONE: u32 = 2;
var<workgroup> room: array<u32, BYTES / 4>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  if (lane > 0) { return; }
  let ticket = atomicAdd(&result[CAME], 1);
  room[ticket % (BYTES / 4)] = ticket; // memory that nobody uses may not be given
  if (ticket == 0) {
    for (var tries = 0u; tries < params.patience; tries++) {
      if (atomicLoad(&result[CAME]) == 0) { break; } // never, but to look is what takes time
    }
    atomicStore(&result[COUNTED], atomicLoad(&result[CAME]));
    atomicStore(&result[IS_DONE], 1);
  } else {
    for (var tries = 0u; tries < 16 * params.patience; tries++) {
      if (atomicLoad(&result[IS_DONE]) > 0) { break; }
    }
  }
  if (room[ticket % (BYTES / 4)] != ticket) { atomicStore(&result[COUNTED], 0); }
}
