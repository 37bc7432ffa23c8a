#!/usr/bin/env python3
"""Trains the built-in demo model on synthetic pictures (data.py). CPU, seeded, resumable.

    train.py --state DIR --pretrain N                the encoder alone: N batches of pictures, read by a linear probe
    train.py --state DIR --minutes M [--decay 0.4]   the whole model, from the encoder's state where there is one (or --steps N)

DIR keeps the encoder's state (pictures.pt), the newest checkpoint (last.pt), the one before the learning rate falls (level.pt: copied to last.pt, a longer run goes on from it), the tokenizer and log.txt.
Batch n is drawn from seed (seed, n), so a resumed run sees the pictures it would have seen. Then: export.py --state DIR, eval.py.

One sequence is a picture and as many questions about it as fit in WIDTH tokens: each question attends the picture and itself only
("packed"), so that no answer leans on an earlier one. Shares: 78 % packed, 8 % a conversation, 8 % one question written before the
picture, 6 % no picture; one in twenty begins with a system message.
Only answers are scored. Hidden matrices learn by Muon (orthogonalised momentum), the rest by AdamW.
"""
import argparse
import math
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

WIDTH = 208
SYSTEM = ["You are a helpful assistant.", "Answer briefly.", "You are Spillway's demo model.", "Be kind and short.", "You describe pictures."]
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
        self.user = self.enc("User:")

    def enc(self, s):
        return self.t.encode(s, add_special_tokens=False).ids

    def answer(self, a):
        return self.enc(f"\nAssistant:"), self.enc(" " + a) + [self.eou]

    def mentions(self, q, about, what):
        """For each token of q: None, or where and what the object is that the words ending with it mean."""
        e = self.t.encode(q, add_special_tokens=False)
        out = [None] * len(e.ids)
        for words, k in about:
            found = q.lower().find(words)
            if found < 0 or q.lower().find(words, found + 1) >= 0:
                continue                                       # "star" beside "red star": which is meant needs a parser
            sh, c, x, y = what.objects[k]
            last = max(i for i, (a, b) in enumerate(e.offsets) if a < found + len(words))
            out[last] = (int(x * 12), int(y * 12), data.SHAPES.index(sh), list(data.COLOURS).index(c))
        return e.ids, out

    def turn(self, out, ids, seg, group, scored, about=()):
        out["about"] += about or [None] * len(ids)
        out["ids"] += ids
        out["seg"] += [seg] * len(ids)
        out["label"] += ids if scored else [-1] * len(ids)
        out["group"] += [group] * len(ids)

    @staticmethod
    def rank(r, q):
        """Random order in which questions fill a sequence: what asks most of the encoder first, the plentiful yes-or-no and declined ones rather later."""
        if q[1] == "read" or q[0] == "describe" and r.random() < 0.5:
            return r.random() - 1
        return r.random() - 0.3 * (q[1] == "position") + (0.5 if q[0] == "exists" or q[1] == "decline" else 0)

    def sequence(self, r, split, edge):
        """One sequence: dict of ids, seg (0 = seen by all), pos, label, group; its tile or None; what stands in each cell of the tile."""
        out = {"ids": [], "seg": [], "label": [], "group": [], "about": []}
        train = split == "train"
        form = r.random() if train else 0.0
        start = list(self.start)
        user = "User:"
        if train and r.random() < 0.05:
            start += self.enc("System: " + str(r.choice(SYSTEM))) + [self.eou]
            user = "\nUser:"
        if form > 0.94:
            self.turn(out, start, 0, -1, False)
            for k in range(1, 9):
                q, a = data.text_only(r, split)
                if len(out["ids"]) < WIDTH - 48:
                    self.add(out, self.enc(user + " " + q), a, k, 6)
            return self.finish(out, len(start)), None, None
        tile, _, what, qs = data.sample(r, split, edge)
        cells = what.cells(edge // self.c["patch"])
        qs.sort(key=lambda q: self.rank(r, q))
        if form > 0.86:                                        # the question first, then the picture
            _, group, q, a, _ = qs[0] if r.random() < 0.5 else qs[-1]
            self.turn(out, start, 0, -1, False)
            self.add(out, self.enc(user + " " + q) + self.picture, a, 1, GROUPS.index(group))
            return self.finish(out, len(start)), tile, cells
        self.turn(out, start + self.enc(user) + self.picture, 0, -1, False)
        prefix = len(out["ids"])
        chain = form > 0.78
        if chain:
            qs = [qs[i] for i in r.permutation(len(qs))][:4]
        for k, (_, group, q, a, named) in enumerate(qs, 1):
            lead, about = self.mentions("\nUser: " + q if chain and k > 1 else q, named, what)
            before = len(out["ids"])
            self.add(out, lead, a, 0 if chain else k, GROUPS.index(group), about)
            if k > 1 and len(out["ids"]) > WIDTH:
                for key in out:
                    del out[key][before:]
        return self.finish(out, prefix), tile, cells

    def add(self, out, question, answer, seg, group, about=None):
        ask, reply = self.answer(answer)
        tail = [self.eou] + ask
        self.turn(out, question + tail, seg, -1, False, about + [None] * len(tail) if about else ())
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
    a["about"] = np.array([(i, j, *x) for i, (s, _, _) in enumerate(seqs) for j, x in enumerate(s["about"]) if x], np.int64).reshape(-1, 6)
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
    return b["ids"], b["pos"], mask[:, None], pixels.contiguous(), b["label"], b["group"], b["cells"], b["about"]


def producer(out, first, args, c, worker, workers):
    torch.set_num_threads(1)
    os.nice(2)
    packer = Packer(tok.load(args.state, c["vocab"]), c)
    for step in range(first + worker, args.steps, workers):
        r = np.random.default_rng([args.seed, step])
        out.put((step, collate([packer.sequence(r, "train", c["edge"]) for _ in range(args.batch)])))


class Probe(torch.nn.Module):
    """Training only: a linear reading of each patch for the shape and colour that cover it and the letter centred in it, so that the encoder
    sees early what the questions are about. Not exported."""

    def __init__(self, c):
        super().__init__()
        self.sizes = [len(data.SHAPES) + 1, len(data.COLOURS) + 1, len(data.LETTERS) + 1]
        self.read = torch.nn.Linear(c["v_hidden"], sum(self.sizes))

    def loss(self, patches, cells):
        total = 0.0
        for k, out in enumerate(self.read(patches).float().split(self.sizes, -1)):
            weight = torch.ones(self.sizes[k])
            weight[0] = 0.01 if k == 2 else 0.1                # most patches hold nothing, nearly all no letter
            total = total + F.cross_entropy(out.reshape(-1, self.sizes[k]), cells[..., k].reshape(-1), weight)
        return 0.3 * total

    def right(self, patches, cells):
        """Share of the patches that hold a shape, colour, letter for which it is read rightly."""
        out = []
        for k, x in enumerate(self.read(patches).float().split(self.sizes, -1)):
            want = cells[..., k]
            out.append(float((x.argmax(-1) == want)[want > 0].float().mean()))
        return out


class Pointer(torch.nn.Module):
    """Training only: the text model reads, at the words that name an object, where and what it is: so it learns to look it up there, and what
    compares two objects finds both. Without it "left or right of" stays a guess for a thousand steps. Not exported."""
    SIZES = [12, 12, len(data.SHAPES), len(data.COLOURS)]

    def __init__(self, c):
        super().__init__()
        self.read = torch.nn.ModuleList(torch.nn.Linear(c["hidden"], sum(self.SIZES)) for _ in range(2))
        self.scale, self.letters = c["scale"], torch.nn.Linear(c["hidden"], c["scale"] ** 2 * (len(data.LETTERS) + 1))

    def loss(self, rows, cells, inner, about):
        """rows: what the text model gets of the pictures: the letters of each token's patches must still be in it."""
        b, t, s = rows.shape[0], math.isqrt(rows.shape[1]), self.scale
        letters = cells[..., 2].view(b, t, s, t, s).permute(0, 1, 3, 2, 4).reshape(-1)
        weight = torch.ones(len(data.LETTERS) + 1)
        weight[0] = 0.01
        total = 0.1 * F.cross_entropy(self.letters(rows).float().reshape(len(letters), -1), letters, weight)
        if len(about) == 0:
            return total
        for read, x in zip(self.read, inner[2:4]):             # after the second and third layer
            x = x[about[:, 0], about[:, 1]]
            x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
            for k, out in enumerate(read(x.to(read.weight.dtype)).float().split(self.SIZES, -1)):
                total = total + 0.04 * F.cross_entropy(out, about[:, 2 + k])
        return total


def picture_producer(out, first, args, c):
    torch.set_num_threads(1)
    os.nice(2)
    for step in range(first, args.pretrain):
        r = np.random.default_rng([args.seed, 7, step])
        drawn = [data.sample(r, "train", c["edge"]) for _ in range(32)]
        out.put((np.stack([d[0] for d in drawn]), np.stack([d[2].cells(c["edge"] // c["patch"]) for d in drawn])))


def pretrain(args, model, probe, c, say, path):
    """The encoder and the probe alone: six times as many pictures a second as with the text model behind them. Half of each batch is fresh, half
    drawn again from the newest 12,000."""
    opts = optimisers(model.vision, probe)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    made = mp.get_context("spawn").Queue(16)
    mp.get_context("spawn").Process(target=picture_producer, args=(made, 0, args, c), daemon=True).start()
    kept, r, t0, seen = [], np.random.default_rng(args.seed), time.time(), None
    for step in range(args.pretrain):
        if step % 2 == 0 or not made.empty():
            kept = (kept + [made.get()])[-375:]
        pick = [kept[-1]] + ([kept[int(r.integers(len(kept)))]] if len(kept) > 8 else [])
        tiles, cells = (np.concatenate(x) for x in zip(*pick))
        pixels = ((torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).contiguous()
        k = schedule(step, step / args.pretrain, 0.25)
        for o, lrs in zip(opts, base):
            for g, lr in zip(o.param_groups, lrs):
                g["lr"] = lr * k
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
            loss = probe.loss(model.vision(pixels)[1], torch.from_numpy(cells))
        for o in opts:
            o.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.vision.parameters(), 1.0)
        for o in opts:
            o.step()
        seen = loss.item() if seen is None else 0.98 * seen + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            with torch.no_grad():
                right = probe.right(model.vision(pixels)[1], torch.from_numpy(cells))
            say(f"picture step {step + 1} cells {seen:.4f} lr x{k:.3f} {(time.time() - t0) / (step + 1):.2f} s/step, drawn {len(kept)}, right: " + " ".join(f"{v:.2f}" for v in right))
        if (step + 1) % 250 == 0 or step + 1 == args.pretrain:
            torch.save({"model": model.state_dict(), "probe": probe.state_dict(), "config": c}, str(path) + ".tmp")
            os.replace(str(path) + ".tmp", path)


# ---------------------------------------------------------------- optimiser
class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalised by five Newton-Schulz steps (K. Jordan, 2024)."""

    def __init__(self, params, lr=0.006, momentum=0.95, weight_decay=0.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            by_shape = {}
            for p in g["params"]:
                if p.grad is not None:
                    by_shape.setdefault((min(p.shape), max(p.shape)), []).append(p)
            for ps in by_shape.values():
                xs = []
                for p in ps:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - g["momentum"])
                    x = p.grad.lerp(m, g["momentum"])
                    xs.append(x.T if x.shape[0] > x.shape[1] else x)
                x = torch.stack(xs)
                x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
                for _ in range(5):
                    a = x @ x.transpose(1, 2)
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                for p, y in zip(ps, x.float()):
                    p.mul_(1 - g["lr"] * g["weight_decay"])
                    p.add_(y.T if p.shape[0] > p.shape[1] else y, alpha=-g["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def optimisers(model, *probes):
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith(("embed", "head", "vision.pos", "vision.patch", "pos", "patch"))]
    ids = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in ids] + [p for probe in probes for p in probe.parameters()]
    return [Muon(hidden, lr=0.006, weight_decay=0.05), torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01)]


def schedule(step, done, decay):
    """Share of the learning rate after `done` (0..1) of the run: 100 steps up, level, then straight down over the last `decay` of it."""
    return min(1.0, (step + 1) / 100) * min(1.0, max(0.01, (1 - done) / decay))


# ---------------------------------------------------------------- scoring
@torch.no_grad()
def dev_score(model, packer, c, n, seed=77):
    """Share of answers whose every token is the most likely one (what greedy decoding would say), by group."""
    right, total = np.zeros(len(GROUPS)), np.zeros(len(GROUPS))
    for i in range(0, n, 32):
        r = np.random.default_rng([seed, i])
        ids, pos, mask, pixels, label, group, _, _ = to_torch(collate([packer.sequence(r, "dev", c["edge"]) for _ in range(min(32, n - i))]))
        with torch.autocast("cpu", torch.bfloat16):
            h = model(ids, pos, mask, model.vision(pixels)[0])
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
def save(path, model, probe, pointer, opts, step, losses, spent_s):
    tmp = str(path) + ".tmp"
    torch.save({"model": model.state_dict(), "probe": probe.state_dict(), "pointer": pointer.state_dict(), "opts": [o.state_dict() for o in opts], "step": step, "spent_s": spent_s, "config": model.c, "loss": losses}, tmp)
    os.replace(tmp, path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--state", required=True)
    p.add_argument("--steps", type=int, default=1000000)
    p.add_argument("--minutes", type=float, default=0, help="of training in all, resumed parts included; the learning rate falls by the clock")
    p.add_argument("--pretrain", type=int, default=0)
    p.add_argument("--decay", type=float, default=0.4)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--fp32", action="store_true")
    p.add_argument("--init", help="start from this checkpoint's weights, with a fresh optimiser and schedule")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    state = Path(args.state)
    c = dict(net.CONFIG)
    packer = Packer(tok.load(state, c["vocab"]), c)
    model = net.DemoNet(c, packer.image)
    probe = Probe(c)
    pointer = Pointer(c)
    opts = optimisers(model, probe, pointer)
    first, ema, seen, pointed, before_s = 0, None, None, None, 0.0
    if (state / "last.pt").exists():
        ck = torch.load(state / "last.pt", weights_only=True)
        model.load_state_dict(ck["model"])
        probe.load_state_dict(ck["probe"])
        pointer.load_state_dict(ck["pointer"])
        for o, s in zip(opts, ck["opts"]):
            o.load_state_dict(s)
        first, ema, before_s = ck["step"], ck["loss"], ck.get("spent_s", 0.0)
    elif args.init or (state / "pictures.pt").exists():
        ck = torch.load(args.init or state / "pictures.pt", weights_only=True)
        model.load_state_dict(ck["model"])
        if ck["probe"]["read.weight"].shape == probe.read.weight.shape:
            probe.load_state_dict(ck["probe"])
    base = [[g.get("initial_lr", g["lr"]) for g in o.param_groups] for o in opts]
    for o in opts:
        for g in o.param_groups:
            g.setdefault("initial_lr", g["lr"])
    log = open(state / "log.txt", "a", buffering=1)

    def say(s):
        print(s, flush=True)
        log.write(s + "\n")
    say(f"{sum(q.numel() for q in model.parameters())} parameters, from step {first} to {args.steps}")
    if args.pretrain:
        return pretrain(args, model, probe, c, say, state / "pictures.pt")
    batches = mp.get_context("spawn").Queue(8)
    makers = [mp.get_context("spawn").Process(target=producer, args=(batches, first, args, c, w, args.workers), daemon=True) for w in range(args.workers)]
    for m in makers:
        m.start()
    t0, waited, level_saved = time.time(), 0.0, (state / "level.pt").exists()
    for step in range(first, args.steps):
        t1 = time.time()
        _, a = batches.get()
        waited += time.time() - t1
        ids, pos, mask, pixels, label, group, cells, about = to_torch(a)
        want = torch.full_like(label, -1)
        want[:, :-1] = label[:, 1:]
        spent = before_s + time.time() - t0
        share = spent / (60 * args.minutes) if args.minutes else step / args.steps
        k = schedule(step, share, args.decay)
        for o, lrs in zip(opts, base):
            for g, lr in zip(o.param_groups, lrs):
                g["lr"] = lr * k
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
            rows, patches = model.vision(pixels)
            h = model(ids, pos, mask, rows)
            weight = 1 + 2 * (group == GROUPS.index("read"))[:, 1:][want[:, :-1] >= 0].float()
            loss = (weight * F.cross_entropy(model.head(h[want >= 0]).float(), want[want >= 0], reduction="none")).sum() / weight.sum()
            found = probe.loss(patches, cells)
            named = pointer.loss(rows, cells, model.inner, about)
        for o in opts:
            o.zero_grad(set_to_none=True)
        (loss + found + named).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
        seen = found.item() if seen is None else 0.98 * seen + 0.02 * found.item()
        pointed = float(named.detach()) if pointed is None else 0.98 * pointed + 0.02 * float(named.detach())
        ema = loss.item() if ema is None else 0.98 * ema + 0.02 * loss.item()
        done = step + 1
        if done % 20 == 0:
            say(f"step {done} loss {ema:.4f} cells {seen:.4f} named {pointed:.4f} lr x{k:.3f} {(time.time() - t0) / (done - first):.2f} s/step, waited {waited:.0f} s, width {ids.shape[1]}")
        last = done == args.steps or args.minutes and share >= 1
        if done % 100 == 0 or last:
            save(state / "last.pt", model, probe, pointer, opts, done, ema, spent)
        if done % 200 == 0 or last:
            say("dev " + " ".join(f"{g} {100 * v:.0f}" for g, v in dev_score(model, packer, c, 480 if last else 64).items()))
        if share > 1 - args.decay and not level_saved:
            save(state / "level.pt", model, probe, pointer, opts, done, ema, spent)
            level_saved = True
        if last:
            break
    for m in makers:
        m.terminate()


if __name__ == "__main__":
    main()
