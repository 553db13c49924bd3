/** The description of the API: complete, valid by OpenAPI's own rules, and true of the routes that it describes. */
import { createHash } from "node:crypto";
import { describe, expect, test } from "bun:test";
import { z } from "zod";
import { createApp } from "../../src/routes/app.ts";
import { catalogue } from "../../src/routes/openapi/catalogue.ts";
import { toTemplate } from "../../src/routes/openapi/document.ts";
import { ScriptedClient } from "../support/scripted-client.ts";

interface Operation {
  operationId: string;
  summary: string;
  parameters?: { name: string; in: string; required: boolean; schema: object }[];
  requestBody?: {
    required: boolean;
    content: { "application/json": { schema: z.core.JSONSchema.JSONSchema; example: object } };
  };
  responses: Record<string, object>;
}

interface Document {
  openapi: string;
  info: { title: string; version: string };
  paths: Record<string, Record<string, Operation>>;
}

const app = createApp({
  engine: new ScriptedClient(),
  clock: () => 0,
  newId: () => "id",
  randomSeed: () => 1n,
  about: { version: "1.2.3", runtime: "none" },
});
const document = (await (await app.request("/openapi.json")).json()) as Document;
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
);
const bodies = operations.flatMap(({ path, method, operation }) => {
  const content = operation.requestBody?.content["application/json"];
  return content ? [{ path, method, ...content }] : [];
});

describe("the catalogue", () => {
  test("has every route, and no other: whoever adds a route describes it there", () => {
    const routes = app.routes.filter(({ method }) => method !== "ALL");
    const nameOf = ({ method, path }: { method: string; path: string }) => `${method.toUpperCase()} ${path}`;
    expect(catalogue.map(nameOf).sort()).toEqual([...new Set(routes.map(nameOf))].sort());
  });

  test("every POST has a body, and nothing else has", () => {
    for (const { method, body } of catalogue) expect(body !== undefined).toBe(method === "post");
  });
});

describe("the document", () => {
  test("is OpenAPI 3.1, of this version", () => {
    expect(document).toMatchObject({ openapi: "3.1.1", info: { title: "Prelude", version: "1.2.3" } });
    expect(Object.keys(document.paths)).toEqual([...new Set(catalogue.map(({ path }) => toTemplate(path)))]);
  });

  test("every operation has a name of its own, a summary, and answers", () => {
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(operations.length);
    for (const { operation } of operations) {
      expect(operation.operationId).toMatch(/^[a-z][A-Za-z0-9]+$/);
      expect(operation.summary).not.toBe("");
      expect(Object.keys(operation.responses)).toEqual(["200", "4XX", "5XX"]);
    }
  });

  test("path parameters are those of the path", () => {
    for (const { path, operation } of operations) {
      const declared = (operation.parameters ?? []).map((parameter) => {
        expect(parameter).toMatchObject({ in: "path", required: true, schema: { type: "string" } });
        return parameter.name;
      });
      expect([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)).toEqual(declared);
      expect(path).toMatch(/^(\/|(\/([\w.]+|\{\w+\}))+)$/);
    }
  });

  test("every reference leads somewhere", () => {
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)];
    expect(references.length).toBeGreaterThan(10);
    for (const [, pointer] of references) {
      const target = pointer
        .split("/")
        .reduce<unknown>((node, key) => (node as Record<string, unknown> | undefined)?.[key], document);
      expect(target).toBeDefined();
    }
  });

  test("only keywords of JSON Schema 2020-12 are used", () => {
    const known =
      /^(type|properties|required|additionalProperties|propertyNames|items|prefixItems|(min|max)(imum|Length|Items|Properties)|exclusive(Min|Max)imum|multipleOf|pattern|format|enum|const|default|description|anyOf|oneOf|allOf|not|\$ref|\$defs)$/;
    for (const { schema } of bodies) {
      eachSchema(schema, (node) => {
        for (const keyword of Object.keys(node)) expect(keyword).toMatch(known);
      });
    }
  });
});

for (const { path, method, schema, example } of bodies)
  describe(`the body of ${method} ${path}`, () => {
    const described = z.fromJSONSchema(schema);

    test("takes its example, as the route does", async () => {
      expect(described.safeParse(example).success).toBe(true);
      const body = JSON.stringify(example);
      const headers = { "content-type": "application/json" };
      expect((await app.request(path, { method, headers, body })).status).toBe(200);
    });

    test("refuses what the route refuses", async () => {
      // What is described by words alone may be anything to a reader of schemas.
      const required = schema.required?.find((key) =>
        JSON.stringify(schema.properties?.[key]).includes("type"),
      );
      const lacking = required === undefined ? [] : [{ ...example, [required]: undefined }];
      for (const wrong of [[], { ...example, made_up: 1 }, { ...example, model: 1 }, ...lacking]) {
        expect(described.safeParse(wrong).success).toBe(false);
        const init = { method, headers: { "content-type": "application/json" }, body: JSON.stringify(wrong) };
        expect((await app.request(path, init)).status).toBe(400);
      }
    });

    test("says of every parameter what it expects, but where anything goes", () => {
      const silent = Object.entries(schema.properties ?? {}).filter(
        ([, property]) => typeof property === "object" && property.description === undefined,
      );
      const anything = silent.filter(([, property]) => JSON.stringify(property) === "{}");
      expect(silent.map(([name]) => name)).toEqual(anything.map(([name]) => name));
    });
  });

describe("the page", () => {
  test("loads nothing, runs nothing, and may not", async () => {
    const response = await app.request("/docs");
    const policy = response.headers.get("content-security-policy") ?? "";
    const text = await response.text();
    expect(policy).toMatch(/^default-src 'none'; style-src 'sha256-[^']+'; base-uri 'none'/);
    expect(text).not.toMatch(
      /<(script|img|iframe|link|object|embed|form)\b|\bon\w+=|url\(|@import|https?:\/\/(?!HOST:)/i,
    );
    const [, styles] = /<style>(.*)<\/style>/s.exec(text)!;
    expect(policy).toContain(`'sha256-${createHash("sha256").update(styles).digest("base64")}'`);
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
    expect(response.headers.get("x-frame-options")).toBe("DENY");
  });

  test("shows every route and every parameter, on a phone too", async () => {
    const text = await (await app.request("/docs")).text();
    for (const { path } of operations) expect(text).toContain(`<code>${path}</code>`);
    for (const { schema } of bodies) {
      for (const name of Object.keys(schema.properties ?? {})) expect(text).toContain(`<code>${name}</code>`);
    }
    expect(text).toContain("width=device-width");
    expect(text).toContain("prefers-color-scheme: dark");
  });
});

/** Visits a schema and all that it holds. */
function eachSchema(node: unknown, visit: (schema: object) => void): void {
  if (typeof node !== "object" || node === null) return;
  if (Array.isArray(node)) return node.forEach((item) => eachSchema(item, visit));
  visit(node);
  const { properties = {}, $defs = {}, ...rest } = node as Record<string, Record<string, unknown>>;
  const nested = [
    "items",
    "additionalProperties",
    "propertyNames",
    "not",
    "anyOf",
    "oneOf",
    "allOf",
    "prefixItems",
  ];
  for (const child of [...Object.values(properties), ...Object.values($defs)]) eachSchema(child, visit);
  for (const keyword of nested) eachSchema(rest[keyword], visit);
}
