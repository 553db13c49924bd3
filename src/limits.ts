/**
 * Every limit of the project, by name, with its unit last. A queue, loop or buffer without one here is a bug.
 * The relations that must hold between them are asserted once, when this module is loaded.
 */
import assert from "node:assert/strict";

// HTTP requests

/** Largest request body; a longer one is a 413. Holds a prompt of a million token ids. */
export const REQUEST_BODY_BYTES_MAX = 8 * 1024 * 1024;
/** Prompts of one request, each of which is a request of the engine's queue. */
export const PROMPTS_MAX = 128;
/** How long a body may take to arrive; a slower one is a 408. */
export const REQUEST_BODY_MS_MAX = 30_000;
/** Largest head of a request. */
export const REQUEST_HEADER_BYTES_MAX = 16 * 1024;
/** How long a head may take to arrive, from the connection's start or the answer before; then the connection is closed. */
export const REQUEST_HEADER_MS_MAX = 10_000;
/** How long a whole request may take to arrive, should nobody have waited for its body. */
export const REQUEST_MS_MAX = 60_000;
/** How long a connection may wait for its next request. */
export const KEEP_ALIVE_MS_MAX = 65_000;
/** How often the last three are looked after. */
export const CONNECTION_CHECK_INTERVAL_MS = 1_000;
/** How often a server that ends looks for connections that wait for nothing. */
export const IDLE_CHECK_INTERVAL_MS = 50;
/** Texts of one request to be embedded; OpenAI's own limit. */
export const EMBEDDING_INPUTS_MAX = 2048;
/** Of these, so many wait in the engine's queue at a time: others' requests must find room there too. */
export const EMBEDDINGS_AT_ONCE_MAX = 64;
/** Ids that are turned to text at once. Fills a request. */
export const TOKENS_MAX = 1024 * 1024;
/** How deep arrays and objects may nest in a request: a schema of ten levels, OpenAI's own limit, has up to four a level. */
export const JSON_DEPTH_MAX = 64;
/** Keys of one object in a request: half a million of them, which a body could hold, take seconds to be checked. */
export const JSON_OBJECT_KEYS_MAX = 4096;
export const MESSAGES_MAX = 4096;
export const CONTENT_PARTS_MAX = 1024;
/** Longest name of a participant or a tool, and longest id of a call, an item or a response. */
export const NAME_CHARS_MAX = 128;
/** Tools of a request, and calls of a message; OpenAI's own limit. */
export const TOOLS_MAX = 128;
export const STOP_STRINGS_MAX = 16;
export const STOP_STRING_CHARS_MAX = 1024;
/** Above this a distribution is uniform for every practical purpose. */
export const TEMPERATURE_MAX = 100;
/** Largest repetition penalty, and its inverse the smallest: f32 logits keep their order through either. */
export const REPETITION_PENALTY_MAX = 100;
export const STOP_TOKEN_IDS_MAX = 1024;
/** Holds the largest vocabularies twice. */
export const ALLOWED_TOKEN_IDS_MAX = 512 * 1024;
export const LOGIT_BIAS_ENTRIES_MAX = 1024;
export const BAD_WORDS_MAX = 128;
/** Each word is tokenized twice before its request is queued. */
export const BAD_WORD_CHARS_MAX = 256;
/** Most likely tokens that are listed for each token of an answer; OpenAI's own limit. */
export const TOP_LOGPROBS_MAX = 20;
export const CACHE_SALT_CHARS_MAX = 1024;
/** Longest `x-request-id` that is echoed; a longer one is replaced. */
export const REQUEST_ID_CHARS_MAX = 128;

/** Pairs of a response's metadata, and the length of each part; OpenAI's own limits. */
export const METADATA_PAIRS_MAX = 16;
export const METADATA_KEY_CHARS_MAX = 64;
export const METADATA_VALUE_CHARS_MAX = 512;
/** Names in `include`, of which there are fewer. */
export const INCLUDES_MAX = 16;

// HTTP answers

/** Responses that are kept for later requests (`store`), and what they may take together, at two bytes a character. */
export const STORED_RESPONSES_MAX = 1024;
export const STORED_RESPONSES_BYTES_MAX = 64 * 1024 * 1024;
/** Input items of a stored response that are listed at once, by default and at most; OpenAI's own. */
export const LISTED_ITEMS_DEFAULT = 20;
export const LISTED_ITEMS_MAX = 100;

/** How much of a client's own input an error message repeats: an error must not amplify a request. */
export const ERROR_ECHO_CHARS_MAX = 64;
/** A silent stream gets a comment this often: clients and proxies give up on a connection after 10 s and more. */
export const PING_INTERVAL_MS = 5_000;
/** The playground's view of the engine is renewed this often. */
export const LIVE_INTERVAL_MS = 500;
/** `Retry-After` while the model is being loaded, and from a server that is about to end. */
export const LOAD_RETRY_SECONDS = 5;
export const DRAIN_RETRY_SECONDS = 5;
/** How long a server that ends waits for the last bytes of its answers to leave. */
export const SERVER_FINISH_MS_MAX = 2_000;
/** How long browsers may keep what a preflight said. */
export const CORS_AGE_SECONDS = 600;
/** How much of a prompt is logged, where prompts are. */
export const LOG_PROMPT_CHARS_MAX = 8 * 1024;
/** `Retry-After` while the engine is gone: about what a supervisor needs for a restart. */
export const ENGINE_RETRY_SECONDS = 10;

assert(STOP_STRINGS_MAX * STOP_STRING_CHARS_MAX < REQUEST_BODY_BYTES_MAX, "stop strings fit a request");
assert(
  MESSAGES_MAX * '{"role":"user","content":"?"},'.length < REQUEST_BODY_BYTES_MAX,
  "messages fit a request",
);
assert(ALLOWED_TOKEN_IDS_MAX * "524287,".length < REQUEST_BODY_BYTES_MAX, "a vocabulary fits a request");
assert(STOP_TOKEN_IDS_MAX < ALLOWED_TOKEN_IDS_MAX, "an answer can have tokens that do not end it");
assert(
  LOGIT_BIAS_ENTRIES_MAX * '"524287":-99.99999999999999,'.length < REQUEST_BODY_BYTES_MAX,
  "biases fit a request",
);
assert(BAD_WORDS_MAX * BAD_WORD_CHARS_MAX < REQUEST_BODY_BYTES_MAX, "bad words fit a request");
assert(REQUEST_HEADER_MS_MAX + REQUEST_BODY_MS_MAX < REQUEST_MS_MAX, "a slow body gets an answer");
assert(
  KEEP_ALIVE_MS_MAX > 60_000,
  "load balancers, whose own limit is often 60 s, close idle connections first",
);
assert(LOGIT_BIAS_ENTRIES_MAX <= JSON_OBJECT_KEYS_MAX, "biases fit an object");
assert(JSON_DEPTH_MAX > 5, "messages with content parts fit the JSON depth");
assert(STORED_RESPONSES_BYTES_MAX >= 4 * REQUEST_BODY_BYTES_MAX, "the largest request can be stored");
assert(PING_INTERVAL_MS < 10_000, "pings come before clients give up");

// Engine

/** Requests under way, waiting ones included; one more is refused. */
export const QUEUED_REQUESTS_MAX = 1024;
/** Prompt tokens of these together; a lone request may have more. */
export const QUEUED_TOKENS_MAX = 4 * 1024 * 1024;
/**
 * Logits of prompts' own tokens (`prompt_logprobs`) that a step computes and reads back: 110 rows of a vocabulary of
 * 152,064. A longer prompt takes more steps.
 */
export const PROMPT_LOGITS_BYTES_MAX = 64 * 1024 * 1024;
/** How often Dawn asks a CPU adapter for results, where a decode step of the smallest model takes 20 ms. */
export const DAWN_POLL_INTERVAL_MS = 1;
/** `Retry-After` when the queue is full. */
export const QUEUE_RETRY_SECONDS = 1;

assert(EMBEDDINGS_AT_ONCE_MAX < QUEUED_REQUESTS_MAX, "embeddings leave room in the queue");
assert(PROMPTS_MAX < QUEUED_REQUESTS_MAX, "the prompts of a request fit the queue");

// Tools

/** A timeline (`--trace`) ends at this size: some hundred thousand steps, and what a viewer can load. */
export const TRACE_FILE_BYTES_MAX = 512 * 1024 * 1024;
/** A file of tuned kernels, and the shapes in it: a model has some hundred. */
export const TUNING_FILE_BYTES_MAX = 4 * 1024 * 1024;
export const TUNING_SHAPES_MAX = 4096;
/** Events of an answer that wait for its reader before its request is paused. */
export const READER_EVENTS_MAX = 256;
/** A reader that takes nothing for so long while its request is paused is dropped. */
export const SLOW_READER_MS_MAX = 60_000;
/** Last steps that the engine's numbers list. */
export const STATS_STEPS_MAX = 64;
/** After so many steps that decodes filled, a waiting prefill gets its share anyway. */
export const STARVATION_STEPS_MAX = 16;

// Structured output

/** Threads that compile grammars and follow answers. The second keeps streams going while the first compiles. */
export const GRAMMAR_THREADS_MAX = 3;
/** A grammar that takes longer to compile is refused, and its thread is ended. */
export const GRAMMAR_COMPILE_MS_MAX = 10_000;
/** A thread that takes longer to follow its answers by a token, or to start, is taken for hung. */
export const GRAMMAR_MOVE_MS_MAX = 10_000;
export const GRAMMAR_START_MS_MAX = 30_000;
/** Compiled grammars that a thread keeps; the one that was used longest ago goes first. */
export const GRAMMARS_KEPT_MAX = 64;
/** Grammars that wait to be compiled by a thread. */
export const GRAMMARS_WAITING_MAX = 32;
/** Memory of a thread's compiled grammars; one that would need more is refused. */
export const GRAMMAR_MEMORY_BYTES_MAX = 1024 * 1024 * 1024;

/** Length of a regular expression, and how often it may repeat one of its parts. */
export const REGEX_CHARS_MAX = 4096;
export const REGEX_REPEATS_MAX = 1024;
/** Length of a grammar's text, or of a schema's as JSON. */
export const GRAMMAR_CHARS_MAX = 128 * 1024;
/** Schemas within a schema, itself included. */
export const SCHEMA_PARTS_MAX = 4096;
export const SCHEMA_DEPTH_MAX = 32;
/** Values of one `enum`. */
export const ENUM_VALUES_MAX = 1024;
/** Bounds on the length of a string and of an array: each step up to it is a state of the grammar. */
export const SCHEMA_LENGTH_MAX = 1024;
export const SCHEMA_ITEMS_MAX = 1024;
export const CHOICES_MAX = 1024;
