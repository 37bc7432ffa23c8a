#!/usr/bin/env python3
"""Writes tiny random-weight Hugging Face folders of every Smol family and the reference libraries' results for them.

    make_golden.py --seed N --out DIR [--only SECTION[,SECTION...]] [--real-templates DIR] [--real-tokenizer FILE]

Everything follows from the seed: weights, vocabularies trained on synthetic text, pictures, clips, prompts. The reference is
transformers (eager attention, float32, one thread), tokenizers, jinja2 and Pillow in the versions of requirements.txt; the
same seed and versions give the same bytes. Sections are the modules of oracle/; README.md tells the layout of the output.
"""

import argparse
import logging
import os
import sys
import time
import warnings
from pathlib import Path

# Read by the libraries when they are imported, hence before anything else.
os.environ.update(
    TOKENIZERS_PARALLELISM="false",
    RAYON_NUM_THREADS="1",
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
)

from oracle import pictures, quantised, tables, templates, text_models, tokenizer_cases, video, vlm  # noqa: E402
from oracle.common import jdump, log, sha  # noqa: E402

SECTIONS = {
    "tok": lambda a, out, toks: tokenizer_cases.section_tok(a.seed, out, toks, a.real_tokenizer),
    "tpl": lambda a, out, toks: templates.section_tpl(a.seed, out, a.real_templates),
    "tables": lambda a, out, toks: tables.section_tables(a.seed, out),
    "img": lambda a, out, toks: pictures.section_img(a.seed, out),
    "text": lambda a, out, toks: text_models.section_text(a.seed, out, toks),
    "quant": lambda a, out, toks: quantised.section_quant(a.seed, out, toks),
    "vlm": lambda a, out, toks: vlm.section_vlm(a.seed, out, toks),
    "video": lambda a, out, toks: video.section_video(a.seed, out, toks),
}


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas; img comes before vlm")
    ap.add_argument("--real-templates", help="folder of *.jinja files to render as well")
    ap.add_argument("--real-tokenizer", help="a real tokenizer.json to make encode/decode cases for")
    a = ap.parse_args()
    a.only = a.only.split(",")
    unknown = [s for s in a.only if s not in SECTIONS]
    if unknown:
        ap.error(f"unknown section {unknown[0]}")
    return a


def reference_versions():
    """Loads the libraries in their most repeatable setting; returns what they are."""
    warnings.filterwarnings("ignore")
    import jinja2
    import numpy
    import PIL
    import tokenizers
    import torch
    import transformers

    if int(PIL.__version__.split(".")[0]) >= 13:
        sys.exit(
            "Pillow >= 13 runs the vertical resize pass first for some shapes and so changes pixels; install pillow==12.3.0"
        )
    transformers.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "pillow": PIL.__version__,
        "jinja2": jinja2.__version__,
        "numpy": numpy.__version__,
        "python": sys.version.split()[0],
    }


def main():
    a = arguments()
    a.out.mkdir(parents=True, exist_ok=True)
    versions = reference_versions()
    toks = tokenizer_cases.build_tokenizers(a.seed)
    log("tokenizers trained", {k: v.get_vocab_size() for k, v in toks.items()})
    seconds = {}
    for s in a.only:
        start = time.time()
        SECTIONS[s](a, a.out, toks)
        seconds[s] = round(time.time() - start, 1)
        log("done", s, seconds[s], "s")
    files = {
        str(f.relative_to(a.out)): {"bytes": f.stat().st_size, "sha256": sha(f.read_bytes())}
        for f in sorted(a.out.rglob("*"))
        if f.is_file() and f.name != "manifest.json"
    }
    total = sum(f["bytes"] for f in files.values())
    jdump(
        a.out / "manifest.json",
        {"seed": a.seed, "versions": versions, "seconds": seconds, "total_bytes": total, "files": files},
    )
    log("total", total / 1e6, "MB in", len(files), "files")


if __name__ == "__main__":
    main()
