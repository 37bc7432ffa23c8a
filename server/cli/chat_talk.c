/* chat's talk: messages in OpenAI's form, pictures for the next one, and the commands that begin with '/'. A row of the table is a command. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "server/cli/chat_parts.h"
#include "server/cli/env.h"
#include "server/cli/pictures.h"

enum { MAX_IMAGE_FILE_BYTES = 14 << 20, MAX_SAVE_BYTES = 256 << 20 }; /* a picture in base64 must fit a server's 20 MB */

int chat_init(struct chat *c, struct err *e)
{
    c->messages = json_array();
    c->names = json_array();
    c->images = json_array();
    c->image_names = json_array();
    return c->messages && c->names && c->images && c->image_names ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

void chat_free(struct chat *c)
{
    json_decref(c->messages);
    json_decref(c->names);
    json_decref(c->images);
    json_decref(c->image_names);
    chat_api_close(&c->api);
}

/* --- pictures --- */

static const char *picture_type(const struct buf *b)
{
    static const struct {
        const char *magic, *type;
        size_t at, n;
    } rows[] = {{"\x89PNG\r\n\x1a\n", "image/png", 0, 8},
                {"\xff\xd8\xff", "image/jpeg", 0, 3},
                {"WEBP", "image/webp", 8, 4},
                {"GIF8", "image/gif", 0, 4}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (b->len > rows[i].at + rows[i].n && memcmp(b->data + rows[i].at, rows[i].magic, rows[i].n) == 0) return rows[i].type;
    return NULL;
}

/* In our own caged decoder: a broken picture is told now, and not by the server after the question. */
static int check_decodes(const char *file, int *width, int *height, struct err *e)
{
    static const struct image_settings any = {.longest_edge = 512,
                                              .tile_px = 512,
                                              .tokens_per_tile = 64,
                                              .resample = 2,
                                              .mean = {0.5f, 0.5f, 0.5f},
                                              .std = {0.5f, 0.5f, 0.5f},
                                              .rescale = 1.0 / 255};
    struct pictures p;
    int rc = pictures_decode(&p, &file, 1, &any, true, e);
    if (!rc) {
        *width = p.grids[0].width;
        *height = p.grids[0].height;
        pictures_close(&p);
    }
    return rc;
}

/* {"type":"image_url","image_url":{"url":"data:..."}} */
static json_t *image_part(const char *type, const struct buf *bytes)
{
    size_t head = strlen(type) + 13, n = sodium_base64_encoded_len(bytes->len, sodium_base64_VARIANT_ORIGINAL);
    char *url = malloc(head + n + 1);
    if (!url) return NULL;
    int at = snprintf(url, head + 1, "data:%s;base64,", type);
    sodium_bin2base64(url + at, n, (const unsigned char *)bytes->data, bytes->len, sodium_base64_VARIANT_ORIGINAL);
    json_t *part = json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", url);
    free(url);
    return part;
}

/* ~/x, "x y", 'x y' and x\ y, as shells write them and as file managers drop them. */
static int file_name(const char *text, char *out, size_t n, struct err *e)
{
    size_t len = strlen(text), at = 0;
    while (len > 0 && text[len - 1] == ' ') len--;
    const char *home = str_starts_with(text, "~/") ? env_home() : NULL;
    if (home) {
        at = (size_t)snprintf(out, n, "%s", home);
        text++;
        len--;
    }
    bool quoted = len >= 2 && (*text == '"' || *text == '\'') && text[len - 1] == *text;
    if (quoted) {
        text++;
        len -= 2;
    }
    for (size_t i = 0; i < len && at < n; i++) {
        if (!quoted && text[i] == '\\' && i + 1 < len) i++;
        out[at++] = text[i];
    }
    if (at >= n) return err_set(e, ERR_LIMIT, "the file's name is too long");
    out[at] = '\0';
    return at ? 0 : err_set(e, ERR_INPUT, "a file's name is needed");
}

int chat_attach(struct chat *c, const char *file, struct err *e)
{
    if (json_array_size(c->images) >= CHAT_MAX_IMAGES) return err_set(e, ERR_LIMIT, "a message has at most %d pictures", CHAT_MAX_IMAGES);
    struct stat st;
    if (stat(file, &st)) return err_set(e, ERR_NOT_FOUND, "%s: %s", file, strerror(errno));
    if (!S_ISREG(st.st_mode)) return err_set(e, ERR_INPUT, "%s: is not a file", file);
    if (st.st_size > MAX_IMAGE_FILE_BYTES)
        return err_set(e, ERR_LIMIT, "%s: has %.1f MB; at most %d MB can be sent", file, (double)st.st_size / 1e6,
                       MAX_IMAGE_FILE_BYTES / 1000000);
    struct buf b;
    buf_init(&b, MAX_IMAGE_FILE_BYTES);
    int rc = buf_read_file(&b, file, e), width = 0, height = 0;
    const char *type = rc ? NULL : picture_type(&b);
    if (!rc && !type) rc = err_set(e, ERR_INPUT, "%s: is not a PNG, JPEG, WebP or GIF picture", file);
    if (!rc) rc = check_decodes(file, &width, &height, e);
    json_t *part = rc ? NULL : image_part(type, &b);
    if (!rc && (!part || json_array_append_new(c->images, part) || json_array_append_new(c->image_names, json_string(file))))
        rc = err_set(e, ERR_MEMORY, "out of memory");
    buf_free(&b);
    if (!rc && c->terminal.dialogue)
        printf("%s%s: %d x %d; goes with your next message%s\n", terminal_style(&c->terminal, STYLE_NOTE), type, width, height,
               terminal_style(&c->terminal, STYLE_PLAIN));
    return rc;
}

/* --- messages --- */

int chat_set_system(struct chat *c, const char *text, struct err *e)
{
    const char *role = json_string_value(json_object_get(json_array_get(c->messages, 0), "role"));
    if (role && strcmp(role, "system") == 0) {
        json_array_remove(c->messages, 0);
        json_array_remove(c->names, 0);
    }
    if (!*text) return 0;
    json_t *m = json_pack("{s:s, s:s}", "role", "system", "content", text);
    if (!m) return err_set(e, ERR_INPUT, "this is not valid UTF-8");
    int rc = json_array_insert_new(c->messages, 0, m);
    if (json_array_insert_new(c->names, 0, json_array()) || rc) return err_set(e, ERR_MEMORY, "out of memory");
    return 0;
}

/* Pictures first: that is what the models were taught with. */
static json_t *user_message(struct chat *c, const char *text, size_t n)
{
    if (json_array_size(c->images) == 0) return json_pack("{s:s, s:s%}", "role", "user", "content", text, n);
    json_t *parts = json_copy(c->images);
    if (!parts || json_array_append_new(parts, json_pack("{s:s, s:s%}", "type", "text", "text", text, n))) {
        json_decref(parts);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "role", "user", "content", parts);
}

int chat_request(struct chat *c, const char *text, size_t n, json_t **request, struct err *e)
{
    json_t *messages = json_copy(c->messages), *user = user_message(c, text, n);
    bool whole = messages && user && json_array_append(messages, user) == 0;
    *request = whole ? json_pack("{s:s, s:b, s:{s:b}, s:O}", "model", c->model, "stream", 1, "stream_options", "include_usage", 1,
                                 "messages", messages)
                     : NULL;
    json_decref(user);
    json_decref(messages);
    if (*request && c->o->temperature >= 0) json_object_set_new(*request, "temperature", json_real(c->o->temperature));
    if (*request && c->o->max_tokens > 0) json_object_set_new(*request, "max_tokens", json_integer(c->o->max_tokens));
    return *request ? 0 : err_set(e, ERR_MEMORY, "out of memory");
}

void chat_keep(struct chat *c, json_t *request, const char *answer, size_t n)
{
    const json_t *sent = json_object_get(request, "messages");
    json_array_append(c->messages, json_array_get(sent, json_array_size(sent) - 1));
    json_array_append_new(c->names, json_copy(c->image_names));
    json_array_append_new(c->messages, json_pack("{s:s, s:s%}", "role", "assistant", "content", n ? answer : "", n));
    json_array_append_new(c->names, json_array());
    json_array_clear(c->images);
    json_array_clear(c->image_names);
}

/* --- commands --- */

static void note(const struct chat *c, const char *text)
{
    if (c->terminal.dialogue) printf("%s%s%s\n", terminal_style(&c->terminal, STYLE_NOTE), text, terminal_style(&c->terminal, STYLE_PLAIN));
}

static int do_image(struct chat *c, const char *arg, struct err *e)
{
    char file[4096];
    int rc = file_name(arg, file, sizeof file, e);
    return rc ? rc : chat_attach(c, file, e);
}

static int do_system(struct chat *c, const char *arg, struct err *e)
{
    int rc = chat_set_system(c, arg, e);
    if (!rc) note(c, *arg ? "the system message is set" : "there is no system message now");
    return rc;
}

/* The texts of a message, one below the other; pictures by their names. */
static void write_markdown(struct buf *b, const json_t *message, const json_t *names)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    buf_printf(b, "## %s\n\n", strcmp(role, "user") == 0 ? "You" : strcmp(role, "system") == 0 ? "System" : "Model");
    size_t i;
    const json_t *name, *part;
    json_array_foreach(names, i, name) buf_printf(b, "![picture](%s)\n\n", json_string_value(name));
    json_array_foreach(content, i, part) {
        const json_t *text = json_object_get(part, "text");
        if (text) buf_append(b, json_string_value(text), json_string_length(text));
    }
    if (json_is_string(content)) buf_append(b, json_string_value(content), json_string_length(content));
    buf_puts(b, "\n\n");
}

static int write_file(const char *file, bool again, const struct buf *b, struct err *e)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC | (again ? O_TRUNC : O_EXCL), 0600);
    if (fd < 0 && errno == EEXIST) return err_set(e, ERR_INPUT, "%s: is there already", file);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    int rc = 0;
    for (size_t at = 0; at < b->len && !rc;) {
        ssize_t n = write(fd, b->data + at, b->len - at);
        if (n < 0 && errno != EINTR) rc = err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
        if (n > 0) at += (size_t)n;
    }
    if (close(fd) && !rc) rc = err_set(e, ERR_IO, "%s: %s", file, strerror(errno));
    return rc;
}

static int do_save(struct chat *c, const char *arg, struct err *e)
{
    char file[4096];
    int rc = file_name(arg, file, sizeof file, e);
    if (rc) return rc;
    struct buf b;
    buf_init(&b, MAX_SAVE_BYTES);
    size_t i;
    const json_t *message;
    if (str_ends_with(file, ".md"))
        json_array_foreach(c->messages, i, message) write_markdown(&b, message, json_array_get(c->names, i));
    else {
        json_write(&b, c->messages);
        buf_putc(&b, '\n');
    }
    rc = b.failed ? err_set(e, ERR_LIMIT, "the talk is too long to be saved") : write_file(file, strcmp(file, c->saved) == 0, &b, e);
    buf_free(&b);
    if (rc) return rc;
    strcpy(c->saved, file);
    note(c, "saved");
    return 0;
}

static int do_clear(struct chat *c, const char *arg, struct err *e)
{
    (void)arg;
    json_t *first = json_array_get(c->messages, 0);
    const char *text = json_string_value(json_object_get(first, "content")), *role = json_string_value(json_object_get(first, "role"));
    char *system = role && strcmp(role, "system") == 0 && text ? strdup(text) : NULL;
    json_array_clear(c->messages);
    json_array_clear(c->names);
    json_array_clear(c->images);
    json_array_clear(c->image_names);
    int rc = system ? chat_set_system(c, system, e) : 0;
    free(system);
    if (!rc) note(c, "the talk begins anew");
    return rc;
}

static int do_quit(struct chat *c, const char *arg, struct err *e)
{
    (void)arg;
    (void)e;
    c->leaving = true;
    return 0;
}

static int do_help(struct chat *c, const char *arg, struct err *e);

static const struct {
    const char *name, *arg, *help;
    int (*run)(struct chat *c, const char *arg, struct err *e);
} commands[] = {
    {"/image", "FILE", "a picture for the next message (PNG, JPEG, WebP, GIF)", do_image},
    {"/system", "TEXT", "what the model is told before the talk; without TEXT: nothing", do_system},
    {"/save", "FILE", "the talk as JSON messages, or as text if FILE ends in .md", do_save},
    {"/clear", "", "forget the talk; the system message stays", do_clear},
    {"/help", "", "this list", do_help},
    {"/quit", "", "leave (also Ctrl-D)", do_quit},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int do_help(struct chat *c, const char *arg, struct err *e)
{
    (void)c;
    (void)arg;
    (void)e;
    for (int i = 0; i < N_COMMANDS; i++) printf("  %-8s %-5s %s\n", commands[i].name, commands[i].arg, commands[i].help);
    printf("A line that ends with \\ goes on; so does a text that begins with \"\"\", to the next \"\"\". // begins a message with /.\n"
           "Ctrl-C stops an answer.\n");
    return 0;
}

int chat_command(struct chat *c, const char *line, struct err *e)
{
    size_t n = strcspn(line, " \t\n");
    const char *arg = line + n + strspn(line + n, " \t\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (strlen(commands[i].name) == n && memcmp(commands[i].name, line, n) == 0) return commands[i].run(c, arg, e);
    return err_set(e, ERR_INPUT, "%.*s: there is no such command (see /help; // begins a message with /)", (int)(n < 64 ? n : 64), line);
}
