/**
 * A kernel's dispatch, for as long as it is asked for with the same options, tensors being the same objects. Weights are
 * used again and again on the same scratch, by the runs of a stack and by every step of a size, and making a dispatch
 * anew costs the host as much as encoding it.
 */
import type { GpuTraits } from "../../gpu/gpu.ts";
import type { Dispatch } from "../../gpu/kernel.ts";
import { hasSameFields } from "../../gpu/same-fields.ts";

export class Remembered<Options extends object> {
  readonly #make: (traits: GpuTraits, options: Options) => Dispatch;
  #last: { traits: GpuTraits; options: Options; dispatch: Dispatch } | null = null;

  constructor(make: (traits: GpuTraits, options: Options) => Dispatch) {
    this.#make = make;
  }

  get(traits: GpuTraits, options: Options): Dispatch {
    const last = this.#last;
    if (last?.traits === traits && hasSameFields(last.options, options)) return last.dispatch;
    const dispatch = this.#make(traits, options);
    this.#last = { traits, options, dispatch };
    return dispatch;
  }
}
