/** `GET /docs`: the description of the API as one page, which asks for nothing else and runs nothing. */
import { createHash } from "node:crypto";
import { html, raw } from "hono/html";
import { secureHeaders } from "hono/secure-headers";
import type { JsonObject } from "./body-schema.ts";

const styles = `
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fdfcf9; --line: #dcd8cf; --soft: #6b675f; --mark: #1f5f99; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --paper: #17181b; --line: #35363b; --soft: #9c988f; --mark: #8ab8e6; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 56rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; }
a { color: var(--mark); }
details { border-top: 1px solid var(--line); }
summary { padding: .75rem 0; cursor: pointer; overflow-wrap: anywhere; }
code, pre { font: .875rem/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--line); border-radius: .25rem; }
b { display: inline-block; min-width: 4rem; color: var(--mark); font: 600 .8rem ui-monospace, monospace; }
small, td:nth-child(2) { color: var(--soft); }
table { display: block; overflow-x: auto; border-collapse: collapse; }
td, th { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
`;

/** Nothing but this page's own styles: no script, no image, no frame, no request to anywhere. */
export const docsHeaders = secureHeaders({
  contentSecurityPolicy: {
    defaultSrc: ["'none'"],
    styleSrc: [`'sha256-${createHash("sha256").update(styles).digest("base64")}'`],
    baseUri: ["'none'"],
    formAction: ["'none'"],
    frameAncestors: ["'none'"],
  },
  referrerPolicy: "no-referrer",
  xFrameOptions: "DENY",
  // Whether there is TLS is for whoever put it in front to say.
  strictTransportSecurity: false,
});

interface Operation {
  summary: string;
  requestBody?: { content: { "application/json": { schema: BodySchema; example: object } } };
}

interface BodySchema {
  /** Alternatives, whose properties are shown together. */
  anyOf?: readonly BodySchema[];
  properties?: Record<string, JsonObject>;
  required?: readonly string[];
}

interface Document {
  info: { title: string; version: string; description: string };
  paths: Record<string, Record<string, Operation>>;
}

export function docsPage(document: JsonObject) {
  const { info, paths } = document as unknown as Document;
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => operationView(method, path, operation)),
  );
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${info.title} API</title>
        ${raw(`<style>${styles}</style>`)}
      </head>
      <body>
        <h1>${info.title} <small>${info.version}</small></h1>
        <p>${info.description} The same for machines: <a href="/openapi.json">openapi.json</a></p>
        ${operations}
      </body>
    </html>`;
}

function operationView(method: string, path: string, { summary, requestBody }: Operation) {
  const body = requestBody?.content["application/json"];
  return html`<details>
    <summary><b>${method.toUpperCase()}</b> <code>${path}</code><br /><small>${summary}</small></summary>
    ${body ? bodyView(path, body) : ""}
  </details>`;
}

function bodyView(path: string, { schema, example }: { schema: BodySchema; example: object }) {
  const required = new Set(schema.required);
  const shown = Object.fromEntries(
    (schema.anyOf ?? [schema]).flatMap(({ properties = {} }) => Object.entries(properties)),
  );
  const rows = Object.entries(shown).sort(
    ([first], [second]) => Number(required.has(second)) - Number(required.has(first)),
  );
  const curl = `curl http://HOST:PORT${path} -H 'content-type: application/json' -d '${JSON.stringify(example)}'`;
  return html`<pre>${curl}</pre>
    <table>
      ${rows.map(
        ([name, { type, description }]) =>
          html`<tr>
            <td><code>${name}</code></td>
            <td>${required.has(name) ? "required" : typeof type === "string" ? type : ""}</td>
            <td>${typeof description === "string" ? description : ""}</td>
          </tr>`,
      )}
    </table>`;
}
