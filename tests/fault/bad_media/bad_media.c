/* spillway_bad_media: the whole program with a picture decoder that does what pictures tell it (bad_answer.h). The gateway starts its
 * children from its own binary, so `spillway_bad_media serve` is the real gateway with this decoder in the real cage. */
#include "server/cli/command.h"
#include "tests/fault/bad_media/bad_answer.h"

int command_media(const struct options *o)
{
    (void)o;
    return media_process(bad_answer);
}
