"""The comparers of the parity tests. Each raises Mismatch with where and by how much; test_parity.py plants a fault for each of them."""
import numpy as np

# Rounding of float32 sums in another order: plain numpy stays within 5e-5 of the reference on these models; four times that is allowed.
# An rms eps of 1e-5 for 1e-6 shows as 1.3e-3, every other mistake tried as 1 and more.
F32_TOLERANCE = 2e-4
# bf16 keeps 8 bits: 2^-9 relative a rounding, logits of deviation 4 to 5 after some forty roundings in a row. The reference's own bf16 run
# is up to 0.3 away from its float32 run.
BF16_TOLERANCE = 0.5


class Mismatch(AssertionError):
    pass


def compare_ids(got, want):
    if list(got) != list(want):
        at = next((i for i, (g, w) in enumerate(zip(got, want)) if g != w), min(len(got), len(want)))
        raise Mismatch(f"{len(got)} ids for {len(want)}; first difference at {at}")


def compare_tiles(got, want):
    if got.dtype != np.uint8 or got.shape != want.shape:
        raise Mismatch(f"tiles {got.dtype} {got.shape}, expected uint8 {want.shape}")
    different = [i for i in range(len(want)) if not np.array_equal(got[i], want[i])]
    if different:
        raise Mismatch(f"tiles {different} of {len(want)} differ")


def compare_logits(got, positions, want, tolerance):
    """got (all positions, vocab); want (positions, vocab). Returns the largest difference."""
    if got.dtype != np.float32 or got.ndim != 2 or got.shape[1] != want.shape[1]:
        raise Mismatch(f"logits {got.dtype} {got.shape}, expected float32 (positions, {want.shape[1]})")
    if not np.isfinite(got).all():
        raise Mismatch("logits that are not finite")
    diff = np.abs(got[positions].astype(np.float64) - want)
    if diff.max() > tolerance:
        row, token = np.unravel_index(diff.argmax(), diff.shape)
        raise Mismatch(f"|logit difference| {diff.max():.2e} > {tolerance:.0e} at position {positions[row]}, token {token}")
    return float(diff.max())


def compare_statistics(got, want, tolerance):
    """All positions at once, where a cut golden stores only some rows: if every element is within the tolerance, so are these."""
    a = got.astype(np.float64)
    found = {"mean": a.mean(), "std": a.std(), "l2": float(np.sqrt((a * a).sum())), "min": a.min(), "max": a.max()}
    bound = {"mean": 1, "std": 1, "l2": np.sqrt(a.size), "min": 1, "max": 1}  # how far each may move if every element moves by 1
    if list(a.shape) != want["shape"]:
        raise Mismatch(f"logits {a.shape}, expected {want['shape']}")
    for name, value in found.items():
        if abs(value - want[name]) > bound[name] * tolerance:
            raise Mismatch(f"{name} of all logits is {value}, expected {want[name]}")
    for index, value in want["at"].items():
        if abs(a.ravel()[int(index)] - value) > tolerance:
            raise Mismatch(f"logit element {index} is {a.ravel()[int(index)]}, expected {value}")


def compare_greedy(got, want, margins, tolerance):
    """Equal until the reference's own top two come closer than the tolerance: from there on, both continuations are right.
    Returns how many were compared."""
    sure = next((i for i, m in enumerate(margins) if m <= tolerance), len(margins))
    compare_ids(got[:sure], want[:sure])
    if len(got) != len(want):
        raise Mismatch(f"{len(got)} greedy tokens, expected {len(want)}")
    return sure
