import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import { CheckpointError } from "../../../src/engine/errors.ts";
import { Checkpoint } from "../../../src/engine/weights/safetensors.ts";
import { safetensorsBytes, withTempDir, writeIndex, writeShards } from "../../support/checkpoint.ts";

const INDEX = "model.safetensors.index.json";

/** What opening a folder says after "Cannot read <folder>/". */
async function openError(dir: string): Promise<string> {
  try {
    await (await Checkpoint.open(dir)).close();
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    return error.message.replace(`Cannot read ${dir}/`, "");
  }
  throw new Error("Expected a CheckpointError, got an open checkpoint");
}

async function fileError(bytes: Uint8Array): Promise<string> {
  return withTempDir((dir) => {
    writeFileSync(join(dir, "model.safetensors"), bytes);
    return openError(dir);
  });
}

const entry = (begin: number, end: number, shape = [1], dtype = "F32") => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const data = (byteLength: number) => new Uint8Array(byteLength);

interface Damage {
  name: string;
  bytes: Uint8Array;
  message: string;
}

const DAMAGES: readonly Damage[] = [
  {
    name: "an empty file",
    bytes: data(0),
    message: "expected 8 bytes of header length, got a file of 0 bytes",
  },
  {
    name: "half a length",
    bytes: data(5),
    message: "expected 8 bytes of header length, got a file of 5 bytes",
  },
  {
    name: "an absurd header length",
    bytes: safetensorsBytes("{}", data(0), 2n ** 63n),
    message: "expected a header of at most 100000000 bytes, got 9223372036854775808",
  },
  {
    name: "a header longer than the file",
    bytes: safetensorsBytes("{}", data(0), 64),
    message: "expected 64 bytes of header behind the length, got a file of 10 bytes",
  },
  { name: "a header that is no JSON", bytes: safetensorsBytes("{]"), message: "expected JSON, got " },
  {
    name: "a header of another kind",
    bytes: safetensorsBytes("[1]"),
    message: "expected an object of tensors, got [1]",
  },
  {
    name: "a header that is no UTF-8",
    bytes: safetensorsBytes("??").map((byte) => (byte === 63 ? 0xff : byte)),
    message: "expected a header of JSON in UTF-8, got other bytes",
  },
  {
    name: "an entry without a shape",
    bytes: safetensorsBytes({ a: { dtype: "F32", data_offsets: [0, 4] } }, data(4)),
    message: ', tensor "a", shape: expected a list of dimensions, got nothing',
  },
  {
    name: "a negative dimension",
    bytes: safetensorsBytes({ a: entry(0, 4, [-1]) }, data(4)),
    message: ', tensor "a", shape.0: expected a whole number of at least 0, got -1',
  },
  {
    name: "one offset",
    bytes: safetensorsBytes({ a: { dtype: "F32", shape: [1], data_offsets: [0] } }, data(4)),
    message: ', tensor "a", data_offsets',
  },
  {
    name: "offsets in reverse",
    bytes: safetensorsBytes({ a: entry(4, 0) }, data(4)),
    message: ', tensor "a": expected data_offsets in order, got [4,0]',
  },
  {
    name: "a truncated file",
    bytes: safetensorsBytes({ a: entry(0, 4) }, data(4)).slice(0, -1),
    message: ', tensor "a": expected data up to byte 66, got a file of 65 bytes',
  },
  {
    name: "offsets that do not fit the shape",
    bytes: safetensorsBytes({ a: entry(0, 4, [2], "BF16"), b: entry(4, 8, [3], "BF16") }, data(8)),
    message: ', tensor "b": expected 6 bytes for BF16 [3], got data_offsets of 4 bytes',
  },
  {
    name: "a shape whose size overflows",
    bytes: safetensorsBytes({ a: entry(0, 4, [2 ** 40, 2 ** 40]) }, data(4)),
    message: ', tensor "a": expected ',
  },
  {
    name: "tensors that overlap",
    bytes: safetensorsBytes({ a: entry(0, 8, [2]), b: entry(4, 8) }, data(8)),
    message: ', tensor "b": expected data to begin at byte 8, got byte 4 (an overlap)',
  },
  {
    name: "a gap between tensors",
    bytes: safetensorsBytes({ a: entry(0, 4), b: entry(8, 12) }, data(12)),
    message: ', tensor "b": expected data to begin at byte 4, got byte 8 (a gap)',
  },
  {
    name: "bytes behind the last tensor",
    bytes: safetensorsBytes({ a: entry(0, 4) }, data(6)),
    message: "expected a file of 66 bytes, got 68 bytes",
  },
  {
    name: "a tensor named twice",
    bytes: safetensorsBytes(
      `{"a{":${JSON.stringify(entry(0, 4))},"\\u0061{" :${JSON.stringify(entry(0, 4))}}`,
      data(4),
    ),
    message: ', "a{": expected each key once, got the key twice',
  },
  {
    name: "a field named twice",
    bytes: safetensorsBytes('{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', data(4)),
    message: ', "dtype": expected each key once, got the key twice',
  },
];

describe("a damaged file", () => {
  for (const { name, bytes, message } of DAMAGES) {
    test(`${name} is named`, async () => {
      const found = await fileError(bytes);
      expect(found.startsWith("model.safetensors")).toBe(true);
      expect(found).toContain(message);
    });
  }

  test("odd but sound headers are read: padding, equal names in different places, quotes, __proto__", async () => {
    const header = '{"__metadata__":{"dtype":"x"},"q\\"}":%,"__proto__":%}   '.replace(
      "%",
      JSON.stringify(entry(0, 4)),
    );
    await withTempDir(async (dir) => {
      const bytes = safetensorsBytes(header.replace("%", JSON.stringify(entry(4, 8))), data(8));
      writeFileSync(join(dir, "model.safetensors"), bytes);
      const checkpoint = await Checkpoint.open(dir);
      expect([...checkpoint.names()]).toEqual(['q"}', "__proto__"]);
      await checkpoint.close();
    });
  });

  test("every cut of a small file is an error", async () => {
    const whole = safetensorsBytes({ a: entry(0, 4), b: entry(4, 8) }, data(8));
    for (let length = 0; length < whole.length; length++) {
      expect(await fileError(whole.slice(0, length))).toContain("model.safetensors");
    }
  });
});

describe("a damaged index", () => {
  const tensors = ["a", "b", "c"].map((name) => ({ name, dtype: "F32", shape: [1], bytes: data(4) }));

  async function shardsError(damage: (dir: string) => void): Promise<string> {
    return withTempDir((dir) => {
      writeShards(dir, tensors, 2);
      damage(dir);
      return openError(dir);
    });
  }

  test("a shard that is missing", async () => {
    const found = await shardsError((dir) => rmSync(join(dir, "model-00002-of-00002.safetensors")));
    const expected = 'expected shard "model-00002-of-00002.safetensors" beside the index, got no such file';
    expect(found).toBe(`${INDEX}, tensor "b": ${expected}`);
  });

  test("a shard that lacks its tensor", async () => {
    const file = "model-00001-of-00002.safetensors";
    const found = await shardsError((dir) => writeIndex(dir, { a: file, b: file }));
    expect(found).toBe(
      `${file}, tensor "b": expected it in this shard, as ${INDEX} says, got no such tensor`,
    );
  });

  test("a shard that is damaged itself", async () => {
    const found = await shardsError((dir) =>
      writeFileSync(join(dir, "model-00002-of-00002.safetensors"), "short"),
    );
    expect(found.startsWith("model-00002-of-00002.safetensors: expected 8 bytes of header length")).toBe(
      true,
    );
  });

  test.each(["../other.safetensors", "/etc/hostname", "a\\b", "..", ""])(
    "a shard named %p",
    async (shard) => {
      const found = await shardsError((dir) => writeIndex(dir, { a: shard }));
      expect(found.startsWith(`${INDEX}, tensor "a": expected a file name without folders`)).toBe(true);
    },
  );

  test.each([
    ["{", "expected JSON"],
    ["[]", "expected an object with a weight_map, got []"],
    ["{}", "weight_map: expected an object of tensor names and shards, got nothing"],
    ['{"weight_map":{"a":1}}', "weight_map.a: expected the name of a shard, got 1"],
    ['{"weight_map":{}}', "expected 1 to 1024 shards, got 0"],
    ['{"weight_map":{"a":"x","a":"y"}}', '"a": expected each key once, got the key twice'],
  ])("an index that reads %s", async (text, message) => {
    const found = await shardsError((dir) => writeFileSync(join(dir, INDEX), text));
    expect(found.startsWith(INDEX)).toBe(true);
    expect(found).toContain(message);
  });

  test.skipIf(!existsSync("/proc/self/fd"))("a failed open leaves no file open", async () => {
    const fail = () =>
      shardsError((dir) => writeFileSync(join(dir, "model-00002-of-00002.safetensors"), "short"));
    await fail();
    const before = readdirSync("/proc/self/fd").length;
    for (let i = 0; i < 8; i++) await fail();
    expect(readdirSync("/proc/self/fd").length).toBeLessThan(before + 8);
  });
});
