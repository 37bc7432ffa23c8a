/* The table of situations: for each, who serves the request and why, and why each of the others does not. The world is that of
 * routing_world.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/routing_world.h"

struct situation {
    const char *what, *models, *tweaks;
    const char *result; /* "run", "queue", "stay", or a refusal's status and code */
    const char *route;  /* x-spillway-route */
};

static const struct situation situations[] = {
    /* --- order of escape --- */
    {"a free local model serves", "smol", "", "run", "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"a free one reads a prompt that alone takes longer than the target", "smol", "smol.prompt=5000", "run",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"within the target it queues", "smol", "smol.wait=800", "queue",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"at the target exactly it queues", "smol", "smol.wait=900", "queue",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"a millisecond above it spills", "smol", "smol.wait=901", "run",
     "queue; local/smol=queue(1001>1000ms), groq/llama=chosen, together/llama=later"},
    {"the second stand-in, when the first is broken", "smol", "smol.wait=2400 groq.breaker=4000", "run",
     "queue; local/smol=queue(2500>1000ms), groq/llama=breaker(4s), together/llama=chosen"},
    {"nothing may stand in: it waits within the deadline", "vlm", "vlm.wait=9000", "queue", "waits; local/vlm=chosen"},
    {"overflow is off: it waits within the deadline", "smol", "smol.wait=9000 cap=0", "queue",
     "waits; local/smol=chosen, groq/llama=overflow_off, together/llama=overflow_off"},
    {"at the deadline exactly it waits", "vlm", "vlm.wait=9000 left=9100", "queue", "waits; local/vlm=chosen"},
    {"the deadline comes first: refused", "vlm", "vlm.wait=9000 left=9000", "429 queue_full", "refused deadline; local/vlm=deadline"},
    {"the queue is full: it spills", "smol", "smol.full smol.wait=500", "run",
     "full; local/smol=full, groq/llama=chosen, together/llama=later"},
    {"the queue is full and nobody else may: refused", "smol", "smol.wait=3000 smol.full local-only", "429 queue_full",
     "refused full; local/smol=full, groq/llama=local_only, together/llama=local_only"},
    {"no target: it is never above it", "smol", "smol.target=0 smol.wait=20000", "queue",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"a stand-in that would be no sooner is not paid for", "smol", "smol.wait=1100 groq.first=1200 together.first=5000", "queue",
     "waits; local/smol=chosen, groq/llama=slower, together/llama=slower"},
    {"a stand-in whose speed is not known may be sooner", "smol", "smol.wait=1100 groq.unseen", "run",
     "queue; local/smol=queue(1200>1000ms), groq/llama=chosen, together/llama=later"},
    {"the local model is too late for the deadline, a stand-in is not", "smol", "smol.wait=2000 left=1500", "run",
     "deadline; local/smol=deadline, groq/llama=chosen, together/llama=later"},
    {"the deadline passes over a slow stand-in", "smol", "smol.wait=2000 left=500 groq.first=700", "run",
     "deadline; local/smol=deadline, groq/llama=deadline, together/llama=chosen"},
    {"nobody begins before the deadline", "smol", "smol.wait=2000 left=100", "429 queue_full",
     "refused deadline; local/smol=deadline, groq/llama=deadline, together/llama=deadline"},
    {"the time is up", "groq/llama", "left=0", "429 queue_full", "refused deadline; groq/llama=deadline"},
    /* --- hysteresis --- */
    {"once above the target it spills until well below", "smol", "smol.wait=800 spilling", "run",
     "queue; local/smol=queue(900>700ms), groq/llama=chosen, together/llama=later"},
    {"it comes back below 70 per cent", "smol", "smol.wait=600 spilling", "queue",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"a free model does not spill", "smol", "spilling", "run", "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"a long prompt spills by itself, the model does not", "smol", "smol.wait=200 smol.prompt=1500 smol.load=300", "run",
     "queue; local/smol=queue(1700>1000ms), groq/llama=chosen, together/llama=later"},
    {"a short prompt does not, when the model only begins to spill", "smol", "smol.wait=650 smol.prompt=100 smol.load=1200", "queue",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"a short prompt spills with the model", "smol", "smol.wait=650 smol.prompt=100 smol.load=1200 spilling", "run",
     "queue; local/smol=queue(750>700ms), groq/llama=chosen, together/llama=later"},
    /* --- down --- */
    {"the worker is down: a stand-in serves", "smol", "smol.down", "run", "down; local/smol=down, groq/llama=chosen, together/llama=later"},
    {"the worker is down and nothing stands in", "vlm", "vlm.down", "503 worker_down", "refused down; local/vlm=down"},
    {"the worker is down, overflow is off", "smol", "smol.down key-cap=0", "503 worker_down",
     "refused down; local/smol=down, groq/llama=overflow_off, together/llama=overflow_off"},
    {"the worker is down, the cap is used up", "smol", "smol.down key-cap=99999", "503 worker_down",
     "refused down; local/smol=down, groq/llama=cap, together/llama=cap"},
    /* --- capability and context --- */
    {"a picture, and only text models", "smol", "needs=vision", "400 unsupported_parameter",
     "refused capability; local/smol=capability, groq/llama=capability, together/llama=capability"},
    {"a picture goes to the next name of the list", "smol openai/gpt", "needs=vision", "run",
     "capability; local/smol=capability, groq/llama=capability, together/llama=capability, openai/gpt=chosen"},
    {"a picture on a local model that takes it", "vlm", "needs=vision", "run", "local_ok; local/vlm=chosen"},
    {"log probabilities pass over the stand-in without", "smol", "smol.down needs=logprobs", "run",
     "down; local/smol=down, groq/llama=capability, together/llama=chosen"},
    {"several choices pass over it, too", "smol", "smol.down needs=n needs=seed", "run",
     "down; local/smol=down, groq/llama=capability, together/llama=chosen"},
    {"tools and a schema are no hindrance", "smol", "smol.down needs=tools needs=schema", "run",
     "down; local/smol=down, groq/llama=chosen, together/llama=later"},
    {"reasoning nobody here does", "smol", "needs=reasoning", "400 unsupported_parameter",
     "refused capability; local/smol=capability, groq/llama=capability, together/llama=capability"},
    {"too long for the local model: a stand-in", "smol", "prompt=3000", "run",
     "context; local/smol=context(2048), groq/llama=chosen, together/llama=later"},
    {"too long for the first stand-in, too", "smol", "prompt=9000", "run",
     "context; local/smol=context(2048), groq/llama=context(8192), together/llama=chosen"},
    {"too long for all", "smol", "prompt=200000", "400 context_length_exceeded",
     "refused context; local/smol=context(2048), groq/llama=context(8192), together/llama=context(131072)"},
    {"the prompt fills the context: no room for a token", "vlm", "prompt=8192", "400 context_length_exceeded",
     "refused context; local/vlm=context(8192)"},
    {"the last token fits", "vlm", "prompt=8191", "run", "local_ok; local/vlm=chosen"},
    {"min_tokens must fit", "vlm", "prompt=8000 min=193", "400 context_length_exceeded", "refused context; local/vlm=context(8192)"},
    {"min_tokens beyond what a host gives", "groq/qwen", "min=5000 groq-qwen.output=4096", "400 context_length_exceeded",
     "refused context; groq/qwen=context(32768)"},
    {"too long and overflow is off: told what the local model lacks", "smol", "prompt=3000 project-cap=0", "400 context_length_exceeded",
     "refused context; local/smol=context(2048), groq/llama=overflow_off, together/llama=overflow_off"},
    /* --- what the account allows --- */
    {"local-only with a free local model", "smol", "local-only", "run",
     "local_ok; local/smol=chosen, groq/llama=local_only, together/llama=local_only"},
    {"local-only waits instead of spilling", "smol", "smol.wait=5000 local-only", "queue",
     "waits; local/smol=chosen, groq/llama=local_only, together/llama=local_only"},
    {"local-only and the worker is down", "smol", "smol.down local-only", "503 worker_down",
     "refused down; local/smol=down, groq/llama=local_only, together/llama=local_only"},
    {"local-only and a hosted name", "groq/llama", "local-only", "403 permission_denied", "refused local_only; groq/llama=local_only"},
    {"a model that the account may not use", "groq/llama", "groq.denied", "403 permission_denied", "refused model; groq/llama=model"},
    {"a denied local model, an allowed stand-in", "smol", "smol.denied", "run",
     "model; local/smol=model, groq/llama=chosen, together/llama=later"},
    {"providers: only the second", "smol", "smol.down hosts=2", "run", "down; local/smol=down, groq/llama=provider, together/llama=chosen"},
    {"providers: not the one that is named", "openai/gpt", "hosts=3", "403 permission_denied",
     "refused provider; openai/gpt=provider, local/smol=reserve"},
    {"providers are no matter for a local model", "smol", "hosts=0", "run",
     "local_ok; local/smol=chosen, groq/llama=provider, together/llama=provider"},
    {"regions: only the second", "smol", "smol.wait=3000 regions=4", "run",
     "queue; local/smol=queue(3100>1000ms), groq/llama=region, together/llama=chosen"},
    {"regions: one that is not known is not allowed", "together/llama", "regions=4 together.region=0", "403 permission_denied",
     "refused region; together/llama=region"},
    {"zero retention passes over who may keep prompts", "smol", "smol.down zero-retention", "run",
     "down; local/smol=down, groq/llama=retention, together/llama=chosen"},
    {"zero retention and nobody promises it", "openai/gpt", "zero-retention", "403 permission_denied",
     "refused retention; openai/gpt=retention, local/smol=reserve"},
    {"zero retention is no matter for a local model", "smol", "zero-retention", "run",
     "local_ok; local/smol=chosen, groq/llama=retention, together/llama=later"},
    /* --- prices and budgets --- */
    {"an unknown price is never 0", "groq/llama", "groq.no-price", "400 price_unknown", "refused price_unknown; groq/llama=price_unknown"},
    {"a stand-in without a price is passed over", "smol", "smol.down groq.no-price", "run",
     "down; local/smol=down, groq/llama=price_unknown, together/llama=chosen"},
    {"a price cap on output", "Qwen/Qwen3:cheapest", "max-out=595000000 qwen3.down", "run",
     "down; local/Qwen/Qwen3=down, openai/gpt=price, groq/qwen=chosen, together/qwen=price"},
    {"a price cap on input that nobody keeps", "openai/gpt", "max-in=100000000", "402 budget_exhausted",
     "refused price; openai/gpt=price, local/smol=reserve"},
    {"a price cap for the whole request", "smol", "smol.down max-request=99999", "503 worker_down",
     "refused down; local/smol=down, groq/llama=price, together/llama=price"},
    {"the budget has ended", "groq/llama", "money=0 unheld=0", "402 budget_exhausted", "refused budget; groq/llama=budget"},
    {"the budget fits to the nano-dollar", "groq/llama", "money=100000 unheld=100000", "run", "policy; groq/llama=chosen"},
    {"a nano-dollar is missing", "groq/llama", "money=99999 unheld=99999", "402 budget_exhausted", "refused budget; groq/llama=budget"},
    {"other holds will come back", "groq/llama", "money=99999", "429 budget_held", "refused held; groq/llama=held"},
    {"no money is needed where the price is 0", "smol", "money=0 unheld=0", "run",
     "local_ok; local/smol=chosen, groq/llama=budget, together/llama=budget"},
    {"nor where the account is overdrawn", "smol", "money=-5 unheld=-5", "run",
     "local_ok; local/smol=chosen, groq/llama=budget, together/llama=budget"},
    {"a local model with a price needs money", "vlm", "vlm.hold=500 money=499 unheld=499", "402 budget_exhausted",
     "refused budget; local/vlm=budget"},
    {"the hosted budget ends: the local model takes over", "openai/gpt", "ended=0", "run", "budget; openai/gpt=budget, local/smol=chosen"},
    {"the hosted budget is held: the local model takes over", "openai/gpt", "hosted-money=10", "run",
     "held; openai/gpt=held, local/smol=chosen"},
    {"the reserve waits while there is budget", "openai/gpt", "", "run", "policy; openai/gpt=chosen, local/smol=reserve"},
    {"the reserve is for budgets, not for faults", "openai/gpt", "gpt.breaker=2500", "503 worker_down",
     "refused breaker; openai/gpt=breaker(3s), local/smol=reserve"},
    {"the hosted budget ends and the local model is full", "openai/gpt", "ended=0 smol.full", "429 queue_full",
     "refused full; openai/gpt=budget, local/smol=full"},
    {"the hosted budget ends and the local model cannot", "openai/gpt", "ended=0 needs=vision", "402 budget_exhausted",
     "refused budget; openai/gpt=budget, local/smol=capability"},
    {"the hosted budget ends: an alias goes on to its local model", "big", "ended=0", "run",
     "budget; openai/gpt=budget, local/smol=chosen"},
    {"the hosted budget does not bind the local model", "smol", "ended=0", "run",
     "local_ok; local/smol=chosen, groq/llama=budget, together/llama=budget"},
    {"it has ended, and the local model has a queue", "smol", "ended=0 smol.wait=5000", "queue",
     "waits; local/smol=chosen, groq/llama=budget, together/llama=budget"},
    /* --- overflow's caps --- */
    {"the global cap fits to the nano-dollar", "smol", "smol.wait=5000 cap=100000", "run",
     "queue; local/smol=queue(5100>1000ms), groq/llama=chosen, together/llama=cap"},
    {"a nano-dollar above the global cap", "smol", "smol.wait=5000 cap=99999", "queue",
     "waits; local/smol=chosen, groq/llama=cap, together/llama=cap"},
    {"the project's cap", "smol", "smol.wait=5000 project-cap=99999", "queue",
     "waits; local/smol=chosen, groq/llama=cap, together/llama=cap"},
    {"the key's cap", "smol", "smol.wait=5000 key-cap=99999", "queue", "waits; local/smol=chosen, groq/llama=cap, together/llama=cap"},
    {"caps bind no hosted name", "groq/llama", "cap=0 key-cap=0", "run", "policy; groq/llama=chosen"},
    {"caps bind no name that the list has itself", "smol:local groq/llama", "smol.wait=5000 cap=0", "run",
     "queue; local/smol=queue(5100>1000ms), groq/llama=chosen"},
    {"caps bind an alias that has a local model first", "chat", "smol.wait=5000 cap=0", "queue",
     "waits; local/smol=chosen, groq/llama=overflow_off, together/llama=overflow_off"},
    {"the cap alone stands in the way", "smol", "prompt=3000 key-cap=5", "429 rate_limit_exceeded",
     "refused cap; local/smol=context(2048), groq/llama=cap, together/llama=cap"},
    {"the share of requests", "smol", "smol.wait=5000 share=999", "queue",
     "waits; local/smol=chosen, groq/llama=share, together/llama=share"},
    {"overflow's own price cap", "smol", "smol.wait=5000 overflow-max-out=100000000", "run",
     "queue; local/smol=queue(5100>1000ms), groq/llama=chosen, together/llama=price"},
    {"overflow's own providers", "smol", "smol.wait=5000 overflow-hosts=2", "run",
     "queue; local/smol=queue(5100>1000ms), groq/llama=provider, together/llama=chosen"},
    {"overflow's own regions", "smol", "smol.wait=5000 overflow-regions=4", "run",
     "queue; local/smol=queue(5100>1000ms), groq/llama=region, together/llama=chosen"},
    /* --- health --- */
    {"a breaker that is open", "groq/llama", "groq.breaker=7001", "503 worker_down", "refused breaker; groq/llama=breaker(8s)"},
    {"a half-open breaker lets one through", "groq/llama", "groq.half-open", "run", "policy; groq/llama=chosen"},
    {"no key is usable", "groq/llama", "groq.no-key=30000", "503 worker_down", "refused key; groq/llama=key(30s)"},
    {"no key here, the next host has one", "smol", "smol.down groq.no-key=30000", "run",
     "down; local/smol=down, groq/llama=key(30s), together/llama=chosen"},
    {"keys and breakers are told apart", "split", "groq.no-key=30000 together.breaker=9000", "503 worker_down",
     "refused key; groq/llama=key(30s), together/llama=breaker(9s)"},
    /* --- retries --- */
    {"the local model has failed it: a stand-in", "smol", "smol.tried attempts=1", "run",
     "tried; local/smol=tried, groq/llama=chosen, together/llama=later"},
    {"the host has no retries left, the next one has", "smol", "smol.tried attempts=1 groq.no-retry", "run",
     "tried; local/smol=tried, groq/llama=retry, together/llama=chosen"},
    {"no host has retries left", "split", "groq.tried attempts=1 together.no-retry", "503 worker_down",
     "refused tried; groq/llama=tried, together/llama=retry"},
    {"no retry budget is needed for a first attempt", "groq/llama", "groq.no-retry", "run", "policy; groq/llama=chosen"},
    {"a host has failed it: the local model needs no retry budget", "big", "gpt.tried attempts=1", "run",
     "tried; openai/gpt=tried, local/smol=chosen"},
    {"a second attempt counts once among the requests", "smol", "smol.tried attempts=1 share=500", "503 worker_down",
     "refused tried; local/smol=tried, groq/llama=share, together/llama=share"},
    {"two attempts are all", "smol", "attempts=2", "503 worker_down",
     "refused attempts; local/smol=attempts, groq/llama=attempts, together/llama=attempts"},
    /* --- policies --- */
    {"an alias keeps its order", "chat", "", "run", "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"an alias that begins with a hosted model", "big", "", "run", "policy; openai/gpt=chosen, local/smol=later"},
    {"its local model steps in for a fault", "big", "gpt.breaker=9000", "run", "breaker; openai/gpt=breaker(9s), local/smol=chosen"},
    {"cheapest: the local model at no cost", "Qwen/Qwen3:cheapest", "", "run",
     "local_ok; local/Qwen/Qwen3=chosen, openai/gpt=later, groq/qwen=later, together/qwen=later"},
    {"cheapest of the hosts", "Qwen/Qwen3:cheapest", "qwen3.down", "run",
     "down; local/Qwen/Qwen3=down, openai/gpt=later, groq/qwen=later, together/qwen=chosen"},
    {"cheapest: a cached prompt tips it", "Qwen/Qwen3:cheapest", "qwen3.down sticky=3", "run",
     "down; local/Qwen/Qwen3=down, openai/gpt=later, groq/qwen=chosen, together/qwen=later"},
    {"cheapest: a session's host without a cache does not", "Qwen/Qwen3:cheapest", "qwen3.down sticky=3 groq-qwen.can=30", "run",
     "down; local/Qwen/Qwen3=down, openai/gpt=later, groq/qwen=later, together/qwen=chosen"},
    {"cheapest: a dear local model comes last", "Qwen/Qwen3:cheapest", "qwen3.cost=600000", "run",
     "policy; local/Qwen/Qwen3=later, openai/gpt=later, groq/qwen=later, together/qwen=chosen"},
    {"fastest: by the whole answer", "Qwen/Qwen3:fastest", "expect=1000", "run",
     "policy; local/Qwen/Qwen3=later, openai/gpt=later, groq/qwen=chosen, together/qwen=later"},
    {"fastest: by the first token where nothing more is expected", "Qwen/Qwen3:fastest", "expect=0", "run",
     "local_ok; local/Qwen/Qwen3=chosen, openai/gpt=later, groq/qwen=later, together/qwen=later"},
    {"fastest: the local queue counts", "Qwen/Qwen3:fastest", "expect=100 qwen3.wait=700 qwen3.token-us=100", "run",
     "policy; local/Qwen/Qwen3=later, openai/gpt=later, groq/qwen=chosen, together/qwen=later"},
    {"fastest: who was never seen comes last", "Qwen/Qwen3:fastest", "expect=1000 groq-qwen.unseen qwen3.token-us=9000", "run",
     "policy; local/Qwen/Qwen3=later, openai/gpt=later, groq/qwen=later, together/qwen=chosen"},
    {"the suffix names the host", "Qwen/Qwen3:together", "", "run", "policy; together/qwen=chosen"},
    {"the suffix names the house", "Qwen/Qwen3:local", "qwen3.wait=5000", "queue", "waits; local/Qwen/Qwen3=chosen"},
    {"a list keeps its order whatever is cheaper", "openai/gpt groq/llama:cheapest", "", "run",
     "policy; openai/gpt=chosen, local/smol=reserve, groq/llama=later"},
    {"a list goes on when the first fails", "openai/gpt groq/llama", "gpt.no-key=1000", "run",
     "key; openai/gpt=key(1s), local/smol=reserve, groq/llama=chosen"},
    /* --- while it waits --- */
    {"within the target it stays", "smol", "waits-at=0 smol.wait=800", "stay",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"above the target it spills", "smol", "waits-at=0 smol.wait=2000", "run",
     "queue; local/smol=queue(2100>1000ms), groq/llama=chosen, together/llama=later"},
    {"a stand-in must be sooner by a margin", "smol", "waits-at=0 smol.wait=1000 groq.first=881 together.first=870", "stay",
     "waits; local/smol=chosen, groq/llama=slower, together/llama=slower"},
    {"it is, by just that", "smol", "waits-at=0 smol.wait=1000 groq.first=850", "run",
     "queue; local/smol=queue(1100>1000ms), groq/llama=chosen, together/llama=later"},
    {"the cap holds while it waits, too", "smol", "waits-at=0 smol.wait=2000 cap=0", "stay",
     "waits; local/smol=chosen, groq/llama=overflow_off, together/llama=overflow_off"},
    {"it counts once among the requests", "smol", "waits-at=0 smol.wait=2000 share=999", "stay",
     "waits; local/smol=chosen, groq/llama=share, together/llama=share"},
    {"its worker dies while it waits", "smol", "waits-at=0 smol.down", "run",
     "down; local/smol=down, groq/llama=chosen, together/llama=later"},
    {"its worker dies and nobody else may", "smol", "waits-at=0 smol.down local-only", "stay",
     "waits; local/smol=chosen, groq/llama=local_only, together/llama=local_only"},
    {"it would be too late here, and in time there", "smol", "waits-at=0 smol.wait=2000 left=600 together.first=650 groq.first=590", "run",
     "deadline; local/smol=deadline, groq/llama=chosen, together/llama=deadline"},
    {"a full queue does not lose who is in it", "smol", "waits-at=0 smol.wait=500 smol.full", "stay",
     "local_ok; local/smol=chosen, groq/llama=later, together/llama=later"},
    {"an unknown speed counts as the target", "smol", "waits-at=0 smol.wait=1100 groq.unseen together.unseen", "stay",
     "waits; local/smol=chosen, groq/llama=slower, together/llama=slower"},
};
enum { N_SITUATIONS = sizeof situations / sizeof *situations };

static const char *decide(struct world *x, struct route_decision *d, char result[64])
{
    static const char *const actions[] = {[ROUTE_RUN] = "run", [ROUTE_ENTER] = "queue", [ROUTE_STAY] = "stay"};
    int rc = 0;
    if (x->at >= 0)
        route_again(x->c, x->n, &x->w, &x->s, (size_t)x->at, d);
    else
        rc = route_decide(x->c, x->n, &x->w, &x->s, d);
    assert_int_equal(rc != 0, d->action == ROUTE_REFUSE);
    if (rc)
        snprintf(result, 64, "%d %s", d->status, d->code);
    else
        snprintf(result, 64, "%s", actions[d->action]);
    return result;
}

/* Predicted wait of the local model that it would have waited at; -1: none. */
static int64_t local_ms(const struct world *x, const struct route_decision *d)
{
    for (size_t i = 0; i < x->n; i++)
        if (d->passed[i] == ROUTE_QUEUE) return x->c[i].wait_ms + x->c[i].prompt_ms;
    return -1;
}

/* What must hold of any decision. */
static void check_whole(const struct world *x, const struct route_decision *d)
{
    for (size_t i = 0; i < x->n; i++) assert_int_equal(d->passed[i] == ROUTE_CHOSEN, (int)i == d->chosen);
    if (d->action != ROUTE_REFUSE) {
        assert_int_equal(d->overflow, d->action != ROUTE_STAY && x->c[d->chosen].want.stands_in);
        assert_int_equal(d->local_ms, d->overflow ? local_ms(x, d) : -1);
        return;
    }
    assert_int_equal(d->chosen, -1);
    assert_true(*d->err.msg && d->err.code != ERR_NONE);
    assert_int_equal(d->retry_after_s > 0, d->status == 429 || d->status == 503);
    assert_in_range(d->retry_after_s, 0, 60);
}

static void test_situations(void **state)
{
    (void)state;
    int n_wrong = 0;
    for (size_t i = 0; i < N_SITUATIONS; i++) {
        const struct situation *t = &situations[i];
        struct world x;
        struct route_decision d;
        char result[64], header[EXPLAIN_HEADER_BYTES];
        world_init(&x, t->models);
        world_tweak(&x, t->tweaks);
        decide(&x, &d, result);
        check_whole(&x, &d);
        explain_header(x.c, x.n, &d, header);
        if (strcmp(result, t->result) || strcmp(header, t->route)) {
            print_error("%s\n  (%s | %s)\n  wanted %s | %s\n  is     %s | %s\n", t->what, t->models, t->tweaks, t->result, t->route, result,
                        header);
            n_wrong++;
        }
        world_free(&x);
    }
    assert_int_equal(n_wrong, 0);
    assert_true(N_SITUATIONS >= 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_situations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
