"""Peak memory of one second-order meta-gradient against the number of inner steps.

    python benchmarks/memory.py                       # mini-ImageNet 1-shot, 2 tasks, on the CPU
    python benchmarks/memory.py --device cuda --steps 2 5 10 20

Each case runs in a process of its own. On a CPU the peak is that of the process above what it
holds before the first meta-gradient; on CUDA it is the allocator's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

import torch

from lightning_maml import Episode, MetaLearner
from lightning_maml.models import Conv4

TASKS, WAYS, SHOTS, QUERIES = 2, 5, 1, 15


def episode(device: str) -> Episode:
    """Random images and labels of the shapes of mini-ImageNet 5-way 1-shot."""
    support, query = WAYS * SHOTS, WAYS * QUERIES
    x = torch.rand(TASKS, support + query, 3, 84, 84, device=device)
    y = torch.arange(WAYS, device=device).repeat(support + query)[: support + query]
    y = y.expand(TASKS, -1)
    return Episode(x[:, :support], y[:, :support], x[:, support:], y[:, support:])


def peak_bytes(device: str, derivation: str, steps: int) -> int:
    """Peak memory of one meta-gradient above what was held before it."""
    learner = MetaLearner(
        Conv4(WAYS, 3, 32, 84, "max_pool", "flatten"),
        loss="cross_entropy_n_way",
        inner_steps=steps,
        first_order=derivation == "first order",
        derivation="unrolled" if derivation == "unrolled" else "sweep",
        tasks_at_once=1,
    ).to(device)
    tasks = episode(device)
    if device == "cuda":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        learner.meta_loss(tasks).backward()
        return torch.cuda.max_memory_allocated() - base
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    learner.meta_loss(tasks).backward()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)


def in_child(device: str, derivation: str, steps: int) -> int:
    """`peak_bytes` in a fresh process."""
    command = [sys.executable, __file__, "--case", json.dumps([device, derivation, steps])]
    # glibc returns large blocks at once only below this fixed threshold; else the peak of the
    # process is that of its fragmented heap.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    return int(subprocess.check_output(command, text=True, env=environment))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(peak_bytes(*json.loads(options.case)))
        return
    print(f"torch {torch.__version__}, {options.device}, {TASKS} tasks, peak in MB")
    print("| derivation | " + " | ".join(f"{s} steps" for s in options.steps) + " | last / first |")
    print("|---" * (len(options.steps) + 2) + "|")
    for derivation in ("sweep", "first order", "unrolled"):
        peaks = [in_child(options.device, derivation, steps) for steps in options.steps]
        row = " | ".join(f"{peak / 1e6:.0f}" for peak in peaks)
        print(f"| {derivation} | {row} | {peaks[-1] / peaks[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
