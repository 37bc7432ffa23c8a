"""The benchmark programs' own arithmetic and honesty: what they count, and that they give no figures of a run that failed. No speed is looked at."""
import http.client
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]
import figures  # noqa: E402
import make_checkpoint  # noqa: E402
import proxy  # noqa: E402
from serving import BIN, Server  # noqa: E402

CLIENTS = pathlib.Path(BIN).parent / "bench/stream_clients"


@pytest.fixture(scope="module")
def server():
    s = Server("demo", "--no-auth")
    yield s
    s.stop()


def load(server, model="demo", **options):
    words = [str(w) for name, value in options.items() for w in ("--" + name.replace("_", "-"), value)]
    return subprocess.run([CLIENTS, "--port", str(server.port), "--model", model, *words], capture_output=True, text=True, timeout=120)


# ---- stream_clients ----

def test_every_request_and_token_is_counted(server):
    r = load(server, clients=3, requests=10, prompt_digits=20, max_tokens=6)
    assert r.returncode == 0, r.stderr
    out = json.loads(r.stdout)
    assert (out["requests"], out["output_tokens"], out["first_ms"]["n"]) == (10, 60, 10)
    assert out["gap_ms"]["n"] <= 10 * 5  # a token without text of its own makes no event
    assert 0 < out["first_ms"]["p50"] <= out["first_ms"]["p99"] <= out["first_ms"]["max"]
    assert out["tokens_per_s"] == pytest.approx(60 / out["seconds"], rel=1e-3)  # both are rounded when printed


def test_a_digit_more_is_a_token_more(server):
    prompts = [json.loads(load(server, clients=1, requests=2, prompt_digits=n, prefix_digits=m, max_tokens=1).stdout)["prompt_tokens"]
               for n, m in ((20, 0), (21, 0), (20, 7))]
    assert prompts[1] == prompts[0] + 1 and prompts[2] == prompts[0] + 7


def test_more_clients_than_requests_is_fine(server):
    r = load(server, clients=8, requests=3, prompt_digits=5, max_tokens=2)
    assert r.returncode == 0 and json.loads(r.stdout)["output_tokens"] == 6


def test_a_refused_request_gives_no_figures(server):
    r = load(server, model="other", clients=2, requests=4)
    assert r.returncode == 1 and r.stdout == "" and "404" in r.stderr


def test_a_prompt_beyond_the_context_gives_no_figures(server):
    r = load(server, clients=1, requests=1, prompt_digits=5000, max_tokens=2)
    assert r.returncode == 1 and r.stdout == "" and "400" in r.stderr


def test_a_server_that_is_not_there_gives_no_figures():
    r = subprocess.run([CLIENTS, "--port", "1", "--model", "m"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 1 and r.stdout == "" and "127.0.0.1:1" in r.stderr


# ---- proxy_upstream, proxy_clients, proxy.py ----

@pytest.fixture
def provider():
    """provider(events) -> its port."""
    started = []

    def run(events):
        p = subprocess.Popen([CLIENTS.parent / "proxy_upstream", "--events", str(events)], stdout=subprocess.PIPE, text=True)
        started.append(p)
        return int(p.stdout.readline().split()[1])
    yield run
    for p in started:
        p.kill()
        p.wait()


def proxy_load(port, kind, mode, *more):
    command = [CLIENTS.parent / "proxy_clients", "--port", str(port), "--path", f"/{kind}/v1/chat/completions", "--model", "fixed", "--mode", mode, "--clients", "4", "--warm", "0",
               "--seconds", "0.3", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind, mode", [("one", "calls"), ("one", "rate"), ("burst", "streams")])
def test_what_proxy_clients_count_the_provider_has_told(provider, kind, mode):
    port = provider(64)
    r = proxy_load(port, kind, mode, *(["--clients", "200", "--rate", "200"] if mode == "rate" else []))
    assert r.returncode == 0, r.stderr
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("GET", "/counts")
    truth, out = json.loads(c.getresponse().read()), json.loads(r.stdout)
    assert 0 < out["answers"] <= truth["answers"] and out["pieces"] == (64 * out["answers"] if mode == "streams" else 0)
    assert truth["completion_tokens"] == 64 * truth["answers"]


def test_a_piece_knows_when_it_was_sent(provider):
    r = proxy_load(provider(64), "paced", "paced")
    assert r.returncode == 0 and r.stdout.startswith("open\n"), r.stderr
    us = json.loads(r.stdout.splitlines()[1])["us"]
    assert us["n"] > 0 and 0 < us["p50"] <= us["p99"] <= us["max"]


def test_a_stream_that_lacks_a_piece_gives_no_figures(provider):
    r = proxy_load(provider(63), "burst", "streams")
    assert (r.returncode, r.stdout) == (1, "") and "a stream of 63 pieces" in r.stderr


def test_the_proxy_table_says_what_is_met_and_what_is_missed():
    rates = {"direct": [90.0], "nginx": [100.0], "off": [49.0], "on": [25.0]}
    r = {"per_s": {k: figures.spread(v) for k, v in rates.items()}, "to_nginx": {k: figures.ratio(rates[k], rates["nginx"]) for k in ("off", "on")}}
    off, on = proxy.rate_rows("calls", r, (("off", 0.5), ("on", 0.25)))
    assert off[3] == "0.5: missed" and on[3] == "0.25: met" and "nginx 100" in off[2]


# ---- rounds ----

def test_a_ratio_is_of_one_round():
    assert figures.ratio([2, 30, 8], [1, 10, 2]) == {"median": 3, "low": 2, "high": 4, "n": 3}


def test_a_ratio_of_unequal_rounds_is_refused():
    with pytest.raises(ValueError):
        figures.ratio([1, 2], [1])


def test_measures_take_turns():
    order = []
    values = figures.in_turns(3, {name: lambda name=name: order.append(name) or len(order) for name in "ab"})
    assert order == list("ababab") and values == {"a": [1, 3, 5], "b": [2, 4, 6]}


# ---- make_checkpoint ----

def test_the_made_tokenizer_fills_the_vocabulary_and_gives_a_token_a_digit(spillway, tmp_path):
    t = make_checkpoint.tokenizer()
    assert sorted(t["model"]["vocab"].values()) == list(range(make_checkpoint.VOCAB))
    (tmp_path / "tokenizer.json").write_text(json.dumps(t))
    (tmp_path / "config.json").write_text(json.dumps(make_checkpoint.config("135m")))
    ids = json.loads(spillway("tokenize", tmp_path, "--text", "8120577").stdout)
    assert len(ids) == 7
    assert spillway("tokenize", tmp_path, "--decode", "--text", json.dumps([make_checkpoint.VOCAB - 1])).stdout.strip().isalpha()


def test_made_weights_have_the_shape_that_the_config_says(spillway, tmp_path, monkeypatch):
    monkeypatch.setitem(make_checkpoint.SHAPES, "tiny", (64, 2, 4, 2, 96, 10000.0))
    monkeypatch.setattr(make_checkpoint, "VOCAB", 1024)
    make_checkpoint.write_weights(tmp_path / "model.safetensors", "tiny", 3)
    (tmp_path / "config.json").write_text(json.dumps(make_checkpoint.config("tiny")))
    (tmp_path / "ids.json").write_text("[1, 2, 3]")
    r = spillway("logits", tmp_path, "--tokens", tmp_path / "ids.json", "--max-tokens", 2, "--out", tmp_path / "out")
    assert r.returncode == 0, r.stderr
    assert len(json.loads((tmp_path / "out/greedy.json").read_text())) == 2


def test_bf16_bits_are_rounded_to_nearest():
    bits = make_checkpoint.bf16_table(1.0, 0.0).astype("<u4") << 16
    values = bits.view("<f4")
    assert abs(values - (make_checkpoint.np.arange(65536) / 32768.0 - 1.0)).max() <= 2**-9
