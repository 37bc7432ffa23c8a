/* config check FILE: reads a configuration file as `serve --config` would and tells everything that is wrong with it, with line and column.
 * Exit code 1 if there is anything. Files and folders that it names are looked at when serving. */
#include <string.h>

#include "server/cli/command.h"
#include "server/cli/options_config.h"

int command_config(const struct options *o)
{
    struct err e = {0};
    if (o->n_args != 2 || strcmp(o->args[0], "check") != 0) {
        err_set(&e, ERR_INPUT, "config: say 'spillway config check FILE'");
        return command_usage_error(&e);
    }
    struct options serve;
    struct config_file *file = NULL;
    struct config_faults faults = {.n = 0};
    options_init(COMMAND_SERVE, &serve);
    int rc = options_read_config(&serve, o->args[1], &file, &faults);
    config_file_free(file);
    if (rc) {
        options_print_faults(&faults, o->args[1], stderr);
        return COMMAND_FAILED;
    }
    printf("%s: ok\n", o->args[1]);
    return COMMAND_OK;
}
