"""Section video: short clips, their sampled frames and reference logits of the smolvlm2 checkpoint."""

import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from .common import jdump, log, rng_for, sha, st_save
from .models import as_dtype, init_weights
from .pictures import GEOMS, image_processor, synth
from .templates import frozen_clock, render_case, vlm_default_template
from .vlm import vlm_case, vlm_specs


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


def section_video(seed, out, toks):
    import torch
    from PIL import Image
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
    from transformers.video_utils import VideoMetadata

    r = rng_for(seed, "video")
    vd = out / "video"
    name, cls, cfg, tok, geom, seq, kind = [s for s in vlm_specs(toks) if s[0] == "smolvlm2"][0]
    g = GEOMS[geom]
    model = as_dtype(as_dtype(init_weights(cls(cfg).float(), seed, name, False), torch.bfloat16), torch.float32)
    tpl = vlm_default_template()
    fake = SimpleNamespace(
        image_seq_len=seq,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )
    clips = {
        "clip_a": (60, 10.0, 96, 64, "avi"),
        "clip_b": (75, 25.0, 48, 80, "avi"),
        "clip_gif": (24, 4.0, 50, 40, "gif"),
        "clip_one": (1, 30.0, 40, 40, "avi"),
        "clip_long": (1400, 20.0, 16, 12, "avi"),
    }
    for cn, (n, fps, w, h, ext) in clips.items():
        d = vd / cn
        d.mkdir(parents=True, exist_ok=True)
        bg = synth(r, w, h)
        bx, by, vx, vy = r.uniform(0, w), r.uniform(0, h), r.uniform(1, 4), r.uniform(1, 3)
        frames = []
        for k in range(n):
            a = np.asarray(bg).copy()
            x0, y0 = int(abs((bx + vx * k) % (2 * w) - w)), int(abs((by + vy * k) % (2 * h) - h))
            a[max(0, y0 - 4) : y0 + 5, max(0, x0 - 4) : x0 + 5] = ((k * 37) % 256, (k * 91) % 256, (k * 13) % 256)
            a[:3, :] = k * 255 // max(1, n - 1)
            frames.append(Image.fromarray(a))
        if ext == "avi":
            js = []
            for f in frames:
                b = io.BytesIO()
                f.save(b, "JPEG", quality=88 if n < 500 else 60)
                js.append(b.getvalue())
            write_avi_mjpg(d / "clip.avi", js, w, h, int(fps), 1)
            dec = [Image.open(io.BytesIO(j)).convert("RGB") for j in js]
        else:
            frames[0].save(d / "clip.gif", save_all=True, append_images=frames[1:], duration=int(1000 / fps), loop=0)
            gif = Image.open(d / "clip.gif")
            dec = []
            for k in range(gif.n_frames):
                gif.seek(k)
                dec.append(gif.convert("RGB"))
            n = len(dec)
        md = VideoMetadata(total_num_frames=n, fps=fps, duration=n / fps, width=w, height=h)
        ind = [
            int(i)
            for i in SmolVLMVideoProcessor.sample_frames(
                SimpleNamespace(num_frames=64, fps=1), md, num_frames=64, fps=1, skip_secs=1
            )
        ]
        md.frames_indices = ind
        sel = [dec[i] for i in ind]
        if n < 500:
            (d / "frames").mkdir(exist_ok=True)
            for i, f in zip(ind, sel):
                f.save(d / "frames" / f"{i:05d}.png")
        u8, px = video_tiles(sel, g["tile"], g["tile"])
        with frozen_clock() as ctu:
            prompt = render_case(
                ctu,
                tpl,
                [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}],
                None,
                True,
            )["text"]
        rep = SmolVLMProcessor.replace_video_token(fake, {"pixel_values": px[None], "video_metadata": [md]}, 0)
        pe = prompt.replace("<video>", rep)
        ids, mm, rec, ten = vlm_case(model, tok, pe, px, len(ind) < 20, False)
        ten["tiles_u8"] = u8
        rec.update(
            total_frames=n,
            fps=fps,
            duration=n / fps,
            indices=ind,
            prompt=prompt,
            prompt_expanded=pe,
            frame_rgb_sha256=[sha(f.tobytes()) for f in sel],
            size_wh=[w, h],
            video_size=g["tile"],
            tile=g["tile"],
        )
        st_save(vd / cn / "golden.safetensors", ten)
        jdump(vd / cn / "golden.json", {"model": "smolvlm2-bf16", "compute": "float32", **rec})
        log("video", cn, len(ind), "frames,", len(ids), "tokens, min margin", round(rec["min_margin"], 4))
    # tiles for the real geometry, first frames of clip_a
    fr = [Image.open(p) for p in sorted((vd / "clip_a" / "frames").glob("*.png"))[:3]]
    u8, _ = video_tiles(fr, 512, 512)
    jdump(
        vd / "hub512_tiles.json",
        {"clip": "clip_a", "first_frames": 3, "u8_sha256": [sha(np.ascontiguousarray(x).tobytes()) for x in u8]},
    )
