"""Section tables: integer rules of the reference library as tables (picture sizes, video sampling, number words, position buckets)."""

import math
from types import SimpleNamespace

from .common import jdump, rng_for


def section_tables(seed, out):
    """Integer-exact rule tables."""
    from transformers.models.idefics3 import image_processing_pil_idefics3 as ip

    r = rng_for(seed, "tables")
    rows = []
    dims = [
        (1, 1),
        (1, 5000),
        (5000, 1),
        (2, 3),
        (640, 480),
        (480, 640),
        (2048, 1536),
        (1536, 2048),
        (512, 512),
        (513, 512),
        (4096, 4096),
        (9000, 100),
        (100, 9000),
        (2047, 1023),
    ]
    while len(dims) < 1500:
        dims.append(tuple(int(v) for v in (2 ** r.uniform(0, 13.2, 2))))
    for w, h in dims:
        e = [w, h]
        for size, tile in ((2048, 512), (1536, 384), (1456, 364), (512, 512), (256, 64), (152, 38)):
            h1, w1 = ip._resize_output_size_rescale_to_max_len(h, w, max_len=size)
            h1, w1 = ip._resize_output_size_scale_below_upper_bound(h1, w1, max_len=ip.MAX_IMAGE_SIZE)
            ar = w1 / h1
            if w1 >= h1:
                w2 = math.ceil(w1 / tile) * tile
                h2 = math.ceil(int(w2 / ar) / tile) * tile
            else:
                h2 = math.ceil(h1 / tile) * tile
                w2 = math.ceil(int(h2 * ar) / tile) * tile
            nr, nc = ((h2 - tile) // tile + 1, (w2 - tile) // tile + 1) if (h2 > tile or w2 > tile) else (0, 0)
            e.append([w1, h1, w2, h2, nr, nc])
        rows.append(e)
    jdump(
        out / "tables" / "image_sizes.json",
        {
            "columns": "src w, src h, then per (size,tile) in geoms: [step1 w, step1 h, step2 w, step2 h, rows, cols]",
            "geoms": [[2048, 512], [1536, 384], [1456, 364], [512, 512], [256, 64], [152, 38]],
            "rows": rows,
        },
    )
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    vt = []
    for k in range(400):
        fps = float(r.choice([1, 5, 10, 12.5, 15, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60]))
        total = int(r.integers(1, 20000)) if k % 3 else int(r.integers(1, 300))
        tf = float(r.choice([1, 1, 1, 2, 0.5]))
        mf = int(r.choice([64, 64, 50, 8, 1]))
        sk = int(r.choice([1, 1, 1, 0, 2]))
        md = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
        ind = SmolVLMVideoProcessor.sample_frames(
            SimpleNamespace(num_frames=mf, fps=tf), md, num_frames=mf, fps=tf, skip_secs=sk
        )
        ind = [int(i) for i in ind]
        ts = [i / fps for i in ind]
        vt.append(
            {
                "total": total,
                "fps": fps,
                "duration": total / fps,
                "target_fps": tf,
                "max_frames": mf,
                "skip_secs": sk,
                "indices": ind,
                "timestamps": [f"{int(s // 60):02d}:{int(s % 60):02d}" for s in ts],
            }
        )
    jdump(out / "tables" / "video_sampling.json", vt)
    from num2words import num2words
    from datetime import timedelta

    jdump(
        out / "tables" / "words.json",
        {
            "num2words": {
                str(i): num2words(i) for i in list(range(0, 131)) + [199, 200, 256, 300, 768, 999, 1000, 1001, 1234]
            },
            "duration": {
                str(s): str(timedelta(seconds=s))
                for s in (0, 1, 59, 60, 61, 3599, 3600, 3661, 36000, 86399, 86400, 90061, 200000)
            },
        },
    )
    # SigLIP position ids
    import torch

    pos = []
    for n in (4, 8, 9, 14, 16, 24, 26, 27, 28, 32):
        for m in range(1, n + 1):
            b = torch.arange(1 / n, 1.0, 1 / n)
            f = torch.clamp(torch.arange(m, dtype=torch.float32) * (1.0 / torch.tensor(m)), max=1.0 - 1e-6)
            pos.append({"side": n, "patches": m, "bucket": torch.bucketize(f, b, right=True).tolist()})
    jdump(out / "tables" / "position_buckets.json", pos)
