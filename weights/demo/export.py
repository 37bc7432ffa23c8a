#!/usr/bin/env python3
"""Writes a training state as a complete Hugging Face folder (Idefics3ForConditionalGeneration, bf16) that transformers and Spillway load.

    export.py --state DIR [--checkpoint last.pt] --out FOLDER
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import net
import tokenizer as tok

# SmolVLM's, but a message's pictures come before its text whatever the order of its parts: nearly all training pictures stood first.
CHAT_TEMPLATE = ("<|im_start|>{% for message in messages %}{% set pictures = message['content'] | selectattr('type', 'equalto', 'image') | list %}"
                 "{{ message['role'] | capitalize }}{{ ':' if pictures else ': ' }}{% for picture in pictures %}{{ '<image>' }}{% endfor %}"
                 "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% endif %}{% endfor %}"
                 "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def tensors(sd, c):
    """Our names to the reference library's."""
    out = {"model.text_model.embed_tokens.weight": sd["embed.weight"], "model.text_model.norm.weight": sd["norm.weight"], "lm_head.weight": sd["head.weight"],
           "model.connector.modality_projection.proj.weight": sd["vision.proj.weight"],
           "model.vision_model.embeddings.patch_embedding.weight": sd["vision.patch.weight"].view(-1, 3, c["patch"], c["patch"]),
           "model.vision_model.embeddings.patch_embedding.bias": sd["vision.patch.bias"], "model.vision_model.embeddings.position_embedding.weight": sd["vision.pos"]}
    text = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
            "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    for i in range(c["layers"]):
        for a, b in text.items():
            out[f"model.text_model.layers.{i}.{b}.weight"] = sd[f"layers.{i}.{a}.weight"]
    vision = {"ln1": "layer_norm1", "ln2": "layer_norm2", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for i in range(c["v_layers"]):
        for a, b in vision.items():
            for part in ("weight", "bias"):
                out[f"model.vision_model.encoder.layers.{i}.{b}.{part}"] = sd[f"vision.blocks.{i}.{a}.{part}"]
    for part in ("weight", "bias"):
        out[f"model.vision_model.post_layernorm.{part}"] = sd[f"vision.post.{part}"]
    return {k: v.to(torch.bfloat16).contiguous() for k, v in out.items()}


def configs(c, t):
    ids = {s: t.token_to_id(s) for s in tok.SPECIALS}
    eou, image, pad = ids["<end_of_utterance>"], ids["<image>"], ids["<|im_end|>"]
    text = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": c["hidden"], "intermediate_size": c["inter"], "num_hidden_layers": c["layers"], "num_attention_heads": c["heads"],
            "num_key_value_heads": c["kv_heads"], "head_dim": c["head_dim"], "vocab_size": c["vocab"], "max_position_embeddings": 1024, "rope_theta": c["theta"], "rms_norm_eps": c["eps"], "hidden_act": "silu",
            "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": eou, "pad_token_id": pad, "torch_dtype": "bfloat16"}
    vision = {"model_type": "idefics3_vision", "hidden_size": c["v_hidden"], "intermediate_size": c["v_inter"], "num_hidden_layers": c["v_layers"], "num_attention_heads": c["v_heads"], "image_size": c["edge"],
              "patch_size": c["patch"], "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": c["v_eps"], "num_channels": 3}
    config = {"architectures": ["Idefics3ForConditionalGeneration"], "model_type": "idefics3", "image_token_id": image, "scale_factor": c["scale"], "vocab_size": c["vocab"], "tie_word_embeddings": False,
              "bos_token_id": 0, "eos_token_id": eou, "pad_token_id": pad, "torch_dtype": "bfloat16", "text_config": text, "vision_config": vision}
    pre = {"do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
           "image_processor_type": "Idefics3ImageProcessor", "max_image_size": {"longest_edge": c["edge"]}, "processor_class": "Idefics3Processor", "resample": 1, "rescale_factor": 1 / 255, "size": {"longest_edge": c["edge"]}}
    tcfg = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
            "additional_special_tokens": ["<fake_token_around_image>", "<image>", "<end_of_utterance>"], "clean_up_tokenization_spaces": False, "model_max_length": 1024, "processor_class": "Idefics3Processor",
            "added_tokens_decoder": {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for s, i in ids.items()}}
    return {"config.json": config, "preprocessor_config.json": pre, "tokenizer_config.json": tcfg, "generation_config.json": {"do_sample": False, "bos_token_id": 0, "eos_token_id": eou, "pad_token_id": pad},
            "processor_config.json": {"image_seq_len": net.n_picture_tokens(c), "processor_class": "Idefics3Processor"}}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--state", required=True)
    p.add_argument("--checkpoint", default="last.pt")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    ck = torch.load(Path(args.state) / args.checkpoint, weights_only=True)
    c, out = ck["config"], Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    t = tok.load(args.state, c["vocab"])
    shutil.copyfile(Path(args.state) / "tokenizer.json", out / "tokenizer.json")
    save_file(tensors(ck["model"], c), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    for name, value in configs(c, t).items():
        (out / name).write_text(json.dumps(value, indent=1) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n")      # read by the reference's tokenizer and processor alike; a .json only by the latter
    print(f"step {ck['step']}: {(out / 'model.safetensors').stat().st_size} bytes of weights in {out}")


if __name__ == "__main__":
    main()
