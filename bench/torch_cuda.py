"""What PyTorch makes of the shapes of bench_cuda.cu: torch.matmul (cuBLAS) and scaled_dot_product_attention, on the same card in the same run.

    torch_cuda.py [--json FILE]

Rows carry the names of bench_cuda's with "torch: " before, so a reader finds both side by side. L2 is overwritten before each repetition and times are of
events, as there. Where PyTorch has no fused operation of ours (norm and residual), the product alone is measured: it is the most of it.
"""
import argparse
import json
import statistics
import sys

import torch
import torch.nn.functional as F

# name, hidden, inter, heads, KV heads, head dim
SHAPES = [("135m", 576, 1536, 9, 3, 64), ("360m", 960, 2560, 15, 5, 64), ("1.7b", 2048, 8192, 32, 32, 64), ("3b", 2048, 11008, 16, 4, 128)]
VISION = [("siglip-b", 1024, 12, 64), ("so400m", 729, 16, 72)]
REPEAT = 15


def median_us(operation, flush):
    operation()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(REPEAT)]
    for begin, end in events:
        flush.zero_()
        begin.record()
        operation()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(b.elapsed_time(e) * 1e3 for b, e in events)


def tensor(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def products(name, hidden, inter, heads, kv_heads, head_dim):
    """(row, operation, bytes, FLOPs) of a layer's matrices."""
    matrices = [("norm, qkv, rope, append", (heads + 2 * kv_heads) * head_dim, hidden), ("o, residual", hidden, heads * head_dim),
                ("norm, gate, up, silu", 2 * inter, hidden), ("down, residual", hidden, inter)]
    for what, n, k in matrices:
        w = tensor(n, k)
        for role, rows in [("decode", r) for r in (1, 2, 4, 8, 16, 32, 64)] + [("prefill", r) for r in (512, 2048)]:
            x, out = tensor(rows, k), tensor(rows, n)
            yield (f"{name} {role} {rows}: {what}, bf16", lambda x=x, out=out, w=w: torch.matmul(x, w.t(), out=out),
                   2 * (n * k + rows * (n + k)), 2 * rows * n * k)


def attention(name, heads, kv_heads, head_dim):
    head = f"{name} ({heads}/{kv_heads} heads of {head_dim})"
    for context in (1024, 2048, 4096, 8192):
        for batch in (1, 4, 16, 64):
            # Query heads of a group stand as rows of one head: every version of PyTorch then reads keys once.
            q, k, v = tensor(batch, kv_heads, heads // kv_heads, head_dim), *(tensor(batch, kv_heads, context, head_dim) for _ in range(2))
            yield (f"{head} decode attention {batch} x {context}", lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
                   4 * batch * context * kv_heads * head_dim, 4 * batch * context * heads * head_dim)
    for n in (512, 1024, 2048, 4096, 8192):
        q, k, v = (tensor(1, heads, n, head_dim) for _ in range(3))
        yield (f"{head} prefill attention {n}", lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
               8 * n * heads * head_dim, 2 * n * (n + 1) * heads * head_dim)


def vision(name, positions, heads, head_dim):
    q, k, v = (tensor(1, heads, positions, head_dim) for _ in range(3))
    yield (f"{name} {positions} positions: attention, heads of {head_dim}", lambda: F.scaled_dot_product_attention(q, k, v),
           8 * positions * heads * head_dim, 4 * positions * positions * heads * head_dim)


def rows():
    for name, hidden, inter, heads, kv_heads, head_dim in SHAPES:
        yield from products(name, hidden, inter, heads, kv_heads, head_dim)
    for name, _, _, heads, kv_heads, head_dim in SHAPES:
        yield from attention(name, heads, kv_heads, head_dim)
    for shape in VISION:
        yield from vision(*shape)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    out = parser.parse_args().json
    out = open(out, "a") if out else None
    flush = torch.empty(256 << 20, device="cuda", dtype=torch.uint8)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    for what, operation, n_bytes, flops in rows():
        us = median_us(operation, flush)
        print(f"torch: {what:52s} {us:10.2f} us {n_bytes / us / 1e3:9.1f} GB/s {flops / us / 1e6:9.2f} TFLOP/s", flush=True)
        if out:
            print(json.dumps({"part": "bench", "torch": what, "us": round(us, 3), "gb_per_s": round(n_bytes / us / 1e3, 2),
                              "tflop_per_s": round(flops / us / 1e6, 3)}), file=out, flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
