// Preloaded by `bun test` (bunfig.toml). Deno has no such hook: a test that needs one thing of here imports it.
export {};
