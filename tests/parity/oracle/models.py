"""What text and picture models share: weights, model folders, forward passes with every layer tapped, greedy decoding."""

import numpy as np

from . import weights
from .common import GREEDY_STEPS, jdump, stats
from .corpus import VLM_V1_ADDED


def init_weights(model, seed, tag, tied):
    """Fills a model's parameters from weights.tensor and remembers where they came from, for save_weights."""
    import torch

    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(weights.tensor(seed, tag, name, tuple(p.shape), tied)))
    model.origin = (seed, tag, tied)
    return model.eval()


def as_dtype(model, dt):
    """Copy with parameters cast to dt. Buffers (RoPE inv_freq) stay float32, as after from_pretrained(dtype=...);
    a plain .to(bfloat16) would silently round inv_freq and change every logit."""
    import copy, torch

    m = copy.deepcopy(model)
    with torch.no_grad():
        for p in m.parameters():
            p.data = p.data.to(dt)
    return m


def hub_text_cfg(c, extra=None):
    """A config.json text block spelled as on the Hub (rope_theta, torch_dtype; defaults partly left out)."""
    d = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": c.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_position_embeddings,
        "mlp_bias": False,
        "model_type": c.model_type,
        "num_attention_heads": c.num_attention_heads,
        "num_hidden_layers": c.num_hidden_layers,
        "num_key_value_heads": c.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": c.rope_parameters["rope_theta"],
        "use_cache": True,
        "vocab_size": c.vocab_size,
    }
    d.update(extra or {})
    return d


def write_tokenizer_files(folder, tok, kind, tpl, tpl_as_file):
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    added = {
        str(i): {
            "content": a.content,
            "lstrip": a.lstrip,
            "normalized": a.normalized,
            "rstrip": a.rstrip,
            "single_word": a.single_word,
            "special": a.special,
        }
        for i, a in sorted(tok.get_added_tokens_decoder().items())
    }
    tc = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    if kind == "smollm2":
        tc.update(
            bos_token="<|im_start|>",
            eos_token="<|im_end|>",
            pad_token="<|im_end|>",
            unk_token="<|endoftext|>",
            tokenizer_class="GPT2Tokenizer",
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        )
    elif kind == "smollm3":
        tc.update(
            bos_token=None,
            eos_token="<|im_end|>",
            pad_token="<|im_end|>",
            clean_up_tokenization_spaces=True,
            fast=False,
            model_max_length=131072,
            tokenizer_class="PreTrainedTokenizerFast",
        )
    else:
        tc.update(
            bos_token="<|im_start|>",
            eos_token="<end_of_utterance>",
            pad_token="<|im_end|>",
            unk_token="<|endoftext|>",
            truncation_side="left",
            additional_special_tokens=VLM_V1_ADDED,
            tokenizer_class="GPT2Tokenizer",
            processor_class="Idefics3Processor" if kind == "idefics3" else "SmolVLMProcessor",
        )
    if tpl_as_file == "jinja":
        (folder / "chat_template.jinja").write_text(tpl, encoding="utf-8")
    elif tpl_as_file == "json":
        jdump(folder / "chat_template.json", {"chat_template": tpl})
    else:
        tc["chat_template"] = tpl
    jdump(folder / "tokenizer_config.json", tc)
    st = {k: tc[k] for k in ("bos_token", "eos_token", "pad_token", "unk_token") if tc.get(k)}
    jdump(folder / "special_tokens_map.json", st)


def save_weights(model, folder, dt, shards=1):
    """model: its parameters already rounded to dt. A tied head is not stored, as on the Hub."""
    import torch
    from safetensors.torch import load_file

    state = {
        k: v for k, v in model.state_dict().items() if not (model.config.tie_word_embeddings and k == "lm_head.weight")
    }
    keys = list(state)
    files = {}
    for i, k in enumerate(keys):
        part = i * shards // len(keys)
        name = f"model-{part + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        files.setdefault(name, []).append((k, tuple(state[k].shape)))
    weights.save(folder, *model.origin, "F32" if dt == torch.float32 else "BF16", files)
    for name in files:  # what was written is what the reference computes with
        for k, v in load_file(str(folder / name)).items():
            assert v.dtype == dt and torch.equal(v.float(), state[k].float()), k
    if shards > 1:
        total = sum(v.numel() * dt.itemsize for v in state.values())
        index = {k: name for name, tensors in files.items() for k, _ in tensors}
        jdump(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


class Taps:
    """Forward hooks collecting decoder-layer outputs, final norm, and vision intermediates."""

    def __init__(self, model):
        self.x = {}
        self.h = []
        base = model.model
        text = getattr(base, "text_model", base)

        def add(mod, name):
            self.h.append(
                mod.register_forward_hook(
                    lambda m, a, o, n=name: self.x.__setitem__(
                        n,
                        (o[0] if isinstance(o, tuple) else getattr(o, "last_hidden_state", o)).detach().float().numpy(),
                    )
                )
            )

        add(text.embed_tokens, "embed")
        for i, l in enumerate(text.layers):
            add(l, f"layer{i}")
        add(text.norm, "final_norm")
        if hasattr(base, "vision_model"):
            v = base.vision_model
            add(v.embeddings, "v.embeddings")
            for i, l in enumerate(v.encoder.layers):
                add(l, f"v.layer{i}")
            add(v.post_layernorm, "v.post_layernorm")
            self.h.append(
                base.connector.modality_projection.register_forward_pre_hook(
                    lambda m, a: self.x.__setitem__("v.pixel_shuffle", a[0].detach().float().numpy())
                )
            )
            add(base.connector, "v.connector")

    def close(self):
        for h in self.h:
            h.remove()


def greedy(model, ids, steps=GREEDY_STEPS, **mm):
    """Plain argmax decoding with a KV cache, never stopping at EOS; returns tokens and top-1/top-2 margins."""
    import torch

    toks, marg = [], []
    with torch.no_grad():
        o = model(input_ids=ids, use_cache=True, **mm)
        for s in range(steps):
            lg = o.logits[0, -1].float()
            v, i = lg.topk(2)
            toks.append(int(i[0]))
            marg.append(float(v[0] - v[1]))
            if s + 1 < steps:
                o = model(input_ids=i[:1][None], past_key_values=o.past_key_values, use_cache=True)
    return toks, marg


def run_case(model, ids, mm=None, full_logits=True, keep_hidden=False):
    """float32 reference numbers for one prompt."""
    import torch

    t = torch.tensor([ids])
    taps = Taps(model)
    with torch.no_grad():
        lg = model(input_ids=t, use_cache=False, **(mm or {})).logits[0].float().numpy()
    taps.close()
    toks, marg = greedy(model, t, **(mm or {}))
    top = np.argsort(-lg, axis=-1, kind="stable")[:, :5]
    rec = {
        "input_ids": list(map(int, ids)),
        "argmax": top[:, 0].tolist(),
        "top5_last": [[int(i), float(lg[-1, i])] for i in top[-1]],
        "logits": stats(lg),
        "logits_last": stats(lg[-1]),
        "logsumexp_last": float(np.logaddexp.reduce(lg[-1].astype(np.float64))),
        "greedy32": toks,
        "greedy_margin": marg,
        "min_margin": min(marg),
        "layers": {k: stats(v) for k, v in taps.x.items()},
    }
    ten = {}
    if full_logits:
        ten["logits"] = lg.astype(np.float32)
    else:
        ten["logits_last16"] = lg[-16:].astype(np.float32)
    if keep_hidden:
        ten.update({k: v.astype(np.float32) for k, v in taps.x.items()})
    return rec, ten


def bf16_case(model_bf16, ids, mm=None):
    """The same weights computed in bfloat16 throughout (as `dtype=torch.bfloat16` would): for tolerances only."""
    import torch

    t = torch.tensor([ids])
    mm = {k: (v.to(torch.bfloat16) if v.is_floating_point() else v) for k, v in (mm or {}).items()}
    with torch.no_grad():
        lg = model_bf16(input_ids=t, use_cache=False, **mm).logits[0].float().numpy()
    toks, marg = greedy(model_bf16, t, **mm)
    return lg, {"greedy32": toks, "greedy_margin": marg, "logits_last": stats(lg[-1])}


def check_reload(folder, cls, ids, ref, mm=None, tol=2e-4):
    import torch

    m = cls.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        lg = m(input_ids=torch.tensor([ids]), **(mm or {})).logits[0].float().numpy()
    d = float(np.abs(lg - ref).max())
    assert d < tol, (folder, d)
    return d
