"""The hosts: one row each. What a row cannot say is in the wire's file, under the name of one of its quirks. Facts are those of the
providers' own documents and SDKs; see errors.py for their refusals. Left out on purpose: Bedrock's native wire (a binary event stream)
and SigV4."""
import datetime
import re
from dataclasses import dataclass

from . import tokens

OPENAI_PARAMS = frozenset("""messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
    max_tokens metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options
    temperature tool_choice tools top_logprobs top_p user verbosity web_search_options""".split())
NEWER_PARAMS = frozenset("""audio modalities moderation prompt_cache_options prompt_cache_retention safety_identifier store verbosity
    web_search_options""".split())
COMMON_PARAMS = OPENAI_PARAMS - NEWER_PARAMS  # what hosts after OpenAI's example mostly have
GROQ_PARAMS = COMMON_PARAMS - {"prediction", "prompt_cache_key"} | frozenset("""citation_options compound_custom
    disable_tool_validation documents exclude_domains include_domains include_reasoning reasoning_format search_settings store""".split())
CEREBRAS_PARAMS = COMMON_PARAMS - {"function_call", "functions", "metadata"} | frozenset("""clear_thinking disable_reasoning
    min_completion_tokens min_tokens model_parameters reasoning_format""".split())
TOGETHER_PARAMS = COMMON_PARAMS - frozenset("""functions max_completion_tokens metadata parallel_tool_calls prediction
    prompt_cache_key service_tier top_logprobs user""".split()) | frozenset("""chat_template_kwargs compliance
    context_length_exceeded_behavior echo min_p reasoning repetition_penalty safety_model top_k""".split())
MISTRAL_PARAMS = COMMON_PARAMS - frozenset("""function_call functions logit_bias max_completion_tokens seed stream_options
    user""".split()) | frozenset("""guardrails min_tokens prompt_logprobs prompt_mode random_seed repetition_penalty safe_prompt top_k
    top_prompt_logprobs""".split())
FIREWORKS_PARAMS = COMMON_PARAMS | frozenset("""context_length_exceeded_behavior min_p perf_metrics_in_response
    prompt_cache_isolation_key prompt_truncate_len reasoning_history repetition_penalty top_k""".split())
ANTHROPIC_VERSIONS = {"2023-06-01": {"temperature", "top_p", "top_k"}, "2026-10-21": set()}  # and the parameters that only it has
ANTHROPIC_PARAMS = frozenset("""max_tokens messages model cache_control container diagnostics inference_geo metadata output_config
    service_tier speed stop_sequences stream system thinking tool_choice tools user_profile_id workspace_id""".split())
GEMINI_PARAMS = frozenset("""contents systemInstruction system_instruction tools toolConfig tool_config generationConfig
    generation_config cachedContent safetySettings labels serviceTier model store continuationToken""".split())
GEMINI_CONFIG_PARAMS = frozenset("""temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs logprobs
    presencePenalty frequencyPenalty seed responseMimeType responseSchema responseJsonSchema responseModalities mediaResolution
    speechConfig thinkingConfig imageConfig enableEnhancedCivicAnswers audioTimestamp""".split())


def go_duration(seconds):
    """OpenAI's and Groq's form: 12ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def limits_openai(w):
    return [("x-ratelimit-limit-requests", w.limit_requests), ("x-ratelimit-limit-tokens", w.limit_tokens),
            ("x-ratelimit-remaining-requests", w.requests_left), ("x-ratelimit-remaining-tokens", w.tokens_left),
            ("x-ratelimit-reset-requests", go_duration(0.012)), ("x-ratelimit-reset-tokens", go_duration(360))]


def limits_groq(w):
    """Requests are those of a day, tokens those of a minute."""
    return [*limits_openai(w)[:4], ("x-ratelimit-reset-requests", "2m59.56s"), ("x-ratelimit-reset-tokens", "7.66s")]


def limits_anthropic(w):
    at = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = [("requests", w.limit_requests, w.requests_left)]
    rows += [(name, w.limit_tokens, w.tokens_left) for name in ("tokens", "input-tokens", "output-tokens")]
    return [(f"anthropic-ratelimit-{name}-{key}", value) for name, limit, left in rows
            for key, value in (("limit", limit), ("remaining", left), ("reset", at))]


def limits_azure(w):
    return [("x-ratelimit-remaining-requests", w.requests_left), ("x-ratelimit-remaining-tokens", w.tokens_left)]


def limits_mistral(w):
    return [("x-ratelimit-limit-req-minute", w.limit_requests), ("x-ratelimit-remaining-req-minute", w.requests_left),
            ("x-ratelimit-limit-tokens-minute", w.limit_tokens), ("x-ratelimit-remaining-tokens-minute", w.tokens_left),
            ("x-ratelimit-limit-tokens-month", w.limit_tokens * 1000), ("x-ratelimit-remaining-tokens-month", w.tokens_left * 1000),
            ("x-ratelimit-tokens-query-cost", w.last_tokens)]


def limits_cerebras(w):
    return [(f"x-ratelimit-{key}-{name}", value) for name, values in (
        ("requests-day", (w.limit_requests, w.requests_left, "33011.3")), ("tokens-minute", (w.limit_tokens, w.tokens_left, "11.4")))
        for key, value in zip(("limit", "remaining", "reset"), values)]


def limits_fireworks(w):
    return [("x-ratelimit-limit-tokens-prompt", w.limit_tokens), ("x-ratelimit-remaining-tokens-prompt", w.tokens_left),
            ("x-ratelimit-limit-tokens-generated", w.limit_tokens), ("x-ratelimit-remaining-tokens-generated", w.tokens_left)]


def limits_together(w):
    rows = [("x-ratelimit-limit", w.limit_requests), ("x-ratelimit-remaining", w.requests_left), ("x-ratelimit-reset", 1),
            ("x-tokenlimit-limit", w.limit_tokens), ("x-tokenlimit-remaining", w.tokens_left), ("x-tokenlimit-reset", 1)]
    return rows + [(f"{name}-dynamic", value) for name, value in rows]


def limits_openrouter(w):
    return [("x-ratelimit-limit", w.limit_requests), ("x-ratelimit-remaining", 0), ("x-ratelimit-reset", 1893456000000)]


def limits_none(w):
    return []


@dataclass(frozen=True)
class Profile:
    name: str
    wire: str                      # openai | anthropic | gemini
    prefix: str                    # pattern of the path before the wire's own part; may name the model
    base: str                      # what a client's base URL has after the host
    models: tuple
    auth: tuple = ("bearer",)      # any of them, in this order: bearer, or the name of a header
    errors: str = "openai"
    params: frozenset = None       # None: what it does not know it lets pass
    usage: str = "plain"           # members beside the three: see openai_wire.usage_object
    stream_usage: str = "asked"    # asked: a chunk of its own | finish: with the finish reason, always | repeat: an extra choice, always
    reasoning: str = None          # the member that holds it; None: counted but not shown
    cache: str = "none"            # none | prefix | prefix+write | mark
    image_tokens: object = tokens.patches
    request_id: str = "x-request-id"
    limits: object = limits_none
    hints: tuple = ("retry-after",)
    on_disconnect: str = "continue"  # stop: bills what was made | continue: makes the rest and bills it
    quirks: frozenset = frozenset()

    def has_model(self, name):
        return isinstance(name, str) and (name in self.models or name.startswith("ft:") or name.rsplit("/", 1)[-1].startswith("fake-"))


def quirks(*names):
    return frozenset(names)


HF_PROVIDERS = ("groq", "cerebras", "together", "fireworks-ai")
PROFILES = {p.name: p for p in (
    Profile("openai", "openai", "/v1", "/v1", ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-5-mini", "o4-mini"), params=OPENAI_PARAMS,
            usage="openai", cache="prefix+write", image_tokens=tokens.openai_tiles, limits=limits_openai,
            hints=("retry-after", "retry-after-ms"), on_disconnect="stop", quirks=quirks("obfuscation", "reasoning_models", "responses")),
    Profile("azure", "openai", r"/openai/v1|/openai/deployments/(?P<model>[^/]+)", "/openai/v1", ("my-gpt-4o", "my-gpt-5"),
            auth=("api-key", "bearer"), errors="azure", params=OPENAI_PARAMS, usage="openai", cache="prefix",
            image_tokens=tokens.openai_tiles,
            request_id="apim-request-id", limits=limits_azure, hints=("retry-after", "retry-after-ms"), on_disconnect="stop",
            quirks=quirks("prompt_filter", "api_version", "responses")),
    Profile("mistral", "openai", "/v1", "/v1", ("mistral-small-latest", "magistral-medium-latest", "pixtral-12b-latest"), errors="mistral",
            params=MISTRAL_PARAMS, usage="mistral", stream_usage="finish", reasoning="chunks", cache="prefix", limits=limits_mistral,
            request_id="mistral-correlation-id", quirks=quirks("whole_calls", "strict_messages")),
    Profile("groq", "openai", "/openai/v1", "/openai/v1", ("llama-3.1-8b-instant", "openai/gpt-oss-20b", "qwen/qwen3-32b"), errors="groq",
            params=GROQ_PARAMS, usage="groq", reasoning="reasoning", cache="prefix", limits=limits_groq,
            quirks=quirks("whole_calls", "x_groq")),
    Profile("cerebras", "openai", "/v1", "/v1", ("llama3.1-8b", "gpt-oss-120b", "zai-glm-4.7"), errors="cerebras", params=CEREBRAS_PARAMS,
            usage="details", stream_usage="finish", reasoning="reasoning", cache="prefix", limits=limits_cerebras,
            quirks=quirks("whole_calls", "time_info", "status_in_error")),
    Profile("together", "openai", "/v1", "/v1", ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "Qwen/Qwen3-235B-A22B-fp8-tput"),
            errors="together",
            params=TOGETHER_PARAMS, stream_usage="finish", reasoning="reasoning", limits=limits_together, on_disconnect="stop",
            quirks=quirks("eos")),
    Profile("fireworks", "openai", "/inference/v1", "/inference/v1",
            ("accounts/fireworks/models/llama-v3p1-8b-instruct", "accounts/fireworks/models/deepseek-v3p1"), errors="fireworks",
            params=FIREWORKS_PARAMS, usage="details", stream_usage="finish", reasoning="reasoning_content", cache="prefix",
            limits=limits_fireworks, on_disconnect="stop", quirks=quirks("perf_headers")),
    Profile("bedrock", "openai", "/openai/v1", "/openai/v1", ("openai.gpt-oss-20b-1:0", "openai.gpt-oss-120b-1:0"), errors="bedrock",
            params=OPENAI_PARAMS, request_id="x-amzn-requestid", quirks=quirks("amzn_errortype", "responses")),
    Profile("huggingface", "openai", "/v1", "/v1", ("HuggingFaceTB/SmolLM3-3B", "meta-llama/Llama-3.1-8B-Instruct",
                                                    "Qwen/Qwen2.5-VL-7B-Instruct"),
            errors="huggingface", reasoning="reasoning_content", quirks=quirks("suffixes")),
    Profile("openrouter", "openai", "/api/v1", "/api/v1", ("openai/gpt-4o-mini", "anthropic/claude-sonnet-4.5", "qwen/qwen3-32b"),
            errors="openrouter", usage="openrouter", stream_usage="repeat", reasoning="reasoning", cache="prefix+write",
            request_id="x-generation-id",
            limits=limits_openrouter, on_disconnect="stop", quirks=quirks("comments", "limits_on_429")),
    Profile("generic", "openai", "/v1", "/v1", ("smolvlm-500m", "llama3.2"), errors="vllm", reasoning="reasoning_content",
            on_disconnect="stop"),
    Profile("gemini_compat", "openai", "/v1beta/openai", "/v1beta/openai", ("gemini-2.5-flash", "gemini-2.5-pro"), errors="gemini",
            usage="gemini_compat", image_tokens=tokens.gemini_tiles, hints=("retryinfo",), quirks=quirks("list_of_errors")),
    Profile("anthropic", "anthropic", "/v1", "", ("claude-sonnet-5", "claude-haiku-4-5", "claude-opus-5"), auth=("x-api-key", "bearer"),
            errors="anthropic", params=ANTHROPIC_PARAMS, cache="mark", image_tokens=tokens.anthropic_area, request_id="request-id",
            limits=limits_anthropic, on_disconnect="stop"),
    Profile("azure_anthropic", "anthropic", "/anthropic/v1", "/anthropic", ("claude-sonnet-5", "claude-haiku-4-5"),
            auth=("x-api-key", "api-key", "bearer"),
            errors="anthropic", params=ANTHROPIC_PARAMS, cache="mark", image_tokens=tokens.anthropic_area, request_id="request-id",
            on_disconnect="stop"),
    Profile("gemini", "gemini", "/v1beta|/v1", "/v1beta", ("gemini-2.5-flash", "gemini-2.5-pro"), auth=("x-goog-api-key",), errors="gemini",
            params=GEMINI_PARAMS, cache="prefix", image_tokens=tokens.gemini_tiles, request_id="x-request-id", hints=("retryinfo",)),
)}


def split_path(profile, path):
    """(what the prefix named, the wire's own part), or None."""
    m = re.match(f"(?:{profile.prefix})(?=/)", path)
    return (m.groupdict(), path[m.end():]) if m else None
