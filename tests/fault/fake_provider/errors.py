"""What goes wrong, in each host's own status, code, words and shape. A kind of fault has one name everywhere; a host's table says what
it makes of it. Where a host documents nothing of its own, OpenAI's row holds. The official SDKs try the shapes in
test_fake_provider_sdks.py.

From practice and not from the providers' documents are Cerebras' flat object, the codes of Fireworks, Together and Bedrock's compatible
endpoint, and Gemini's status 400 for a wrong key. Adapters should read those loosely."""
import json

GENERIC = "The fake provider refuses this request as its script says."

# kind: (status, type, code, message)
OPENAI = {
    "bad_key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    "no_money": (429, "insufficient_quota", "credit_balance_exhausted", "Your credit balance is used up."),
    "quota": (429, "insufficient_quota", "insufficient_quota",
              "You exceeded your current quota, please check your plan and billing details."),
    "forbidden": (403, "request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported"),
    "not_found": (404, "invalid_request_error", "model_not_found", "The model `{model}` does not exist or you do not have access to it."),
    "bad_path": (404, "invalid_request_error", "unknown_url", "Unknown request URL: {method} {path}."),
    "unknown": (400, "invalid_request_error", "unknown_parameter", "Unknown parameter: '{param}'."),
    "unsupported": (400, "invalid_request_error", "unsupported_parameter",
                    "Unsupported parameter: '{param}' is not supported with this model."),
    "missing": (400, "invalid_request_error", "missing_required_parameter", "Missing required parameter: '{param}'."),
    "invalid": (400, "invalid_request_error", "invalid_value", "Invalid value for '{param}'."),
    "bad_json": (400, "invalid_request_error", None, "We could not parse the JSON body of your request."),
    "context_length": (400, "invalid_request_error", "context_length_exceeded", "This model's maximum context length is exceeded."),
    "content_filter": (400, "invalid_request_error", "content_policy_violation", "The request was rejected by the safety system."),
    "too_large": (413, "invalid_request_error", "request_too_large", "The request is too large."),
    "unprocessable": (422, "invalid_request_error", "unprocessable_entity", GENERIC),
    "conflict": (409, "invalid_request_error", "conflict", GENERIC),
    "timeout": (408, "timeout", "request_timeout", "The request timed out."),
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again in {wait_s}s."),
    "server": (500, "server_error", None, "The server had an error while processing your request."),
    "bad_gateway": (502, "server_error", "bad_gateway", "Bad gateway."),
    "overloaded": (503, "server_error", "server_is_overloaded", "The server is overloaded."),
    "slow_down": (503, "server_error", "slow_down", "Slow down."),
    "gateway_timeout": (504, "server_error", "gateway_timeout", "Gateway timeout."),
}

ANTHROPIC = {
    "bad_key": (401, "authentication_error", None, "invalid x-api-key"),
    "no_money": (402, "billing_error", None, "Your credit balance is too low to access the Anthropic API."),
    "quota": (402, "billing_error", None, "Your credit balance is too low to access the Anthropic API."),
    "forbidden": (403, "permission_error", None, "Your API key does not have permission to use the specified resource."),
    "not_found": (404, "not_found_error", None, "model: {model}"),
    "bad_path": (404, "not_found_error", None, "Not found"),
    "unknown": (400, "invalid_request_error", None, "{param}: Extra inputs are not permitted"),
    "unsupported": (400, "invalid_request_error", None, "{param}: not supported with this model"),
    "missing": (400, "invalid_request_error", None, "{param}: Field required"),
    "invalid": (400, "invalid_request_error", None, "{param}: invalid value"),
    "bad_json": (400, "invalid_request_error", None, "The request body is not valid JSON"),
    "context_length": (400, "invalid_request_error", None, "prompt is too long"),
    "content_filter": (400, "invalid_request_error", None, "Output blocked by content filtering policy"),
    "too_large": (413, "request_too_large", None, "Request exceeds the maximum size"),
    "rate_limit": (429, "rate_limit_error", None, "This request would exceed your organization's rate limit."),
    "server": (500, "api_error", None, "Internal server error"),
    "gateway_timeout": (504, "timeout_error", None, "The request timed out."),
    "overloaded": (529, "overloaded_error", None, "Overloaded"),
}

GEMINI = {
    "bad_key": (400, "INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid. Please pass a valid API key."),
    "no_money": (429, "RESOURCE_EXHAUSTED", "limit: 0", "You exceeded your current quota. Quota exceeded for metric, limit: 0"),
    "quota": (429, "RESOURCE_EXHAUSTED", "GenerateRequestsPerDayPerProjectPerModel", "You exceeded your current quota."),
    "forbidden": (403, "PERMISSION_DENIED", None, "The caller does not have permission"),
    "not_found": (404, "NOT_FOUND", None, "models/{model} is not found for API version v1beta, or is not supported for generateContent."),
    "bad_path": (404, "NOT_FOUND", None, "Method not found."),
    "unknown": (400, "INVALID_ARGUMENT", None, 'Invalid JSON payload received. Unknown name "{param}": Cannot find field.'),
    "missing": (400, "INVALID_ARGUMENT", None, "* GenerateContentRequest.{param}: {param} is not specified"),
    "invalid": (400, "INVALID_ARGUMENT", None, "Invalid value at '{param}'"),
    "bad_json": (400, "INVALID_ARGUMENT", None, "Invalid JSON payload received."),
    "context_length": (400, "INVALID_ARGUMENT", None, "The input token count exceeds the maximum number of tokens allowed."),
    "too_large": (413, "INVALID_ARGUMENT", None, "Request payload size exceeds the limit"),
    "rate_limit": (429, "RESOURCE_EXHAUSTED", "GenerateRequestsPerMinutePerProjectPerModel", "You exceeded your current quota."),
    "timeout": (408, "DEADLINE_EXCEEDED", None, "Deadline expired before operation could complete."),
    "server": (500, "INTERNAL", None, "An internal error has occurred."),
    "overloaded": (503, "UNAVAILABLE", None, "The model is overloaded. Please try again later."),
    "gateway_timeout": (504, "DEADLINE_EXCEEDED", None, "Deadline expired before operation could complete."),
}

MISTRAL = {
    "bad_key": (401, "invalid_request_unauthorized", "1100", "Unauthorized"),
    "no_money": (402, "payment_required", "1400", "You have no credits left."),
    "not_found": (400, "invalid_model", "1500", "Invalid model: {model}"),
    "context_length": (400, "context_length_exceeded", "3051", "Prompt contains too many tokens for this model."),
    "rate_limit": (429, "rate_limited", "1300", "Rate limit exceeded"),
    "server": (500, "internal_server_error", "3000", "Internal server error"),
    "overloaded": (503, "service_unavailable", "3505", "Service tier capacity exceeded for this model."),
    "unknown": (422, "extra_forbidden", None, "Extra inputs are not permitted"),
    "missing": (422, "missing", None, "Field required"),
}

GROQ = {
    "bad_key": (401, "invalid_request_error", "invalid_api_key", "Invalid API Key"),
    "unknown": (400, "invalid_request_error", None, "property '{param}' is unsupported"),
    "rate_limit": (429, "tokens", "rate_limit_exceeded", "Rate limit reached for model `{model}` on tokens per minute (TPM)."),
    "flex": (498, "server_error", "flex_capacity_exceeded", "Flex tier capacity exceeded."),
    "failed_dependency": (424, "invalid_request_error", None, "Failed dependency."),
    "cancelled": (499, "request_cancelled", None, "The request was cancelled by the caller."),
    "overloaded": (503, "server_error", None, "Service unavailable."),
}

CEREBRAS = {
    "bad_key": (401, "invalid_request_error", "wrong_api_key", "Wrong API Key"),
    "no_money": (402, "payment_required_error", "payment_required", "Payment required."),
    "rate_limit": (429, "too_many_requests_error", "request_quota_exceeded",
                   "Requests per minute limit exceeded - too many requests sent."),
    "overloaded": (503, "too_many_requests_error", "queue_exceeded", "We're experiencing high traffic right now! Please try again soon."),
}

FIREWORKS = {
    "bad_key": (401, "invalid_request_error", "UNAUTHORIZED", "The API key you provided is invalid."),
    "suspended": (412, "error", "PRECONDITION_FAILED", "Account is suspended, possibly due to reaching the monthly spending limit."),
    "not_found": (404, "invalid_request_error", "NOT_FOUND", "Model not found, inaccessible, and/or not deployed"),
    "unknown": (400, "invalid_request_error", "invalid_request_error",
                "Extra inputs are not permitted, field: '{param}', value: {value!r}"),
    "rate_limit": (429, "rate_limit_error", "RESOURCE_EXHAUSTED", "Rate limit exceeded."),
    "overloaded": (503, "error", "SERVICE_UNAVAILABLE", "Service overloaded, please try again later."),
}

TOGETHER = {
    "bad_key": (401, "invalid_request_error", "invalid_api_key", "Invalid API key provided."),
    "no_money": (402, "credit_limit", "spend_limit", "Credit limit exceeded."),
    "context_length": (403, "invalid_request_error", None, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 131073."),
    "rate_limit": (429, "dynamic_request_limited", None, "You have exceeded your dynamic request rate limit."),
    "token_limit": (429, "dynamic_token_limited", None, "You have exceeded your dynamic token rate limit."),
    "overloaded": (503, "service_unavailable", None, "The platform is short of capacity; your rate is within your limit."),
}

AZURE = {
    "bad_key": (401, None, "401", "Access denied due to invalid subscription key or wrong API endpoint."),
    "not_found": (404, None, "DeploymentNotFound", "The API deployment for this resource does not exist."),
    "bad_path": (404, None, "404", "Resource not found"),
    "content_filter": (400, None, "content_filter", "The response was filtered due to the prompt triggering content management policy."),
    "rate_limit": (429, None, "429", "Requests have exceeded the rate limit of your current pricing tier."),
}

BEDROCK = {
    "bad_key": (401, "authentication_error", "invalid_api_key", "Authentication failed: the API key is not valid."),
    "rate_limit": (429, "rate_limit_error", "ThrottlingException", "Too many requests, please wait before trying again."),
    "not_ready": (429, "rate_limit_error", "ModelNotReadyException", "The model is not ready to serve inference requests."),
    "timeout": (408, "timeout_error", "ModelTimeoutException", "The request took too long to process."),
    "overloaded": (503, "server_error", "ServiceUnavailableException", "The service isn't currently available."),
}

HUGGINGFACE = {
    "bad_key": (401, None, None, "Invalid username or password."),
    "no_money": (402, None, None, "You have exceeded your monthly included credits for Inference Providers."),
    "not_found": (400, "invalid_request_error", "model_not_supported",
                  "The requested model '{model}' is not supported by any provider you have enabled."),
    "overloaded": (503, None, None, "Service Unavailable"),
}

OPENROUTER = {
    "bad_key": (401, None, None, "No auth credentials found"),
    "no_money": (402, "payment_required", None, "Insufficient credits."),
    "not_found": (400, "invalid_request", None, "{model} is not a valid model ID"),
    "forbidden": (403, "permission_denied", None, "Your chosen model requires moderation and your input was flagged."),
    "rate_limit": (429, "rate_limit_exceeded", None, "Rate limit exceeded"),
    "overloaded": (503, "provider_unavailable", None, "No instances available"),
}


def shape_openai(f):
    return {"error": {"message": f.message, "type": f.type, "param": f.param, "code": f.code}}


def shape_anthropic(f):
    return {"type": "error", "error": {"type": f.type, "message": f.message}, "request_id": f.request_id}


def shape_gemini(f):
    details = []
    if f.kind in ("rate_limit", "quota", "no_money"):
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
            {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests", "quotaId": f.code}]})
        if f.wait_s is not None:
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{f.wait_s:g}s"})
    elif f.code:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": f.code, "domain": "googleapis.com"})
    error = {"code": f.status, "message": f.message, "status": f.type}
    return {"error": {**error, "details": details} if details else error}


def shape_mistral(f):
    if f.status == 422:
        return {"detail": [{"type": f.type, "loc": ["body", *([f.param] if f.param else [])], "msg": f.message, "input": f.value}]}
    return {"object": "error", "message": f.message, "type": f.type, "param": f.param, "code": f.code, "raw_status_code": f.status}


def shape_groq(f):
    return {"error": {"message": f.message, "type": f.type, **({"code": f.code} if f.code else {})}}


def shape_cerebras(f):
    return {"message": f.message, "type": f.type, "param": f.param or f.type, "code": f.code}


def shape_fireworks(f):
    return {"error": {"object": "error", "type": f.type, "code": f.code, "message": f.message}}


def shape_together(f):
    error_type = {"error_type": f.type} if f.type and f.type.startswith("dynamic_") else {}
    return {"id": f.request_id, "error": {"message": f.message, "type": f.type, "param": f.param, "code": f.code, **error_type}}


def shape_azure(f):
    error = {"code": f.code, "message": f.message}
    if f.type:
        error |= {"type": f.type, "param": f.param}
    if f.kind == "content_filter":
        error |= {"param": "prompt", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {
            "hate": {"filtered": True, "severity": "high"}}}}
    return {"error": error}


def shape_huggingface(f):
    """Two of its four forms, as both are seen: an object where the router itself knows why, else a plain string."""
    return shape_openai(f) if f.code else {"error": f.message}


def shape_openrouter(f):
    metadata = {"error_type": f.type, "provider_code": None, "reason": f.code, "limit_source": "openrouter" if f.status == 429 else None}
    return {"error": {"code": f.status, "message": f.message, "metadata": {k: v for k, v in metadata.items() if v}}}


def shape_vllm(f):
    return {"error": {"message": f.message, "type": f.type, "param": f.param, "code": f.status}}


# dialect: (its own rows, the rows under them, shape)
DIALECTS = {
    "openai": ({}, OPENAI, shape_openai), "anthropic": (ANTHROPIC, {}, shape_anthropic), "gemini": (GEMINI, {}, shape_gemini),
    "mistral": (MISTRAL, OPENAI, shape_mistral), "groq": (GROQ, OPENAI, shape_groq), "cerebras": (CEREBRAS, OPENAI, shape_cerebras),
    "fireworks": (FIREWORKS, OPENAI, shape_fireworks), "together": (TOGETHER, OPENAI, shape_together),
    "azure": (AZURE, OPENAI, shape_azure),
    "bedrock": (BEDROCK, OPENAI, shape_openai), "huggingface": (HUGGINGFACE, OPENAI, shape_huggingface),
    "openrouter": (OPENROUTER, OPENAI, shape_openrouter), "vllm": ({}, OPENAI, shape_vllm),
}
WAIT = ("rate_limit", "token_limit", "overloaded", "slow_down", "flex", "not_ready")  # kinds that come with a hint when to come again


class Fault(Exception):
    """A refusal. Raised anywhere while a request is read; `bind` gives it the host's words, `body` its shape."""

    def __init__(self, kind, param=None, value=None, message=None, **words):
        super().__init__(kind)
        self.kind, self.param, self.value, self.said, self.words = kind, param, value, message, words
        self.wait_s = self.request_id = None

    def bind(self, dialect, request_id, wait_s=None, **words):
        own, under, self.shape = DIALECTS[dialect]
        row = own.get(self.kind) or under.get(self.kind)
        if row is None:  # a kind this host does not have: any of its own 500
            row = own.get("server") or under["server"]
        self.status, self.type, self.code, message = row
        self.request_id, self.wait_s = request_id, wait_s
        known = {"param": self.param, "value": self.value, "wait_s": wait_s, "model": None, "key": None, "method": None, "path": None}
        self.message = self.said or message.format(**{**known, **words, **self.words})
        return self

    def object(self):
        return self.shape(self)

    def body(self):
        return json.dumps(self.object(), ensure_ascii=False).encode("utf-8", "surrogatepass")


def kinds(dialect):
    own, under, _ = DIALECTS[dialect]
    return {**under, **own}
