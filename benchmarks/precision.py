"""Time, memory and rounding of a meta-gradient in each precision, and accuracy after training.

    python benchmarks/precision.py omniglot_5way_1shot --compile
    python benchmarks/precision.py mini_5shot --device cuda --compile
    python benchmarks/precision.py omniglot_5way_1shot --fit --data.root data \
        --trainer.max_steps 1000 --data.train_batches_per_epoch 250

As the Trainer has them: `32-true`, `bf16-mixed` by autocast, on CUDA `32-true` with TF32 products,
too. `16-mixed` is no choice (docs/scaling.md). Times are medians over turns that all take
(peers/turns.py), ratios those within a turn, memory is the peak above what was held before
(peers/peak_memory.py). Rounding: the relative difference of the meta-gradient from that in 64 bits.
With `--fit` each precision trains by the command line, with the flags given, and is tested.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

import torch

from lightning_maml.paper.reproduce import lines_of, result_of
from peers import report
from peers.agreement import relative_error
from peers.naive import naive
from peers.ours import precisions
from peers.peak_memory import Case, peak_bytes
from peers.turns import take_turns
from peers.workloads import CONFIGS, Problem, Run, from_config
from timed_fit import table

TITLE = "Meta-gradients in several precisions"
LEGEND = """\
Milliseconds are medians over turns, a ratio is the median of those within a turn. Memory is the
peak above what was held before. The difference is relative, that of the whole meta-gradient.
"""
HEAD = ("precision", "ms", "time / 32-true", "peak MB", "difference from 64 bits")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each precision: name, milliseconds, ratio, bytes, rounding."""
    workload = from_config(options.workload)
    problem: Callable[[torch.dtype], Problem] = partial(
        workload.problem, options.seed, device=options.device
    )
    exact = naive(problem(torch.float64))()
    runs: dict[str, Run] = {}
    for name, make in precisions(workload, options.device).items():
        if options.compile or not name.endswith("compiled"):
            runs[name] = make(problem(torch.float32))
    errors = {name: relative_error(run(), exact) for name, run in runs.items()}
    seconds = take_turns(runs, options.turns, options.seed, options.device)
    return [
        {
            "precision": name,
            "ms": 1e3 * statistics.median(seconds[name]),
            "ratio": statistics.median(map(truediv, seconds[name], seconds["32-true"])),
            "peak_bytes": peak(name, run, options),
            "error": errors[name],
        }
        for name, run in runs.items()
    ]


def peak(name: str, run: Run, options: argparse.Namespace) -> int:
    """Bytes: of the allocator, or of a process that does nothing else."""
    if options.device == "cuda":
        return peak_bytes(run, "cuda")
    return Case(options.workload, name, seed=options.seed).peak_bytes()


def trained(options: argparse.Namespace, flags: Sequence[str]) -> list[list[str]]:
    """Accuracy of each of the Trainer's precisions after the last inner step, by fit and test.

    Raises:
        subprocess.CalledProcessError: if one of them fails.
    """
    rows = []
    for precision in ("32-true", "bf16-mixed"):
        common = ["--config", f"configs/{options.workload}.yaml", *flags]
        common += ["--trainer.precision", precision]
        for line in lines_of(["python", "train.py", "fit", *common], stderr=subprocess.STDOUT):
            print(line, end="", file=sys.stderr, flush=True)
        test = ["python", "train.py", "test", *common, "--ckpt_path", "last"]
        result = json.loads(result_of(test).read_text())
        mean, ci95 = result["mean"][-1], result["ci95"][-1]
        rows.append([precision, f"{mean:.4g} +- {ci95:.2g}", str(result["tasks"])])
    return rows


def main() -> None:
    """Print, and keep, both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=CONFIGS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="compiled as well")
    parser.add_argument("--fit", action="store_true", help="train and test as well")
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write it into this folder, too")
    options, flags = parser.parse_known_args()
    if flags and not options.fit:
        parser.error(f"{shlex.join(flags)}: flags of a fit need --fit")
    text = report.heading(report.origin(options.device, options.seed, options.turns), TITLE, LEGEND)
    found = measure(options)
    text += "\n" + table(HEAD, [cells(row) for row in found]) + "\n"
    if options.fit:
        text += "\n" + table(("precision", "after training", "test tasks"), trained(options, flags))
        text += "\n"
    print(text)
    if options.out:
        stem = f"precision_{options.workload}_{options.device}_{date.today()}"
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{stem}.md").write_text(text, encoding="utf-8")


def cells(row: dict[str, Any]) -> list[str]:
    """Of the table."""
    return [
        row["precision"], f"{row['ms']:.4g}", f"{row['ratio']:.2f}",
        f"{row['peak_bytes'] / 1e6:.4g}", f"{row['error']:.1e}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
