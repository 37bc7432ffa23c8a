/* Answers on the Anthropic wire. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/wire_stream.h"

static const char *const words[] = {
    "data: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":5}}}\n\n",
    "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n",
    "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\n",
    "data: {\"type\":\"message_stop\"}\n\n",
    "\"type\":\"thinking\"",
    "\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"n\"",
    "{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}",
    "{\"type\":\"signature_delta\",\"signature\":\"s\"}",
    "\"type\":\"redacted_thinking\",\"data\":\"d\"",
    "\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}",
    "\"cache_creation\":{\"ephemeral_1h_input_tokens\":7}",
    "\"index\":1",
    "9223372036854775807",
    "-1",
    "null",
    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    wire_stream_check("anthropic", 1, p, n);
    return 0;
}
