"""Section quant: the smollm2 checkpoint in the quantised layouts found on the Hub (group 64; every decoder Linear, lm_head left alone)."""

import os

import numpy as np

from .common import jdump, log, rng_for, st_save
from .models import hub_text_cfg, init_weights, run_case, write_tokenizer_files
from .text_models import text_models, text_prompts


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


def section_quant(seed, out, toks):
    import torch
    from safetensors.torch import save_file

    name, cls, cfg, tok, tpl, gen = text_models(seed, toks)[0]
    base = init_weights(cls(cfg).float(), seed, name, True)
    prompts, _ = text_prompts(seed, tok, tpl, name)
    G = 64
    variants = ["ct_w4a16_sym", "ct_w4a16_asym", "ct_w8a16", "gptq", "gptq_desc", "awq", "ct_fp8_channel", "fp8_block"]
    for v in variants:
        import copy

        model = copy.deepcopy(base)
        sd = {}
        lin = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
        r = rng_for(seed, v)
        for k, p in model.state_dict().items():
            if k == "lm_head.weight" or any(k == n + ".weight" for n in lin):
                continue
            sd[k] = p.to(torch.float16 if "awq" in v or "gptq" in v else torch.bfloat16).contiguous()
            p.copy_(sd[k].float())
        model.tie_weights()
        for n, m in lin.items():
            w = m.weight.detach().numpy().copy()
            o, i = w.shape
            T = lambda a: torch.from_numpy(np.ascontiguousarray(a))
            if v.startswith("ct_w4") or v == "ct_w8a16":
                bits = 8 if "w8" in v else 4
                q, s, z, dq = q_groups(w, G, bits, "asym" not in v)
                sd[n + ".weight_packed"] = T(pack_i32(q, 1, bits=bits))  # q already carries the +2^(b-1) offset
                sd[n + ".weight_scale"] = T(s)
                sd[n + ".weight_shape"] = torch.tensor([o, i], dtype=torch.int64)
                if "asym" in v:
                    sd[n + ".weight_zero_point"] = T(pack_i32(z, 0))  # zero points packed along the output axis
            elif v.startswith("gptq"):
                q, s, z, dq = q_groups(w, G, 4, False)
                z = z.clip(1, 15)  # v1 stores z-1
                dq = (
                    ((q.reshape(o, -1, G) - z[..., None]) * s[..., None].astype(np.float32))
                    .reshape(o, i)
                    .astype(np.float32)
                )
                gidx = np.arange(i) // G
                if v.endswith("desc"):  # desc_act: rows in arbitrary group order
                    perm = r.permutation(i)
                    q2, dq2 = np.empty_like(q), np.empty_like(dq)
                    g2 = np.empty(i, np.int64)
                    q2[:, perm], dq2[:, perm], g2[perm] = q, dq, gidx
                    q, dq, gidx = q2, dq2, g2
                sd[n + ".qweight"] = T(pack_i32(q.T, 0))
                sd[n + ".qzeros"] = T(pack_i32(z.T - 1, 1))
                sd[n + ".scales"] = T(s.T)
                sd[n + ".g_idx"] = T(gidx.astype(np.int32))
            elif v == "awq":
                q, s, z, dq = q_groups(w, G, 4, False)
                order = [0, 2, 4, 6, 1, 3, 5, 7]
                sd[n + ".qweight"] = T(pack_i32(q.T, 1, order))
                sd[n + ".qzeros"] = T(pack_i32(z.T, 1, order))
                sd[n + ".scales"] = T(s.T)
            elif v == "ct_fp8_channel":
                s = (np.abs(w).max(1, keepdims=True) / 448.0).astype(np.float32)
                q = torch.from_numpy(w / s).to(torch.float8_e4m3fn)
                sd[n + ".weight"], sd[n + ".weight_scale"] = q, T(s)
                dq = q.float().numpy() * s
            else:
                B = 128
                nb = (-(-o // B), -(-i // B))
                s = np.zeros(nb, np.float32)
                q = torch.empty((o, i), dtype=torch.float8_e4m3fn)
                dq = np.zeros_like(w)
                for a in range(nb[0]):
                    for b in range(nb[1]):
                        blk = w[a * B : (a + 1) * B, b * B : (b + 1) * B]
                        s[a, b] = np.abs(blk).max() / 448.0
                        qq = torch.from_numpy(blk / s[a, b]).to(torch.float8_e4m3fn)
                        q[a * B : (a + 1) * B, b * B : (b + 1) * B] = qq
                        dq[a * B : (a + 1) * B, b * B : (b + 1) * B] = qq.float().numpy() * s[a, b]
                sd[n + ".weight"], sd[n + ".weight_scale_inv"] = q, T(s)
            with torch.no_grad():
                m.weight.copy_(torch.from_numpy(dq))
        ct = lambda fmt, w: {
            "quant_method": "compressed-tensors",
            "format": fmt,
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {"targets": ["Linear"], "input_activations": None, "output_activations": None, "weights": w}
            },
        }
        wq = lambda bits, sym, **k: dict(
            {
                "num_bits": bits,
                "type": "int",
                "symmetric": sym,
                "strategy": "group",
                "group_size": G,
                "actorder": None,
                "dynamic": False,
                "observer": "minmax",
            },
            **k,
        )
        qc = {
            "ct_w4a16_sym": ct("pack-quantized", wq(4, True)),
            "ct_w4a16_asym": ct("pack-quantized", wq(4, False)),
            "ct_w8a16": ct("pack-quantized", wq(8, True)),
            "gptq": {
                "quant_method": "gptq",
                "bits": 4,
                "group_size": G,
                "desc_act": False,
                "sym": False,
                "checkpoint_format": "gptq",
                "lm_head": False,
            },
            "gptq_desc": {
                "quant_method": "gptq",
                "bits": 4,
                "group_size": G,
                "desc_act": True,
                "sym": False,
                "checkpoint_format": "gptq",
                "lm_head": False,
            },
            "awq": {
                "quant_method": "awq",
                "bits": 4,
                "group_size": G,
                "version": "gemm",
                "zero_point": True,
                "modules_to_not_convert": None,
            },
            "ct_fp8_channel": ct(
                "float-quantized",
                {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False},
            ),
            "fp8_block": {
                "quant_method": "fp8",
                "activation_scheme": "dynamic",
                "fmt": "e4m3",
                "weight_block_size": [128, 128],
            },
        }[v]
        fn = f"smollm2-{v}"
        folder = out / "models" / fn
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: t.contiguous() for k, t in sd.items()}, str(folder / "model.safetensors"), metadata={"format": "pt"}
        )
        os.chmod(folder / "model.safetensors", 0o644)
        jdump(
            folder / "config.json",
            hub_text_cfg(
                cfg,
                {
                    "architectures": ["LlamaForCausalLM"],
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                    "tie_word_embeddings": True,
                    "torch_dtype": "float16" if v in ("gptq", "gptq_desc", "awq") else "bfloat16",
                    "quantization_config": qc,
                },
            ),
        )
        jdump(folder / "generation_config.json", gen)
        write_tokenizer_files(folder, tok, "smollm2", tpl, "config")
        cases = {}
        for pn in ("short", "chat", "random_ids"):
            rec, ten = run_case(model, prompts[pn], full_logits=len(prompts[pn]) <= 160)
            st_save(out / "golden" / fn / f"{pn}.safetensors", ten)
            cases[pn] = rec
        jdump(
            out / "golden" / fn / "cases.json",
            {
                "model": fn,
                "compute": "float32 with dequantised weights (weight-only; activations not quantised)",
                "cases": cases,
            },
        )
    log("quantised variants:", ", ".join(variants))
