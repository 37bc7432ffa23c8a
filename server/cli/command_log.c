/* Log options of the commands that have a log: serve, worker, media, pull. */
#include "base/log.h"
#include "server/cli/command.h"

void command_log(const struct options *o, const char *part)
{
    enum log_level level = LOG_INFO;
    enum log_format format = LOG_TEXT;
    bool known = log_level_read(o->log_level, &level) && log_format_read(o->log_format, &format);
    CHECK(known); /* options.c lets no other words pass */
    log_set_format(format);
    log_setup(level, part);
}
