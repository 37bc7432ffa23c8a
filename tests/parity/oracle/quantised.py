"""Section quant: the smollm2 checkpoint in the quantised layouts found on the Hub (group 64; every decoder Linear, lm_head left alone)."""

import copy
import os

import numpy as np

from .common import jdump, log, rng_for, st_save
from .models import hub_text_cfg, init_weights, run_case, write_tokenizer_files
from .text_models import text_models, text_prompts

GROUP = 64
FP8_MAX = 448.0
FP8_BLOCK = 128


def q_groups(w, group, bits, sym):
    o, i = w.shape
    g = w.reshape(o, i // group, group)
    qmax = 2**bits - 1
    if sym:
        s = np.abs(g).max(-1) / (2 ** (bits - 1) - 0.5)
        z = np.full_like(s, 2 ** (bits - 1))
    else:
        lo, hi = np.minimum(g.min(-1), 0), np.maximum(g.max(-1), 0)
        s = (hi - lo) / qmax
        z = np.round(-lo / s).clip(0, qmax)
    s = s.astype(np.float16)
    q = np.round(g / s[..., None].astype(np.float32) + z[..., None]).clip(0, qmax)
    dq = (q - z[..., None]) * s[..., None].astype(np.float32)
    return q.reshape(o, i).astype(np.int64), s, z.astype(np.int64), dq.reshape(o, i).astype(np.float32)


def pack_i32(a, axis, order=None, bits=4):
    """Pack 4-bit values along `axis`, 8 per int32; nibble k of a word holds element order[k]."""
    per = 32 // bits
    a = np.moveaxis(a, axis, -1)
    a = a.reshape(*a.shape[:-1], a.shape[-1] // per, per)
    if order is not None:
        a = a[..., order]
    w = np.zeros(a.shape[:-1], np.uint64)
    for k in range(per):
        w |= (a[..., k].astype(np.uint64) & (2**bits - 1)) << np.uint64(bits * k)
    return np.ascontiguousarray(np.moveaxis(w.astype(np.uint32).view(np.int32), -1, axis))


def per_group(q, s, z):
    """Values that integers stand for. q (out, in); s, z (out, groups)."""
    out, size = q.shape
    x = (q.reshape(out, -1, GROUP) - z[..., None]) * s[..., None].astype(np.float32)
    return x.reshape(out, size).astype(np.float32)


# Each quantise_* takes one linear weight (out, in) and a random stream; returns its stored tensors by suffix, and what they stand for.


def quantise_ct(bits, sym):
    """compressed-tensors, packed: integers carry an offset of 2^(bits-1); zero points are packed along the output axis."""

    def quantise(w, _):
        q, s, z, values = q_groups(w, GROUP, bits, sym)
        stored = {
            "weight_packed": pack_i32(q, 1, bits=bits),
            "weight_scale": s,
            "weight_shape": np.array(w.shape, np.int64),
        }
        if not sym:
            stored["weight_zero_point"] = pack_i32(z, 0)
        return stored, values

    return quantise


def quantise_gptq(shuffled):
    """GPTQ version 1: zero points are stored less one; shuffled (desc_act): inputs belong to groups in any order."""

    def quantise(w, r):
        q, s, z, _ = q_groups(w, GROUP, 4, False)
        z = z.clip(1, 15)
        values = per_group(q, s, z)
        group = np.arange(w.shape[1]) // GROUP
        if shuffled:
            at = np.argsort(r.permutation(w.shape[1]))
            q, values, group = q[:, at], values[:, at], group[at]
        stored = {
            "qweight": pack_i32(q.T, 0),
            "qzeros": pack_i32(z.T - 1, 1),
            "scales": s.T,
            "g_idx": group.astype(np.int32),
        }
        return stored, values

    return quantise


def quantise_awq(w, _):
    q, s, z, values = q_groups(w, GROUP, 4, False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {"qweight": pack_i32(q.T, 1, order), "qzeros": pack_i32(z.T, 1, order), "scales": s.T}, values


def fp8(w, scale):
    """(stored, values) of w / scale in e4m3."""
    import torch

    q = torch.from_numpy(w / scale).to(torch.float8_e4m3fn)
    return q, q.float().numpy() * scale


def quantise_fp8_channel(w, _):
    scale = (np.abs(w).max(1, keepdims=True) / FP8_MAX).astype(np.float32)
    q, values = fp8(w, scale)
    return {"weight": q, "weight_scale": scale}, values


def quantise_fp8_block(w, _):
    import torch

    scales = np.zeros([-(-n // FP8_BLOCK) for n in w.shape], np.float32)
    q, values = torch.empty(w.shape, dtype=torch.float8_e4m3fn), np.zeros_like(w)
    for a, b in np.ndindex(*scales.shape):
        at = np.s_[a * FP8_BLOCK : (a + 1) * FP8_BLOCK, b * FP8_BLOCK : (b + 1) * FP8_BLOCK]
        scales[a, b] = np.abs(w[at]).max() / FP8_MAX
        q[at], values[at] = fp8(w[at], scales[a, b])
    return {"weight": q, "weight_scale_inv": scales}, values


def ct_config(layout, **weights):
    linear = {"targets": ["Linear"], "input_activations": None, "output_activations": None, "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "config_groups": {"group_0": linear},
    }


def ct_int_config(bits, sym):
    return ct_config(
        "pack-quantized",
        num_bits=bits,
        type="int",
        symmetric=sym,
        strategy="group",
        group_size=GROUP,
        actorder=None,
        dynamic=False,
        observer="minmax",
    )


def gptq_config(shuffled):
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "desc_act": shuffled,
        "sym": False,
        "checkpoint_format": "gptq",
        "lm_head": False,
    }


CT_FP8 = ct_config("float-quantized", num_bits=8, type="float", symmetric=True, strategy="channel", dynamic=False)
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": GROUP,
    "version": "gemm",
    "zero_point": True,
    "modules_to_not_convert": None,
}
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
}

# name: (type of the tensors that stay whole, quantise, quantization_config)
VARIANTS = {
    "ct_w4a16_sym": ("bfloat16", quantise_ct(4, True), ct_int_config(4, True)),
    "ct_w4a16_asym": ("bfloat16", quantise_ct(4, False), ct_int_config(4, False)),
    "ct_w8a16": ("bfloat16", quantise_ct(8, True), ct_int_config(8, True)),
    "gptq": ("float16", quantise_gptq(False), gptq_config(False)),
    "gptq_desc": ("float16", quantise_gptq(True), gptq_config(True)),
    "awq": ("float16", quantise_awq, AWQ),
    "ct_fp8_channel": ("bfloat16", quantise_fp8_channel, CT_FP8),
    "fp8_block": ("bfloat16", quantise_fp8_block, FP8),
}


def quantise_model(model, r, dtype, quantise):
    """The tensors of a quantised checkpoint; the model itself then computes with what they stand for."""
    import torch

    def stored_tensor(x):
        return x.contiguous() if isinstance(x, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(x))

    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    whole = {k: p for k, p in model.state_dict().items() if k.removesuffix(".weight") not in linear}
    tensors = {}
    with torch.no_grad():
        for k, p in whole.items():
            if k != "lm_head.weight":
                tensors[k] = p.to(getattr(torch, dtype)).contiguous()
                p.copy_(tensors[k].float())
        model.tie_weights()
        for name, m in linear.items():
            stored, values = quantise(m.weight.detach().numpy().copy(), r)
            tensors.update({f"{name}.{suffix}": stored_tensor(x) for suffix, x in stored.items()})
            m.weight.copy_(torch.from_numpy(values))
    return tensors


def quantised_folder(folder, spec, tensors, dtype, quantization):
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    os.chmod(folder / "model.safetensors", 0o644)
    extra = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "quantization_config": quantization,
    }
    jdump(folder / "config.json", hub_text_cfg(spec.config, extra))
    jdump(folder / "generation_config.json", spec.generation)
    write_tokenizer_files(folder, spec.tok, "smollm2", spec.template, "config")


def section_quant(seed, out, toks):
    spec = text_models(toks)[0]
    base = init_weights(spec.cls(spec.config).float(), seed, spec.name, True)
    prompts, _ = text_prompts(seed, spec.tok, spec.template, spec.name)
    for variant, (dtype, quantise, quantization) in VARIANTS.items():
        model = copy.deepcopy(base)
        name = f"smollm2-{variant}"
        tensors = quantise_model(model, rng_for(seed, variant), dtype, quantise)
        quantised_folder(out / "models" / name, spec, tensors, dtype, quantization)
        cases = {}
        for prompt in ("short", "chat", "random_ids"):
            cases[prompt], kept = run_case(model, prompts[prompt], full_logits=len(prompts[prompt]) <= 160)
            st_save(out / "golden" / name / f"{prompt}.safetensors", kept)
        compute = "float32 with dequantised weights (weight-only; activations not quantised)"
        jdump(out / "golden" / name / "cases.json", {"model": name, "compute": compute, "cases": cases})
    log("quantised variants:", ", ".join(VARIANTS))
