// Preloaded by `bun test` (bunfig.toml, whose own `timeout` is not read): software adapters take their time to compile.
import { setDefaultTimeout } from "bun:test";

setDefaultTimeout(120_000);
