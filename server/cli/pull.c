/* pull MODEL: downloads a model of the hub into its cache, as far as it is not there, and prints the snapshot's folder. */
#include <stdio.h>
#include <string.h>

#include "server/cli/command.h"
#include "server/cli/hub_model.h"
#include "server/cli/terminal.h"

int command_pull(const struct options *o)
{
    char path[HUB_PATH_BYTES];
    struct err e = {0};
    command_log(o, "pull");
    if (o->n_args != 1) {
        err_set(&e, ERR_INPUT, "one MODEL is needed: owner/name, or owner/name@revision");
        return command_usage_error(&e);
    }
    struct hub_name name;
    if (hub_name_parse(o->args[0], &name, &e)) return command_usage_error(&e);
    if (hub_model_pull(o->args[0], (unsigned)o->retries, path, &e) == 0) {
        printf("%s\n", path);
        return COMMAND_OK;
    }
    fprintf(stderr, "spillway: ");
    terminal_print(stderr, e.msg, strlen(e.msg)); /* some of it may be the server's */
    fprintf(stderr, "\n");
    return COMMAND_FAILED;
}
