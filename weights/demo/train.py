#!/usr/bin/env python3
"""Trains the built-in demo model on synthetic pictures (data.py). CPU, seeded, resumable.

    train.py --state DIR --steps N [--decay 0.3] [--batch 32] [--threads 2]

DIR keeps the newest checkpoint (last.pt), the one before the learning rate falls (stable.pt, from which a longer run can go on), the tokenizer and log.txt.
Batch n is drawn from seed (seed, n), so a resumed run sees the pictures it would have seen. Then: export.py --state DIR, eval.py.

One sequence is a picture and several questions about it: each question attends the picture and itself only ("packed"), so that no
answer leans on an earlier one. Shares: 70 % packed, 10 % a conversation, 12 % one question written before the picture, 8 % no picture.
Only answers are scored. Hidden matrices learn by Muon (orthogonalised momentum), the rest by AdamW.
"""
import argparse
import os
import queue
import time
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

import data
import net
import tokenizer as tok

GROUPS = ["colour", "shape", "count", "position", "read", "decline", "other"]


# ---------------------------------------------------------------- batches
class Packer:
    """Turns pictures and questions into token sequences with segments, positions and labels."""

    def __init__(self, t, c):
        self.t, self.c = t, c
        g = {s: t.token_to_id(s) for s in tok.SPECIALS}
        self.eou, self.image = g["<end_of_utterance>"], g["<image>"]
        self.picture = [g["<fake_token_around_image>"], g["<global-img>"]] + [self.image] * net.n_picture_tokens(c) + [g["<fake_token_around_image>"]]
        self.start = [g["<|im_start|>"]]
        self.user, self.user_sp = self.enc("User:"), self.enc("User: ")

    def enc(self, s):
        return self.t.encode(s, add_special_tokens=False).ids

    def answer(self, a):
        return self.enc(f"\nAssistant:"), self.enc(" " + a) + [self.eou]

    def turn(self, out, ids, seg, group, scored):
        out["ids"] += ids
        out["seg"] += [seg] * len(ids)
        out["label"] += ids if scored else [-1] * len(ids)
        out["group"] += [group] * len(ids)

    def sequence(self, r, split, edge):
        """One sequence: dict of ids, seg (0 = seen by all), pos, label, group; its tile or None; what stands in each cell of the tile."""
        out = {"ids": [], "seg": [], "label": [], "group": []}
        form = r.random() if split == "train" else 0.0
        if form > 0.92:
            self.turn(out, self.start, 0, -1, False)
            for k in range(1, 7):
                q, a = data.text_only(r, split)
                self.add(out, self.enc("User: " + q), a, k, 6)
            return self.finish(out, 1), None, None
        tile, _, what, qs = data.sample(r, split, edge)
        cells = what.cells(edge // self.c["patch"] // self.c["scale"])
        order = r.permutation(len(qs))
        keep = [qs[i] for i in order][:6]
        reads = [q for q in qs if q[1] == "read"]
        if reads and reads[0] not in keep:
            keep[0] = reads[0]
        if split == "train" and qs[0] not in keep and r.random() < 0.4:
            keep[-1] = qs[0]
        if form > 0.80:                                        # the question first, then the picture
            _, group, q, a = reads[0] if reads and r.random() < 0.5 else keep[0]
            self.turn(out, self.start, 0, -1, False)
            self.add(out, self.enc("User: " + q) + self.picture, a, 1, GROUPS.index(group))
            return self.finish(out, 1), tile, cells
        self.turn(out, self.start + self.user + self.picture, 0, -1, False)
        prefix = len(out["ids"])
        chain = form > 0.70
        for k, (_, group, q, a) in enumerate(keep[:4] if chain else keep, 1):
            lead = self.enc("\nUser: " + q) if chain and k > 1 else self.enc(q)
            self.add(out, lead, a, 0 if chain else k, GROUPS.index(group))
        return self.finish(out, prefix), tile, cells

    def add(self, out, question, answer, seg, group):
        ask, reply = self.answer(answer)
        self.turn(out, question + [self.eou] + ask, seg, -1, False)
        self.turn(out, reply, seg, group, True)

    @staticmethod
    def finish(out, prefix):
        pos, at, seg = [], prefix, 0
        for i, s in enumerate(out["seg"]):
            if i < prefix or s == 0:
                pos.append(i)
                continue
            at = prefix if s != seg else at + 1
            seg = s
            pos.append(at)
        out["pos"] = pos
        return out


def collate(seqs):
    n, width = len(seqs), max(len(s["ids"]) for s, _, _ in seqs)
    width = -(-width // 16) * 16
    a = {k: np.full((n, width), v, np.int64) for k, v in (("ids", 0), ("seg", -1), ("label", -1), ("group", -1), ("pos", 0))}
    for i, (s, _, _) in enumerate(seqs):
        for k in a:
            a[k][i, :len(s["ids"])] = s[k]
    a["tiles"] = np.stack([t for _, t, _ in seqs if t is not None])
    a["cells"] = np.stack([c for _, _, c in seqs if c is not None])
    return a


def to_torch(a):
    b = {k: torch.from_numpy(v) for k, v in a.items()}
    seg = b["seg"]
    t = seg.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool).tril()
    see = (seg[:, None, :] == 0) | (seg[:, None, :] == seg[:, :, None])
    mask = (see & causal) | torch.eye(t, dtype=torch.bool)
    pixels = (b["tiles"].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return b["ids"], b["pos"], mask[:, None], pixels.contiguous(), b["label"], b["group"], b["cells"]


def producer(out, first, args, c, worker, workers):
    torch.set_num_threads(1)
    os.nice(2)
    packer = Packer(tok.load(args.state, c["vocab"]), c)
    for step in range(first + worker, args.steps, workers):
        r = np.random.default_rng([args.seed, step])
        out.put((step, collate([packer.sequence(r, "train", c["edge"]) for _ in range(args.batch)])))


class Probe(torch.nn.Module):
    """Training only: a linear reading of each picture token for the shape, colour and letter centred in its cell, so that the encoder sees
    early what the questions are about. Not exported."""

    def __init__(self, c):
        super().__init__()
        self.sizes = [len(data.SHAPES) + 1, len(data.COLOURS) + 1, len(data.LETTERS) + 1]
        self.read = torch.nn.Linear(c["hidden"], sum(self.sizes))

    def loss(self, rows, cells):
        total = 0.0
        for k, out in enumerate(self.read(rows).float().split(self.sizes, -1)):
            weight = torch.ones(self.sizes[k])
            weight[0] = 0.15                                   # most cells hold nothing
            total = total + F.cross_entropy(out.reshape(-1, self.sizes[k]), cells[..., k].reshape(-1), weight)
        return 0.3 * total


# ---------------------------------------------------------------- optimiser
class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalised by five Newton-Schulz steps (K. Jordan, 2024)."""

    def __init__(self, params, lr=0.01, momentum=0.95, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - g["momentum"])
                x = p.grad.lerp(m, g["momentum"])
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if tall else x
                p.mul_(1 - g["lr"] * g["weight_decay"])
                p.add_(x, alpha=-g["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def optimisers(model, probe):
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith(("embed", "head", "vision.pos", "vision.patch"))]
    ids = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in ids] + list(probe.parameters())
    return [Muon(hidden, lr=0.01), torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)]


def schedule(step, steps, decay):
    down = int(steps * (1 - decay))
    warm = min(1.0, (step + 1) / 100)
    return warm if step < down else warm * max(0.01, (steps - step) / (steps - down))


# ---------------------------------------------------------------- scoring
@torch.no_grad()
def dev_score(model, packer, c, n, seed=77):
    """Share of answers whose every token is the most likely one (what greedy decoding would say), by group."""
    right, total = np.zeros(len(GROUPS)), np.zeros(len(GROUPS))
    for i in range(0, n, 32):
        r = np.random.default_rng([seed, i])
        ids, pos, mask, pixels, label, group, _ = to_torch(collate([packer.sequence(r, "dev", c["edge"]) for _ in range(min(32, n - i))]))
        with torch.autocast("cpu", torch.bfloat16):
            h = model(ids, pos, mask, model.vision(pixels))
        want = torch.full_like(label, -1)
        want[:, :-1] = label[:, 1:]
        best = torch.full_like(label, -2)
        best[want >= 0] = model.head(h.float()[want >= 0]).argmax(-1)
        for b in range(len(ids)):
            t = 0
            while t < ids.shape[1]:
                if want[b, t] < 0:
                    t += 1
                    continue
                e = t
                while e < ids.shape[1] and want[b, e] >= 0:
                    e += 1
                g = int(group[b, t + 1])
                total[g] += 1
                right[g] += bool((best[b, t:e] == want[b, t:e]).all())
                t = e
    return {g: right[i] / max(total[i], 1) for i, g in enumerate(GROUPS)}


# ---------------------------------------------------------------- the run
def save(path, model, probe, opts, step, losses):
    tmp = str(path) + ".tmp"
    torch.save({"model": model.state_dict(), "probe": probe.state_dict(), "opts": [o.state_dict() for o in opts], "step": step, "config": model.c, "loss": losses}, tmp)
    os.replace(tmp, path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--state", required=True)
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--decay", type=float, default=0.3)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--fp32", action="store_true")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    state = Path(args.state)
    c = dict(net.CONFIG)
    packer = Packer(tok.load(state, c["vocab"]), c)
    model = net.DemoNet(c, packer.image)
    probe = Probe(c)
    opts = optimisers(model, probe)
    first, ema, seen = 0, None, None
    if (state / "last.pt").exists():
        ck = torch.load(state / "last.pt", weights_only=True)
        model.load_state_dict(ck["model"])
        probe.load_state_dict(ck["probe"])
        for o, s in zip(opts, ck["opts"]):
            o.load_state_dict(s)
        first, ema = ck["step"], ck["loss"]
    base = [[g.get("initial_lr", g["lr"]) for g in o.param_groups] for o in opts]
    for o in opts:
        for g in o.param_groups:
            g.setdefault("initial_lr", g["lr"])
    log = open(state / "log.txt", "a", buffering=1)

    def say(s):
        print(s, flush=True)
        log.write(s + "\n")
    say(f"{sum(q.numel() for q in model.parameters())} parameters, from step {first} to {args.steps}")
    batches = mp.get_context("spawn").Queue(8)
    makers = [mp.get_context("spawn").Process(target=producer, args=(batches, first, args, c, w, args.workers), daemon=True) for w in range(args.workers)]
    for m in makers:
        m.start()
    t0, waited = time.time(), 0.0
    for step in range(first, args.steps):
        t1 = time.time()
        _, a = batches.get()
        waited += time.time() - t1
        ids, pos, mask, pixels, label, _, cells = to_torch(a)
        want = torch.full_like(label, -1)
        want[:, :-1] = label[:, 1:]
        k = schedule(step, args.steps, args.decay)
        for o, lrs in zip(opts, base):
            for g, lr in zip(o.param_groups, lrs):
                g["lr"] = lr * k
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
            rows = model.vision(pixels)
            h = model(ids, pos, mask, rows)
            loss = F.cross_entropy(model.head(h[want >= 0]).float(), want[want >= 0])
            found = probe.loss(rows, cells)
        for o in opts:
            o.zero_grad(set_to_none=True)
        (loss + found).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
        seen = found.item() if seen is None else 0.98 * seen + 0.02 * found.item()
        ema = loss.item() if ema is None else 0.98 * ema + 0.02 * loss.item()
        done = step + 1
        if done % 20 == 0:
            say(f"step {done} loss {ema:.4f} cells {seen:.4f} lr x{k:.3f} {(time.time() - t0) / (done - first):.2f} s/step, waited {waited:.0f} s, width {ids.shape[1]}")
        if done % 250 == 0 or done == args.steps:
            save(state / "last.pt", model, probe, opts, done, ema)
            say("dev " + " ".join(f"{g} {100 * v:.0f}" for g, v in dev_score(model, packer, c, 96 if done < args.steps else 480).items()))
        if done == int(args.steps * (1 - args.decay)):
            save(state / "stable.pt", model, probe, opts, done, ema)


if __name__ == "__main__":
    main()
