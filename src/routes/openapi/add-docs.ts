/** The routes that describe the others. */
import type { Hono } from "hono";
import type { AppEnv } from "../services.ts";
import { docsHeaders, docsPage } from "./docs-page.ts";
import { openApiDocument } from "./document.ts";

export function addDocs(app: Hono<AppEnv>, version: string): void {
  let made: ReturnType<typeof openApiDocument> | undefined;
  const document = () => (made ??= openApiDocument(version));
  app.get("/openapi.json", (c) => c.json(document()));
  app.get("/docs", docsHeaders, (c) => c.html(docsPage(document())));
}
