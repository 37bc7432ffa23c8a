#!/usr/bin/env python3
"""Cuts a full set of goldens (make_golden.py) to what the tests need and the repository can carry.

    cut_golden.py FULL OUT

Left out: quantised checkpoints, video, the spm tokenizer, the tile tensors of preprocess/ (their sha256 stay), and all weights, which
weights.json makes again (restore_golden.py). Logits of prompts longer than 48 positions keep every 32nd position and the last 8, as
`logits_rows` with `logits_positions`. No case is left out and no number is changed; JSON is only written more tightly.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

TOKENIZERS = ["smollm2", "smolvlm", "smolvlm_v1", "smollm3", "llama3_bos", "edge"]
TABLES = ["image_sizes", "position_buckets"]
FULL_POSITIONS = 48


def write_json(path, value):
    """One line an entry for three levels, then tight: readable in a diff, a third of the size."""

    def text(v, depth):
        if not v or depth == 0 or not isinstance(v, (dict, list)):
            return json.dumps(v, ensure_ascii=False, separators=(",", ":"))
        if isinstance(v, list):
            return "[\n" + ",\n".join(text(x, depth - 1) for x in v) + "\n]"
        return "{\n" + ",\n".join(f"{json.dumps(k)}:{text(x, depth - 1)}" for k, x in v.items()) + "\n}"

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(value, 3) + "\n", encoding="utf-8")


def copy_file(src, dst):
    dst.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(src, dst)


def copy(src, dst):
    """A file or a folder, JSON tightened; without safetensors, which are chosen one by one."""
    if src.is_dir():
        for f in sorted(src.iterdir()):
            copy(f, dst / f.name)
    elif src.suffix == ".json" and src.name != "tokenizer.json":  # a tokenizer.json stays the library's own bytes
        write_json(dst, json.loads(src.read_text(encoding="utf-8")))
    elif src.suffix != ".safetensors":
        copy_file(src, dst)


def cut_logits(src, dst):
    t = load_file(str(src))
    n = t["logits"].shape[0] if "logits" in t else 0
    if n > FULL_POSITIONS:
        at = sorted({*range(0, n, 32), *range(n - 8, n)})
        t["logits_rows"] = np.ascontiguousarray(t.pop("logits")[at])
        t["logits_positions"] = np.array(at, np.int32)
    save_file(t, str(dst))
    dst.chmod(0o644)


def main(full, out):
    if out.exists():
        sys.exit(f"{out} exists")
    for kind in TOKENIZERS:
        copy(full / "tokenizer" / kind, out / "tokenizer" / kind)
    for table in TABLES:
        copy(full / "tables" / f"{table}.json", out / "tables" / f"{table}.json")
    for folder in ("templates", "images"):
        copy(full / folder, out / folder)
    for f in sorted((full / "preprocess").glob("*.json")):
        copy(f, out / "preprocess" / f.name)
    copy_file(full / "preprocess" / "resize.safetensors", out / "preprocess" / "resize.safetensors")
    for model in sorted(p for p in (full / "models").iterdir() if (p / "weights.json").exists()):
        copy(model, out / "models" / model.name)
        cases = full / "golden" / model.name
        copy(cases, out / "golden" / model.name)
        for f in sorted(cases.glob("*.safetensors")):
            cut_logits(f, out / "golden" / model.name / f.name)
    manifest = json.loads((full / "manifest.json").read_text())
    write_json(out / "manifest.json", {k: manifest[k] for k in ("seed", "versions")})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
