/** The API as an OpenAPI 3.1 document, made of the catalogue. */
import { toBodySchema, type JsonObject } from "./body-schema.ts";
import { catalogue, type CataloguedRoute } from "./catalogue.ts";

const nullableText = { type: ["string", "null"] };

const errorSchema: JsonObject = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["message", "type", "param", "code"],
      properties: {
        message: { type: "string" },
        type: { type: "string" },
        param: { ...nullableText, description: "the parameter at fault" },
        code: nullableText,
      },
    },
  },
};

const messagesErrorSchema: JsonObject = {
  type: "object",
  required: ["type", "error", "request_id"],
  properties: {
    type: { const: "error" },
    error: {
      type: "object",
      required: ["type", "message"],
      properties: { type: { type: "string" }, message: { type: "string" } },
    },
    request_id: { type: "string" },
  },
};

export function openApiDocument(version: string): JsonObject {
  const paths: Record<string, JsonObject> = {};
  for (const route of catalogue) {
    const path = toTemplate(route.path);
    paths[path] = { ...paths[path], [route.method]: toOperation(route) };
  }
  return {
    openapi: "3.1.1",
    info: {
      title: "Prelude",
      version,
      description: "Decoder language models over the APIs that clients know.",
    },
    servers: [{ url: "/" }],
    // None at all, too: a server may have no keys.
    security: [{}, { bearer: [] }, { apiKey: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer" },
        apiKey: { type: "apiKey", in: "header", name: "x-api-key" },
      },
      schemas: { Error: errorSchema, MessagesError: messagesErrorSchema },
      responses: {
        Error: refusal("Error"),
        MessagesError: refusal("MessagesError"),
      },
    },
  };
}

/** `/v1/models/:name{.+}` -> `/v1/models/{name}` */
export function toTemplate(path: string): string {
  return path.replaceAll(parameter, "{$1}");
}

const parameter = /:(\w+)(?:\{[^}]*\})?/g;

function toOperation({ method, path, summary, answer, body }: CataloguedRoute): JsonObject {
  const names = [...path.matchAll(parameter)].map(([, name]) => name);
  const error = `#/components/responses/${path.startsWith("/v1/messages") ? "MessagesError" : "Error"}`;
  return {
    operationId: `${method}${path.replaceAll(/[\W_]+([a-zA-Z0-9])/g, (_, letter: string) => letter.toUpperCase()).replaceAll(/\W/g, "")}`,
    summary,
    ...(names.length > 0 && { parameters: names.map(toPathParameter) }),
    ...(body && {
      requestBody: {
        required: true,
        content: { "application/json": { schema: toBodySchema(body.schema), example: body.example } },
      },
    }),
    responses: {
      "200": { description: "The answer", content: contentOf[answer] },
      "4XX": { $ref: error },
      "5XX": { $ref: error },
    },
  };
}

function toPathParameter(name: string): JsonObject {
  return { name, in: "path", required: true, schema: { type: "string" } };
}

const json = { "application/json": { schema: { type: "object" } } };
const text = { schema: { type: "string" } };

const contentOf: Record<CataloguedRoute["answer"], JsonObject> = {
  json,
  events: { ...json, "text/event-stream": text },
  stream: { "text/event-stream": text },
  text: { "text/plain": text },
  page: { "text/html": text },
};

function refusal(schema: string): JsonObject {
  return {
    description: "What is wrong",
    content: { "application/json": { schema: { $ref: `#/components/schemas/${schema}` } } },
  };
}
