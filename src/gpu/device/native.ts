/** The runtime's own WebGPU: `navigator.gpu` of Deno (wgpu), and of Bun once it has one. */
import { isReal } from "./open-device.ts";

/** `navigator.gpu`, or undefined where the runtime has none. */
export function nativeInstance(): GPU | undefined {
  return (globalThis.navigator as Partial<Navigator>).gpu;
}

/**
 * Whether `navigator.gpu` offers hardware. Asked in a Worker, because the Vulkan instance is made once a thread and
 * would not notice a software driver that is put in place afterwards.
 */
export async function nativeHasRealAdapter(): Promise<boolean> {
  const worker = new Worker(new URL("./native-probe.ts", import.meta.url), { type: "module" });
  try {
    return await new Promise<boolean>((resolve) => {
      worker.onmessage = (event: MessageEvent<boolean>) => resolve(event.data);
      worker.onerror = () => resolve(false);
    });
  } finally {
    worker.terminate();
  }
}

/** The Worker's part: asks for an adapter in this thread. */
export async function probe(): Promise<boolean> {
  return isReal((await nativeInstance()?.requestAdapter({ powerPreference: "high-performance" })) ?? null);
}
