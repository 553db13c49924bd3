import { describe, expect, test } from "bun:test";
import type { AccessOptions } from "../../src/routes/access.ts";
import { createApp } from "../../src/routes/app.ts";
import { ScriptedClient } from "../support/scripted-client.ts";
import { chat, type ErrorJson, hello } from "./support.ts";

function setUp(access: Partial<AccessOptions>) {
  let idCount = 0;
  const newId = () => String(++idCount);
  return createApp({ engine: new ScriptedClient(), clock: () => 0, newId, randomSeed: () => 1n, access });
}

const apiKeys = ["first-key", "second-key"];

describe("API keys", () => {
  const app = setUp({ apiKeys });
  const ask = (headers: Record<string, string>) =>
    app.request(chat, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(hello),
    });

  test.each<Record<string, string>>([
    { authorization: "Bearer first-key" },
    { authorization: "bearer  second-key" },
    { "x-api-key": "second-key" },
  ])("%j opens", async (headers) => {
    expect((await ask(headers)).status).toBe(200);
  });

  test.each<Record<string, string>>([
    {},
    { authorization: "" },
    { authorization: "Bearer" },
    { authorization: "Bearer first-ke" },
    { authorization: "Bearer first-key2" },
    { authorization: "Bearer first-key second-key" },
    { authorization: "Basic first-key" },
    { authorization: "first-key" },
    { "x-api-key": "" },
    { "x-api-key": "FIRST-KEY" },
    { authorization: "Bearer wrong", "x-api-key": "first-key" },
  ])("%j does not", async (headers) => {
    const response = await ask(headers);
    expect([response.status, response.headers.get("www-authenticate")]).toEqual([401, "Bearer"]);
    const { error } = (await response.json()) as ErrorJson;
    expect(error).toMatchObject({ type: "invalid_request_error", param: null, code: "invalid_api_key" });
    expect(JSON.stringify(error)).not.toMatch(/(first|second|wrong)-?k?/);
  });

  const statuses = (app: ReturnType<typeof setUp>, paths: readonly string[]) =>
    Promise.all(paths.map(async (path) => (await app.request(path)).status));
  const paths = [
    "/health",
    "/ready",
    "/v1/models",
    "/v1/models/scripted",
    "/version",
    "/metrics",
    "/nowhere",
  ];

  test("probes are open, all else is not, and a route that is not there is not told", async () => {
    expect(await statuses(app, paths)).toEqual([200, 200, 401, 401, 401, 401, 401]);
  });

  test("models can be opened, probes closed", async () => {
    const other = setUp({ apiKeys, publicModels: true, publicHealth: false });
    expect(await statuses(other, paths)).toEqual([401, 401, 200, 200, 401, 401, 401]);
    expect(await statuses(other, ["/v1/modelsx", "/healthx", "//v1/models"])).toEqual([401, 401, 401]);
  });

  test("without keys everything is open", async () => {
    expect(await statuses(setUp({}), paths)).toEqual([200, 200, 200, 200, 200, 200, 404]);
  });
});

describe("origins", () => {
  const origin = "https://app.example";
  const preflight = (app: ReturnType<typeof setUp>, from: string) =>
    app.request(chat, {
      method: "OPTIONS",
      headers: {
        origin: from,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-os,anthropic-version",
      },
    });

  test("a preflight of a known one is answered without a key", async () => {
    const response = await preflight(setUp({ apiKeys, corsOrigins: [origin] }), origin);
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe(origin);
    expect(response.headers.get("access-control-allow-methods")).toBe("GET,POST,DELETE");
    expect(response.headers.get("access-control-allow-headers")).toBe(
      "authorization,x-stainless-os,anthropic-version",
    );
    expect(response.headers.get("vary")).toContain("Origin");
  });

  test("that of another is allowed nothing", async () => {
    const response = await preflight(setUp({ corsOrigins: [origin] }), "https://evil.example");
    expect(response.headers.get("access-control-allow-origin")).toBeNull();
  });

  test("answers and refusals can be read by pages of known ones, with their ids", async () => {
    const app = setUp({ apiKeys, corsOrigins: ["https://other.example", origin] });
    for (const path of ["/health", "/v1/models"]) {
      const response = await app.request(path, { headers: { origin } });
      expect(response.headers.get("access-control-allow-origin")).toBe(origin);
      expect(response.headers.get("access-control-expose-headers")).toContain("x-request-id");
    }
  });

  test("none is allowed unless it is named; * allows all", async () => {
    const headers = { origin };
    const allowed = async (access: Partial<AccessOptions>) =>
      (await setUp(access).request("/health", { headers })).headers.get("access-control-allow-origin");
    expect(await allowed({})).toBeNull();
    expect(await allowed({ corsOrigins: ["*"] })).toBe("*");
  });
});
