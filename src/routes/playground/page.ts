/**
 * `GET /`: the playground, a page that talks to this server as any client does. Its files are served as they lie in
 * `page/`; the page may load these, ask this server, and nothing else.
 */
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { extname } from "node:path";
import type { Context, Hono } from "hono";
import { secureHeaders } from "hono/secure-headers";
import { HttpError, quote } from "../errors.ts";
import type { AppEnv } from "../services.ts";

const folder = new URL("./page/", import.meta.url);
const contentTypes: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
};
/** Nothing else is ever read, whatever the path says. */
const files = new Set(readdirSync(folder).filter((name) => extname(name) in contentTypes));

const headers = secureHeaders({
  contentSecurityPolicy: {
    defaultSrc: ["'none'"],
    scriptSrc: ["'self'"],
    styleSrc: ["'self'"],
    imgSrc: ["'self'"],
    connectSrc: ["'self'"],
    baseUri: ["'none'"],
    formAction: ["'none'"],
    frameAncestors: ["'none'"],
    // What a model says is text, here too.
    requireTrustedTypesFor: ["'script'"],
  },
  referrerPolicy: "no-referrer",
  xFrameOptions: "DENY",
  // Whether there is TLS is for whoever put it in front to say.
  strictTransportSecurity: false,
});

export function addPage(app: Hono<AppEnv>): void {
  app.get("/", headers, (c) => send(c, "index.html"));
  app.get("/playground/:file", headers, (c) => send(c, c.req.param("file")));
}

async function send(c: Context<AppEnv>, name: string): Promise<Response> {
  if (!files.has(name)) {
    const message = `Cannot GET ${quote(c.req.path)}: expected a file of the playground, got another name`;
    throw new HttpError(404, message, { code: "unknown_url" });
  }
  return c.body(await readFile(new URL(name, folder), "utf8"), 200, {
    "content-type": contentTypes[extname(name)],
    "cache-control": "no-cache",
  });
}
