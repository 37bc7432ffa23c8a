/* Options: see options.h. The tables come first; parsing walks them. */
#include "server/cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/accounts/accounts.h"
#include "server/accounts/db.h"
#include "server/accounts/prune.h"
#include "server/cli/options_table.h"
#include "server/ip.h"
#include "server/remote_url.h"

enum {
    MODEL_COMMANDS = ON(SERVE) | ON(GENERATE) | ON(LOGITS) | ON(EVAL) | ON(CHAT) | ON(WORKER) | ON(MODELS),
    LOG_COMMANDS = ON(SERVE) | ON(WORKER) | ON(MEDIA) | ON(PULL)
};
#define MAX_ID 9e15 /* whole numbers below are exact in a double */
#define MAX_COUNT 1e12
enum {
    RELOADS = MARK_RELOADS,
    NO_KEY = MARK_NO_KEY,
    ACCESS = MARK_ACCESS,
    ENGINE = MARK_ENGINE,
    LOG = MARK_LOG,
    ALERTS = MARK_ALERTS,
};

const struct command_row option_commands[COMMANDS] = {
    [COMMAND_SERVE] = {"serve", "[MODEL ...]", "serve models behind the OpenAI API (MODEL: a folder, owner/name of the hub, or demo)",
                       false},
    [COMMAND_GENERATE] = {"generate", "MODEL --prompt TEXT", "answer one prompt on standard output", false},
    [COMMAND_TOKENIZE] = {"tokenize", "MODEL", "print the token ids of a text (standard input or --text)", false},
    [COMMAND_LOGITS] = {"logits", "MODEL --out DIR", "write the logits of a prompt as .npy files", false},
    [COMMAND_EVAL] = {"eval", "MODEL [--against MODEL]", "measure a model's perplexity on a text, and how far another model is from it",
                      false},
    [COMMAND_KEYS] = {"keys", "add [NAME] | list | set ID | rotate ID | revoke ID", "make, list, change, rotate and revoke API keys",
                      false},
    [COMMAND_ACCOUNTS] = {"accounts", "COMMAND [ARGUMENT ...]", "projects and their money: balances, budgets, prices, statements, backups",
                          false},
    [COMMAND_MODELS] = {"models", "list | load MODEL | unload NAME", "list, load and unload the models of a running server", false},
    [COMMAND_PULL] = {"pull", "OWNER/NAME[@REVISION]", "download a model from the Hugging Face Hub into its usual cache", false},
    [COMMAND_CHAT] = {"chat", "[MODEL | URL]", "talk with a model in the terminal (MODEL: a folder, or demo; URL: of a server)", false},
    [COMMAND_DOCTOR] = {"doctor", "[MODEL ...]", "look at this machine and at model folders, and say what to do", false},
    [COMMAND_CONFIG] = {"config", "check FILE", "check a configuration file", false},
    [COMMAND_BENCH] = {"bench", "[--targets LIST]", "measure speed and cost of our own server beside hosted providers", false},
    [COMMAND_WORKER] = {"worker", "MODEL", "one model's engine (started by serve)", true},
    [COMMAND_MEDIA] = {"media", "", "picture decoder (started by serve)", true},
};

#define F(x) offsetof(struct options, x)
const struct option_row option_rows[] = {
    {ON(SERVE) | ON(WORKER) | NO_KEY, "--name", "NAME", OPTION_TEXT, F(name), 0, 0, NULL,
     "the model's id (default: the folder's name); one MODEL only"},
    {ON(SERVE), "--no-model", NULL, OPTION_FLAG, F(no_model), 0, 0, NULL, "no local model, also not the built-in one: hosted providers only"},
    {ON(SERVE) | ON(DOCTOR), "--listen", "HOST:PORT", OPTION_ADDRESS, F(listen), 0, 0, "127.0.0.1:8080",
     "address to serve on; port 0 takes a free one"},
    {ON(SERVE) | ON(KEYS) | ON(ACCOUNTS) | ON(DOCTOR), "--data", "DIR", OPTION_TEXT, F(data), 0, 0, NULL,
     "accounts and keys (default: $XDG_DATA_HOME/spillway)"},
    {ON(SERVE) | ON(KEYS) | ON(ACCOUNTS), "--store", "URL", OPTION_STORE, F(store), 0, 0, NULL,
     "the accounts are in PostgreSQL, postgresql://USER@HOST/DATABASE, with the password from PGPASSFILE (default: SQLite in --data)"},
    {ON(SERVE) | ACCESS, "--no-auth", NULL, OPTION_FLAG, F(no_auth), 0, 0, NULL, "serve without API keys; only on a loopback address"},
    {ON(SERVE) | ACCESS | RELOADS, "--api-key-file", "FILE", OPTION_TEXT, F(api_key_file), 0, 0, NULL,
     "the first key is in this file (or in $SPILLWAY_API_KEY)"},
    {ON(SERVE) | ACCESS | RELOADS, "--tls-cert", "FILE", OPTION_TEXT, F(tls_cert), 0, 0, NULL,
     "serve HTTPS with this certificate and its chain (PEM)"},
    {ON(SERVE) | ACCESS | RELOADS, "--tls-key", "FILE", OPTION_TEXT, F(tls_key), 0, 0, NULL, "the certificate's private key (PEM)"},
    {ON(SERVE) | ACCESS | RELOADS, "--trusted-proxy", "NETWORK", OPTION_NETWORKS, F(trusted_proxies), 0, 0, NULL,
     "believe X-Forwarded-For of proxies in this network, such as 10.0.0.0/8; may be given several times"},
    {ON(SERVE) | ACCESS | RELOADS, "--allow-host", "NAME", OPTION_NAMES, F(allow_hosts), 0, 0, NULL,
     "a name by which the server may be called; on a loopback address its own names are always allowed"},
    {ON(SERVE) | ACCESS | RELOADS, "--allow-origin", "ORIGIN", OPTION_ORIGINS, F(allow_origins), 0, 0, NULL,
     "a web page's origin, such as https://example.org, that may call the server (CORS); * for any"},
    {ON(SERVE) | ACCESS, "--remote-images", "off|https|http", OPTION_CHOICE, F(remote_images), 0, 0, "off",
     "fetch pictures that requests name by URL; http: also without TLS (docs/images.md)"},
    {ON(SERVE) | ACCESS, "--remote-image-host", "HOST", OPTION_HOSTS, F(remote_image_hosts), 0, 0, NULL,
     "fetch from this host only, such as example.org, *.example.org or *:8080; may be given several times (default: any, at ports 80 and 443)"},
    {ON(SERVE) | ACCESS, "--remote-image-network", "NETWORK", OPTION_NETWORKS, F(remote_image_nets), 0, 0, NULL,
     "fetch also from addresses in this network, such as 10.0.0.0/8, though they are not public; may be given several times"},
    {ON(KEYS), "--admin", NULL, OPTION_FLAG, F(admin), 0, 0, NULL, "add: a key for /healthz and /admin, which the API refuses"},
    {ON(KEYS), "--expires", "WHEN", OPTION_TEXT, F(expires), 0, 0, NULL,
     "add, rotate: 30d, 12h, 2026-12-31 (00:00 UTC), 2026-12-31T18:30Z or never"},
    {ON(KEYS), "--weight", "N", OPTION_INT, F(weight), 1, ACCOUNTS_MAX_WEIGHT, NULL,
     "add, set: the key's share of a busy engine beside the others' (default: 1)"},
    {ON(KEYS), "--priority", "N", OPTION_INT, F(priority), -ACCOUNTS_MAX_PRIORITY, ACCOUNTS_MAX_PRIORITY, NULL,
     "add, set: requests of a higher one go first, whatever the shares (default: 0)"},
    {ON(KEYS), "--grace", "TIME", OPTION_TEXT, F(grace), 0, 0, "24h", "rotate: how long the former secret stays valid; 0s: not at all"},
    {ON(KEYS) | ON(ACCOUNTS), "--project", "ID", OPTION_INT, F(project), 1, MAX_ID, NULL,
     "keys add: the project that pays (default: 2, the first); accounts usage: only this one"},
    {ON(ACCOUNTS), "--organisation", "ID", OPTION_INT, F(organisation), 1, MAX_ID, "1", "create project: in which one"},
    {ON(ACCOUNTS), "--keys", NULL, OPTION_FLAG, F(keys), 0, 0, NULL, "list: also keys"},
    {ON(ACCOUNTS), "--note", "TEXT", OPTION_TEXT, F(note), 0, 0, NULL, "deposit, refund, adjust, chargeback, pay: what for"},
    {ON(ACCOUNTS), "--linked", "ID", OPTION_INT, F(linked), 1, MAX_ID, NULL,
     "refund, adjust, chargeback, pay: the transfer that it is about"},
    {ON(ACCOUNTS), "--once", "KEY", OPTION_TEXT, F(once), 0, 0, NULL,
     "deposit, refund, adjust, chargeback, pay: however often it is said with this key, it is done once"},
    {ON(ACCOUNTS), "--unit", "usd|requests|tokens", OPTION_CHOICE, F(unit), 0, 0, "usd", "budget add: of what"},
    {ON(ACCOUNTS), "--period", "now|minute|hour|day|month|total", OPTION_CHOICE, F(period), 0, 0, "month",
     "budget add: in which time, UTC; now: at once"},
    {ON(ACCOUNTS), "--scope", "all|hosted|overflow", OPTION_CHOICE, F(scope), 0, 0, "all",
     "budget add: which requests count; overflow: those that a provider takes in place of a local model"},
    {ON(ACCOUNTS), "--alert", NULL, OPTION_FLAG, F(alert), 0, 0, NULL, "budget add: only tells when it is used up; refuses nothing"},
    {ON(ACCOUNTS), "--rpm", "N", OPTION_INT, F(rpm), 0, MAX_COUNT, NULL, "limit: requests a minute; 0: no limit"},
    {ON(ACCOUNTS), "--tpm", "N", OPTION_INT, F(tpm), 0, MAX_COUNT, NULL, "limit: tokens a minute, prompt and answer; 0: no limit"},
    {ON(ACCOUNTS), "--concurrency", "N", OPTION_INT, F(concurrency), 0, MAX_COUNT, NULL, "limit: requests at once; 0: no limit"},
    {ON(ACCOUNTS), "--providers", "NAME,...", OPTION_TEXT, F(rules[RULE_PROVIDERS]), 0, 0, NULL,
     "rules: the only providers that may serve; any: no such rule, here and below"},
    {ON(ACCOUNTS), "--models", "NAME,...", OPTION_TEXT, F(rules[RULE_MODELS]), 0, 0, NULL,
     "rules: the only models, as answers name them: demo, groq/llama-3.1-8b-instant; a * ends what names begin with: openai/gpt-4o*"},
    {ON(ACCOUNTS), "--regions", "NAME,...", OPTION_TEXT, F(rules[RULE_REGIONS]), 0, 0, NULL,
     "rules: the only regions of providers; one whose region is not known is not among them"},
    {ON(ACCOUNTS), "--local-only", "on|off", OPTION_CHOICE, F(rules[RULE_LOCAL_ONLY]), 0, 0, NULL, "rules: nothing leaves the house"},
    {ON(ACCOUNTS), "--zero-retention", "on|off", OPTION_CHOICE, F(rules[RULE_ZERO_RETENTION]), 0, 0, NULL,
     "rules: only providers that are known to keep nothing"},
    {ON(ACCOUNTS), "--max-price-in", "USD", OPTION_TEXT, F(rules[RULE_MAX_PRICE_IN]), 0, 0, NULL,
     "rules: the highest price of a million tokens of input"},
    {ON(ACCOUNTS), "--max-price-out", "USD", OPTION_TEXT, F(rules[RULE_MAX_PRICE_OUT]), 0, 0, NULL, "rules: the same of output"},
    {ON(ACCOUNTS), "--max-price-request", "USD", OPTION_TEXT, F(rules[RULE_MAX_PRICE_REQUEST]), 0, 0, NULL,
     "rules: the most that one request may cost"},
    {ON(ACCOUNTS), "--policy", "NAME", OPTION_TEXT, F(rules[RULE_POLICY]), 0, 0, NULL,
     "rules: local-first, cheapest, fastest, priority or weighted, where a model's name says nothing"},
    {ON(ACCOUNTS), "--overflow-usd-per-hour", "USD", OPTION_TEXT, F(rules[RULE_OVERFLOW_USD_PER_HOUR]), 0, 0, NULL,
     "rules of a project or key: what it may spend in an hour on what stands in for a local model"},
    {ON(ACCOUNTS), "--overflow-share", "PERCENT", OPTION_TEXT, F(rules[RULE_OVERFLOW_SHARE]), 0, 0, NULL,
     "rules: how many of an hour's requests may go there, such as 25%"},
    {ON(ACCOUNTS), "--overflow-providers", "NAME,...", OPTION_TEXT, F(rules[RULE_OVERFLOW_PROVIDERS]), 0, 0, NULL,
     "rules: the only providers that may stand in"},
    {ON(ACCOUNTS), "--overflow-regions", "NAME,...", OPTION_TEXT, F(rules[RULE_OVERFLOW_REGIONS]), 0, 0, NULL, "rules: and their regions"},
    {ON(ACCOUNTS), "--overflow-usd-in", "USD", OPTION_TEXT, F(rules[RULE_OVERFLOW_USD_IN]), 0, 0, NULL,
     "rules: the highest price of what stands in, of a million tokens of input"},
    {ON(ACCOUNTS), "--overflow-usd-out", "USD", OPTION_TEXT, F(rules[RULE_OVERFLOW_USD_OUT]), 0, 0, NULL,
     "rules: the same of output"},
    {ON(ACCOUNTS), "--overflow-usd-request", "USD", OPTION_TEXT, F(rules[RULE_OVERFLOW_USD_REQUEST]), 0, 0, NULL,
     "rules: and of one request"},
    {ON(ACCOUNTS), "--input", "USD", OPTION_TEXT, F(input_usd), 0, 0, NULL, "price set: for a million tokens of input"},
    {ON(ACCOUNTS), "--cached", "USD", OPTION_TEXT, F(cached_usd), 0, 0, NULL,
     "price set: of them those found in a cache (default: as --input)"},
    {ON(ACCOUNTS), "--output", "USD", OPTION_TEXT, F(output_usd), 0, 0, NULL, "price set: for a million tokens of output"},
    {ON(ACCOUNTS), "--free", NULL, OPTION_FLAG, F(free), 0, 0, NULL, "price set: it costs nothing"},
    {ON(ACCOUNTS), "--price-file", "FILE", OPTION_TEXT, F(price_file), 0, 0, NULL,
     "price set: all meters and tiers, one model's object as in docs/prices.md"},
    {ON(ACCOUNTS), "--month", "YYYY-MM", OPTION_TEXT, F(month), 0, 0, NULL, "statement: of which month, UTC (default: this one)"},
    {ON(ACCOUNTS), "--by", "NAME,...", OPTION_TEXT, F(by), 0, 0, "project,day", "usage: day, project, key, model, supplier, tag"},
    {ON(ACCOUNTS), "--from", "YYYY-MM-DD", OPTION_TEXT, F(from), 0, 0, NULL,
     "usage, export, break-even: from this day on, UTC (default: this month's first; export: all; break-even: 30 days ago)"},
    {ON(ACCOUNTS), "--to", "YYYY-MM-DD", OPTION_TEXT, F(to), 0, 0, NULL, "usage, export, break-even: up to this day and with it (default: today)"},
    {ON(ACCOUNTS), "--supplier", "NAME", OPTION_TEXT, F(supplier), 0, 0, NULL, "reconcile: whose export it is, as accounts list names it"},
    {ON(ACCOUNTS), "--threshold", "USD", OPTION_TEXT, F(threshold), 0, 0, "0.01", "reconcile: a difference up to that is none"},
    {ON(ACCOUNTS), "--token-threshold", "N", OPTION_INT, F(token_threshold), 0, MAX_COUNT, "0", "reconcile: the same of tokens"},
    {ON(ACCOUNTS), "--close", NULL, OPTION_FLAG, F(close), 0, 0, NULL,
     "reconcile: what agrees need not be looked at any more (its entries in `reconciliation` are closed)"},
    {ON(ACCOUNTS), "--older-than", "DAYS", OPTION_INT, F(older_than), PRUNE_MIN_DAYS, 36500, NULL,
     "prune: requests that ended so many days ago; balances, transfers and sums by day stay"},
    {ON(KEYS) | ON(ACCOUNTS) | ON(MODELS) | ON(DOCTOR) | ON(EVAL), "--json", NULL, OPTION_FLAG, F(json), 0, 0, NULL, "for scripts"},
    {ON(SERVE) | ENGINE | RELOADS, "--model-root", "DIR", OPTION_NAMES, F(model_roots), 0, 0, NULL,
     "a folder from below which an admin key may load models (POST /admin/models); may be given several times"},
    {ON(SERVE) | ENGINE | RELOADS, "--default-max-tokens", "N", OPTION_INT, F(default_max_tokens), 1, 1 << 20, "4096",
     "bound of an answer when the request sets none"},
    {ON(SERVE) | RELOADS, "--overflow-usd-per-hour", "USD", OPTION_TEXT, F(overflow_usd_per_hour), 0, 0, NULL,
     "what may be spent in an hour on providers that stand in for a local model (default: nothing)"},
    {ON(SERVE), "--retain-requests", "DAYS", OPTION_INT, F(retain_requests), 0, 36500, "0",
     "take away requests that ended so many days ago (2 at least), as spillway accounts prune does; 0: keep them"},
    {ON(SERVE) | RELOADS, "--overflow-share", "PERCENT", OPTION_TEXT, F(overflow_share), 0, 0, "100",
     "of an hour's requests for local models, at most so many may go to providers instead"},
    {ON(SERVE) | RELOADS, "--overflow-usd-in", "USD", OPTION_TEXT, F(overflow_usd_in), 0, 0, NULL,
     "no provider that takes more for a million input tokens stands in (default: any price)"},
    {ON(SERVE) | RELOADS, "--overflow-usd-out", "USD", OPTION_TEXT, F(overflow_usd_out), 0, 0, NULL, "the same for output tokens"},
    {ON(SERVE) | RELOADS, "--route-policy", "local-first|cheapest|fastest|priority|weighted", OPTION_CHOICE, F(route_policy), 0, 0, "local-first",
     "in which order the models that a name leads to are asked (docs/routing.md)"},
    {ON(SERVE) | ALERTS, "--alert-url", "URL", OPTION_TEXT, F(alert_url), 0, 0, NULL,
     "alerts are sent there, signed, beside the log (docs/accounts.md)"},
    {ON(SERVE) | ALERTS, "--alert-secret-file", "FILE", OPTION_TEXT, F(alert_secret_file), 0, 0, NULL,
     "what they are signed with is in this file (or in $SPILLWAY_ALERT_SECRET): whsec_ and base64"},
    {ON(SERVE) | ALERTS | RELOADS, "--alert-every", "SECONDS", OPTION_INT, F(alert_every_s), 1, 3600, "60", "how often is looked"},
    {ON(SERVE) | ALERTS | RELOADS, "--alert-spend-factor", "N", OPTION_INT, F(alert_spend_factor), 1, 1000, "4",
     "an hour's spend is told when it is more than so many times the usual"},
    {ON(SERVE) | ALERTS | RELOADS, "--alert-spend-floor", "USD", OPTION_TEXT, F(alert_spend_floor), 0, 0, "1.00", "and at least so much"},
    {ON(SERVE) | ALERTS | RELOADS, "--alert-error-percent", "N", OPTION_INT, F(alert_error_per_cent), 1, 100, "20",
     "suddenly so many requests have failed"},
    {ON(SERVE) | ALERTS | RELOADS, "--alert-overflow-percent", "N", OPTION_INT, F(alert_overflow_per_cent), 1, 100, "50",
     "suddenly so many have gone to a provider in place of a local model"},
    {ON(SERVE) | ENGINE, "--media-processes", "N", OPTION_INT, F(media_processes), 1, 16, "1", "picture decoders"},
    {LOG_COMMANDS | LOG | RELOADS, "--log-level", "error|warn|info|debug", OPTION_CHOICE, F(log_level), 0, 0, "info",
     "what standard error tells"},
    {LOG_COMMANDS | LOG, "--log-format", "text|json", OPTION_CHOICE, F(log_format), 0, 0, "text",
     "lines of text, or one JSON object a line"},
    {MODEL_COMMANDS | ON(DOCTOR) | ENGINE, "--device", "cpu|cuda|auto", OPTION_CHOICE, F(device), 0, 0, "auto", "where the model runs"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ON(GENERATE) | ON(LOGITS) | ON(EVAL) | ON(DOCTOR) | ENGINE, "--gpus", "N,N,...", OPTION_GPUS,
     F(gpus), 0, 0, NULL,
     "GPUs by number, as the process sees them; serve: a copy of the model on each, which share the requests; else one. Not with --device "
     "cpu "
     "(default: the first)"},
    {MODEL_COMMANDS | ON(DOCTOR) | ENGINE, "--cuda-library", "FILE", OPTION_TEXT, F(cuda_library), 0, 0, NULL,
     "the CUDA backend; default: libspillway_cuda.so beside the program"},
    {MODEL_COMMANDS | ENGINE, "--threads", "N", OPTION_INT, F(threads), 0, 1024, "0", "threads of the engine; 0: one a core"},
    {MODEL_COMMANDS | ENGINE, "--compute", "f32|bf16|auto", OPTION_CHOICE, F(compute), 0, 0, "auto", "precision of activations"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ON(GENERATE) | ON(LOGITS) | ON(EVAL) | ENGINE, "--decode", "exact|fast",
     OPTION_CHOICE, F(decode_path), 0, 0, "exact",
     "exact: a request's tokens do not depend on what else runs; fast: they may, where a GPU is faster so; one path on the CPU"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ON(GENERATE) | ON(LOGITS) | ON(EVAL) | ENGINE, "--kv-dtype", "auto|f32|bf16|int8|fp8",
     OPTION_CHOICE, F(kv_dtype), 0, 0, "auto", "numbers of the KV cache; auto: as --compute"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ON(GENERATE) | ON(LOGITS) | ENGINE, "--pin-threads", NULL, OPTION_FLAG, F(pin_threads), 0, 0,
     NULL, "each thread of the engine stays on one processor; for machines that do nothing else"},
    {MODEL_COMMANDS | ENGINE, "--quant", "none|int8|int4|fp8", OPTION_CHOICE, F(quant), 0, 0, "none",
     "quantise the text layers' weights when they are loaded"},
    {MODEL_COMMANDS | ENGINE, "--quant-head", "none|int8|int4|fp8|auto", OPTION_CHOICE, F(quant_head), 0, 0, "auto",
     "the same for head and embedding; auto: fp8 with --quant fp8, int8 with another"},
    {MODEL_COMMANDS | ENGINE, "--quant-vision", "none|int8|fp8", OPTION_CHOICE, F(quant_vision), 0, 0, "none",
     "the same for the vision model"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ENGINE, "--kv-tokens", "N", OPTION_INT, F(kv_tokens), 0, 1 << 28, "0",
     "tokens the KV cache holds; 0: by the model"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ENGINE, "--cache-scope", "account|shared", OPTION_CHOICE, F(cache_scope), 0, 0, "account",
     "who finds prompts and pictures that were computed before: each key its own, or all keys everyone's (docs/security.md)"},
    {ON(SERVE) | ON(WORKER) | ON(MODELS) | ENGINE, "--speculation", "lookup|off", OPTION_CHOICE, F(speculation), 0, 0, "lookup",
     "lookup: guess tokens from the text so far and check several at once, where that is faster; answers stay the same"},
    {ON(GENERATE) | ON(LOGITS) | ON(WORKER), "--random-weights", "SHAPE:SEED", OPTION_TEXT, F(random_weights), 0, 0, NULL,
     "no MODEL: random weights of a known shape"},
    {ON(CHAT), "--name", "NAME", OPTION_TEXT, F(name), 0, 0, NULL, "the model to ask a URL for (default: the first it lists)"},
    {ON(CHAT), "--api-key-file", "FILE", OPTION_TEXT, F(api_key_file), 0, 0, NULL,
     "a URL's API key is in this file (or in $SPILLWAY_API_KEY)"},
    {ON(DOCTOR), "--api-key-file", "FILE", OPTION_TEXT, F(api_key_file), 0, 0, NULL, "a key file to look at"},
    {ON(PULL), "--retries", "N", OPTION_INT, F(retries), 0, 100, "5", "tries more of a request that brings nothing, before giving up"},
    {ON(MODELS), "--url", "URL", OPTION_TEXT, F(url), 0, 0, "http://127.0.0.1:8080", "the server"},
    {ON(MODELS), "--api-key-file", "FILE", OPTION_TEXT, F(api_key_file), 0, 0, NULL,
     "an admin key is in this file (or in $SPILLWAY_API_KEY)"},
    {ON(MODELS), "--name", "NAME", OPTION_TEXT, F(name), 0, 0, NULL,
     "load: the model's id (default: the folder's name); options above that are not given are as the server has them"},
    {ON(CHAT), "--system", "TEXT", OPTION_TEXT, F(system), 0, 0, NULL, "what the model is told before the talk"},
    {ON(CHAT), "--max-tokens", "N", OPTION_INT, F(max_tokens), 1, 1 << 20, NULL, "bound of an answer (default: the server's)"},
    {ON(GENERATE), "--prompt", "TEXT", OPTION_TEXT, F(prompt), 0, 0, NULL, "what the user says"},
    {ON(GENERATE) | ON(LOGITS) | ON(CHAT), "--image", "FILE", OPTION_IMAGES, 0, 0, 0, NULL, "a picture; may be given several times"},
    {ON(GENERATE) | ON(LOGITS), "--image-detail", "low|high", OPTION_CHOICE, F(image_detail), 0, 0, "high", "low: one tile a picture"},
    {ON(GENERATE), "--max-tokens", "N", OPTION_INT, F(max_tokens), 1, 1 << 20, "512", "bound of the answer"},
    {ON(LOGITS), "--max-tokens", "N", OPTION_INT, F(max_tokens), 0, 1 << 20, "32", "greedy tokens written to greedy.json"},
    {ON(GENERATE) | ON(CHAT), "--temperature", "T", OPTION_REAL, F(temperature), 0, 2, NULL, "0: greedy (default: the model's own)"},
    {ON(TOKENIZE), "--text", "TEXT", OPTION_TEXT, F(text), 0, 0, NULL, "the text, instead of standard input"},
    {ON(TOKENIZE), "--decode", NULL, OPTION_FLAG, F(decode), 0, 0, NULL, "the text is ids; print what they stand for"},
    {ON(LOGITS), "--tokens", "FILE", OPTION_TEXT, F(tokens_file), 0, 0, NULL, "JSON array of token ids"},
    {ON(LOGITS), "--prompt-file", "FILE", OPTION_TEXT, F(prompt_file), 0, 0, NULL,
     "rendered, trusted prompt; <image> marks are filled in order"},
    {ON(LOGITS), "--messages", "FILE", OPTION_TEXT, F(messages_file), 0, 0, NULL, "OpenAI messages (JSON array)"},
    {ON(LOGITS), "--out", "DIR", OPTION_TEXT, F(out), 0, 0, NULL, "where input_ids.npy, tiles_u8.npy, logits.npy, greedy.json go"},
    {ON(EVAL), "--against", "MODEL", OPTION_TEXT, F(against), 0, 0, NULL,
     "a second model, held against the first; with --against-... alone it is the first once more"},
    {ON(EVAL), "--against-compute", "f32|bf16|auto", OPTION_CHOICE, F(against_compute), 0, 0, NULL,
     "--compute of the second model (default: as the first)"},
    {ON(EVAL), "--against-quant", "none|int8|int4|fp8", OPTION_CHOICE, F(against_quant), 0, 0, NULL, "its --quant"},
    {ON(EVAL), "--against-quant-head", "none|int8|int4|fp8|auto", OPTION_CHOICE, F(against_quant_head), 0, 0, NULL, "its --quant-head"},
    {ON(EVAL), "--against-quant-vision", "none|int8|fp8", OPTION_CHOICE, F(against_quant_vision), 0, 0, NULL, "its --quant-vision"},
    {ON(EVAL), "--against-kv-dtype", "auto|f32|bf16|int8|fp8", OPTION_CHOICE, F(against_kv_dtype), 0, 0, NULL, "its --kv-dtype"},
    {ON(EVAL), "--text", "FILE", OPTION_TEXT, F(text), 0, 0, NULL, "the text (default: the one that comes with the built-in model)"},
    {ON(EVAL), "--after", "TEXT", OPTION_TEXT, F(after), 0, 0, NULL,
     "count only what follows TEXT, up to the next control token: a model's answers in a written talk"},
    {ON(EVAL), "--window", "N", OPTION_INT, F(window), 2, 1 << 20, "512", "tokens that are computed as one sequence, at most the context"},
    {ON(EVAL), "--stride", "N", OPTION_INT, F(stride), 0, 1 << 20, "0", "tokens from one window to the next; 0: half a window"},
    {ON(BENCH), "--targets", "LIST", OPTION_TEXT, F(targets), 0, 0, "local",
     "who is asked, with commas between: local[:MODEL][@URL], PROVIDER:MODEL[@URL] or URL[#MODEL]"},
    {ON(BENCH), "--workload", "chat-short|chat-long|shared-prefix|summarise|image", OPTION_CHOICE, F(workload), 0, 0, NULL,
     "what is asked (default: chat-short)"},
    {ON(BENCH), "--requests", "FILE", OPTION_TEXT, F(requests), 0, 0, NULL, "instead: one chat request of OpenAI's form a line"},
    {ON(BENCH), "--count", "N", OPTION_INT, F(count), 1, 100000, NULL, "requests measured at each target (default: 20)"},
    {ON(BENCH), "--duration", "SECONDS", OPTION_INT, F(duration_s), 1, 86400, NULL,
     "begin no more after so long; with --count what comes first"},
    {ON(BENCH), "--concurrency", "N", OPTION_INT, F(concurrency), 1, 1024, "1", "requests at once: the next begins when one has ended"},
    {ON(BENCH), "--rate", "R", OPTION_REAL, F(rate), 0.001, 10000, NULL,
     "instead: R requests a second at random times, whatever becomes of those before"},
    {ON(BENCH), "--warmup", "N", OPTION_INT, F(warmup), 0, 1000, "1", "requests to each target that are not measured; they cost, too"},
    {ON(BENCH), "--timeout", "SECONDS", OPTION_INT, F(timeout_s), 1, 3600, "120", "a request's whole time"},
    {ON(BENCH), "--max-tokens", "N", OPTION_INT, F(max_tokens), 1, 1 << 20, NULL,
     "bound of each answer (default: the request's, else 256)"},
    {ON(BENCH), "--seed", "N", OPTION_INT, F(seed), 0, INT32_MAX, "1", "of the workload and of --rate"},
    {ON(BENCH), "--max-cost", "USD", OPTION_TEXT, F(max_cost), 0, 0, NULL,
     "stop before all together could have cost more; without a terminal to ask on it also allows as much"},
    {ON(BENCH), "--yes", NULL, OPTION_FLAG, F(yes), 0, 0, NULL, "allow the predicted cost without a question"},
    {ON(BENCH), "--dry-run", NULL, OPTION_FLAG, F(dry_run), 0, 0, NULL, "print the plan and what it can cost; send nothing"},
    {ON(BENCH), "--api-key-file", "FILE", OPTION_TEXT, F(api_key_file), 0, 0, NULL,
     "the key of servers on this machine is in this file (or in $SPILLWAY_API_KEY); providers' keys are in OPENAI_API_KEY and so on"},
    {ON(BENCH), "--target-key", "N=FILE", OPTION_NAMES, F(target_keys), 0, 0, NULL,
     "the key of the Nth target is in this file; may be given several times"},
    {ON(BENCH), "--price", "N=IN/OUT", OPTION_NAMES, F(prices_given), 0, 0, NULL,
     "what the Nth target takes for a million tokens, in dollars; may be given several times"},
    {ON(BENCH), "--prices", "FILE", OPTION_TEXT, F(prices), 0, 0, NULL, "the price book (default: the program's own; docs/prices.md)"},
    {ON(BENCH), "--gpu-hour", "USD", OPTION_TEXT, F(gpu_hour), 0, 0, NULL,
     "what an hour of our own machine costs: adds its cost of a million tokens, and where it breaks even"},
    {ON(BENCH), "--json", "FILE", OPTION_TEXT, F(json_file), 0, 0, NULL, "write all figures to this file"},
    {ON(SERVE) | NO_KEY, "--config", "FILE", OPTION_TEXT, F(config), 0, 0, NULL,
     "read options from this YAML file; the command line wins (spillway config check FILE; docs/configuration.md)"},
    {ON(SERVE) | NO_KEY, "--print-config", NULL, OPTION_FLAG, F(print_config), 0, 0, NULL,
     "print the configuration in effect as such a file, and leave"},
    {((1u << COMMANDS) - 1) | NO_KEY, "--help", NULL, OPTION_FLAG, F(help), 0, 0, NULL, "this page"},
    {ON(SERVE) | NO_KEY, "--help-all", NULL, OPTION_FLAG, F(help_all), 0, 0, NULL, "this page, and the limits"},
};
const size_t n_option_rows = sizeof option_rows / sizeof option_rows[0];

bool option_is_on(const struct option_row *r, enum command c)
{
    return r->commands >> c & 1;
}

bool option_is_key(const struct option_row *r)
{
    return option_is_on(r, COMMAND_SERVE) && !(r->commands & MARK_NO_KEY);
}

bool option_is_of_model(const struct option_row *r)
{
    return option_is_on(r, COMMAND_SERVE) && option_is_on(r, COMMAND_WORKER) && (r->commands & MARK_ENGINE);
}

const char *option_initial(const struct option_row *r, enum command c)
{
    return c == COMMAND_MODELS && option_is_of_model(r) ? NULL : r->initial; /* the server's own holds */
}

bool option_is_list(const struct option_row *r)
{
    return r->kind == OPTION_NAMES || r->kind == OPTION_NETWORKS || r->kind == OPTION_ORIGINS || r->kind == OPTION_HOSTS;
}

char *option_key(const char *flag, char out[OPTIONS_KEY_BYTES])
{
    CHECK(str_starts_with(flag, "--") && strlen(flag) - 2 < OPTIONS_KEY_BYTES);
    size_t n = 0;
    for (const char *p = flag + 2; *p; p++) out[n++] = *p == '-' ? '_' : *p;
    out[n] = '\0';
    return out;
}

const struct option_list *option_list_of(const struct option_row *r, const struct options *o)
{
    CHECK(option_is_list(r));
    return (const struct option_list *)(const void *)((const char *)o + r->field);
}

/* --- values --- */

static bool choice_allowed(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *p = choices, *bar; p; p = bar ? bar + 1 : NULL) {
        if (strncmp(p, value, n) == 0 && (p[n] == '|' || p[n] == '\0')) return n > 0;
        bar = strchr(p, '|');
    }
    return false;
}

static int parse_real(const char *s, double min, double max, double *out)
{
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    if (end == s || *end || errno || !(v >= min && v <= max)) return -ERR_INPUT;
    *out = v;
    return 0;
}

int options_listen(const char *text, char host[OPTIONS_HOST_BYTES], uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    int64_t number;
    if (!colon || !str_parse_int64(colon + 1, 0, 65535, &number)) return -ERR_INPUT;
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') { /* [::1]:8080 */
        text++;
        n -= 2;
    }
    if (n == 0 || n >= OPTIONS_HOST_BYTES) return -ERR_INPUT;
    memcpy(host, text, n);
    host[n] = '\0';
    if (strcmp(host, "localhost") == 0) strcpy(host, "127.0.0.1");
    struct ip ip;
    if (!ip_parse(host, strlen(host), &ip)) return -ERR_INPUT;
    *port = (uint16_t)number;
    return 0;
}

int options_gpus(const char *text, int out[OPTIONS_MAX_GPUS], size_t *n, struct err *e)
{
    *n = 0;
    for (const char *p = text, *comma; p; p = comma ? comma + 1 : NULL) {
        comma = strchr(p, ',');
        char word[8] = "";
        int64_t number;
        size_t length = comma ? (size_t)(comma - p) : strlen(p);
        if (length < sizeof word) memcpy(word, p, length);
        if (!str_parse_int64(word, 0, 1023, &number))
            return err_set(e, ERR_INPUT, "--gpus: '%.80s' is not a list of GPU numbers such as 0,1", text);
        for (size_t i = 0; i < *n; i++)
            if (out[i] == (int)number) return err_set(e, ERR_INPUT, "--gpus: %d is there twice", out[i]);
        if (*n == OPTIONS_MAX_GPUS) return err_set(e, ERR_INPUT, "--gpus: at most %d", OPTIONS_MAX_GPUS);
        out[(*n)++] = (int)number;
    }
    return 0;
}

int options_check_device(const struct options *o, struct err *e)
{
    if (o->gpus && o->device && strcmp(o->device, "cpu") == 0)
        return err_set_param(e, ERR_INPUT, "gpus", "--gpus: there are none to choose from with --device cpu");
    return 0;
}

bool options_loopback(const char *host)
{
    return strcmp(host, "::1") == 0 || str_starts_with(host, "127.");
}

static int list_check(const struct option_row *r, const char *value, struct err *e)
{
    if (r->kind == OPTION_NETWORKS) {
        struct ip_nets nets = {.n = 0};
        int rc = ip_nets_add(&nets, value, e);
        return rc ? err_prefix(e, "%s", r->flag) : 0;
    }
    if (r->kind == OPTION_HOSTS) {
        struct remote_rules rules = {.n_hosts = 0};
        int rc = remote_rules_add_host(&rules, value, e);
        return rc ? err_prefix(e, "%s", r->flag) : 0;
    }
    bool fine = strcmp(value, "*") == 0 || (strstr(value, "://") && !value[strcspn(value, " \t\r\n")] && !str_ends_with(value, "/"));
    if (r->kind == OPTION_ORIGINS && !fine)
        return err_set(e, ERR_INPUT, "%s: '%s' is not an origin such as https://example.org", r->flag, value);
    return 0;
}

static int list_add(const struct option_row *r, struct options *o, const char *value, struct err *e)
{
    struct option_list *list = (struct option_list *)(void *)((char *)o + r->field);
    if (!*value) return err_set(e, ERR_INPUT, "%s: is empty", r->flag);
    int rc = list_check(r, value, e);
    if (rc) return rc;
    if (list->n == OPTIONS_MAX_LIST) return err_set(e, ERR_INPUT, "%s: at most %d", r->flag, OPTIONS_MAX_LIST);
    list->items[list->n++] = value;
    return 0;
}

int option_set(const struct option_row *r, struct options *o, const char *value, struct err *e)
{
    void *field = (char *)o + r->field;
    char host[OPTIONS_HOST_BYTES];
    uint16_t port;
    switch (r->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return 0;
    case OPTION_TEXT:
        *(const char **)field = value;
        return 0;
    case OPTION_STORE:
        if (!db_is_url(value)) return err_set(e, ERR_INPUT, "%s: must begin with postgresql://", r->flag); /* may have a password in it */
        *(const char **)field = value;
        return 0;
    case OPTION_ADDRESS:
        if (options_listen(value, host, &port))
            return err_set(e, ERR_INPUT, "%s: '%s' is not HOST:PORT with a numeric address", r->flag, value);
        *(const char **)field = value;
        return 0;
    case OPTION_CHOICE:
        if (!choice_allowed(r->arg, value)) return err_set(e, ERR_INPUT, "%s: '%s' is not one of %s", r->flag, value, r->arg);
        *(const char **)field = value;
        return 0;
    case OPTION_GPUS: {
        int gpus[OPTIONS_MAX_GPUS];
        size_t n;
        int rc = options_gpus(value, gpus, &n, e);
        if (!rc) *(const char **)field = value;
        return rc;
    }
    case OPTION_INT:
        if (!str_parse_int64(value, (int64_t)r->min, (int64_t)r->max, field))
            return err_set(e, ERR_INPUT, "%s: '%s' is not a whole number from %.0f to %.0f", r->flag, value, r->min, r->max);
        return 0;
    case OPTION_REAL:
        if (parse_real(value, r->min, r->max, field))
            return err_set(e, ERR_INPUT, "%s: '%s' is not a number from %g to %g", r->flag, value, r->min, r->max);
        return 0;
    case OPTION_NAMES:
    case OPTION_NETWORKS:
    case OPTION_ORIGINS:
    case OPTION_HOSTS:
        return list_add(r, o, value, e);
    case OPTION_IMAGES:
        if (o->n_images == OPTIONS_MAX_IMAGES) return err_set(e, ERR_INPUT, "%s: at most %d", r->flag, OPTIONS_MAX_IMAGES);
        o->images[o->n_images++] = value;
        return 0;
    }
    return err_set(e, ERR_INTERNAL, "%s: unknown kind", r->flag);
}

/* --- command lines --- */

static const struct option_row *option_find(enum command c, const char *word, size_t n)
{
    if (n == 2 && memcmp(word, "-h", 2) == 0) return option_find(c, "--help", 6);
    for (size_t i = 0; i < n_option_rows; i++)
        if (option_is_on(&option_rows[i], c) && strlen(option_rows[i].flag) == n && memcmp(option_rows[i].flag, word, n) == 0)
            return &option_rows[i];
    return NULL;
}

static const struct limit_row *limit_find(enum command c, const char *word, size_t n)
{
    for (size_t i = 0; c == COMMAND_SERVE && i < n_limit_rows; i++)
        if (strlen(limit_rows[i].flag) == n && memcmp(limit_rows[i].flag, word, n) == 0) return &limit_rows[i];
    return NULL;
}

/* "--flag value" and "--flag=value". Returns how many words were taken. */
static int option_parse(enum command c, int argc, char **argv, struct options *o, struct err *e)
{
    const char *word = argv[0], *equals = strchr(word, '=');
    size_t n_flag = equals ? (size_t)(equals - word) : strlen(word);
    const struct limit_row *limit = limit_find(c, word, n_flag);
    if (limit) {
        if (!equals && argc < 2) return err_set(e, ERR_INPUT, "%s needs a value", limit->flag);
        int limit_rc = limit_set(&o->limits, limit, equals ? equals + 1 : argv[1], e);
        return limit_rc ? limit_rc : equals ? 1 : 2;
    }
    const struct option_row *r = option_find(c, word, n_flag);
    const char *name = option_commands[c].name;
    if (!r) return err_set(e, ERR_INPUT, "%s: unknown option of '%s' (see spillway %s --help)", word, name, name);
    o->given[r - option_rows] = true;
    if (r->kind == OPTION_FLAG) {
        if (equals) return err_set(e, ERR_INPUT, "%s takes no value", r->flag);
        return option_set(r, o, NULL, e) ? -ERR_INPUT : 1;
    }
    if (!equals && argc < 2) return err_set(e, ERR_INPUT, "%s needs a value: %s", r->flag, r->arg);
    int rc = option_set(r, o, equals ? equals + 1 : argv[1], e);
    return rc ? rc : equals ? 1 : 2;
}

bool options_given(const struct options *o, const char *flag)
{
    for (size_t i = 0; i < n_option_rows; i++)
        if (o->given[i] && strcmp(option_rows[i].flag, flag) == 0) return true;
    return false;
}

const char *options_stranger(const struct options *o, const char *allowed)
{
    for (size_t i = 0; i < n_option_rows; i++) {
        const char *flag = option_rows[i].flag, *at = allowed;
        size_t n = strlen(flag);
        if (!o->given[i]) continue;
        while (at && !(strncmp(at, flag, n) == 0 && (at[n] == ' ' || !at[n])))
            if ((at = strchr(at, ' '))) at++;
        if (!at) return flag;
    }
    return NULL;
}

void options_init(enum command c, struct options *o)
{
    CHECK(n_option_rows <= OPTIONS_MAX_ROWS);
    *o = (struct options){.temperature = -1, .priority = OPTIONS_NO_PRIORITY};
    limits_init(&o->limits);
    for (size_t i = 0; i < n_option_rows; i++) {
        if (!option_is_on(&option_rows[i], c) || !option_rows[i].initial) continue;
        int rc = option_set(&option_rows[i], o, option_rows[i].initial, NULL);
        CHECK(rc == 0);
    }
}

int options_parse(enum command c, int argc, char **argv, struct options *o, struct err *e)
{
    options_init(c, o);
    o->argc = argc;
    o->argv = argv;
    bool options_end = false;
    for (int i = 0; i < argc;) {
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
            i++;
        } else if (!options_end && argv[i][0] == '-' && argv[i][1] && !isdigit((unsigned char)argv[i][1])) { /* -5.00 is an amount */
            int n = option_parse(c, argc - i, argv + i, o, e);
            if (n < 0) return n;
            i += n;
        } else {
            if (o->n_args == OPTIONS_MAX_ARGS) return err_set(e, ERR_INPUT, "more than %d arguments", OPTIONS_MAX_ARGS);
            o->args[o->n_args++] = argv[i++];
        }
    }
    return 0;
}

int options_check_serve(const struct options *o, struct err *e)
{
    char host[OPTIONS_HOST_BYTES];
    uint16_t port;
    CHECK(options_listen(o->listen, host, &port) == 0); /* checked when it was set */
    if (!o->tls_cert != !o->tls_key) return err_set(e, ERR_INPUT, "--tls-cert and --tls-key belong together");
    if (o->retain_requests && o->retain_requests < PRUNE_MIN_DAYS)
        return err_set(e, ERR_INPUT, "--retain-requests: must be 0 or at least %d days", PRUNE_MIN_DAYS);
    if (o->name && o->n_args > 1) return err_set(e, ERR_INPUT, "--name: for one model only");
    if (o->no_model && (o->n_args || o->name)) return err_set(e, ERR_INPUT, "--no-model: models are named as well");
    if (o->no_auth && o->n_inherited == 0 && !options_loopback(host))
        return err_set(e, ERR_INPUT, "--no-auth: only on a loopback address, not on %s", host);
    return options_check_device(o, e);
}

int options_command(const char *name, enum command *out)
{
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(option_commands[i].name, name) != 0) continue;
        *out = (enum command)i;
        return 0;
    }
    return -ERR_NOT_FOUND;
}
