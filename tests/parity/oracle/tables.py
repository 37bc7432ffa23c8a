"""Section tables: integer rules of the reference library as tables (picture sizes, video sampling, number words, position buckets)."""

import math
from datetime import timedelta
from types import SimpleNamespace

from .common import jdump, rng_for

# (longest edge, tile) of the models on the Hub and of the tiny ones here.
GEOMETRIES = ((2048, 512), (1536, 384), (1456, 364), (512, 512), (256, 64), (152, 38))
ODD_SIZES = [(1, 1), (1, 5000), (5000, 1), (2, 3), (640, 480), (480, 640), (2048, 1536), (1536, 2048), (512, 512)]
ODD_SIZES += [(513, 512), (4096, 4096), (9000, 100), (100, 9000), (2047, 1023)]


def picture_size(w, h, size, tile):
    """[first resize w, h, second resize w, h, rows, columns]; rows and columns are 0 for a picture that is not split."""
    from transformers.models.idefics3 import image_processing_pil_idefics3 as ip

    h1, w1 = ip._resize_output_size_rescale_to_max_len(h, w, max_len=size)
    h1, w1 = ip._resize_output_size_scale_below_upper_bound(h1, w1, max_len=ip.MAX_IMAGE_SIZE)
    aspect = w1 / h1
    if w1 >= h1:
        w2 = math.ceil(w1 / tile) * tile
        h2 = math.ceil(int(w2 / aspect) / tile) * tile
    else:
        h2 = math.ceil(h1 / tile) * tile
        w2 = math.ceil(int(h2 * aspect) / tile) * tile
    split = h2 > tile or w2 > tile
    return [w1, h1, w2, h2, (h2 - tile) // tile + 1 if split else 0, (w2 - tile) // tile + 1 if split else 0]


def picture_sizes(r):
    sizes = list(ODD_SIZES)
    while len(sizes) < 1500:
        sizes.append(tuple(int(v) for v in (2 ** r.uniform(0, 13.2, 2))))
    return {
        "columns": "src w, src h, then per (size,tile) in geoms: [step1 w, step1 h, step2 w, step2 h, rows, cols]",
        "geoms": [list(g) for g in GEOMETRIES],
        "rows": [[w, h] + [picture_size(w, h, *g) for g in GEOMETRIES] for w, h in sizes],
    }


def video_sampling(r):
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    cases = []
    for k in range(400):
        fps = float(r.choice([1, 5, 10, 12.5, 15, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60]))
        total = int(r.integers(1, 20000)) if k % 3 else int(r.integers(1, 300))
        target = float(r.choice([1, 1, 1, 2, 0.5]))
        most = int(r.choice([64, 64, 50, 8, 1]))
        skip = int(r.choice([1, 1, 1, 0, 2]))
        data = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
        rule = SimpleNamespace(num_frames=most, fps=target)
        frames = SmolVLMVideoProcessor.sample_frames(rule, data, num_frames=most, fps=target, skip_secs=skip)
        frames = [int(i) for i in frames]
        cases.append(
            {
                "total": total,
                "fps": fps,
                "duration": total / fps,
                "target_fps": target,
                "max_frames": most,
                "skip_secs": skip,
                "indices": frames,
                "timestamps": [f"{int(i / fps // 60):02d}:{int(i / fps % 60):02d}" for i in frames],
            }
        )
    return cases


def number_words():
    from num2words import num2words

    numbers = [*range(0, 131), 199, 200, 256, 300, 768, 999, 1000, 1001, 1234]
    seconds = (0, 1, 59, 60, 61, 3599, 3600, 3661, 36000, 86399, 86400, 90061, 200000)
    return {
        "num2words": {str(i): num2words(i) for i in numbers},
        "duration": {str(s): str(timedelta(seconds=s)) for s in seconds},
    }


def position_buckets():
    """SigLIP's position ids: the bucket of each patch when a side of `side` positions shows `patches` patches."""
    import torch

    cases = []
    for side in (4, 8, 9, 14, 16, 24, 26, 27, 28, 32):
        for patches in range(1, side + 1):
            edges = torch.arange(1 / side, 1.0, 1 / side)
            at = torch.arange(patches, dtype=torch.float32) * (1.0 / torch.tensor(patches))
            at = torch.clamp(at, max=1.0 - 1e-6)
            cases.append({"side": side, "patches": patches, "bucket": torch.bucketize(at, edges, right=True).tolist()})
    return cases


def section_tables(seed, out):
    r = rng_for(seed, "tables")  # in this order: the sampling cases follow the sizes in the stream
    jdump(out / "tables" / "image_sizes.json", picture_sizes(r))
    jdump(out / "tables" / "video_sampling.json", video_sampling(r))
    jdump(out / "tables" / "words.json", number_words())
    jdump(out / "tables" / "position_buckets.json", position_buckets())
