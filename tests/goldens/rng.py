"""Writes rng/draws.json: what torch.randn draws on the CPU, several draws in a row from each seed.

    python rng.py        # torch 2.15.0, on x86-64 with AVX2: PyTorch draws slightly different numbers elsewhere

Short draws are stored whole; of long ones the ends, and a hash over the bits of all.
"""

import json
from pathlib import Path

import torch

OUT = Path(__file__).parent / "rng"
SEEDS = (0, 42, 2**32 - 1, 2**53, 2**64 - 1)
# Odd short draws leave half a pair behind: once before a long draw, once before a short one.
COUNTS = (1, 5, 16, 15, 17, 2, 24, 100, 1024, 15, 16384, 1, 16)
KEPT = 20


def fnv1a(tensor):
    """64-bit FNV-1a over the little-endian bytes."""
    result = 0xCBF29CE484222325
    for byte in tensor.numpy().tobytes():
        result = ((result ^ byte) * 0x100000001B3) % 2**64
    return f"{result:016x}"


def draws(seed):
    generator = torch.Generator("cpu").manual_seed(seed)
    for count in COUNTS:
        tensor = torch.randn(count, generator=generator)
        values = [float(f"{value:.9g}") for value in tensor.tolist()]
        yield {"count": count, "first": values[:KEPT], "last": values[-KEPT:], "fnv1a": fnv1a(tensor)}


def main():
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"), "needs x86-64 with AVX2"
    OUT.mkdir(exist_ok=True)
    # A seed of 2**64 - 1 is no JSON number that every reader takes.
    rows = [{"seed": str(seed), "draws": list(draws(seed))} for seed in SEEDS]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (OUT / "draws.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
