/* Names of the hub: what a repository, a revision and a file may be called, and which files of a repository are taken. Whatever a server
 * lists, only names of the table below and plain names of shards become paths. */
#include <string.h>

#include "base/str.h"
#include "weights/hub_parts.h"
#include "weights/safetensors.h"

enum { MAX_JSON_BYTES = 100 << 20 /* json_limits_file */, MAX_OWNER_NAME = HUB_REPO_BYTES - 1 };
static const uint64_t max_weight_bytes = (uint64_t)64 << 40;

/* What is opened when a model is loaded (engine/model_source.c, prompt_model.c, media/image_settings.c, text/tokenizer_load.c). */
static const char *const wanted[] = {"generation_config.json",  "preprocessor_config.json", "processor_config.json", "tokenizer.json",
                                     "tokenizer_config.json",   "special_tokens_map.json",  "chat_template.json",    "chat_template.jinja",
                                     HUB_CONFIG};
const char *const hub_required[] = {HUB_CONFIG, "tokenizer.json", NULL};
static const char *const pickles[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"};

bool hub_name_is_plain(const char *name, size_t n)
{
    if (n == 0 || n >= HUB_FILE_BYTES || name[0] == '.' || name[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
        if (!plain) return false;
    }
    return true;
}

bool hub_is_hex(const char *s, size_t n_digits)
{
    return strlen(s) == n_digits && strspn(s, "0123456789abcdef") == n_digits;
}

/* The hub's own rules: no "--" (the cache folder's name would be ambiguous), no "..", no ".git" at the end. */
static bool repo_is_sound(const char *repo)
{
    const char *slash = strchr(repo, '/');
    size_t n = strlen(repo);
    return slash && hub_name_is_plain(repo, (size_t)(slash - repo)) && hub_name_is_plain(slash + 1, strlen(slash + 1)) &&
           n <= MAX_OWNER_NAME && !strstr(repo, "--") && !strstr(repo, "..") && !str_ends_with(repo, ".git") && repo[n - 1] != '-' &&
           repo[n - 1] != '.' && slash[-1] != '-' && slash[-1] != '.';
}

/* Git's rules of a ref, a little stricter; it becomes a path below refs/. */
static bool revision_is_sound(const char *r)
{
    size_t n = strlen(r);
    if (n == 0 || n >= HUB_REVISION_BYTES || r[0] == '/' || r[n - 1] == '/' || r[n - 1] == '.' || strstr(r, "..") || strstr(r, "//"))
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)r[i];
        if (c <= ' ' || c >= 0x7f || strchr("~^:?*[\\@", c)) return false;
        if ((i == 0 || r[i - 1] == '/') && (c == '.' || c == '-')) return false;
    }
    return true;
}

int hub_name_parse(const char *text, struct hub_name *out, struct err *e)
{
    const char *at = strchr(text, '@');
    size_t n = at ? (size_t)(at - text) : strlen(text);
    *out = (struct hub_name){0};
    if (n < sizeof out->repo) memcpy(out->repo, text, n);
    if (!repo_is_sound(out->repo)) return err_set(e, ERR_INPUT, "%.200s: is not a repository's name such as owner/name", text);
    const char *revision = at ? at + 1 : "main";
    if (!revision_is_sound(revision)) return err_set(e, ERR_INPUT, "%.200s: '%.100s' is no revision", text, revision);
    strcpy(out->revision, revision);
    return 0;
}

bool hub_name_fits(const char *text)
{
    struct hub_name ignored;
    return hub_name_parse(text, &ignored, NULL) == 0;
}

int hub_etag_read(char out[HUB_ETAG_BYTES], const char *header)
{
    const char *s = str_starts_with(header, "W/") ? header + 2 : header;
    size_t n = strlen(s);
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') s++, n -= 2;
    if (n != 40 && n != 64) return -ERR_INPUT;
    memcpy(out, s, n);
    out[n] = '\0';
    return hub_is_hex(out, n) ? 0 : -ERR_INPUT;
}

/* --- which files --- */

static int add(struct hub_files *f, const char *name, uint64_t max_bytes, struct err *e)
{
    if (f->n == HUB_MAX_FILES) return err_set(e, ERR_LIMIT, "more than %d files", HUB_MAX_FILES);
    struct hub_file *file = &f->files[f->n++];
    *file = (struct hub_file){.max_bytes = max_bytes};
    snprintf(file->name, sizeof file->name, "%s", name);
    return 0;
}

static const char *listed_name(const json_t *siblings, size_t i)
{
    const json_t *v = json_object_get(json_array_get(siblings, i), "rfilename");
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL; /* a NUL in it: no name of ours */
}

static bool is_listed(const json_t *siblings, const char *name)
{
    for (size_t i = 0; i < json_array_size(siblings); i++) {
        const char *s = listed_name(siblings, i);
        if (s && strcmp(s, name) == 0) return true;
    }
    return false;
}

/* Why there are no weights to take. */
static int no_weights(const struct hub_name *name, const json_t *siblings, struct err *e)
{
    for (size_t i = 0; i < json_array_size(siblings); i++) {
        const char *s = listed_name(siblings, i);
        for (size_t k = 0; s && k < sizeof pickles / sizeof *pickles; k++)
            if (str_ends_with(s, pickles[k]))
                return err_set(e, ERR_UNSUPPORTED,
                               "%s@%s: its weights are pickle files only (%.80s), which are refused: opening one can run any code. A "
                               "repository or revision with " HUB_SINGLE " is needed",
                               name->repo, name->revision, s);
    }
    for (size_t i = 0; i < json_array_size(siblings); i++) {
        const char *s = listed_name(siblings, i);
        if (s && str_ends_with(s, ".gguf"))
            return err_set(e, ERR_UNSUPPORTED, "%s@%s: its weights are GGUF files only (%.80s), which cannot be served yet", name->repo,
                           name->revision, s);
    }
    return err_set(e, ERR_UNSUPPORTED, "%s@%s: has neither " HUB_SINGLE " nor " HUB_INDEX ": there are no weights to serve", name->repo,
                   name->revision);
}

int hub_files_choose(struct hub_files *f, const struct hub_name *name, const json_t *info, char commit[HUB_COMMIT_BYTES], bool *sharded,
                     struct err *e)
{
    f->n = 0;
    const char *sha = json_string_value(json_object_get(info, "sha"));
    const json_t *siblings = json_object_get(info, "siblings");
    if (!sha || !hub_is_hex(sha, 40)) return err_set(e, ERR_INPUT, "%s: the server's answer has no commit (sha)", name->repo);
    if (!json_is_array(siblings)) return err_set(e, ERR_INPUT, "%s: the server's answer lists no files (siblings)", name->repo);
    strcpy(commit, sha);
    for (const char *const *need = hub_required; *need; need++)
        if (!is_listed(siblings, *need)) return err_set(e, ERR_UNSUPPORTED, "%s@%s: has no %s", name->repo, name->revision, *need);
    *sharded = is_listed(siblings, HUB_INDEX);
    if (!*sharded && !is_listed(siblings, HUB_SINGLE)) return no_weights(name, siblings, e);
    int rc = add(f, *sharded ? HUB_INDEX : HUB_SINGLE, *sharded ? SAFETENSORS_MAX_HEADER : max_weight_bytes, e);
    for (size_t i = 0; !rc && i < sizeof wanted / sizeof *wanted; i++)
        if (is_listed(siblings, wanted[i])) rc = add(f, wanted[i], MAX_JSON_BYTES, e);
    return rc;
}

static bool is_chosen(const struct hub_files *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->files[i].name, name) == 0) return true;
    return false;
}

int hub_files_add_shards(struct hub_files *f, const struct hub_name *name, const json_t *index, const json_t *info, struct err *e)
{
    json_t *map = json_object_get(index, "weight_map"), *v;
    const char *tensor;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return err_set(e, ERR_INPUT, "%s: " HUB_INDEX ": weight_map must be an object that names files", name->repo);
    json_object_foreach(map, tensor, v) {
        const char *s = json_string_value(v);
        size_t n = json_string_length(v);
        if (!s || !hub_name_is_plain(s, n) || !str_ends_with(s, ".safetensors"))
            return err_set(e, ERR_INPUT, "%s: " HUB_INDEX ": '%.80s' is not the name of a .safetensors file beside it", name->repo,
                           s ? s : "");
        if (is_chosen(f, s)) continue;
        if (info && !is_listed(json_object_get(info, "siblings"), s))
            return err_set(e, ERR_INPUT, "%s: " HUB_INDEX " names %s, which the repository has not", name->repo, s);
        int rc = add(f, s, max_weight_bytes, e);
        if (rc) return rc;
    }
    return 0;
}
