/** The playground in a real browser, before the real engine: what a person sees, with a mouse, a keyboard, a phone. */
import { spawnSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Browser, BrowserContextOptions, Locator, Page } from "playwright-core";
import { createApp } from "../../src/routes/app.ts";
import { listen } from "../../src/routes/server.ts";
import { noBrowser, openBrowser } from "../support/browser.ts";
import { say, ScriptedClient } from "../support/scripted-client.ts";
import { type Served, serveTinyModel, tinyName } from "../support/served.ts";

// Software adapters take their time, and Bun's 5 s apply to each file anew.
setDefaultTimeout(120_000);

const question = "Translate to French: Where is the station?";
const phone = { width: 390, height: 844 };
const desktop = { width: 1280, height: 800 };
const key = "a-key-of-the-test";

let served: Served;
let browser: Browser;

/** A page, and whatever goes wrong in it. */
async function open(url: string, options: BrowserContextOptions = {}) {
  const context = await browser.newContext({ viewport: desktop, ...options });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  const complaints: string[] = [];
  const origins = new Set<string>();
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => origins.add(new URL(request.url()).origin));
  await page.addInitScript(watchShifts);
  await page.goto(url);
  return { page, complaints, origins, close: () => context.close() };
}

/** Resolves when the page's last answer has ended; its text. */
async function answered(page: Page): Promise<string | null> {
  await page.locator("#send:enabled").waitFor();
  return page.locator(".answer .text").last().textContent();
}

const seen = (locator: Locator, hasText: string | RegExp) => locator.filter({ hasText }).first().waitFor();

/** An answer that nothing but its length ends: at this temperature all tokens are equally likely. */
async function askForMuch(page: Page): Promise<void> {
  await page.locator("[name=temperature]").fill("100");
  await page.locator("[name=seed]").fill("11");
  await page.locator("#question").fill(question);
  await page.locator("#send").click();
}

async function engineIdle(): Promise<void> {
  while ((await served.engine.stats()).running > 0);
}

/** Prompts that are cut along layers, two at a time, none of which is cached, until it is called off. */
function keepBusy(): () => Promise<void> {
  const off = new AbortController();
  let salt = 0;
  const one = async () => {
    while (!off.signal.aborted) {
      const sampling = { max_tokens: 12, temperature: 100, seed: ++salt, cache_salt: String(salt) };
      const body = { model: tinyName, prompt: new Array<number>(32).fill(39), ...sampling };
      await served.openai.completions.create(body);
    }
  };
  const both = Promise.all([one(), one()]);
  return async () => {
    off.abort();
    await both;
  };
}

const inBrowser = () => {
  beforeAll(async () => {
    // A small budget, so that prefills are cut along layers.
    const engine = { maxBatchedTokens: 16 };
    [served, browser] = await Promise.all([serveTinyModel(engine, { clock: Date.now }), openBrowser()]);
  });
  afterAll(async () => {
    await browser.close();
    await served.close();
  });

  test("a chat by keyboard alone: asked, streamed, spoken, and the request as a command", async () => {
    const { page, complaints, origins, close } = await open(served.url);
    await seen(page.locator("#model"), tinyName);
    const focused = () => page.evaluate(() => document.activeElement?.id ?? "");
    for (let tabs = 0; tabs < 10 && (await focused()) !== "question"; tabs++)
      await page.keyboard.press("Tab");
    expect(await focused()).toBe("question");
    await page.keyboard.type(question);
    expect(await page.locator("#curl").textContent()).toContain(`"content":"${question}"`);
    await page.keyboard.press("Enter");
    expect(await answered(page)).toBe("Où est la gare ?");
    expect(await page.locator(".answer .token").count()).toBe(5);
    await seen(
      page.locator(".figures"),
      /^12 \+ 6 tokens, the first after \d+ ms, \d+ tokens\/s; ended by itself$/,
    );
    expect(await page.locator("#spoken").textContent()).toBe("Où est la gare ?");
    expect([await page.locator("#question").inputValue(), await focused()]).toEqual(["", "question"]);
    // What was said goes with the next question.
    const curl = (await page.locator("#curl").textContent()) ?? "";
    expect(curl).toContain('{"role":"assistant","content":"Où est la gare ?"}');
    expect([complaints, [...origins]]).toEqual([[], [served.url]]);
    await close();
  });

  test("each token's log-probabilities, by keyboard and by pointer", async () => {
    const messages = [{ role: "user" as const, content: question }];
    const body = { model: tinyName, messages, logprobs: true, top_logprobs: 5 };
    const { choices } = await served.openai.chat.completions.create(body);
    const [first, second] = choices[0].logprobs!.content!;
    const { page, close } = await open(served.url);
    await page.locator("#question").fill(question);
    await page.keyboard.press("Enter");
    await answered(page);
    await page.locator(".answer .text").focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    const box = page.locator("#token");
    const rows = (await box.locator("tr td:first-child").allTextContents()).map(
      (text) => JSON.parse(text) as string,
    );
    expect(rows).toEqual(second.top_logprobs.map(({ token }) => token));
    expect(await box.locator("caption").textContent()).toContain(second.logprob.toFixed(3));
    await page.keyboard.press("Escape");
    expect(await box.isHidden()).toBe(true);
    await page.locator(".answer .token").first().hover();
    expect(await box.locator("caption").textContent()).toContain(first.logprob.toFixed(3));
    // Far down a long answer too, where the keys scroll.
    await page.setViewportSize({ width: 390, height: 400 });
    await page.locator("[name=max_completion_tokens]").fill("30");
    await askForMuch(page);
    await answered(page);
    const text = page.locator(".answer .text").last();
    await text.focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("End");
    await page.evaluate(
      () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))),
    );
    const isLast = await page
      .locator(".token.current")
      .last()
      .evaluate((span) => [...(span.parentElement?.querySelectorAll(".token") ?? [])].at(-1) === span);
    expect([await box.isVisible(), isLast]).toEqual([true, true]);
    await close();
  });

  test("an answer is stopped in mid-stream, and the engine does not go on", async () => {
    const { page, complaints, close } = await open(served.url);
    const before = (await served.engine.stats()).generationTokens;
    await askForMuch(page);
    await page.locator(".answer .token").nth(3).waitFor();
    await page.locator("#stop").click();
    await seen(page.locator(".figures"), "Stopped.");
    await engineIdle();
    const { generationTokens } = await served.engine.stats();
    expect(generationTokens - before).toBeLessThan(400);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("question");
    expect([await page.locator("#send").isEnabled(), complaints]).toEqual([true, []]);
    // Escape does the same.
    await askForMuch(page);
    await page.locator(".answer").nth(1).locator(".token").nth(3).waitFor();
    await page.keyboard.press("Escape");
    await page.locator(".answer:not([aria-busy])").nth(1).waitFor();
    await engineIdle();
    // A new chat in the middle of an answer has nothing of it.
    await askForMuch(page);
    await page.locator(".answer").nth(2).locator(".token").nth(3).waitFor();
    await page.locator("#clear").click();
    await page.locator("#send:enabled").waitFor();
    expect(await page.locator("#turns li").count()).toBe(0);
    expect(await page.locator("#curl").textContent()).not.toContain("assistant");
    await engineIdle();
    await close();
  });

  test("the request is copied as a command that a shell reads as it is meant", async () => {
    const { page, close } = await open(served.url, { permissions: ["clipboard-read", "clipboard-write"] });
    await page.locator("#question").fill('What\'s "1 + 1"?\n$HOME `x` \\');
    for (const [name, value] of [
      ["temperature", "0.5"],
      ["top_k", "7"],
      ["min_p", "0.1"],
      ["seed", "3"],
    ]) {
      await page.locator(`[name=${name}]`).fill(value);
    }
    await page.locator("[name=stop]").fill("a b\n'");
    await page.locator("[name=system]").fill("Be brief.");
    await page.locator("[name=logprobs]").uncheck();
    await page.locator("#copy").click();
    await seen(page.locator("#copied"), "Copied.");
    const command = await page.evaluate(() => navigator.clipboard.readText());
    const words = spawnSync("sh", ["-c", `curl() { printf '%s\\0' "$@"; }; ${command}`], {
      encoding: "utf8",
    });
    const [, url, , header, , body] = words.stdout.split("\0");
    expect([url, header]).toEqual([`${served.url}/v1/chat/completions`, "content-type: application/json"]);
    expect(JSON.parse(body)).toEqual({
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: 'What\'s "1 + 1"?\n$HOME `x` \\' },
      ],
      ...{ temperature: 0.5, top_k: 7, min_p: 0.1, seed: 3, stop: ["a b", "'"] },
      ...{ stream: true, stream_options: { include_usage: true } },
    });
    await close();
  });

  test("who reads on is left alone while the answer grows; who is at its end stays there", async () => {
    const gates = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
    const lines = (name: string) => say(...Array.from({ length: 40 }, (_, index) => `${name} ${index}\n`));
    const engine = new ScriptedClient(async function* (request, signal) {
      for (const [index, { promise }] of gates.entries()) {
        for await (const event of lines(`part ${index}`)(request, signal))
          if (event.type === "text") yield event;
        await promise;
      }
      yield* say("end")(request, signal);
    });
    const server = await serveScripted(engine);
    const { page, close } = await open(server.url, { viewport: phone });
    await page.locator("[name=logprobs]").uncheck();
    await page.locator("#question").fill("go");
    await page.keyboard.press("Enter");
    const box = page.locator("#conversation");
    const top = () => box.evaluate((element) => element.scrollTop);
    const toEnd = () =>
      box.evaluate(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight);
    const text = page.locator(".answer .text");
    await seen(text, "part 0 39");
    expect([(await top()) > 100, Math.abs(await toEnd()) < 2]).toEqual([true, true]);
    await box.evaluate((element) => void (element.scrollTop = 10));
    await page.locator("#newest").waitFor();
    gates[0].resolve(undefined);
    await seen(text, "part 1 39");
    expect(await top()).toBe(10);
    await page.locator("#newest").click();
    gates[1].resolve(undefined);
    expect(await answered(page)).toEndWith("end");
    expect([Math.abs(await toEnd()) < 2, await page.locator("#newest").isHidden()]).toEqual([true, true]);
    await close();
    await server.close();
  });

  test("the live view shows a prefill cut along layers between others' decodes", async () => {
    const { page, complaints, close } = await open(served.url);
    await page.locator("#steps-text summary").click();
    const stop = keepBusy();
    await seen(page.locator("#running"), /^[12]$/);
    await seen(page.locator("#blocks"), /KV blocks: [1-9]\d* used, \d+ cached, of 1024/);
    await seen(page.locator("#generated"), /^[1-9]/);
    await page.locator("#steps rect.layered").first().waitFor();
    await page.locator("#steps rect.decode").first().waitFor();
    expect(await page.locator("#steps").getAttribute("aria-label")).toMatch(
      /^Rectangles of the last \d+ steps: .*\d+ layered, \d+ tokens/,
    );
    await seen(
      page.locator("#steps-rows td"),
      /decode 1 token × passes 1 to \d+; layered 32 tokens × passes/,
    );
    await stop();
    await seen(page.locator("#running"), /^0$/);
    await seen(page.locator("#blocks"), /KV blocks: 0 used, [1-9]\d* cached/);
    expect(complaints).toEqual([]);
    await close();
  });

  test.each([
    ["phone", "light", phone],
    ["phone", "dark", phone],
    ["desktop", "light", desktop],
    ["desktop", "dark", desktop],
  ] as const)(
    "%s, %s: it fits, it can be read, and nothing jumps",
    async (_device, colorScheme, viewport) => {
      const { page, close } = await open(served.url, { viewport, colorScheme, hasTouch: viewport === phone });
      await page.locator("#question").fill(question);
      await page.locator("#send").click();
      await answered(page);
      const looks = await page.evaluate(measure);
      expect(looks.width).toBe(viewport.width);
      expect([looks.isDark, looks.unlabelled]).toEqual([colorScheme === "dark", []]);
      expect(looks.contrastMin).toBeGreaterThan(4.5);
      expect(looks.shift).toBeLessThan(0.01);
      expect(looks.askBottom).toBeLessThanOrEqual(viewport.height);
      await page.locator("#question").focus();
      expect(
        await page.locator("#question").evaluate((element) => getComputedStyle(element).outlineStyle),
      ).toBe("solid");
      await close();
    },
  );

  test("what is wrong is said with what to do, and the question can be asked again", async () => {
    const { page, close } = await open(served.url);
    const long = "station ".repeat(600).trim();
    await page.locator("#question").fill(long);
    await page.locator("#send").click();
    await seen(page.locator(".failure"), /512 tokens.*Change the message or the settings, then try again\.$/);
    expect(await page.locator("#question").inputValue()).toBe(long);
    await page.locator("[name=top_p]").fill("2");
    await page.locator("#send").click();
    expect(
      await page.locator("[name=top_p]").evaluate((input: HTMLInputElement) => input.validity.valid),
    ).toBe(false);
    expect(await page.locator(".question").count()).toBe(1);
    await close();
  });

  test("a server with keys is opened with one, which is never shown", async () => {
    const server = await serveScripted(new ScriptedClient(say("Hello")), [key]);
    const { page, close } = await open(server.url);
    await page.locator("#key").fill("wrong");
    await page.keyboard.press("Enter");
    await seen(page.locator("#notice"), "The server does not know this key. Enter another one.");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("key");
    await page.locator("#key").fill(key);
    await page.keyboard.press("Enter");
    await seen(page.locator("#model"), "scripted");
    await seen(page.locator("#blocks"), "of 31");
    await page.locator("#question").fill("hi");
    await page.keyboard.press("Enter");
    expect(await answered(page)).toBe("Hello");
    expect(await page.locator("#curl").textContent()).toContain(
      '-H "authorization: Bearer $PRELUDE_API_KEY"',
    );
    expect(await page.content()).not.toContain(key);
    expect(
      await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length),
    ).toBe(0);
    await close();
    await server.close();
  });

  test("thoughts are apart from the answer, and markup is text in both", async () => {
    const markup = "<img src=x onerror=alert(1)><b>bold</b>";
    const engine = new ScriptedClient(say("<think>So ", markup, "</think>", "Yes ", markup));
    engine.text = { ...engine.text, chatFormat: () => ({ toolCalls: "hermes", thinks: true }) };
    const server = await serveScripted(engine);
    const { page, complaints, close } = await open(server.url);
    await page.locator("[name=logprobs]").uncheck();
    await page.locator("#question").fill(markup);
    await page.keyboard.press("Enter");
    expect(await answered(page)).toBe(`Yes ${markup}`);
    expect(await page.locator(".thoughts p").textContent()).toBe(`So ${markup}`);
    expect(await page.locator(".question .text").textContent()).toBe(markup);
    expect(await page.locator("#turns img, #turns b").count()).toBe(0);
    expect(complaints).toEqual([]);
    await close();
    await server.close();
  });

  test("tokens that make one character together share a piece", async () => {
    const { page, close } = await open(served.url);
    const pieces = await page.evaluate(async () => {
      const path = "/playground/tokens.js";
      const { toPieces } = (await import(path)) as {
        toPieces: (text: string, tokens: { token: string }[]) => { text: string; tokens: object[] }[];
      };
      const tokens = ["a", "\ufffd", "\ufffd", " b", "", " later"].map((token) => ({ token }));
      const found = toPieces("a漢 b", tokens).map((piece) => [piece.text, piece.tokens.length]);
      return {
        found,
        left: tokens.map(({ token }) => token),
        bare: toPieces("text", []).map(({ text }) => text),
      };
    });
    expect(pieces).toEqual({
      found: [
        ["a", 1],
        ["漢", 2],
        [" b", 1],
      ],
      left: ["", " later"],
      bare: ["text"],
    });
    await close();
  });
};

interface Shifting {
  /** How far things have jumped, as browsers score it: share of the window times distance. */
  shift: number;
}

/** Runs in the page before anything else. */
function watchShifts() {
  const page = globalThis as unknown as Shifting;
  page.shift = 0;
  const add = (entries: PerformanceObserverEntryList) => {
    for (const entry of entries.getEntries())
      page.shift += (entry as PerformanceEntry & { value: number }).value;
  };
  new PerformanceObserver(add).observe({ type: "layout-shift" });
}

/** Runs in the page. */
function measure() {
  const channels = (colour: string) =>
    colour
      .match(/[\d.]+/g)!
      .slice(0, 3)
      .map(Number);
  const luminance = (colour: string) => {
    const [red, green, blue] = channels(colour).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const backgroundOf = (element: Element): string => {
    const { backgroundColor } = getComputedStyle(element);
    const isClear = backgroundColor === "rgba(0, 0, 0, 0)";
    return isClear && element.parentElement ? backgroundOf(element.parentElement) : backgroundColor;
  };
  const contrast = (element: Element) => {
    const pair = [getComputedStyle(element).color, backgroundOf(element)].map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const texts = [
    ...document.querySelectorAll("h1, h2, h3, p, a, small, label, dt, dd, button, li, pre, summary"),
  ];
  const visible = texts.filter((element) => element.getClientRects().length > 0);
  const controls = [...document.querySelectorAll<HTMLInputElement>("input, textarea")];
  return {
    width: document.documentElement.scrollWidth,
    isDark: luminance(getComputedStyle(document.body).backgroundColor) < 0.2,
    contrastMin: Math.min(...visible.map(contrast)),
    unlabelled: controls.filter(({ labels }) => !labels?.length).map(({ name, id }) => name || id),
    shift: (globalThis as unknown as Shifting).shift,
    askBottom: document.querySelector("#ask")!.getBoundingClientRect().bottom,
  };
}

async function serveScripted(engine: ScriptedClient, apiKeys: string[] = []) {
  let idCount = 0;
  const app = createApp({
    engine,
    clock: Date.now,
    newId: () => String(++idCount),
    randomSeed: () => 1n,
    access: { apiKeys },
  });
  return listen(app, { host: "127.0.0.1", port: 0 });
}

if (noBrowser === null) describe("the playground in a browser", inBrowser);
else test.skip(`the playground in a browser: ${noBrowser}`, () => {});
