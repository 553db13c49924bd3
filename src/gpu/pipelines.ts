/** Compute pipelines and bind-group layouts, made once a variant. WGSL files are read from wgsl/ and stay valid WGSL. */
import { readFileSync } from "node:fs";
import type { Dispatch, KernelSpec } from "./kernel.ts";
import { unroll } from "./unroll.ts";

export interface Pipeline {
  readonly id: number;
  readonly gpu: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #layouts = new Map<KernelSpec, { bindGroup: GPUBindGroupLayout; pipeline: GPUPipelineLayout }>();
  readonly #modules = new Map<string, GPUShaderModule>();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** The pipeline of a dispatch, compiled on the spot if `compile` has not seen it. */
  get(dispatch: Dispatch): Pipeline {
    const key = keyOf(dispatch);
    const found = this.#pipelines.get(key);
    if (found) return found;
    return this.#keep(key, dispatch, this.#device.createComputePipeline(this.#descriptor(dispatch)));
  }

  /** Compiles what is missing for these dispatches, in parallel. A WGSL error rejects and names the file. */
  async compile(
    dispatches: readonly Dispatch[],
    onProgress?: (done: number, all: number) => void,
  ): Promise<void> {
    const missing = new Map<string, Dispatch>();
    for (const dispatch of dispatches) {
      const key = keyOf(dispatch);
      if (!this.#pipelines.has(key)) missing.set(key, dispatch);
    }
    let done = 0;
    await Promise.all(
      [...missing].map(async ([key, dispatch]) => {
        const compiled = await this.#compileOne(dispatch);
        this.#keep(key, dispatch, compiled);
        onProgress?.(++done, missing.size);
      }),
    );
  }

  async #compileOne(dispatch: Dispatch): Promise<GPUComputePipeline> {
    try {
      return await this.#device.createComputePipelineAsync(this.#descriptor(dispatch));
    } catch (error) {
      const found = (await this.#complaints(dispatch)) ?? String(error);
      throw new Error(`Cannot compile wgsl/${dispatch.file}.wgsl: ${found}`, { cause: error });
    }
  }

  /** What the compiler has against the module, with lines; undefined if that is not what is wrong. */
  async #complaints(dispatch: Dispatch): Promise<string | undefined> {
    const found = this.#modules.get(moduleKey(dispatch));
    const { messages } = (await found?.getCompilationInfo()) ?? { messages: [] };
    const lines = messages.map(({ lineNum, message }) => `line ${lineNum}: ${message.trim()}`);
    return lines.length > 0 ? lines.join("; ") : undefined;
  }

  #keep(key: string, dispatch: Dispatch, gpu: GPUComputePipeline): Pipeline {
    const pipeline = { id: this.#pipelines.size, gpu, layout: this.#layout(dispatch.spec).bindGroup };
    this.#pipelines.set(key, pipeline);
    return pipeline;
  }

  #descriptor(dispatch: Dispatch): GPUComputePipelineDescriptor {
    return {
      label: dispatch.file,
      layout: this.#layout(dispatch.spec).pipeline,
      compute: { module: this.#module(dispatch), entryPoint: "main", constants: dispatch.constants },
    };
  }

  #module(dispatch: Dispatch): GPUShaderModule {
    const { file, replace } = dispatch;
    const key = moduleKey(dispatch);
    const found = this.#modules.get(key);
    if (found) return found;
    const module = this.#device.createShaderModule({
      label: file,
      code: enabling(replace) + unroll(replaceConsts(readWgsl(file), replace)),
    });
    this.#modules.set(key, module);
    return module;
  }

  #layout(spec: KernelSpec): { bindGroup: GPUBindGroupLayout; pipeline: GPUPipelineLayout } {
    const found = this.#layouts.get(spec);
    if (found) return found;
    const visibility = GPUShaderStage.COMPUTE;
    const bindGroup = this.#device.createBindGroupLayout({
      label: spec.name,
      entries: [
        { binding: 0, visibility, buffer: { type: "uniform" } },
        ...Object.values(spec.tensors).map(({ access }, index) => ({
          binding: index + 1,
          visibility,
          buffer: { type: access === "read" ? ("read-only-storage" as const) : ("storage" as const) },
        })),
      ],
    });
    const pipeline = this.#device.createPipelineLayout({ bindGroupLayouts: [bindGroup] });
    const layout = { bindGroup, pipeline };
    this.#layouts.set(spec, layout);
    return layout;
  }
}

/** The text of wgsl/<file>.wgsl. */
export function readWgsl(file: string): string {
  return readFileSync(new URL(`../../wgsl/${file}.wgsl`, import.meta.url), "utf8");
}

/** Puts other values into `const NAME = ...;` or `alias NAME = ...;` lines; throws if one is not there. */
export function replaceConsts(source: string, replace: Readonly<Record<string, string>> = {}): string {
  let text = source;
  for (const [name, value] of Object.entries(replace)) {
    const line = new RegExp(`^(const|alias) ${name}(: \\w+)? = [^;]+;`, "m");
    if (!line.test(text)) throw new Error(`Cannot replace const ${name}: the shader has no such line`);
    text = text.replace(line, `$1 ${name}$2 = ${value};`);
  }
  return text;
}

/** What a variant needs to be enabled that its file does without. */
function enabling(replace: Readonly<Record<string, string>> = {}): string {
  return Object.values(replace).some((value) => /\bf16\b/.test(value)) ? "enable f16;\n" : "";
}

function moduleKey({ file, replace }: Dispatch): string {
  return replace ? `${file} ${JSON.stringify(replace)}` : file;
}

function keyOf({ file, constants, replace }: Dispatch): string {
  let key = file;
  for (const name in constants) key += `|${name}=${constants[name]}`;
  for (const name in replace) key += `|${name}=${replace[name]}`;
  return key;
}
