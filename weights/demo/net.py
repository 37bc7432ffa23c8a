"""The demo model's network in plain PyTorch, for training: SigLIP-type encoder, pixel shuffle, Llama text model.

The same mathematics as Idefics3ForConditionalGeneration (export.py writes the weights under its names and eval.py checks that the
reference library agrees); written out here because training packs several questions behind one picture.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = dict(edge=96, patch=8, scale=2, v_hidden=192, v_layers=4, v_heads=3, v_inter=576,
              hidden=192, layers=4, heads=3, kv_heads=1, head_dim=64, inter=512, vocab=768, theta=10000.0, eps=1e-5, v_eps=1e-6)


def n_picture_tokens(c):
    return (c["edge"] // c["patch"] // c["scale"]) ** 2


def attend(q, k, v, mask=None):
    """softmax(q k' / sqrt(d)) v, written out: on CPUs its gradient is four times as fast as the library's fused one at these lengths."""
    s = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return (s if mask is None else s.masked_fill(~mask, -1e4)).softmax(-1).to(v.dtype) @ v


def grid_positions(g, d):
    """Where a patch stands in a g x g grid, as sines and cosines (g * g, d): neighbours look alike, and a shift is one rotation for all places,
    so that attending "the patch to the right" is learned once, not once for each place."""
    wave = 2 * math.pi / torch.logspace(math.log10(2.5), math.log10(4 * g), d // 4)
    at = torch.arange(g).float()[:, None] * wave
    row = torch.cat([at.sin(), at.cos()], -1)
    return torch.cat([row[:, None].expand(g, g, -1), row[None].expand(g, g, -1)], -1).reshape(g * g, d)


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c["v_hidden"]
        self.heads = c["v_heads"]
        self.ln1, self.ln2 = nn.LayerNorm(d, eps=c["v_eps"]), nn.LayerNorm(d, eps=c["v_eps"])
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(d, c["v_inter"]), nn.Linear(c["v_inter"], d)

    def forward(self, x):
        b, t, d = x.shape
        h = self.ln1(x)
        q, k, v = (f(h).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(attend(q, k, v).transpose(1, 2).reshape(b, t, d))
        return x + self.fc2(F.gelu(self.fc1(self.ln2(x)), approximate="tanh"))


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.patch = nn.Linear(3 * c["patch"] ** 2, c["v_hidden"])
        self.pos = nn.Parameter(grid_positions(c["edge"] // c["patch"], c["v_hidden"]) * 0.4)
        self.blocks = nn.ModuleList(VisionLayer(c) for _ in range(c["v_layers"]))
        self.post = nn.LayerNorm(c["v_hidden"], eps=c["v_eps"])
        self.proj = nn.Linear(c["v_hidden"] * c["scale"] ** 2, c["hidden"], bias=False)

    def forward(self, pixels):
        """pixels (B, 3, edge, edge) in -1..1 -> (B, picture tokens, hidden), and the encoder's patches (B, patches, v_hidden)"""
        c, p, s = self.c, self.c["patch"], self.c["scale"]
        b, g = pixels.shape[0], c["edge"] // p
        x = pixels.view(b, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, -1)
        x = self.patch(x) + self.pos
        for layer in self.blocks:
            x = layer(x)
        patches = self.post(x)
        x = patches.view(b, g // s, s, g // s, s, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, (g // s) ** 2, -1)
        return self.proj(x), patches


class RMSNorm(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight.to(x.dtype)


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, hd = c["hidden"], c["head_dim"]
        self.c = c
        self.ln1, self.ln2 = RMSNorm(h, c["eps"]), RMSNorm(h, c["eps"])
        self.q, self.o = nn.Linear(h, c["heads"] * hd, bias=False), nn.Linear(c["heads"] * hd, h, bias=False)
        self.k, self.v = (nn.Linear(h, c["kv_heads"] * hd, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(h, c["inter"], bias=False) for _ in range(2))
        self.down = nn.Linear(c["inter"], h, bias=False)

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        c, hd = self.c, self.c["head_dim"]
        h = self.ln1(x)
        q = self.q(h).view(b, t, c["heads"], hd).transpose(1, 2)
        k, v = (f(h).view(b, t, c["kv_heads"], hd).transpose(1, 2) for f in (self.k, self.v))

        def rope(u):
            return u * cos + torch.cat([-u[..., hd // 2:], u[..., :hd // 2]], -1) * sin
        g = c["heads"] // c["kv_heads"]
        q, k, v = rope(q), rope(k).repeat_interleave(g, 1), v.repeat_interleave(g, 1)
        a = attend(q, k, v, mask)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        h = self.ln2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class DemoNet(nn.Module):
    def __init__(self, c=CONFIG, image_token=0):
        super().__init__()
        self.c, self.image_token = c, image_token
        self.vision = Vision(c)
        self.embed = nn.Embedding(c["vocab"], c["hidden"])
        self.layers = nn.ModuleList(TextLayer(c) for _ in range(c["layers"]))
        self.norm = RMSNorm(c["hidden"], c["eps"])
        self.head = nn.Linear(c["hidden"], c["vocab"], bias=False)
        self.register_buffer("inv_freq", c["theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"]), persistent=False)
        nn.init.normal_(self.embed.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)
        for m in self.modules():
            if isinstance(m, nn.Linear) and m is not self.head:
                nn.init.normal_(m.weight, std=0.6 / math.sqrt(m.in_features))
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for layer in self.layers:
            nn.init.zeros_(layer.o.weight), nn.init.zeros_(layer.down.weight)
        for layer in self.vision.blocks:
            nn.init.zeros_(layer.o.weight), nn.init.zeros_(layer.fc2.weight)

    def forward(self, ids, position, mask, rows):
        """rows: the vision model's output, (pictures, tokens, hidden) in order of their places, or None. ids, position (B, T); mask (B, 1, T, T) True where attended."""
        x = self.embed(ids)
        if rows is not None:
            where = (ids == self.image_token)
            x = x.masked_scatter(where[..., None], rows.to(x.dtype).reshape(-1, rows.shape[-1]))
        angle = position[..., None].float() * self.inv_freq
        angle = torch.cat([angle, angle], -1)[:, None]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        self.inner = []                                        # the residual after each layer but the last, for train.py's Pointer
        for layer in self.layers:
            self.inner.append(x)
            x = layer(x, cos, sin, mask)
        return self.norm(x)                                    # logits = self.head(of the rows that are scored)
