#!/usr/bin/env python3
"""Writes a model folder in the shape of a published model with random weights, so that the whole server can be measured without a download.

    bench/make_checkpoint.py SHAPE FOLDER [--seed N]        SHAPE: 135m, 360m or 1.7b (SmolLM2's)

bf16, one model.safetensors; the same distribution as --random-weights (uniform, variance 1 / columns), so that activations stay in range. The
tokenizer is the demo model's (SmolLM's rules: a digit is a token) with merges of its own pieces up to the vocabulary's size, which makes it as large
to load as the real one; the template is SmolLM2's form without a system message. What it says is noise.
"""
import argparse
import json
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = ROOT / "weights/demo/model"
VOCAB = 49152
# hidden, layers, heads, KV heads, MLP width, rope theta (their config.json files)
SHAPES = {"135m": (576, 30, 9, 3, 1536, 100000.0), "360m": (960, 32, 15, 5, 2560, 100000.0), "1.7b": (2048, 24, 32, 32, 8192, 130000.0)}
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
END = 2  # <|im_end|>


def config(shape):
    hidden, layers, heads, kv_heads, inter, theta = SHAPES[shape]
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu", "hidden_size": hidden,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": inter,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": theta, "rope_scaling": None, "attention_bias": False,
            "mlp_bias": False, "tie_word_embeddings": True, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": END}


def tensors(shape):
    """(name, shape) in the order of the file."""
    hidden, layers, heads, kv_heads, inter, _ = SHAPES[shape]
    head = hidden // heads
    yield "model.embed_tokens.weight", (VOCAB, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,)
        yield p + "self_attn.q_proj.weight", (heads * head, hidden)
        yield p + "self_attn.k_proj.weight", (kv_heads * head, hidden)
        yield p + "self_attn.v_proj.weight", (kv_heads * head, hidden)
        yield p + "self_attn.o_proj.weight", (hidden, heads * head)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (inter, hidden)
        yield p + "mlp.up_proj.weight", (inter, hidden)
        yield p + "mlp.down_proj.weight", (hidden, inter)
    yield "model.norm.weight", (hidden,)


def bf16_table(amplitude, centre):
    """bf16 bits of 65,536 evenly spaced values, to look random numbers up in."""
    x = ((np.arange(65536) / 32768.0 - 1.0) * amplitude + centre).astype("<f4").view("<u4")
    return ((x + 0x7FFF + (x >> 16 & 1)) >> 16).astype("<u2")  # round to nearest, ties to even


def write_weights(path, shape, seed):
    header, at = {}, 0
    for name, dims in tensors(shape):
        n = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, dims in tensors(shape):
            table = bf16_table(0.02, 1.0) if len(dims) == 1 else bf16_table((3.0 / dims[1]) ** 0.5, 0.0)
            for rows in np.array_split(np.arange(dims[0]), max(1, dims[0] // 4096)):
                f.write(table[rng.integers(0, 65536, (len(rows), *dims[1:]), "u2")].tobytes())


def tokenizer():
    """The demo's, filled up: pairs of its pieces of letters become tokens, in the order of their ids, as BPE would have merged them."""
    t = json.loads((DEMO / "tokenizer.json").read_text())
    vocab, merges = t["model"]["vocab"], t["model"]["merges"]
    pieces = [w for w in vocab if w.lstrip("Ġ").isascii() and w.lstrip("Ġ").isalpha()]
    for first in pieces:
        for second in pieces:
            if len(vocab) == VOCAB:
                return t
            if "Ġ" not in second and first + second not in vocab:
                vocab[first + second] = len(vocab)
                merges.append([first, second])
    raise SystemExit("too few pieces to fill the vocabulary")


def main():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config_path = args.folder / "config.json"
    config_path.unlink(missing_ok=True)  # written last: a folder with it is whole
    write_weights(args.folder / "model.safetensors", args.shape, args.seed)
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>"}
    (args.folder / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False))
    (args.folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192,
                                                                   "chat_template": TEMPLATE, **special}, indent=1))
    (args.folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    (args.folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "bos_token_id": 1, "eos_token_id": END}, indent=1))
    config_path.write_text(json.dumps(config(args.shape), indent=1))


if __name__ == "__main__":
    main()
