/** Configuration files for a test: a given checkpoint's, with fields changed or taken away. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readModelConfig, type ModelConfig } from "../../../src/engine/weights/config.ts";
import { withTempDir } from "../../support/checkpoint.ts";
import { shared } from "../../support/shared.ts";

/** Fields to set; `undefined` takes a field away. */
export type Changes = Readonly<Record<string, unknown>>;

/** The `config.json` of a folder of `../shared`, changed. */
export function changedConfig(folder: string, changes: Changes = {}): Record<string, unknown> {
  const text = readFileSync(shared(`${folder}/config.json`), "utf8");
  return { ...(JSON.parse(text) as Record<string, unknown>), ...changes };
}

/** What `readModelConfig` makes of these files; the second one is left out when undefined. */
export function parseConfig(config: object, generation?: object): Promise<ModelConfig> {
  return withTempDir((dir) => {
    writeFileSync(join(dir, "config.json"), JSON.stringify(config));
    if (generation !== undefined) {
      writeFileSync(join(dir, "generation_config.json"), JSON.stringify(generation));
    }
    return readModelConfig(dir);
  });
}
