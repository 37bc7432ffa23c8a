"""Section text: tiny checkpoints of the text families and their reference logits."""

import copy
import json
from dataclasses import dataclass

import numpy as np

from .common import jdump, log, rng_for, st_save
from .corpus import PROSE, corpus
from .models import (
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


@dataclass
class TextSpec:
    name: str
    cls: type
    config: object
    tok: object
    template: str
    generation: dict  # generation_config.json

    @property
    def kind(self):
        return "smollm3" if self.name.startswith("smollm3") else "smollm2"

    @property
    def sharded(self):
        return self.name.endswith("sharded")


def smollm2_spec(tok):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=tok.get_vocab_size(),
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
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return TextSpec("smollm2", LlamaForCausalLM, config, tok, SMOLLM2_TPL, generation)


def smollm3_specs(tok):
    """The family as released, and with YaRN, a rope list of its own, a head_dim that is not hidden/heads, and three shards."""
    from transformers.models.smollm3 import SmolLM3Config, SmolLM3ForCausalLM

    ids = {
        "bos_token_id": tok.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tok.token_to_id("<|im_end|>"),
        "pad_token_id": tok.token_to_id("<|finetune_right_pad_id|>"),
    }
    both = dict(
        vocab_size=tok.get_vocab_size(),
        num_key_value_heads=1,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        no_rope_layer_interval=4,
        attn_implementation="eager",
        **ids,
    )
    plain = SmolLM3Config(
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=2,
        max_position_embeddings=65536,
        rope_parameters={"rope_type": "default", "rope_theta": 5000000.0},
        **both,
    )
    yarn = {"rope_type": "yarn", "rope_theta": 5000000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    stretched = SmolLM3Config(
        hidden_size=128,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=64,
        no_rope_layers=[1, 0, 1],
        max_position_embeddings=256,
        rope_parameters=yarn,
        **both,
    )
    generation = {**ids, "temperature": 0.6, "top_p": 0.95, "do_sample": True}
    return [
        TextSpec(name, SmolLM3ForCausalLM, config, tok, SMOLLM3_TPL, generation)
        for name, config in (("smollm3", plain), ("smollm3_yarn_sharded", stretched))
    ]


def text_models(toks):
    return [smollm2_spec(toks["smollm2"]), *smollm3_specs(toks["smollm3"])]


def hub_config(spec):
    """config.json with the spelling, and the gaps, of the files on the Hub."""
    cfg = spec.config
    extra = {
        "architectures": [spec.cls.__name__],
        "bos_token_id": cfg.bos_token_id,
        "eos_token_id": cfg.eos_token_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.42.3",
    }
    if spec.kind == "smollm3":
        del extra["tie_word_embeddings"]  # the Hub file leaves it out: the class default is true
        extra.update(
            pad_token_id=cfg.pad_token_id,
            no_rope_layers=cfg.no_rope_layers,
            no_rope_layer_interval=4,
            layer_types=cfg.layer_types,
            sliding_window=None,
            use_sliding_window=False,
            max_window_layers=28,
        )
    else:
        extra.update(rope_interleaved=False, is_llama_config=True)  # head_dim left out on purpose
    return hub_text_cfg(cfg, extra)


V5_FIELDS = set(
    """architectures attention_bias attention_dropout bos_token_id eos_token_id head_dim hidden_act hidden_size intermediate_size
    layer_types max_position_embeddings mlp_bias model_type no_rope_layer_interval no_rope_layers num_attention_heads
    num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps rope_parameters sliding_window tie_word_embeddings use_cache
    use_sliding_window vocab_size""".split()
)


def v5_config(spec, model):
    """config.json as transformers 5 writes it."""
    config = copy.deepcopy(model.config)
    config.architectures = [spec.cls.__name__]
    fields = json.loads(config.to_json_string(use_diff=False))
    fields = {k: fields[k] for k in sorted(fields) if k in V5_FIELDS}
    fields.update(dtype="bfloat16", transformers_version="5.23.0")
    if spec.kind == "smollm3" and not spec.sharded:
        fields["no_rope_layers"] = None  # must be derived from no_rope_layer_interval
        fields["layer_types"] = None
    return fields


def text_folder(folder, spec, model, dt):
    """model: in float32, its parameters rounded to dt."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder, dt, shards=3 if spec.sharded else 1)
    jdump(folder / "config.json", hub_config(spec) if dt == torch.float32 else v5_config(spec, model))
    jdump(folder / "generation_config.json", {**spec.generation, "transformers_version": "4.54.0"})
    where = "jinja" if spec.kind == "smollm3" else "config"
    write_tokenizer_files(folder, spec.tok, spec.kind, spec.template, where)


def text_cases(seed, spec, model, model_bf16, out):
    """model_bf16: None for a float32 checkpoint."""
    prompts, texts = text_prompts(seed, spec.tok, spec.template, spec.name)
    cases, kept = {}, {}
    for name, ids in prompts.items():
        case, kept[name] = run_case(model, ids, full_logits=len(ids) <= 160, keep_hidden=name == "short")
        case["text"] = texts.get(name)
        if model_bf16:
            logits, case["bf16_compute"] = bf16_case(model_bf16, ids)
            if "logits" in kept[name]:
                worst = float(np.abs(logits - kept[name]["logits"]).max())
                case["bf16_compute"]["max_abs_diff_vs_f32_compute"] = worst
        st_save(out / f"{name}.safetensors", kept[name])
        cases[name] = case
    return cases, prompts["short"], kept["short"]["logits"]


def section_text(seed, out, toks):
    import torch

    for spec in text_models(toks):
        master = init_weights(spec.cls(spec.config).float(), seed, spec.name, True)
        for dt in (torch.bfloat16,) if spec.sharded else (torch.float32, torch.bfloat16):
            half = dt == torch.bfloat16
            model = as_dtype(as_dtype(master, dt), torch.float32)
            name = f"{spec.name}-{'bf16' if half else 'f32'}"
            folder, results = out / "models" / name, out / "golden" / name
            text_folder(folder, spec, model, dt)
            cases, ids, logits = text_cases(seed, spec, model, as_dtype(master, dt) if half else None, results)
            about = {
                "model": name,
                "compute": "float32, eager attention, CPU",
                "reload_max_abs_diff": check_reload(folder, spec.cls, ids, logits),
                "no_rope_layers": getattr(spec.config, "no_rope_layers", None),
            }
            jdump(results / "cases.json", {**about, "cases": cases})
            log(name, "min margins", {k: round(c["min_margin"], 4) for k, c in cases.items()})
