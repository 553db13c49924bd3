// Worker of native.ts: tells whether this runtime's own WebGPU offers hardware.
import { probe } from "./native.ts";

postMessage(await probe());
