/* Prints the numeric members of a chat request, one "name whole|real min max" a line, from the server's own table: tests generate their values from
 * it (T12). */
#include <stdio.h>

#include "server/api/chat_params.h"

int main(void)
{
    struct chat_number numbers[64];
    size_t n = chat_params_numbers(numbers, 64);
    if (n > 64) return 1;
    for (size_t i = 0; i < n; i++)
        printf("%s %s %.17g %.17g\n", numbers[i].name, numbers[i].whole ? "whole" : "real", numbers[i].min, numbers[i].max);
    return 0;
}
