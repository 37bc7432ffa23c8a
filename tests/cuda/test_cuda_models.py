"""Whole models on the simulated CUDA device: logits beside the CPU's for every family, and greedy tokens.

What bf16 costs is measured, not guessed: the CPU computes the same prompt in float32 and in bf16, and CUDA, which rounds at the same places but adds in
another order and rounds queries and probabilities of prompts besides, may be off from float32 by at most FACTOR times what the CPU's bf16 is off."""
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from serving import BIN  # noqa: E402

LIBRARY = pathlib.Path(BIN).parent / "tests/cuda/libspillway_cuda_sim.so"
CUBLASLT = LIBRARY.parent / "fake_cublaslt/program"  # tests/cuda/fake_cublaslt.cpp, for --decode fast
GOLDEN = pathlib.Path(BIN).parent / "golden"
DEMO = ROOT / "weights/demo/model"
FACTOR = 2.0
TOKENS = 12
MODELS = ["smollm2-bf16", "smollm3-bf16", "smollm3_yarn_sharded-bf16", "idefics3-bf16", "idefics3_v1-bf16", "smolvlm2-bf16"]


def logits(model, prompt, out, *options, pictures=()):
    kind, text = prompt
    given = out.with_suffix(".in")
    given.write_text(text if isinstance(text, str) else json.dumps(text))
    command = [BIN, "logits", model, kind, given, "--max-tokens", TOKENS, "--out", out, *options]
    for p in pictures:
        command += ["--image", p]
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    return np.load(out / "logits.npy").astype(np.float64), json.loads((out / "greedy.json").read_text())


def ids_for(model, n):
    vocab = json.loads((model / "config.json").read_text())
    vocab = vocab.get("vocab_size") or vocab["text_config"]["vocab_size"]
    return [int(i) for i in np.random.default_rng(n).integers(4, min(vocab, 600), n)]


def compare(model, prompt, tmp_path, options=(), pictures=(), on_cuda=()):
    exact, _ = logits(model, prompt, tmp_path / "f32", "--device", "cpu", "--compute", "f32", *options, pictures=pictures)
    cpu, cpu_greedy = logits(model, prompt, tmp_path / "cpu", "--device", "cpu", "--compute", "bf16", *options, pictures=pictures)
    cuda, cuda_greedy = logits(model, prompt, tmp_path / "cuda", "--device", "cuda", "--cuda-library", LIBRARY, "--compute", "bf16", *options, *on_cuda, pictures=pictures)
    assert cuda.shape == exact.shape and np.isfinite(cuda).all()
    rms = [np.sqrt(np.mean((x - exact) ** 2)) for x in (cpu, cuda)]
    most = [np.abs(x - exact).max() for x in (cpu, cuda)]
    assert rms[1] <= FACTOR * rms[0] and most[1] <= FACTOR * most[0], (rms, most)
    assert rms[1] > 0  # it was another computation
    best = np.sort(exact, axis=-1)
    margin = best[:, -1] - best[:, -2]
    sure = margin > 2 * FACTOR * most[0]
    assert (cuda.argmax(-1) == exact.argmax(-1))[sure].all() and sure.any()
    return cpu_greedy, cuda_greedy


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_every_family(name, tmp_path):
    model = GOLDEN / "models" / name
    compare(model, ("--tokens", ids_for(model, 75)), tmp_path)


@pytest.mark.parametrize("name", ["smollm2-bf16", "smollm3-bf16", "smolvlm2-bf16"])
def test_logits_of_decode_fast(name, tmp_path, monkeypatch):
    """A prompt of more rows than own kernels take, held to the same bound; what the library is told wrongly is seen."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(CUBLASLT))
    model = GOLDEN / "models" / name
    prompt = ("--tokens", ids_for(model, 75))
    compare(model, prompt, tmp_path, on_cuda=("--decode", "fast"))
    monkeypatch.setenv("FAKE_CUBLASLT", "ld")
    with pytest.raises(AssertionError):
        compare(model, prompt, tmp_path, on_cuda=("--decode", "fast"))
    compare(model, prompt, tmp_path, on_cuda=("--decode", "exact"))  # which never asks it


def test_a_picture_with_decode_fast(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(CUBLASLT))
    prompt = "<|im_start|>User:<image>Describe the picture.<end_of_utterance>\nAssistant:"
    pictures = [ROOT / "weights/demo/samples/shapes.png"]
    cpu, cuda = compare(DEMO, ("--prompt-file", prompt), tmp_path, pictures=pictures, on_cuda=("--decode", "fast"))
    assert cpu == cuda
    monkeypatch.setenv("FAKE_CUBLASLT", "ld")
    with pytest.raises(AssertionError):
        compare(DEMO, ("--prompt-file", prompt), tmp_path, pictures=pictures, on_cuda=("--decode", "fast"))


@pytest.mark.parametrize("options", [(), ("--quant", "int8"), ("--quant", "int4", "--quant-head", "int4"), ("--kv-dtype", "int8"), ("--quant", "int8", "--quant-vision", "int8"),
                                     ("--quant", "fp8", "--kv-dtype", "fp8"), ("--quant", "fp8", "--quant-vision", "fp8")],
                         ids=["bf16", "int8", "int4", "int8 cache", "int8 vision", "fp8 and its cache", "fp8 vision without mma"])
def test_the_trained_model_tells_what_is_on_a_picture(options, tmp_path, monkeypatch, request):
    if "without mma" in request.node.callspec.id:
        monkeypatch.setenv("SIM_CUDA_CC", "80")
    prompt = "<|im_start|>User:<image>Describe the picture.<end_of_utterance>\nAssistant:"
    pictures = [ROOT / "weights/demo/samples/shapes.png"]
    if not options:
        cpu, cuda = compare(DEMO, ("--prompt-file", prompt), tmp_path, pictures=pictures)
        assert cpu == cuda
        return
    # What is quantised is off by far more than bf16: the answers, whose margins are large, are compared.
    _, cpu = logits(DEMO, ("--prompt-file", prompt), tmp_path / "cpu", "--device", "cpu", "--compute", "bf16", *options, pictures=pictures)
    _, cuda = logits(DEMO, ("--prompt-file", prompt), tmp_path / "cuda", "--device", "cuda", "--cuda-library", LIBRARY, "--compute", "bf16", *options, pictures=pictures)
    assert cpu == cuda


@pytest.mark.parametrize("how", ["exact", "fast"])
def test_the_server_answers_from_the_device(how, tmp_path, monkeypatch):
    """The whole way: worker, scheduler, sampling on the device, the OpenAI API."""
    from serving import Server
    import requests
    monkeypatch.setenv("LD_LIBRARY_PATH", str(CUBLASLT))
    options = ("--no-auth", "--device", "cuda", "--cuda-library", str(LIBRARY), "--kv-tokens", "2048", "--decode", how)
    s = Server(DEMO, "--name", "demo", *options)
    try:
        device = requests.get(s.url + "/admin/models/demo", timeout=30).json()["worker"]["device"]
        assert "cuda" in device and ("; fast, cuBLASLt 13.1.0" in device) == (how == "fast")
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "temperature": 0.8, "seed": 3, "logprobs": True, "top_logprobs": 2}
        first, again = (requests.post(s.url + "/v1/chat/completions", json=body, timeout=120).json() for _ in range(2))
        assert first["choices"] == again["choices"] and len(first["choices"][0]["logprobs"]["content"]) > 0
    finally:
        assert s.stop() == 0
