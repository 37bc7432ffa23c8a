/* Answers on the Gemini wire. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/wire_stream.h"

static const char *const words[] = {"data: ",
                                    "\n\n",
                                    "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"x\"}]},\"index\":0}]}",
                                    "\"finishReason\":\"STOP\"",
                                    "\"finishReason\":\"SAFETY\"",
                                    "\"finishReason\":\"OTHER\"",
                                    "{\"functionCall\":{\"name\":\"f\",\"args\":{}},\"thoughtSignature\":\"s\"}",
                                    "\"thought\":true",
                                    "\"index\":1",
                                    "\"usageMetadata\":{\"promptTokenCount\":5,\"candidatesTokenCount\":3,\"totalTokenCount\":8}",
                                    "\"cachedContentTokenCount\":9",
                                    "\"thoughtsTokenCount\":2",
                                    "\"promptTokensDetails\":[{\"modality\":\"AUDIO\",\"tokenCount\":4}]",
                                    "\"promptFeedback\":{\"blockReason\":\"OTHER\"}",
                                    "\"error\":{\"code\":503,\"message\":\"x\",\"status\":\"UNAVAILABLE\"}",
                                    "{\"inlineData\":{\"data\":\"AA\"}}",
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
    wire_stream_check("gemini", 1, p, n);
    return 0;
}
