"""`spillway eval` against the same figures computed in NumPy from what `spillway logits` writes of each window."""
import json
import pathlib
import shutil

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = ("A small model runs beside you. It reads a text as a list of tokens, and for each of them it says what it holds likely to come next: "
        "naïve words, numbers such as 12345, and <|im_start|>marks.\n\n") * 2
WINDOW, STRIDE = 48, 20  # STRIDE does not divide WINDOW, nor either the text


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def ids_of(spillway, model):
    return json.loads(spillway("tokenize", model, stdin=TEXT).stdout)


def log_probabilities(spillway, model, ids, compute, tmp, window=WINDOW, stride=STRIDE):
    """(positions, vocab): ln p of the token after each position but the last, from the window that counts for it."""
    rows, begin = [], 0
    while len(rows) < len(ids) - 1:
        end = min(begin + window, len(ids) - 1)
        (tmp / "ids.json").write_text(json.dumps(ids[begin:end]))
        r = spillway("logits", model, "--tokens", tmp / "ids.json", "--compute", compute, "--max-tokens", 0, "--out", tmp / "logits")
        assert r.returncode == 0, r.stderr
        x = np.load(tmp / "logits/logits.npy").astype(np.float64)[len(rows) - begin:]
        x -= x.max(-1, keepdims=True)
        rows.extend(x - np.log(np.exp(x).sum(-1, keepdims=True)))
        begin += stride
    return np.array(rows)


def perplexity(log_p, ids):
    return float(np.exp(-log_p[np.arange(len(log_p)), ids[1:]].mean()))


def divergence(log_p, log_q):
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return {"kl_mean": kl.mean(), "kl_p99": np.quantile(kl, 0.99, method="inverted_cdf"), "kl_max": kl.max(),
            "same_top": (log_p.argmax(-1) == log_q.argmax(-1)).mean()}


def evaluate(spillway, *args):
    r = spillway("eval", *args, "--json")
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def cut(text):
    return ["--text", text, "--window", WINDOW, "--stride", STRIDE]


@pytest.fixture
def perturbed(golden, tmp_path, safetensors):
    """The golden model with noise on one matrix: a tenth of its spread."""
    folder = pathlib.Path(shutil.copytree(golden / "models/smollm2-f32", tmp_path / "perturbed"))
    st = safetensors(folder)
    begin, end = st.header["model.layers.1.mlp.down_proj.weight"]["data_offsets"]
    w = np.frombuffer(st.data[begin:end], "<f4")
    noise = np.random.default_rng(5).standard_normal(w.shape).astype("<f4") * w.std() * np.float32(0.1)
    st.data = st.data[:begin] + (w + noise).tobytes() + st.data[end:]
    st.write()
    return folder


# ---- figures ----

@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_perplexity_is_what_numpy_computes_from_the_logits(spillway, golden, text, tmp_path, compute):
    model = golden / "models/smollm2-f32"
    ids = ids_of(spillway, model)
    got = evaluate(spillway, model, "--compute", compute, *cut(text))
    assert (got["tokens"], got["positions"]) == (len(ids), len(ids) - 1) and len(ids) > 2 * WINDOW
    want = perplexity(log_probabilities(spillway, model, ids, compute, tmp_path), ids)
    assert got["model"]["perplexity"] == pytest.approx(want, rel=1e-9)


def test_a_window_longer_than_the_text_is_the_whole_text(spillway, golden, text, tmp_path):
    model = golden / "models/smollm2-f32"
    ids = ids_of(spillway, model)
    got = evaluate(spillway, model, "--compute", "f32", "--text", text, "--window", 4096)
    want = perplexity(log_probabilities(spillway, model, ids, "f32", tmp_path, window=4096), ids)
    assert got["model"]["perplexity"] == pytest.approx(want, rel=1e-9)


def test_a_model_does_not_differ_from_itself(spillway, golden, text):
    model = golden / "models/smollm2-f32"
    got = evaluate(spillway, model, "--against", model, *cut(text))
    assert (got["kl_mean"], got["kl_p99"], got["kl_max"], got["same_top"]) == (0, 0, 0, 1)
    assert got["model"]["perplexity"] == got["against"]["perplexity"]


def test_a_perturbed_model_differs_as_numpy_says(spillway, golden, perturbed, text, tmp_path):
    model = golden / "models/smollm2-f32"
    ids = ids_of(spillway, model)
    got = evaluate(spillway, model, "--against", perturbed, "--compute", "f32", *cut(text))
    p, q = (log_probabilities(spillway, m, ids, "f32", tmp_path) for m in (model, perturbed))
    assert got["against"]["perplexity"] == pytest.approx(perplexity(q, ids), rel=1e-9)
    for name, value in divergence(p, q).items():
        assert got[name] == pytest.approx(value, rel=1e-6), name
    assert got["kl_mean"] > 1e-5 and got["kl_p99"] > got["kl_mean"]  # else nothing was compared
    assert got["kl_mean"] != pytest.approx(divergence(q, p)["kl_mean"], rel=1e-6)  # the other way round is another figure


def test_the_second_model_has_options_of_its_own(spillway, golden, text, tmp_path):
    model = golden / "models/smollm2-f32"
    ids = ids_of(spillway, model)
    got = evaluate(spillway, model, "--compute", "f32", "--against-compute", "bf16", *cut(text))
    assert (got["model"]["compute"], got["against"]["compute"]) == ("f32", "bf16") and got["against"]["path"] == got["model"]["path"]
    p, q = (log_probabilities(spillway, model, ids, compute, tmp_path) for compute in ("f32", "bf16"))
    assert got["kl_mean"] == pytest.approx(divergence(p, q)["kl_mean"], rel=1e-6) and got["kl_mean"] > 0


def test_after_counts_only_what_follows_up_to_the_next_control_token(spillway, golden, tmp_path):
    model = golden / "models/smollm2-f32"
    talk = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\nGood day<|im_end|>\n<|im_start|>user\nMore"
    (tmp_path / "talk.txt").write_text(talk)
    ids = json.loads(spillway("tokenize", model, stdin=talk).stdout)
    before, answer = ([len(json.loads(spillway("tokenize", model, stdin=t).stdout)) for t in
                       (talk[:talk.index("Good")], talk[:talk.index("<|im_end|>\n<|im_start|>user\nMore")])])
    got = evaluate(spillway, model, "--compute", "f32", "--text", tmp_path / "talk.txt", "--after", "assistant\n")
    log_p = log_probabilities(spillway, model, ids, "f32", tmp_path, window=512)
    at = range(before - 1, answer)  # positions before the answer's tokens, and before the control token that ends it
    assert got["positions"] == len(at)
    assert got["model"]["perplexity"] == pytest.approx(float(np.exp(-np.mean([log_p[i, ids[i + 1]] for i in at]))), rel=1e-9)


def test_after_what_is_not_there_is_an_error(spillway, golden, text):
    r = spillway("eval", golden / "models/smollm2-f32", "--after", "Assistant:", *cut(text))
    assert r.returncode == 1 and "nothing follows 'Assistant:'" in r.stderr


def test_the_demo_model_knows_its_answers(spillway):
    got = evaluate(spillway, "demo", "--text", ROOT / "weights/demo/model/answers.txt", "--after", "Assistant:")
    assert got["positions"] > 500 and got["model"]["perplexity"] < 768  # of an even guess among its tokens


def test_the_demo_model_reads_the_text_that_comes_with_it(spillway):
    got = evaluate(spillway, "demo")
    assert got["text"] == str(ROOT / "weights/demo/model/eval.txt") and got["positions"] > 1000
    assert 1 < got["model"]["perplexity"] < float("inf")


def test_figures_are_printed_for_people(spillway, golden, text):
    model = golden / "models/smollm2-f32"
    r = spillway("eval", model, "--against", model, *cut(text))
    assert r.returncode == 0 and r.stderr == ""
    assert "perplexity" in r.stdout and "mean 0, p99 0, most 0" in r.stdout and "same top token: 100.000 %" in r.stdout


# ---- what it refuses ----

@pytest.mark.parametrize("args", [[], ["a", "b"], ["demo", "--window", "1"], ["demo", "--window", "16", "--stride", "17"],
                                  ["demo", "--against-compute", "f8"]])
def test_wrong_usage_exits_2(spillway, args):
    r = spillway("eval", *args)
    assert r.returncode == 2 and r.stderr.startswith("spillway: ") and r.stdout == ""


@pytest.mark.parametrize("content,word", [(b"", "is empty"), (b"a", "one token"), (b"\xff\xfe text", "UTF-8")])
def test_a_text_that_cannot_be_read_is_named(spillway, golden, tmp_path, content, word):
    (tmp_path / "t.txt").write_bytes(content)
    r = spillway("eval", golden / "models/smollm2-f32", "--text", tmp_path / "t.txt")
    assert r.returncode == 1 and word in r.stderr and "t.txt" in r.stderr


def test_models_with_other_tokens_are_not_compared(spillway, golden, text):
    r = spillway("eval", golden / "models/smollm2-f32", "--against", "demo", *cut(text))
    assert r.returncode == 1 and "tokenizers" in r.stderr


def test_a_window_beyond_the_context_is_refused_with_both_numbers(spillway):
    r = spillway("eval", "demo", "--window", "2000")
    assert r.returncode == 1 and "1024" in r.stderr and "2000" in r.stderr


def test_a_model_that_computes_nonsense_is_an_error(spillway, broken, safetensors, text):
    folder = broken()
    st = safetensors(folder)
    begin, end = st.header["model.norm.weight"]["data_offsets"]
    st.data = st.data[:begin] + np.full((end - begin) // 4, np.nan, "<f4").tobytes() + st.data[end:]
    st.write()
    r = spillway("eval", folder, "--text", text)
    assert r.returncode == 1 and "not finite" in r.stderr and r.stdout == ""
