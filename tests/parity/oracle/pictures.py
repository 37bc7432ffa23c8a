"""Section img: synthetic pictures in every format the server decodes, broken files, raw resize kernels, and the tiles of each picture
for each processor geometry.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from .common import jdump, log, rng_for, sha, st_save


def synth(r, w, h, mode="RGB"):
    from PIL import Image, ImageDraw

    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    ch = []
    for _ in range(3):
        a, b, c, p = r.uniform(0.5, 6, 4)
        ch.append(
            127.5
            + 100 * np.sin(a * x / max(w, 8) * 6.28 + p) * np.cos(b * y / max(h, 8) * 6.28)
            + 27 * np.sin((x + y) / (3 + c))
        )
    img = Image.fromarray(np.clip(np.stack(ch, -1), 0, 255).astype(np.uint8), "RGB")
    if w >= 24 and h >= 24:
        dr = ImageDraw.Draw(img)
        for _ in range(6):
            x0, y0 = int(r.integers(0, w)), int(r.integers(0, h))
            x1, y1 = int(r.integers(0, w)), int(r.integers(0, h))
            box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
            col = tuple(int(v) for v in r.integers(0, 256, 3))
            (dr.rectangle if r.random() < 0.5 else dr.ellipse)(box, fill=col if r.random() < 0.5 else None, outline=col)
        dr.line([0, 0, w - 1, h - 1], fill=(255, 255, 255))
        a = np.asarray(img).astype(np.int16)
        n = r.integers(-6, 7, size=(min(h, 64), min(w, 64), 3))
        a = a.copy()
        a[: n.shape[0], : n.shape[1]] += n.astype(np.int16)
        img = Image.fromarray(np.clip(a, 0, 255).astype(np.uint8), "RGB")
    return img.convert(mode) if mode != "RGB" else img


def png_chunk(t, d):
    return struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))


def write_png_raw(path, arr, bit_depth, color_type, interlace=False):
    """Minimal PNG writer for what Pillow cannot write: 16-bit RGB and Adam7."""
    h, w = arr.shape[:2]

    def pack(a):
        return b"".join(
            b"\0" + (row.astype(">u2").tobytes() if bit_depth == 16 else row.astype(np.uint8).tobytes()) for row in a
        )

    if interlace:
        raw = b""
        for y0, x0, dy, dx in (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ):
            sub = arr[y0::dy, x0::dx]
            if sub.shape[0] and sub.shape[1]:
                raw += pack(sub)
    else:
        raw = pack(arr)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", w, h, bit_depth, color_type, 0, 0, int(interlace))
    )
    Path(path).write_bytes(data + png_chunk(b"IDAT", zlib.compress(raw, 9)) + png_chunk(b"IEND", b""))


def write_broken(r, d):
    """Hostile and broken files: the loader must answer an error, never crash or hang."""
    flipped = bytearray((d / "rgb_64x64.png").read_bytes())
    flipped[60] ^= 255
    enormous = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", enormous), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b""))
    files = {
        "bad_empty.png": b"",
        "bad_garbage.jpg": r.integers(0, 256, 400, dtype=np.uint8).tobytes(),
        "bad_trunc.png": (d / "rgb_100x80.png").read_bytes()[:300],
        "bad_trunc.jpg": (d / "jpg_640x480.jpg").read_bytes()[:700],
        "bad_hugedims.png": b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*c) for c in chunks),
        "bad_crc.png": bytes(flipped),
    }
    for name, data in files.items():
        (d / name).write_bytes(data)
    return sorted(files)


def make_images(seed, d):
    """Writes one picture of each format and kind; returns their names, and those of the broken files."""
    from PIL import Image

    r = rng_for(seed, "images")
    d.mkdir(parents=True, exist_ok=True)
    names = []

    def save(name, im, **kw):
        im.save(d / name, **kw)
        names.append(name)

    for w, h in (
        (1, 1),
        (7, 500),
        (500, 7),
        (2, 3),
        (64, 64),
        (65, 63),
        (38, 38),
        (256, 256),
        (100, 80),
        (1500, 3),
        (301, 203),
    ):
        save(f"rgb_{w}x{h}.png", synth(r, w, h))
    save("jpg_640x480.jpg", synth(r, 640, 480), quality=90)
    save("jpg_2048x1536.jpg", synth(r, 2048, 1536), quality=40)
    save("jpg_333x222_prog.jpg", synth(r, 333, 222), quality=85, progressive=True)
    save("jpg_123x77_444.jpg", synth(r, 123, 77), quality=95, subsampling=0)
    save("jpg_123x77_422.jpg", synth(r, 123, 77), quality=80, subsampling=1)
    save("jpg_17x9.jpg", synth(r, 17, 9), quality=75)
    save("jpg_gray_90x120.jpg", synth(r, 90, 120, "L"), quality=85)
    save("jpg_cmyk_80x60.jpg", synth(r, 80, 60, "CMYK"), quality=90)
    save("gray_300x200.png", synth(r, 300, 200, "L"))
    la = synth(r, 64, 48, "L").convert("LA")
    al = Image.fromarray((np.mgrid[0:48, 0:64][1] * 4).astype(np.uint8))
    la.putalpha(al)
    save("la_64x48.png", la)
    ra = synth(r, 120, 90).convert("RGBA")
    ra.putalpha(
        Image.fromarray((np.hypot(*(np.mgrid[0:90, 0:120] - np.array([[[45]], [[60]]]))) * 4 % 256).astype(np.uint8))
    )
    save("rgba_120x90.png", ra)
    pal = synth(r, 100, 80).quantize(32)
    save("pal_100x80.png", pal)
    save("pal_trns_100x80.png", pal, transparency=5)
    save("pal_4bit_33x21.png", synth(r, 33, 21).quantize(11), bits=4)
    save("bit1_65x33.png", synth(r, 65, 33, "1"))
    g16 = (np.mgrid[0:30, 0:40].sum(0) * 900 % 65536).astype(np.uint16)
    save("gray16_40x30.png", Image.fromarray(g16))
    a = np.asarray(synth(r, 45, 31)).astype(np.uint16)
    write_png_raw(d / "rgb16_45x31.png", a * 257 + 128, 16, 2)
    write_png_raw(d / "adam7_45x31.png", a.astype(np.uint8), 8, 2, interlace=True)
    names += ["rgb16_45x31.png", "adam7_45x31.png"]
    for o in range(1, 9):
        im = synth(r, 60, 36)
        ex = im.getexif()
        ex[0x0112] = o
        save(f"exif{o}_60x36.jpg", im, quality=92, exif=ex)
    save("webp_lossless_50x40.webp", synth(r, 50, 40), lossless=True)
    save("gif_50x40.gif", synth(r, 50, 40).quantize(64))
    return names, write_broken(r, d)


def decode_policies(path):
    """white: EXIF-rotate then composite alpha on white (processor given PIL image).
    drop: EXIF-rotate then .convert('RGB') (transformers load_image: URL, path, base64)."""
    from PIL import Image, ImageOps
    from transformers.image_transforms import convert_to_rgb

    im = Image.open(path)
    im.load()
    mode, size, orient = im.mode, im.size, im.getexif().get(0x0112)
    t = ImageOps.exif_transpose(im)
    white = Image.fromarray(convert_to_rgb(t, return_numpy=True))
    drop = t.convert("RGB")
    return im, mode, size, orient, white, drop


GEOMS = {
    "tile64": dict(size=256, tile=64, split=True),
    "tile38": dict(size=152, tile=38, split=True),
    "nosplit64": dict(size=256, tile=64, split=False),
    "size_eq_tile64": dict(size=64, tile=64, split=True),
    "hub512": dict(size=2048, tile=512, split=True),
    "hub384": dict(size=1536, tile=384, split=True),
}


def image_processor(geom, cls=None):
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    g = GEOMS[geom] if isinstance(geom, str) else geom
    return (cls or Idefics3ImageProcessorPil)(
        size={"longest_edge": g["size"]},
        max_image_size={"longest_edge": g["tile"]},
        do_image_splitting=g["split"],
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=1,
        do_convert_rgb=True,
        do_pad=True,
    )


def run_proc(p, imgs):
    f = p.preprocess([imgs], return_row_col_info=True, return_tensors="np")
    u = p.preprocess([imgs], return_row_col_info=True, return_tensors="np", do_rescale=False, do_normalize=False)
    return f["pixel_values"][0], u["pixel_values"][0], f["rows"][0], f["cols"][0], f["pixel_attention_mask"][0]


def index_entry(path):
    """(what is to be known of a picture, the picture as the processor gets it)"""
    _, mode, size, orientation, white, drop = decode_policies(path)
    entry = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha(path.read_bytes()),
        "pil_mode": mode,
        "stored_size_wh": list(size),
        "exif_orientation": orientation,
        "size_wh": list(white.size),
        "rgb_white_sha256": sha(white.tobytes()),
        "rgb_drop_sha256": sha(drop.tobytes()),
        "lossy": path.name.endswith(".jpg"),
        "note": None,
        "mean_rgb": np.asarray(white).reshape(-1, 3).mean(0).tolist(),
    }
    if path.name.startswith("gray16"):
        entry["note"] = "Pillow clips 16-bit grey at 255 instead of scaling: a sane server may differ here"
    if path.suffix in (".jpg", ".webp") and max(white.size) <= 700:
        decoded = path.parent / "decoded" / (path.name + ".png")
        decoded.parent.mkdir(exist_ok=True)
        white.save(decoded)
        entry["decoded_png"] = f"decoded/{decoded.name}"
    return entry, white


# source and target sizes that random ones would miss
ODD_RESIZES = [
    (1, 1, 64, 64),
    (64, 64, 1, 1),
    (7, 50, 28, 200),
    (50, 1, 13, 1),
    (33, 33, 33, 33),
    (200, 3, 64, 64),
]


def resize_cases(r):
    """(cases, tensors) of Pillow's resize alone; every third one Lanczos, which the processors use."""
    from PIL import Image

    filters = {"lanczos": 1, "bicubic": 3, "bilinear": 2}
    cases, tensors = [], {}
    for k in range(36):
        w, h = int(r.integers(1, 60)), int(r.integers(1, 60))
        w2, h2 = int(r.integers(1, 120)), int(r.integers(1, 120))
        if k < len(ODD_RESIZES):
            w, h, w2, h2 = ODD_RESIZES[k]
        name = list(filters)[k % 3] if k >= 12 else "lanczos"
        src = Image.fromarray(r.integers(0, 256, (h, w, 3), dtype=np.uint8))
        dst = src.resize((w2, h2), filters[name])
        tensors[f"src{k}"], tensors[f"dst{k}"] = np.asarray(src), np.asarray(dst)
        cases.append({"i": k, "filter": name, "src_wh": [w, h], "dst_wh": [w2, h2]})
    return cases, tensors


def tile_entry(name, processor, picture):
    """(hashes and means of a picture's tiles, the tiles)"""
    pixels, tiles, rows, cols, mask = run_proc(processor, [picture])
    assert tiles.dtype == np.uint8 and mask.min() == 1
    again = (tiles.astype(np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)
    entry = {
        "file": name,
        "rows": rows[0],
        "cols": cols[0],
        "tiles": int(tiles.shape[0]),
        "tile_u8_sha256": [sha(np.ascontiguousarray(t).tobytes()) for t in tiles],
        "f32_sha256": sha(np.ascontiguousarray(pixels).tobytes()),
        "f32_from_u8_max_abs_diff": float(np.abs(again - pixels).max()),
        "tile_mean_u8": [float(t.mean()) for t in tiles],
    }
    return entry, tiles


def samples(r, tiles):
    """64 pixels by number, where the tiles themselves would be too large to keep."""
    shape = (tiles.shape[0], 3, tiles.shape[2], tiles.shape[2])
    points = [[int(r.integers(0, n)) for n in shape] for _ in range(64)]
    return [at + [int(tiles[tuple(at)])] for at in points]


def preprocess_geometry(seed, out, name, pictures):
    from PIL import Image

    processor, entries, kept = image_processor(name), [], {}
    for file, picture in pictures.items():
        entry, tiles = tile_entry(file, processor, picture)
        if GEOMS[name]["tile"] <= 64:
            kept[file] = tiles
        else:
            entry["samples_tcyx_u8"] = samples(rng_for(seed, name + file), tiles)
            if file in ("jpg_640x480.jpg", "rgb_7x500.png", "rgba_120x90.png"):
                (out / name).mkdir(parents=True, exist_ok=True)
                for which, tile in (("global", tiles[-1]), ("tile0", tiles[0])):
                    Image.fromarray(np.moveaxis(tile, 0, -1)).save(out / name / f"{file}.{which}.png")
        entries.append(entry)
    if kept:
        st_save(out / f"{name}.safetensors", kept)
    layout = "tiles are CHW uint8 after resize, before *1/255, (x-0.5)/0.5; last tile is the global view"
    jdump(out / f"{name}.json", {"geometry": GEOMS[name], "layout": layout, "images": entries})
    log("preprocess", name)


def section_img(seed, out):
    names, broken = make_images(seed, out / "images")
    entries, pictures = [], {}
    for name in names:
        entry, pictures[name] = index_entry(out / "images" / name)
        entries.append(entry)
    cases, tensors = resize_cases(rng_for(seed, "pre"))
    st_save(out / "preprocess" / "resize.safetensors", tensors)
    jdump(out / "preprocess" / "resize.json", cases)
    for name in GEOMS:
        preprocess_geometry(seed, out / "preprocess", name, pictures)
    note = (
        "goldens under preprocess/ use the 'white' policy; 'drop' differs only for images with transparency; "
        "bad_trunc.* may decode partially in lenient decoders"
    )
    jdump(out / "images" / "index.json", {"images": entries, "must_fail": broken, "note": note})
