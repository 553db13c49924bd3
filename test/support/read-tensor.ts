/** Brings a tensor back from the device, as its own kind of numbers. The tensor must be readable. */
import type { Gpu } from "../../src/gpu/gpu.ts";
import { ReadbackRing } from "../../src/gpu/readback.ts";
import { Recorder } from "../../src/gpu/recorder.ts";
import type { Tensor } from "../../src/gpu/tensor.ts";

/** The device, but for buffers that can be read back. */
export function readable(device: GPUDevice): GPUDevice {
  const createBuffer = (descriptor: GPUBufferDescriptor) =>
    device.createBuffer({ ...descriptor, usage: descriptor.usage | GPUBufferUsage.COPY_SRC });
  return new Proxy(device, {
    get: (_, name) =>
      name === "createBuffer" ? createBuffer : (Reflect.get(device, name, device) as unknown),
  });
}

export async function readBytes(gpu: Gpu, tensor: Tensor): Promise<ArrayBuffer> {
  const recorder = new Recorder(gpu);
  const read = new ReadbackRing(gpu).request(recorder, tensor);
  recorder.submit();
  return read();
}

export async function readU32(gpu: Gpu, tensor: Tensor): Promise<number[]> {
  return [...new Uint32Array(await readBytes(gpu, tensor))];
}

export async function readF32(gpu: Gpu, tensor: Tensor): Promise<number[]> {
  return [...new Float32Array(await readBytes(gpu, tensor))];
}
