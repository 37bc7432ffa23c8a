"""Section text: tiny checkpoints of the text families and their reference logits."""

import json

import numpy as np

from .common import jdump, log, rng_for, st_save
from .corpus import PROSE, corpus
from .models import (
    HUB_STYLE,
    V5_STYLE,
    as_dtype,
    bf16_case,
    check_reload,
    hub_text_cfg,
    init_weights,
    run_case,
    save_weights,
    write_tokenizer_files,
)
from .template_data import SMOLLM2_TPL, SMOLLM3_TPL
from .templates import frozen_clock, render_case


def text_prompts(seed, tok, tpl, kind):
    r = rng_for(seed, "prompts" + kind)
    words = corpus(seed, "p")
    with frozen_clock() as ctu:
        chat = render_case(ctu, tpl, [{"role": "user", "content": "Hello! How are you?"}], None, True)["text"]
    long_text = " ".join(str(x) for x in r.permutation(np.array(words, dtype=object))[:60])
    p = {
        "one_token": [tok.encode("A", add_special_tokens=False).ids[0]],
        "short": tok.encode("The small model reads", add_special_tokens=False).ids,
        "chat": tok.encode(chat, add_special_tokens=False).ids[:400],
        "unicode": tok.encode("Réponse: 小模型 😀 שלום 12345 " + PROSE[10], add_special_tokens=False).ids,
        "random_ids": [int(x) for x in r.integers(0, tok.get_vocab_size(), 48)],
        "long": tok.encode(long_text, add_special_tokens=False).ids[:330],
    }
    return p, {"chat": chat, "long": long_text}


def text_models(seed, toks):
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.smollm3 import SmolLM3Config, SmolLM3ForCausalLM

    out = []
    V2, V3 = toks["smollm2"].get_vocab_size(), toks["smollm3"].get_vocab_size()
    lc = LlamaConfig(
        vocab_size=V2,
        hidden_size=192,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        attn_implementation="eager",
    )
    out.append(
        (
            "smollm2",
            LlamaForCausalLM,
            lc,
            toks["smollm2"],
            SMOLLM2_TPL,
            {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        )
    )
    im_end = toks["smollm3"].token_to_id("<|im_end|>")
    bos3 = toks["smollm3"].token_to_id("<|begin_of_text|>")
    pad3 = toks["smollm3"].token_to_id("<|finetune_right_pad_id|>")
    s3 = dict(
        vocab_size=V3,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        rms_norm_eps=1e-6,
        bos_token_id=bos3,
        eos_token_id=im_end,
        pad_token_id=pad3,
        tie_word_embeddings=True,
        no_rope_layer_interval=4,
        attn_implementation="eager",
    )
    c3 = SmolLM3Config(
        hidden_size=256,
        max_position_embeddings=65536,
        rope_parameters={"rope_type": "default", "rope_theta": 5000000.0},
        **s3,
    )
    g3 = {
        "bos_token_id": bos3,
        "eos_token_id": im_end,
        "pad_token_id": pad3,
        "temperature": 0.6,
        "top_p": 0.95,
        "do_sample": True,
    }
    out.append(("smollm3", SmolLM3ForCausalLM, c3, toks["smollm3"], SMOLLM3_TPL, g3))
    s3y = dict(s3, num_hidden_layers=3, num_attention_heads=4, no_rope_layers=[1, 0, 1], intermediate_size=160)
    cy = SmolLM3Config(
        hidden_size=128,
        max_position_embeddings=256,
        head_dim=64,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 5000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        **s3y,
    )
    out.append(("smollm3_yarn_sharded", SmolLM3ForCausalLM, cy, toks["smollm3"], SMOLLM3_TPL, g3))
    return out


def section_text(seed, out, toks):
    import torch

    for name, cls, cfg, tok, tpl, gen in text_models(seed, toks):
        torch.manual_seed(seed)
        model = init_weights(cls(cfg).float(), seed, name, True)
        for dt, style in ((torch.float32, HUB_STYLE), (torch.bfloat16, V5_STYLE)):
            sharded = name.endswith("sharded")
            if dt == torch.float32 and sharded:
                continue
            fn = f"{name}-{'f32' if dt == torch.float32 else 'bf16'}"
            folder = out / "models" / fn
            folder.mkdir(parents=True, exist_ok=True)
            m = model if dt == torch.float32 else as_dtype(as_dtype(model, dt), torch.float32)
            save_weights(m, folder, dt, shards=3 if sharded else 1)
            if style == HUB_STYLE:
                ex = {
                    "architectures": [cls.__name__],
                    "bos_token_id": cfg.bos_token_id,
                    "eos_token_id": cfg.eos_token_id,
                    "tie_word_embeddings": True,
                    "torch_dtype": "float32",
                    "transformers_version": "4.42.3",
                }
                if name.startswith("smollm3"):
                    ex.update(
                        pad_token_id=cfg.pad_token_id,
                        no_rope_layers=cfg.no_rope_layers,
                        no_rope_layer_interval=4,
                        layer_types=cfg.layer_types,
                        sliding_window=None,
                        use_sliding_window=False,
                        max_window_layers=28,
                    )
                    del ex["tie_word_embeddings"]  # the Hub file leaves it out: the class default is true
                else:
                    ex.update(rope_interleaved=False, is_llama_config=True)  # head_dim left out on purpose
                jdump(folder / "config.json", hub_text_cfg(cfg, ex))
            else:
                mm = as_dtype(model, dt)
                mm.config.architectures = [cls.__name__]
                j = json.loads(mm.config.to_json_string(use_diff=False))
                j = {
                    k: j[k]
                    for k in sorted(j)
                    if k
                    in (
                        "architectures attention_bias attention_dropout bos_token_id eos_token_id head_dim hidden_act hidden_size "
                        "intermediate_size layer_types max_position_embeddings mlp_bias model_type no_rope_layer_interval no_rope_layers num_attention_heads num_hidden_layers "
                        "num_key_value_heads pad_token_id rms_norm_eps rope_parameters sliding_window tie_word_embeddings use_cache use_sliding_window vocab_size"
                    ).split()
                }
                j.update(dtype="bfloat16", transformers_version="5.23.0")
                if not name.endswith("sharded") and name.startswith("smollm3"):
                    j["no_rope_layers"] = None  # must be derived from no_rope_layer_interval
                    j["layer_types"] = None
                jdump(folder / "config.json", j)
            jdump(folder / "generation_config.json", dict(gen, transformers_version="4.54.0"))
            write_tokenizer_files(
                folder,
                tok,
                "smollm3" if "smollm3" in name else "smollm2",
                tpl,
                "jinja" if "smollm3" in name else "config",
            )
            prompts, texts = text_prompts(seed, tok, tpl, name)
            mb = as_dtype(model, torch.bfloat16)
            cases = {}
            for pn, ids in prompts.items():
                rec, ten = run_case(m, ids, full_logits=len(ids) <= 160, keep_hidden=pn == "short")
                rec["text"] = texts.get(pn)
                if dt == torch.bfloat16:
                    lgb, bc = bf16_case(mb, ids)
                    if "logits" in ten:
                        bc["max_abs_diff_vs_f32_compute"] = float(np.abs(lgb - ten["logits"]).max())
                    rec["bf16_compute"] = bc
                st_save(out / "golden" / fn / f"{pn}.safetensors", ten)
                cases[pn] = rec
            from safetensors.numpy import load_file

            ref = load_file(str(out / "golden" / fn / "short.safetensors"))["logits"]
            diff = check_reload(folder, cls, prompts["short"], ref)
            jdump(
                out / "golden" / fn / "cases.json",
                {
                    "model": fn,
                    "compute": "float32, eager attention, CPU",
                    "reload_max_abs_diff": diff,
                    "no_rope_layers": getattr(cfg, "no_rope_layers", None),
                    "cases": cases,
                },
            )
            log(fn, "min margins", {k: round(v["min_margin"], 4) for k, v in cases.items()})
