/* media: the picture decoder's process, started by serve and by the commands that take --image. Its socket is
 * descriptor 3. */
#include "engine/media/media_wire.h"
#include "server/cli/command.h"

int command_media(const struct options *o)
{
    command_log(o, "media");
    return media_main();
}
