"""`spillway logits` against the reference libraries: ids, tiles, logits at every position and greedy tokens of every unquantised model,
and, for each comparer, a planted fault that it must find."""
import json
import shutil
import subprocess

import numpy as np
import pytest

from compare import (
    BF16_TOLERANCE,
    F32_TOLERANCE,
    Mismatch,
    compare_greedy,
    compare_ids,
    compare_logits,
    compare_statistics,
    compare_tiles,
)
from golden_io import reference_logits, safetensors_load

GREEDY_TOKENS = 32


class Answer:
    """What one run of `spillway logits` wrote."""

    def __init__(self, folder):
        tiles = folder / "tiles_u8.npy"
        self.ids = np.load(folder / "input_ids.npy")
        self.logits = np.load(folder / "logits.npy")
        self.greedy = json.loads((folder / "greedy.json").read_text())
        self.tiles = np.load(tiles) if tiles.exists() else None


def run_logits(spillway, model, prompt, pictures, split, compute, tmp):
    """prompt: the option that gives it and the value that its file is to hold."""
    option, value = prompt
    given = tmp / "prompt"
    given.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    command = [spillway, "logits", model, option, given, "--compute", compute, "--max-tokens", GREEDY_TOKENS, "--out", tmp / "out"]
    for p in pictures:
        command += ["--image", p]
    command += [] if split else ["--image-detail", "low"]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Answer(tmp / "out")


class Run:
    """One golden case through the program. Pictures take the rendered prompt, so that expansion is tested too; text takes ids."""

    def __init__(self, spillway, golden, case, tmp_path):
        self.spillway, self.golden, self.tmp = spillway, golden, tmp_path
        self.model, self.name, self.case = case
        self.reference = safetensors_load(golden / "golden" / self.model / f"{self.name}.safetensors")
        self.pictures = [golden / "images" / f for f in self.case.get("files", [])]

    def prompt(self):
        return ("--prompt-file", self.case["prompt"]) if "prompt" in self.case else ("--tokens", self.case["input_ids"])

    def answer(self, compute="f32", prompt=None, model=None, pictures=None):
        return run_logits(self.spillway, model or self.golden / "models" / self.model, prompt or self.prompt(),
                          self.pictures if pictures is None else pictures, self.case.get("do_image_splitting", True), compute,
                          self.tmp)

    def check_inputs(self, a):
        compare_ids(a.ids, self.case["input_ids"])
        if self.pictures:
            compare_tiles(a.tiles, self.reference["tiles_u8"])
        else:
            assert a.tiles is None

    def check_logits(self, a, tolerance):
        at, want = reference_logits(self.reference, len(self.case["input_ids"]))
        assert len(a.logits) == len(self.case["input_ids"])
        compare_logits(a.logits, at, want, tolerance)
        compare_statistics(a.logits, self.case["logits"], tolerance)

    def check_greedy(self, a, tolerance):
        return compare_greedy(a.greedy, self.case["greedy32"], self.case["greedy_margin"], tolerance)


def test_float32_agrees(spillway, golden, case, tmp_path):
    run = Run(spillway, golden, case, tmp_path)
    a = run.answer()
    run.check_inputs(a)
    run.check_logits(a, F32_TOLERANCE)
    run.check_greedy(a, F32_TOLERANCE)


def test_bf16_stays_within_its_bound(spillway, golden, bf16_case, tmp_path):
    run = Run(spillway, golden, bf16_case, tmp_path)
    a = run.answer(compute="bf16")
    run.check_inputs(a)
    run.check_logits(a, BF16_TOLERANCE)
    run.check_greedy(a, 2 * BF16_TOLERANCE)  # both of the top two may move


def test_messages_give_the_same_ids_and_tiles(spillway, golden, messages_case, tmp_path):
    run = Run(spillway, golden, messages_case, tmp_path)
    run.check_inputs(run.answer(prompt=("--messages", run.case["messages"])))


def test_most_greedy_tokens_were_compared(golden):
    """Margins below the tolerance end a comparison early: that must stay the exception."""
    from golden_io import unquantised

    cases = [c for _, cs in unquantised(golden) for c in cs.values()]
    sure = sum(compare_greedy(c["greedy32"], c["greedy32"], c["greedy_margin"], F32_TOLERANCE) for c in cases)
    assert sure >= 0.95 * GREEDY_TOKENS * len(cases)


# ---- planted faults: in the model, and in what came out ----


def named_run(spillway, golden, model, name, tmp_path):
    case = json.loads((golden / "golden" / model / "cases.json").read_text(encoding="utf-8"))["cases"][name]
    return Run(spillway, golden, (model, name, case), tmp_path)


@pytest.fixture
def text_run(spillway, golden, tmp_path):
    return named_run(spillway, golden, "smollm3-bf16", "short", tmp_path)


@pytest.fixture
def picture_run(spillway, golden, tmp_path):
    return named_run(spillway, golden, "idefics3-bf16", "two_images", tmp_path)


def damaged_model(run, edit):
    """A copy of the run's model folder that edit(folder) has changed."""
    folder = run.tmp / "damaged"
    shutil.copytree(run.golden / "models" / run.model, folder)
    edit(folder)
    return folder


def edit_config(**values):
    def edit(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        assert set(values) <= set(config)
        path.write_text(json.dumps({**config, **values}))

    return edit


def swap_halves_of_queries_and_keys(folder):
    """Rotating (b, a) is rotating (a, b) with the other sign of the angle: what a wrong sign in the rope kernel gives."""
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    config = json.loads((folder / "config.json").read_text())
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    for name, h in header.items():
        if ".q_proj." in name or ".k_proj." in name:
            start, end = (8 + n + x for x in h["data_offsets"])
            rows = np.frombuffer(bytes(raw[start:end]), np.uint8).reshape(-1, 2, head_dim // 2, (end - start) // h["shape"][0])
            raw[start:end] = rows[:, ::-1].tobytes()
    path.write_bytes(raw)


LARGE_FAULTS = [
    pytest.param(swap_halves_of_queries_and_keys, id="wrong rope sign"),
    pytest.param(edit_config(no_rope_layers=[1, 1, 1, 1, 1]), id="rope in the layer without"),
]


def test_a_wrong_eps_is_found(text_run):
    """1e-5 for 1e-6: the smallest fault that the tolerance has to catch."""
    a = text_run.answer(model=damaged_model(text_run, edit_config(rms_norm_eps=1e-5)))
    with pytest.raises(Mismatch, match="logit difference"):
        text_run.check_logits(a, F32_TOLERANCE)


@pytest.mark.parametrize("edit", LARGE_FAULTS)
def test_a_fault_in_the_model_is_found_even_at_the_bf16_tolerance(text_run, edit):
    a = text_run.answer(model=damaged_model(text_run, edit))
    with pytest.raises(Mismatch, match="logit difference"):
        text_run.check_logits(a, BF16_TOLERANCE)


@pytest.mark.parametrize("edit", LARGE_FAULTS)
def test_a_fault_in_the_model_is_found_by_statistics_alone(text_run, edit):
    a = text_run.answer(model=damaged_model(text_run, edit))
    with pytest.raises(Mismatch, match="of all logits|logit element"):
        compare_statistics(a.logits, text_run.case["logits"], F32_TOLERANCE)


def test_pictures_in_the_wrong_order_are_found(picture_run):
    """The tiles of two pictures change places, in the program and not in the comparison."""
    a = picture_run.answer(pictures=picture_run.pictures[::-1])
    with pytest.raises(Mismatch):
        picture_run.check_inputs(a)
    with pytest.raises(Mismatch, match="tiles"):
        compare_tiles(a.tiles, picture_run.reference["tiles_u8"])


def test_a_swapped_tile_is_found(picture_run):
    a = picture_run.answer()
    picture_run.check_inputs(a)
    a.tiles[[0, 1]] = a.tiles[[1, 0]]
    with pytest.raises(Mismatch, match="tiles \\[0, 1\\]"):
        compare_tiles(a.tiles, picture_run.reference["tiles_u8"])


def test_one_wrong_id_is_found(text_run):
    a = text_run.answer()
    a.ids[-1] += 1
    with pytest.raises(Mismatch, match=f"difference at {len(a.ids) - 1}"):
        text_run.check_inputs(a)


def test_one_wrong_greedy_token_is_found(text_run):
    a = text_run.answer()
    sure = text_run.check_greedy(a, F32_TOLERANCE)
    assert sure > 0
    a.greedy[sure - 1] += 1
    with pytest.raises(Mismatch, match=f"difference at {sure - 1}"):
        text_run.check_greedy(a, F32_TOLERANCE)


def test_a_fault_at_one_position_is_found(text_run):
    """Both comparers of logits see a single wrong element."""
    a = text_run.answer()
    at, want = reference_logits(text_run.reference, len(text_run.case["input_ids"]))
    top = np.unravel_index(a.logits.argmax(), a.logits.shape)
    a.logits[top] += 10 * F32_TOLERANCE
    with pytest.raises(Mismatch, match=f"position {top[0]}, token {top[1]}"):
        compare_logits(a.logits, at, want, F32_TOLERANCE)
    with pytest.raises(Mismatch, match="max of all logits"):
        compare_statistics(a.logits, text_run.case["logits"], F32_TOLERANCE)
    a.logits[top] = np.nan
    with pytest.raises(Mismatch, match="not finite"):
        compare_logits(a.logits, at, want, F32_TOLERANCE)
