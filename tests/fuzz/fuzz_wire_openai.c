/* Answers on the OpenAI wire; the first byte chooses the host, so that each row's dialect is read. */
#include "server/providers/provider.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/wire_stream.h"

static const char *const words[] = {"data: ",
                                    "\n\n",
                                    "[DONE]",
                                    "data: [DONE]\n\n",
                                    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}",
                                    "\"index\":1",
                                    "\"finish_reason\":\"stop\"",
                                    "\"finish_reason\":null",
                                    "\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]",
                                    "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,\"total_tokens\":14}",
                                    "\"prompt_tokens_details\":{\"cached_tokens\":8}",
                                    "\"completion_tokens_details\":{\"reasoning_tokens\":3}",
                                    "\"error\":{\"message\":\"x\"}",
                                    "\"reasoning\":\"hm\"",
                                    "\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-1,\"bytes\":[97],\"top_logprobs\":[]}]}",
                                    "9223372036854775807",
                                    "-1",
                                    "null",
                                    "1e999",
                                    "\"x_groq\":{\"usage\":{\"prompt_tokens\":1}}",
                                    "\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"type\":\"text\",\"text\":\"x\"}]}]",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const names[] = {"openai", "groq", "mistral", "openrouter", "together", "azure", "openai-compatible"};
    if (n) wire_stream_check(names[p[0] % (sizeof names / sizeof names[0])], 1 + (p[0] >> 4 & 1), p + 1, n - 1);
    return 0;
}
