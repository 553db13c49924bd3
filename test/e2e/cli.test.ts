/** The command itself, in a process of its own on the runtime that runs this test. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, truncateSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { withTempDir } from "../support/checkpoint.ts";
import { testAdapter, tinyModel } from "../support/served.ts";
import { project, shared } from "../support/shared.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const prompt = "Translate to French: Where is the station?";
const isDeno = "Deno" in globalThis;

interface Ended {
  /** Or the signal that ended it. */
  code: number | string;
  out: string;
  err: string;
}

/** Starts the command; `PRELUDE_GPU` is what `--gpu` would be. */
function start(...args: string[]): ChildProcess {
  const runtime = isDeno ? ["run", "-A", "--no-check"] : [];
  return spawn(process.execPath, [...runtime, project("src/cli.ts"), ...args], {
    env: { ...process.env, PRELUDE_GPU: testAdapter, PRELUDE_TUNING: "none" },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function ended(child: ChildProcess): Promise<Ended> {
  const [out, err] = [collect(child.stdout!), collect(child.stderr!)];
  const [code, signal] = (await once(child, "close")) as [number, null] | [null, string];
  return { code: code ?? signal, out: out(), err: err() };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  let text = "";
  stream.setEncoding("utf8");
  stream.on("data", (piece: string) => (text += piece));
  return () => text;
}

const run = (...args: string[]) => ended(start(...args));

/** The one line that says what is wrong; nothing on standard output, no stack. */
function complaint({ code, out, err }: Ended): string {
  expect([code, out]).toEqual([1, ""]);
  expect(err).not.toMatch(/^\s+at /m);
  const lines = err.split("\n").filter((line) => /^(prelude|error): /.test(line));
  expect(lines).toHaveLength(1);
  return lines[0];
}

describe("generate", () => {
  test("prints the answer, and nothing else on standard output", async () => {
    const { code, out, err } = await run("generate", prompt);
    expect([code, out]).toEqual([0, "Où est la gare ?\n"]);
    expect(err).toMatch(/^Device: .+\n(KV cache: .+\n)*$/);
  });

  test("--json, --max-tokens, --raw", async () => {
    const text = `<|im_start|><|object_ref_start|>${prompt}<|im_end|>`;
    const { code, out } = await run("generate", "--json", "--raw", "--max-tokens", "3", text);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual({
      text: "Où est la",
      token_ids: [3847, 412, 393],
      finish_reason: "length",
      usage: { prompt_tokens: 12, completion_tokens: 3 },
    });
  });
});

describe("verify", () => {
  test("succeeds on a reference", async () => {
    const { code, out } = await run("verify", shared("reference/tiny-qwen2"));
    expect(code).toBe(0);
    expect(out).toMatch(/^4 passed, 0 failed in /m);
  });
});

describe("what is wrong is said in a line", () => {
  test.each([
    [["generate", "--colour", prompt], /unknown option '--colour'/],
    [["generate"], /missing required argument 'prompt'/],
    [["dance"], /unknown command 'dance'/],
    [["generate", "--gpu", "abacus", prompt], /'abacus' is invalid. Allowed choices are auto, dawn/],
    [["generate", "--max-tokens", "0", prompt], /expected a whole number from 1 on/],
    [["serve", "--port", "65536"], /expected a port from 0 .* to 65535/],
    [["serve", "--port", "eighty"], /expected a port from 0 .* to 65535/],
    [["generate", "--model", "no/such/model", prompt], /expected a checkpoint folder, got no\/such\/model/],
    [["generate", "--max-model-len", "513", prompt], /Cannot use --max-model-len 513: .* for 512 tokens/],
    [["verify", tinyModel + "/../../src"], /Cannot .*config\.json/],
  ] as const)("%j", async (args, expected) => {
    expect(complaint(await run(...args))).toMatch(expected);
  });

  test("a truncated checkpoint", () =>
    withTempDir(async (dir) => {
      cpSync(tinyModel, dir, { recursive: true });
      truncateSync(join(dir, "model.safetensors"), 1_000_000);
      expect(complaint(await run("generate", "--model", dir, prompt))).toMatch(/Cannot .*model\.safetensors/);
    }));

  test("a port in use", async () => {
    const holder = createServer().listen(0, "127.0.0.1");
    await once(holder, "listening");
    const { port } = holder.address() as { port: number };
    expect(complaint(await run("serve", "--port", String(port)))).toBe(
      `prelude: Cannot listen on "127.0.0.1" port ${port}: expected a free address, got one in use; choose another --port or --host`,
    );
    holder.close();
  });
});

describe("serve", () => {
  let child: ChildProcess;
  let end: Promise<Ended>;
  let curl: string;

  beforeAll(async () => {
    child = start("serve", "--port", "0", "--served-model-name", "mine", "--drain-timeout", "0");
    end = ended(child);
    curl = await curlLine(child);
  });
  afterAll(() => void child.kill("SIGKILL"));

  test("names a curl line that works", async () => {
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(curl)![0];
    const models = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["mine"]);
    const answer = JSON.parse(await throughCurl(curl)) as { choices: [{ message: { content: string } }] };
    expect(answer.choices[0].message.content).toBe("Où est la gare ?");
  });

  test("SIGTERM ends it in order; an answer that takes longer than it may ends with an error", async () => {
    const url = /http:\/\/[^ ]+/.exec(curl)![0].replace("chat/completions", "completions");
    const body = { prompt: "x", max_tokens: 500, temperature: 100, seed: 5, stream: true };
    const headers = { "content-type": "application/json" };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
    const reader = response.body!.getReader();
    expect((await reader.read()).done).toBe(false);
    // Not `child.kill`: for Deno, that alone means that a signal ended the child.
    process.kill(child.pid!, "SIGTERM");
    const rest = await drained(reader);
    expect(rest).toMatch(/data: \{"error":\{.*"code":"shutting_down"\}\}\n\ndata: \[DONE\]\n\n$/);
    const { code, out, err } = await end;
    expect([code, out]).toEqual([0, ""]);
    const requestLines = String.raw`(\d\d:\d\d:.* INFO  (request|answer) .*\n)*`;
    const startLines = String.raw`Device: .*\n(KV cache: .+\n)*Prelude serves mine at .*\nTry: curl .*\n`;
    expect(err).toMatch(new RegExp(`^${startLines}${requestLines}Stopping\n${requestLines}$`));
  });

  test("a second signal ends it at once", async () => {
    const other = start("serve", "--port", "0");
    const otherEnd = ended(other);
    const url = /http:\/\/[^ ]+/.exec(await curlLine(other))![0].replace("chat/completions", "completions");
    const body = JSON.stringify({ prompt: "x", max_tokens: 500, temperature: 100, seed: 5, stream: true });
    const headers = { "content-type": "application/json" };
    const response = await fetch(url, { method: "POST", headers, body });
    const reader = response.body!.getReader();
    await reader.read();
    const isStopping = said(other, /^Stopping$/m);
    process.kill(other.pid!, "SIGTERM");
    await isStopping;
    process.kill(other.pid!, "SIGINT");
    // Whatever is left of the answer is lost.
    await drained(reader).catch((error: unknown) => expect(error).toBeInstanceOf(Error));
    expect((await otherEnd).code).toBe("SIGINT");
  });

  test("asked to wait while it loads, and stopped then, it ends in order", async () => {
    const holder = createServer().listen(0, "127.0.0.1");
    await once(holder, "listening");
    const { port } = holder.address() as { port: number };
    await new Promise((resolve) => holder.close(resolve));
    const other = start("serve", "--port", String(port));
    const otherEnd = ended(other);
    const health = await firstAnswer(`http://127.0.0.1:${port}/health`);
    expect([health.status, health.headers.get("retry-after")]).toEqual([503, "5"]);
    process.kill(other.pid!, "SIGTERM");
    const { code, err } = await otherEnd;
    expect(code).toBe(0);
    expect(err).toMatch(/^Stopping$/m);
  });

  /** What is answered first at an address where nobody listens yet. */
  async function firstAnswer(url: string): Promise<Response> {
    for (;;) {
      const response = await fetch(url).catch(() => null);
      if (response) return response;
    }
  }

  /** Resolves when the command has said this. */
  function said(child: ChildProcess, expected: RegExp): Promise<void> {
    let text = "";
    return new Promise((resolve) => {
      child.stderr!.on("data", (piece: string) => {
        text += piece;
        if (expected.test(text)) resolve();
      });
    });
  }

  /** The command that `serve` prints once it listens. */
  function curlLine(child: ChildProcess): Promise<string> {
    return new Promise((resolve, reject) => {
      let text = "";
      child.stderr!.on("data", (piece: string) => {
        text += piece;
        const line = /^Try: (curl .*)\n/m.exec(text);
        if (line) resolve(line[1]);
      });
      child.once("close", () => reject(new Error(`expected a curl line, got ${text}`)));
    });
  }

  /** Through a shell and curl, as a user would; without curl, by its address and data. */
  async function throughCurl(line: string): Promise<string> {
    const hasCurl = process.env.PATH?.split(":").some((folder) => existsSync(join(folder, "curl")));
    if (hasCurl) return (await ended(spawn("sh", ["-c", `${line} -sS`]))).out;
    const [, url, header, data] = /^curl (\S+) -H '([^']+)' -d '([^']+)'$/.exec(line)!;
    const headers = [header.split(": ") as [string, string]];
    return (await fetch(url, { method: "POST", headers, body: data })).text();
  }

  /** The rest of a body. */
  async function drained(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<string> {
    const decoder = new TextDecoder();
    let text = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += decoder.decode(part.value, { stream: true });
    }
    return text;
  }
});
