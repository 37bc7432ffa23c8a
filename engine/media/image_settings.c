/* image_settings_read: preprocessor_config.json and config.json of a model folder to struct image_settings. Where a key
 * is left out, the default of the reference's Idefics3ImageProcessor holds, except for sizes: those come from the
 * vision tower, which must agree with them in any case (a tile is one input of the tower). */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "engine/media/image.h"

/* Integer member of o; `fallback` if absent or null. */
static int read_int(const json_t *o, const char *key, int fallback, int *out, struct err *e)
{
    const json_t *v = json_object_get(o, key);
    *out = fallback;
    if (!v || json_is_null(v)) return 0;
    json_int_t i = json_is_integer(v) ? json_integer_value(v) : INT_MIN;
    if (i < 0 || i > INT_MAX) return err_set(e, ERR_INPUT, "%s: not an integer of 0 to %d", key, INT_MAX);
    *out = (int)i;
    return 0;
}

static int read_bool(const json_t *o, const char *key, bool fallback, bool *out, struct err *e)
{
    const json_t *v = json_object_get(o, key);
    *out = fallback;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v)) return err_set(e, ERR_INPUT, "%s: not true or false", key);
    *out = json_is_true(v);
    return 0;
}

/* {"longest_edge": n}; 0 if absent. */
static int read_edge(const json_t *o, const char *key, int *out, struct err *e)
{
    const json_t *v = json_object_get(o, key);
    *out = 0;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v)) return err_set(e, ERR_INPUT, "%s: not an object with longest_edge", key);
    int rc = read_int(v, "longest_edge", 0, out, e);
    if (rc) err_prefix(e, "%s", key);
    return rc;
}

static int read_triple(const json_t *o, const char *key, float out[3], struct err *e)
{
    const json_t *v = json_object_get(o, key);
    for (size_t c = 0; c < 3; c++) out[c] = 0.5f;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_array(v) || json_array_size(v) != 3) return err_set(e, ERR_INPUT, "%s: not a list of 3 numbers", key);
    for (size_t c = 0; c < 3; c++) {
        const json_t *x = json_array_get(v, c);
        if (!json_is_number(x)) return err_set(e, ERR_INPUT, "%s[%zu]: not a number", key, c);
        out[c] = (float)json_number_value(x);
    }
    return 0;
}

static int read_processor(struct image_settings *s, const json_t *o, struct err *e)
{
    bool do_resize, do_rescale, do_normalise;
    int rc = read_edge(o, "size", &s->longest_edge, e);
    if (!rc) rc = read_edge(o, "max_image_size", &s->tile_px, e);
    if (!rc) rc = read_bool(o, "do_image_splitting", true, &s->split, e);
    if (!rc) rc = read_bool(o, "do_resize", true, &do_resize, e);
    if (!rc) rc = read_bool(o, "do_rescale", true, &do_rescale, e);
    if (!rc) rc = read_bool(o, "do_normalize", true, &do_normalise, e);
    if (!rc) rc = read_int(o, "resample", 1, &s->resample, e);
    if (!rc) rc = read_triple(o, "image_mean", s->mean, e);
    if (!rc) rc = read_triple(o, "image_std", s->std, e);
    if (rc) return rc;
    if (!do_resize || !do_rescale || !do_normalise)
        return err_set(e, ERR_UNSUPPORTED, "do_resize, do_rescale and do_normalize must be true");
    const json_t *rescale = json_object_get(o, "rescale_factor");
    if (rescale && !json_is_number(rescale)) return err_set(e, ERR_INPUT, "rescale_factor: not a number");
    s->rescale = rescale ? json_number_value(rescale) : 1.0 / 255;
    return 0;
}

/* Tokens a tile: the tower's patches, scale_factor^2 of them to a token. */
static int read_model(struct image_settings *s, const json_t *o, struct err *e)
{
    const json_t *vision = json_object_get(o, "vision_config");
    if (!json_is_object(vision)) return err_set(e, ERR_INPUT, "vision_config: missing; not a model for pictures");
    int image_size, patch_size, scale;
    int rc = read_int(vision, "image_size", 224, &image_size, e); /* SmolVLMVisionConfig's defaults */
    if (!rc) rc = read_int(vision, "patch_size", 32, &patch_size, e);
    if (rc) {
        err_prefix(e, "vision_config");
        return rc;
    }
    rc = read_int(o, "scale_factor", 2, &scale, e);
    if (rc) return rc;
    if (patch_size < 1 || image_size < patch_size)
        return err_set(e, ERR_INPUT, "vision_config: image_size %d and patch_size %d", image_size, patch_size);
    int side = image_size / patch_size;
    if (scale < 1 || side % scale || side > 4096)
        return err_set(e, ERR_INPUT, "scale_factor: %d does not divide a side of %d patches", scale, side);
    s->tokens_per_tile = side / scale * (side / scale);
    if (!s->tile_px) s->tile_px = image_size;
    if (!s->longest_edge) s->longest_edge = image_size <= IMAGE_MAX_TILE_PX ? 4 * image_size : image_size;
    if (s->tile_px != image_size)
        return err_set(e, ERR_INPUT, "max_image_size.longest_edge is %d and vision_config.image_size %d: they must agree", s->tile_px,
                       image_size);
    return 0;
}

static int read_file(const char *dir, const char *name, json_t **out, struct err *e)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path) return err_set(e, ERR_INPUT, "%s: path too long", name);
    int rc = json_read_file(path, &json_limits_file, out, e);
    if (!rc && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        rc = err_set(e, ERR_INPUT, "%s: not a JSON object", path);
    }
    return rc;
}

int image_settings_read(struct image_settings *s, const char *dir, struct err *e)
{
    *s = (struct image_settings){0};
    json_t *file = NULL, *config = NULL;
    const char *name = "preprocessor_config.json";
    int rc = read_file(dir, name, &file, e);
    const json_t *processor = file;
    if (rc == -ERR_NOT_FOUND) {
        name = "processor_config.json";
        rc = read_file(dir, name, &file, e);
        processor = rc ? NULL : json_object_get(file, "image_processor");
        if (!rc && !json_is_object(processor)) rc = err_set(e, ERR_INPUT, "%s/%s: image_processor: missing", dir, name);
    }
    if (rc) goto done;
    rc = read_processor(s, processor, e);
    if (rc) {
        err_prefix(e, "%s/%s", dir, name);
        goto done;
    }
    rc = read_file(dir, "config.json", &config, e);
    if (rc) goto done;
    rc = read_model(s, config, e);
    if (!rc) rc = image_settings_check(s, e);
    if (rc) err_prefix(e, "%s/config.json", dir);
done:
    json_decref(file);
    json_decref(config);
    return rc;
}
