"""The command line: usage, exit codes, tokenize, generate, logits, and model folders that are broken."""
import itertools
import json
import struct
import subprocess

import pytest

COMMANDS = ["serve", "generate", "tokenize", "logits", "eval", "keys", "models", "pull", "chat", "doctor", "worker", "media"]


def read_npy(path):
    """(shape, type, bytes) of a version 1.0 file, without NumPy: the format itself is under test."""
    raw = path.read_bytes()
    assert raw[:8] == b"\x93NUMPY\x01\x00"
    n = struct.unpack("<H", raw[8:10])[0]
    assert (10 + n) % 64 == 0 and raw[9 + n:10 + n] == b"\n"
    head = eval(raw[10:10 + n].decode("ascii"), {"__builtins__": {}})
    assert head["fortran_order"] is False
    return head["shape"], head["descr"], raw[10 + n:]


# ---- usage ----

def test_version_is_printed(spillway):
    r = spillway("--version")
    assert r.returncode == 0 and r.stdout.startswith("spillway ") and r.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_on_stdout(spillway, command):
    r = spillway(command, "--help")
    assert r.returncode == 0 and r.stdout.startswith(f"usage: spillway {command}") and r.stderr == ""


def test_program_help_lists_the_commands(spillway):
    r = spillway("--help")
    assert r.returncode == 0
    for c in ("serve", "generate", "tokenize", "logits", "keys"):
        assert c in r.stdout


@pytest.mark.parametrize("args", [
    [], ["frobnicate"], ["generate"], ["generate", "demo"], ["generate", "--frob"], ["generate", "x", "--max-tokens"],
    ["generate", "x", "--prompt", "p", "--max-tokens", "0"], ["generate", "x", "--prompt", "p", "--max-tokens", "1e3"],
    ["generate", "x", "--prompt", "p", "--temperature", "nan"], ["generate", "x", "--prompt", "p", "--temperature", "-1"],
    ["generate", "--prompt", "p", "--random-weights", "135m:1"], ["tokenize"], ["tokenize", "a", "b"], ["logits", "demo"],
    ["logits", "demo", "--out", "o"], ["logits", "demo", "--out", "o", "--tokens", "a", "--messages", "b"], ["logits", "--random-weights", "135m:1", "--messages", "m", "--out", "o"],
    ["logits", "demo", "--random-weights", "135m:1", "--tokens", "a", "--out", "o"], ["logits", "demo", "--tokens", "t", "--out", "o", "--compute", "f8"],
    ["logits", "demo", "--tokens", "t", "--out", "o", "--image-detail", "medium"],
])
def test_wrong_usage_exits_2_and_says_why(spillway, args):
    r = spillway(*args)
    assert r.returncode == 2
    assert r.stderr.strip() and r.stdout == ""


def test_full_output_is_a_failure(program, golden):
    with open("/dev/full", "w") as full:
        r = subprocess.run([program, "tokenize", golden / "models/smollm2-f32", "--text", "x"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 1 and "standard output" in r.stderr


# ---- tokenize ----

TEXTS = ["Hello, world!", "naïve 小模型 😀\n\n  tabs\tand 12345", "", "<|im_start|>user\nhi<|im_end|>\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenize_and_decode_give_the_text_back(spillway, golden, text):
    model = golden / "models/smollm2-f32"
    ids = spillway("tokenize", model, stdin=text)
    assert ids.returncode == 0
    assert isinstance(json.loads(ids.stdout), list)
    assert json.loads(spillway("tokenize", model, f"--text={text}").stdout) == json.loads(ids.stdout)
    back = spillway("tokenize", model, "--decode", stdin=ids.stdout)
    assert back.returncode == 0 and back.stdout == text + "\n"


@pytest.mark.parametrize("ids", ["[1, 99999999]", "[-1]", "x", "1.5"])
def test_decode_names_a_bad_id(spillway, golden, ids):
    r = spillway("tokenize", golden / "models/smollm2-f32", "--decode", f"--text={ids}")
    assert r.returncode == 1 and "is not a token id" in r.stderr


# ---- model folders ----

def test_missing_folder_is_named(spillway):
    r = spillway("generate", "/nonexistent/model", "--prompt", "x")
    assert r.returncode == 1 and "/nonexistent/model" in r.stderr


def test_folder_without_config_is_named(spillway, tmp_path):
    r = spillway("generate", tmp_path, "--prompt", "x")
    assert r.returncode == 1 and "config.json" in r.stderr


def test_a_file_is_not_a_model(spillway, tmp_path):
    (tmp_path / "m").write_text("x")
    r = spillway("tokenize", tmp_path / "m", "--text", "x")
    assert r.returncode == 1 and "is not a folder" in r.stderr


def logits(spillway, folder, tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2, 3]")
    return spillway("logits", folder, "--tokens", tmp_path / "ids.json", "--max-tokens", "1", "--out", tmp_path / "out")


def test_missing_tensor_is_named(spillway, broken, safetensors, tmp_path):
    folder = broken()
    st = safetensors(folder)
    st.header["model.layers.1.mlp.other.weight"] = st.header.pop("model.layers.1.mlp.up_proj.weight")
    st.write()
    r = logits(spillway, folder, tmp_path)
    assert r.returncode == 1 and "model.layers.1.mlp.up_proj.weight" in r.stderr


def test_misshaped_tensor_is_named_with_both_shapes(spillway, broken, safetensors, tmp_path):
    folder = broken()
    st = safetensors(folder)
    t = st.header["model.layers.0.self_attn.q_proj.weight"]
    shape = t["shape"]
    t["shape"] = [shape[0] // 2, shape[1] * 2]
    st.write()
    r = logits(spillway, folder, tmp_path)
    assert r.returncode == 1 and "model.layers.0.self_attn.q_proj.weight" in r.stderr
    for d in (*shape, *t["shape"]):
        assert str(d) in r.stderr


def test_cut_weights_are_named(spillway, broken, tmp_path):
    folder = broken()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    r = logits(spillway, folder, tmp_path)
    assert r.returncode == 1 and "model.safetensors" in r.stderr


def test_absurd_header_length_is_refused(spillway, broken, tmp_path):
    folder = broken()
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    r = logits(spillway, folder, tmp_path)
    assert r.returncode == 1 and "model.safetensors" in r.stderr


@pytest.mark.parametrize("field,value", [("num_hidden_layers", -1), ("hidden_size", "big"), ("num_attention_heads", 0), ("vocab_size", 1 << 40), ("rms_norm_eps", -1)])
def test_bad_config_field_is_named(spillway, broken, tmp_path, field, value):
    folder = broken()
    config = json.loads((folder / "config.json").read_text())
    config[field] = value
    (folder / "config.json").write_text(json.dumps(config))
    r = logits(spillway, folder, tmp_path)
    assert r.returncode == 1 and "config.json" in r.stderr and field in r.stderr


def test_template_that_needs_more_names_its_line(spillway, broken):
    folder = broken()
    (folder / "chat_template.jinja").write_text("a\n{{ messages | xmlattr }}\n")
    r = spillway("generate", folder, "--prompt", "x")
    assert r.returncode == 1 and "line 2" in r.stderr and "xmlattr" in r.stderr


# ---- generate ----

def test_generate_streams_an_answer_and_greedy_is_repeatable(spillway, golden):
    args = ["generate", golden / "models/smollm2-f32", "--prompt", "Hello! How are you?", "--max-tokens", "24", "--temperature", "0"]
    a, b = spillway(*args), spillway(*args)
    assert a.returncode == 0 and a.stdout == b.stdout and a.stdout.strip()
    assert "prompt tokens" in a.stderr


@pytest.mark.parametrize("detail,name", [("high", "landscape"), ("low", "no_split")])
def test_generate_answers_about_a_picture_as_the_reference_does(spillway, golden, detail, name):
    model = golden / "models/idefics3-f32"
    case = cases(golden, "idefics3-f32")[name]
    added = {t["id"] for t in json.loads((model / "tokenizer.json").read_text())["added_tokens"]}  # not printed, or not sampled
    ids = list(itertools.takewhile(lambda i: i not in added, case["greedy32"]))
    assert len(ids) >= 3 and min(case["greedy_margin"][:len(ids)]) > 4e-4
    want = spillway("tokenize", model, "--decode", stdin=json.dumps(ids)).stdout
    r = spillway("generate", model, "--prompt", "What is shown?", "--image", golden / "images" / case["files"][0], "--image-detail", detail,
                 "--max-tokens", len(ids), "--temperature", "0", "--compute", "f32")
    assert r.returncode == 0, r.stderr
    assert r.stdout == want


def test_generate_names_a_broken_picture(spillway, golden, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    r = spillway("generate", golden / "models/idefics3-f32", "--prompt", "?", "--image", tmp_path / "x.jpg")
    assert r.returncode == 1 and "x.jpg" in r.stderr


def test_text_model_refuses_a_picture(spillway, golden):
    r = spillway("generate", golden / "models/smollm2-f32", "--prompt", "?", "--image", golden / "images/rgb_256x256.png")
    assert r.returncode == 1 and "does not take pictures" in r.stderr


def test_generate_completes_with_a_base_model(spillway, broken):
    folder = broken()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    r = spillway("generate", folder, "--prompt", "The small model", "--max-tokens", "8", "--temperature", "0")
    assert r.returncode == 0 and r.stdout.strip()


def test_prompt_longer_than_the_context_tells_both_numbers(spillway, broken):
    folder = broken()
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    r = spillway("generate", folder, "--prompt", "word " * 300)
    assert r.returncode == 1 and "64 tokens" in r.stderr
    assert any(int(w) > 64 for w in r.stderr.split() if w.isdigit())


# ---- logits ----

def cases(golden, name):
    return json.loads((golden / "golden" / name / "cases.json").read_text())["cases"]


def test_logits_writes_what_it_says(spillway, golden, tmp_path):
    case = cases(golden, "smollm2-f32")["short"]
    (tmp_path / "ids.json").write_text(json.dumps(case["input_ids"]))
    r = spillway("logits", golden / "models/smollm2-f32", "--tokens", tmp_path / "ids.json", "--max-tokens", "5", "--out", tmp_path / "new")
    assert r.returncode == 0, r.stderr
    out = tmp_path / "new"
    n = len(case["input_ids"])
    shape, kind, data = read_npy(out / "input_ids.npy")
    assert (shape, kind) == ((n,), "<i4") and list(struct.unpack(f"<{n}i", data)) == case["input_ids"]
    shape, kind, data = read_npy(out / "logits.npy")
    assert shape[0] == n and kind == "<f4" and len(data) == 4 * shape[0] * shape[1]
    rows = struct.unpack(f"<{shape[0] * shape[1]}f", data)
    for i, want in enumerate(case["argmax"]):
        row = rows[i * shape[1]:(i + 1) * shape[1]]
        assert row.index(max(row)) == want
    assert json.loads((out / "greedy.json").read_text()) == case["greedy32"][:5]
    assert not (out / "tiles_u8.npy").exists()


@pytest.mark.parametrize("how", ["messages", "prompt"])
def test_logits_of_a_picture_from_messages_and_from_a_prompt_agree_with_the_reference(spillway, golden, tmp_path, how):
    case = cases(golden, "idefics3-f32")["landscape"]
    if how == "messages":
        (tmp_path / "in").write_text(json.dumps([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}]))
    else:
        (tmp_path / "in").write_text(case["prompt"])
    r = spillway("logits", golden / "models/idefics3-f32", "--messages" if how == "messages" else "--prompt-file", tmp_path / "in",
                 "--image", golden / "images" / case["files"][0], "--max-tokens", "4", "--out", tmp_path / "out")
    assert r.returncode == 0, r.stderr
    shape, _, data = read_npy(tmp_path / "out/input_ids.npy")
    assert list(struct.unpack(f"<{shape[0]}i", data)) == case["input_ids"]
    shape, kind, _ = read_npy(tmp_path / "out/tiles_u8.npy")
    assert kind == "|u1" and shape[:2] == (case["n_tiles"], 3)
    assert json.loads((tmp_path / "out/greedy.json").read_text()) == case["greedy32"][:4]


def test_low_detail_is_one_tile(spillway, golden, tmp_path):
    case = cases(golden, "idefics3-f32")["no_split"]
    (tmp_path / "in").write_text(case["prompt"])
    r = spillway("logits", golden / "models/idefics3-f32", "--prompt-file", tmp_path / "in", "--image-detail", "low", "--image",
                 golden / "images" / case["files"][0], "--max-tokens", "0", "--out", tmp_path / "out")
    assert r.returncode == 0, r.stderr
    shape, _, data = read_npy(tmp_path / "out/input_ids.npy")
    assert list(struct.unpack(f"<{shape[0]}i", data)) == case["input_ids"]
    assert read_npy(tmp_path / "out/tiles_u8.npy")[0][0] == 1
    assert json.loads((tmp_path / "out/greedy.json").read_text()) == []


@pytest.mark.parametrize("content", ["{}", "[]", "[1.5]", "[\"a\"]", "[-1]", "[99999]", "[1", "[4294967297]"])
def test_bad_ids_are_refused(spillway, golden, tmp_path, content):
    (tmp_path / "ids.json").write_text(content)
    r = spillway("logits", golden / "models/smollm2-f32", "--tokens", tmp_path / "ids.json", "--out", tmp_path / "out")
    assert r.returncode == 1 and r.stderr.startswith("spillway: ")


def test_picture_count_must_match_the_prompt(spillway, golden, tmp_path):
    (tmp_path / "in").write_text("<|im_start|>User:<image><image>two<end_of_utterance>\nAssistant:")
    r = spillway("logits", golden / "models/idefics3-f32", "--prompt-file", tmp_path / "in", "--image", golden / "images/rgb_256x256.png", "--out", tmp_path / "out")
    assert r.returncode == 1 and "2" in r.stderr and "1" in r.stderr


def test_control_tokens_in_messages_stay_text(spillway, golden, tmp_path):
    text = "<|im_end|> <image> <fake_token_around_image> <end_of_utterance>"
    (tmp_path / "in").write_text(json.dumps([{"role": "user", "content": text}]))
    r = spillway("logits", golden / "models/idefics3-f32", "--messages", tmp_path / "in", "--max-tokens", "0", "--out", tmp_path / "out")
    assert r.returncode == 0, r.stderr
    shape, _, data = read_npy(tmp_path / "out/input_ids.npy")
    ids = struct.unpack(f"<{shape[0]}i", data)
    config = json.loads((golden / "models/idefics3-f32/config.json").read_text())
    assert config["image_token_id"] not in ids
    back = spillway("tokenize", golden / "models/idefics3-f32", "--decode", stdin=json.dumps(ids))
    assert text in back.stdout
