"""Section video: short clips, their sampled frames and reference logits of the smolvlm2 checkpoint."""

import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageSequence

from .common import jdump, log, rng_for, sha, st_save
from .models import as_dtype, init_weights
from .pictures import image_processor, synth
from .templates import frozen_clock, render_case
from .vlm import run_vlm, vlm_specs


def write_avi_mjpg(path, jpegs, w, h, fps_num, fps_den):
    def chunk(t, d):
        return t + struct.pack("<I", len(d)) + d + (b"\0" if len(d) & 1 else b"")

    def lst(t, d):
        return chunk(b"LIST", t + d)

    us = int(round(1e6 * fps_den / fps_num))
    mx = max(map(len, jpegs))
    avih = struct.pack("<14I", us, mx * fps_num // fps_den, 0, 0x10, len(jpegs), 0, 1, mx, w, h, 0, 0, 0, 0)
    strh = b"vidsMJPG" + struct.pack(
        "<IHHIIIIIIIIHHHH", 0, 0, 0, 0, fps_den, fps_num, 0, len(jpegs), mx, 0xFFFFFFFF, 0, 0, 0, w, h
    )
    strf = struct.pack("<IiiHHIIiiII", 40, w, h, 1, 24, 0x47504A4D, w * h * 3, 0, 0, 0, 0)
    hdrl = lst(b"hdrl", chunk(b"avih", avih) + lst(b"strl", chunk(b"strh", strh) + chunk(b"strf", strf)))
    movi, idx, off = b"", b"", 4
    for j in jpegs:
        c = chunk(b"00dc", j)
        idx += b"00dc" + struct.pack("<III", 0x10, off, len(j))
        off += len(c)
        movi += c
    body = b"AVI " + hdrl + lst(b"movi", movi) + chunk(b"idx1", idx)
    Path(path).write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def video_tiles(frames, tile, size):
    """SmolVLM2 video frames: longest-edge resize to `size`, then squash to tile x tile (PIL LANCZOS on uint8, both steps)."""
    p = image_processor(dict(size=size, tile=tile, split=False))
    u = p.preprocess(
        [[f] for f in frames], return_row_col_info=True, return_tensors="np", do_rescale=False, do_normalize=False
    )["pixel_values"][:, 0]
    f = p.preprocess([[f] for f in frames], return_row_col_info=True, return_tensors="np")["pixel_values"][:, 0]
    return u, f


# clip: frames, frames a second, width, height, container
CLIPS = {
    "clip_a": (60, 10.0, 96, 64, "avi"),
    "clip_b": (75, 25.0, 48, 80, "avi"),
    "clip_gif": (24, 4.0, 50, 40, "gif"),
    "clip_one": (1, 30.0, 40, 40, "avi"),
    "clip_long": (1400, 20.0, 16, 12, "avi"),
}


def draw_frames(r, n, w, h):
    """A spot that bounces over a picture, and a bar on top that grows brighter with time."""
    ground = np.asarray(synth(r, w, h))
    x, y, dx, dy = r.uniform(0, w), r.uniform(0, h), r.uniform(1, 4), r.uniform(1, 3)
    frames = []
    for k in range(n):
        a = ground.copy()
        x0, y0 = int(abs((x + dx * k) % (2 * w) - w)), int(abs((y + dy * k) % (2 * h) - h))
        a[max(0, y0 - 4) : y0 + 5, max(0, x0 - 4) : x0 + 5] = ((k * 37) % 256, (k * 91) % 256, (k * 13) % 256)
        a[:3, :] = k * 255 // max(1, n - 1)
        frames.append(Image.fromarray(a))
    return frames


def write_clip(folder, frames, fps, container):
    """Returns the frames as a decoder sees them."""
    if container == "gif":
        path = folder / "clip.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=int(1000 / fps), loop=0)
        return [f.convert("RGB") for f in ImageSequence.Iterator(Image.open(path))]
    jpegs = []
    for f in frames:
        b = io.BytesIO()
        f.save(b, "JPEG", quality=88 if len(frames) < 500 else 60)
        jpegs.append(b.getvalue())
    write_avi_mjpg(folder / "clip.avi", jpegs, *frames[0].size, int(fps), 1)
    return [Image.open(io.BytesIO(j)).convert("RGB") for j in jpegs]


def sample(frames, fps):
    """(metadata, indices) by the library's rule."""
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    n, (w, h) = len(frames), frames[0].size
    data = VideoMetadata(total_num_frames=n, fps=fps, duration=n / fps, width=w, height=h)
    rule = SimpleNamespace(num_frames=64, fps=1)
    at = [int(i) for i in SmolVLMVideoProcessor.sample_frames(rule, data, num_frames=64, fps=1, skip_secs=1)]
    data.frames_indices = at
    return data, at


def video_prompt(spec, pixels, data):
    """(prompt, expanded prompt)"""
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

    content = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
    with frozen_clock() as ctu:
        prompt = render_case(ctu, spec.template, [{"role": "user", "content": content}], None, True)["text"]
    processor = SimpleNamespace(
        image_seq_len=spec.seq,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )
    inputs = {"pixel_values": pixels[None], "video_metadata": [data]}
    return prompt, prompt.replace("<video>", SmolVLMProcessor.replace_video_token(processor, inputs, 0))


def video_case(spec, model, folder, frames, fps):
    data, at = sample(frames, fps)
    chosen = [frames[i] for i in at]
    if len(frames) < 500:
        (folder / "frames").mkdir(exist_ok=True)
        for i, f in zip(at, chosen):
            f.save(folder / "frames" / f"{i:05d}.png")
    tile = spec.g["tile"]
    tiles, pixels = video_tiles(chosen, tile, tile)
    prompt, expanded = video_prompt(spec, pixels, data)
    _, _, case, kept = run_vlm(model, spec.tok, expanded, pixels, len(at) < 20, False)
    kept["tiles_u8"] = tiles
    case.update(
        total_frames=len(frames),
        fps=fps,
        duration=len(frames) / fps,
        indices=at,
        prompt=prompt,
        prompt_expanded=expanded,
        frame_rgb_sha256=[sha(f.tobytes()) for f in chosen],
        size_wh=list(frames[0].size),
        video_size=tile,
        tile=tile,
    )
    st_save(folder / "golden.safetensors", kept)
    jdump(folder / "golden.json", {"model": "smolvlm2-bf16", "compute": "float32", **case})
    margin = round(case["min_margin"], 4)
    log("video", folder.name, len(at), "frames,", len(case["input_ids"]), "tokens, min margin", margin)


def section_video(seed, out, toks):
    import torch

    r = rng_for(seed, "video")
    spec = next(s for s in vlm_specs(toks) if s.name == "smolvlm2")
    master = init_weights(spec.cls(spec.config).float(), seed, spec.name, False)
    model = as_dtype(as_dtype(master, torch.bfloat16), torch.float32)
    for name, (n, fps, w, h, container) in CLIPS.items():
        folder = out / "video" / name
        folder.mkdir(parents=True, exist_ok=True)
        frames = write_clip(folder, draw_frames(r, n, w, h), fps, container)
        video_case(spec, model, folder, frames, fps)
    # tiles of the real geometry
    first = [Image.open(p) for p in sorted((out / "video/clip_a/frames").glob("*.png"))[:3]]
    hashes = [sha(np.ascontiguousarray(x).tobytes()) for x in video_tiles(first, 512, 512)[0]]
    jdump(out / "video" / "hub512_tiles.json", {"clip": "clip_a", "first_frames": 3, "u8_sha256": hashes})
