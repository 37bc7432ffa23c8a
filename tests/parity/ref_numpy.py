#!/usr/bin/env python3
"""The forward passes of all families and Pillow's resize once more, in plain numpy, checked against the goldens.

    ref_numpy.py GOLDEN_DIR      exit status 0 when all agree

An executable specification: read it beside engine/model.c. It shares no code with the reference libraries.
"""
import json
import math
import sys
from pathlib import Path

import numpy as np

from golden_io import reference_logits, safetensors_load, unquantised

f4 = np.float32


def load_folder(d):
    d = Path(d)
    idx = d / "model.safetensors.index.json"
    if idx.exists():
        w = {}
        for f in sorted(set(json.loads(idx.read_text())["weight_map"].values())):
            w.update(safetensors_load(d / f))
    else:
        w = safetensors_load(d / "model.safetensors")
    return json.loads((d / "config.json").read_text()), {k: v.astype(f4) for k, v in w.items()}


def rms(x, w, eps):
    return w * (x * (1.0 / np.sqrt((x * x).mean(-1, keepdims=True, dtype=f4) + f4(eps))).astype(f4))


def ln(x, w, b, eps):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / np.sqrt(v + f4(eps)) * w + b


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope_tables(cfg, hd, T):
    rp = cfg.get("rope_parameters") or {}
    sc = cfg.get("rope_scaling") or (rp if rp.get("rope_type", "default") != "default" else None)
    theta = rp.get("rope_theta") or cfg.get("rope_theta") or (2000000.0 if cfg["model_type"] == "smollm3" else 10000.0)
    inv = f4(1) / (f4(theta) ** (np.arange(0, hd, 2, dtype=f4) / f4(hd)))
    att = 1.0
    if sc and sc.get("rope_type", sc.get("type")) == "yarn":
        F, L = sc["factor"], sc["original_max_position_embeddings"]
        bf, bs = sc.get("beta_fast") or 32, sc.get("beta_slow") or 1
        corr = lambda r: hd * math.log(L / (r * 2 * math.pi)) / (2 * math.log(theta))
        lo, hi = max(math.floor(corr(bf)), 0), min(math.ceil(corr(bs)), hd - 1)
        if lo == hi:
            hi += 0.001
        ramp = np.clip((np.arange(hd // 2, dtype=f4) - f4(lo)) / f4(hi - lo), 0, 1)
        ext = 1 - ramp
        inv = inv / f4(F) * (1 - ext) + inv * ext
        att = sc.get("attention_factor") or (0.1 * math.log(F) + 1.0)
    ang = np.arange(T, dtype=f4)[:, None] * inv[None].astype(f4)
    ang = np.concatenate([ang, ang], -1)
    return (np.cos(ang) * f4(att)).astype(f4), (np.sin(ang) * f4(att)).astype(f4)


def text_forward(cfg, w, x, pre):
    T = x.shape[0]
    nh, nk = cfg["num_attention_heads"], cfg.get("num_key_value_heads") or cfg["num_attention_heads"]
    hd = cfg.get("head_dim") or cfg["hidden_size"] // nh
    L = cfg["num_hidden_layers"]
    use = cfg.get("no_rope_layers") or (
        [int((i + 1) % cfg.get("no_rope_layer_interval", 4) != 0) for i in range(L)]
        if cfg["model_type"] == "smollm3"
        else [1] * L
    )
    cos, sin = rope_tables(cfg, hd, T)
    eps = cfg["rms_norm_eps"]
    mask = np.triu(np.full((T, T), -np.inf, f4), 1)

    def rot(q):
        h = np.concatenate([-q[..., hd // 2 :], q[..., : hd // 2]], -1)
        return q * cos[:, None] + h * sin[:, None]

    for i in range(L):
        p = f"{pre}layers.{i}."
        h = rms(x, w[p + "input_layernorm.weight"], eps)
        q = (h @ w[p + "self_attn.q_proj.weight"].T).reshape(T, nh, hd)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).reshape(T, nk, hd)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).reshape(T, nk, hd)
        if use[i]:
            q, k = rot(q), rot(k)
        o = np.empty((T, nh, hd), f4)
        for a in range(nh):
            b = a // (nh // nk)
            o[:, a] = softmax(q[:, a] @ k[:, b].T * f4(hd**-0.5) + mask) @ v[:, b]
        x = x + o.reshape(T, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
        g = h @ w[p + "mlp.gate_proj.weight"].T
        x = x + (g / (1 + np.exp(-g)) * (h @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
    return rms(x, w[pre + "norm.weight"], eps)


def vision(cfg, w, px):
    vc = cfg["vision_config"]
    P, D, nh = vc["patch_size"], vc["hidden_size"], vc["num_attention_heads"]
    n, _, H, W = px.shape
    gh, gw = H // P, W // P
    side = vc["image_size"] // P
    pre = "model.vision_model."
    x = px[:, :, : gh * P, : gw * P].reshape(n, 3, gh, P, gw, P).transpose(0, 2, 4, 1, 3, 5).reshape(n, gh * gw, -1)
    x = x @ w[pre + "embeddings.patch_embedding.weight"].reshape(D, -1).T + w[pre + "embeddings.patch_embedding.bias"]
    pos = [(i * side) // gh * side + (j * side) // gw for i in range(gh) for j in range(gw)]
    x = x + w[pre + "embeddings.position_embedding.weight"][pos]
    hd = D // nh
    for i in range(vc["num_hidden_layers"]):
        p = f"{pre}encoder.layers.{i}."
        lin = lambda t, m: t @ w[p + m + ".weight"].T + w[p + m + ".bias"]
        h = ln(x, w[p + "layer_norm1.weight"], w[p + "layer_norm1.bias"], vc.get("layer_norm_eps", 1e-6))
        q, k, v = (lin(h, f"self_attn.{m}_proj").reshape(n, -1, nh, hd).transpose(0, 2, 1, 3) for m in "qkv")
        o = softmax(q @ k.transpose(0, 1, 3, 2) * f4(hd**-0.5)) @ v
        x = x + lin(o.transpose(0, 2, 1, 3).reshape(n, -1, D), "self_attn.out_proj")
        h = lin(
            ln(x, w[p + "layer_norm2.weight"], w[p + "layer_norm2.bias"], vc.get("layer_norm_eps", 1e-6)), "mlp.fc1"
        )
        h = f4(0.5) * h * (1 + np.tanh(f4(math.sqrt(2 / math.pi)) * (h + f4(0.044715) * h**3)))
        x = x + lin(h, "mlp.fc2")
    x = ln(x, w[pre + "post_layernorm.weight"], w[pre + "post_layernorm.bias"], vc.get("layer_norm_eps", 1e-6))
    s = cfg["scale_factor"]
    x = x.reshape(n, gh // s, s, gw // s, s, D).transpose(0, 1, 3, 2, 4, 5).reshape(n, (gh // s) * (gw // s), s * s * D)
    return x @ w["model.connector.modality_projection.proj.weight"].T


def logits(cfg, w, ids, tiles=None):
    vlm = "text_config" in cfg
    pre = "model.text_model." if vlm else "model."
    x = w[pre + "embed_tokens.weight"][ids].copy()
    if tiles is not None:
        px = (tiles.astype(f4) * f4(1 / 255) - f4(0.5)) / f4(0.5)
        x[np.array(ids) == cfg["image_token_id"]] = vision(cfg, w, px).reshape(-1, x.shape[1])
    h = text_forward(cfg["text_config"] if vlm else cfg, w, x, pre)
    return h @ w.get("lm_head.weight", w[pre + "embed_tokens.weight"]).T


def pil_resize(img, W2, H2, filt):
    """Pillow's 8-bit resize: horizontal pass then vertical pass, uint8 in between, 22-bit fixed point."""
    sinc = lambda x: 1.0 if x == 0 else math.sin(x * math.pi) / (x * math.pi)
    F = {
        "lanczos": (3.0, lambda x: sinc(x) * sinc(x / 3) if -3 <= x < 3 else 0.0),
        "bilinear": (1.0, lambda x: max(0.0, 1 - abs(x))),
        "bicubic": (
            2.0,
            lambda x: (
                lambda a: (1.5 * a - 2.5) * a * a + 1 if a < 1 else (((a - 5) * a + 8) * a - 4) * -0.5 if a < 2 else 0.0
            )(abs(x)),
        ),
    }[filt]

    def one(a, n2):  # a: [..., n, c] resized along axis -2
        n = a.shape[-2]
        if n == n2:
            return a
        scale = n / n2
        fs = max(scale, 1.0)
        sup = F[0] * fs
        out = np.empty(a.shape[:-2] + (n2, a.shape[-1]), np.uint8)
        for xx in range(n2):
            c = (xx + 0.5) * scale
            x0, x1 = max(int(c - sup + 0.5), 0), min(int(c + sup + 0.5), n)
            k = [F[1]((x + x0 - c + 0.5) * (1.0 / fs)) for x in range(x1 - x0)]
            s = 0.0
            for t in k:
                s += t
            k = [t / s for t in k]
            kk = np.array([int(t * (1 << 22) + (0.5 if t >= 0 else -0.5)) for t in k], np.int64)
            acc = (a[..., x0:x1, :].astype(np.int64) * kk[:, None]).sum(-2) + (1 << 21)
            out[..., xx, :] = np.clip(acc >> 22, 0, 255)
        return out

    a = one(img, W2)  # rows: H, n=W
    return np.swapaxes(one(np.swapaxes(a, 0, 1), H2), 0, 1)


def main(root):
    worst = 0
    for model, cases in unquantised(root):
        cfg, w = load_folder(root / "models" / model)
        diffs = []
        for name, c in cases.items():
            t = safetensors_load(root / "golden" / model / f"{name}.safetensors")
            at, want = reference_logits(t, len(c["input_ids"]))
            got = logits(cfg, w, c["input_ids"], t.get("tiles_u8"))
            diffs.append(float(np.abs(got[at] - want).max()))
        worst = max(worst, *diffs)
        print(f"{model:28s} max |dlogit| over {len(diffs)} cases: {max(diffs):.2e}")
    cases = json.loads((root / "preprocess/resize.json").read_text())
    t = safetensors_load(root / "preprocess/resize.safetensors")
    same = [np.array_equal(pil_resize(t[f"src{c['i']}"], *c["dst_wh"], c["filter"]), t[f"dst{c['i']}"]) for c in cases]
    print(f"resize: {len(same)} cases, {same.count(False)} differ")
    return worst <= 2e-4 and all(same)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1])) else 1)
