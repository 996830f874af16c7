"""Peak memory of one meta-gradient against the number of inner steps, beside other libraries.

    python benchmarks/memory.py                       # mini-ImageNet 1-shot, 2 tasks, on the CPU
    python benchmarks/memory.py --device cuda --steps 1 2 5 10 20 50 --tasks 1 4 --plot memory.svg
    python benchmarks/memory.py --steps 2 20 --contestant "ours-*-1"

Tasks one by one, but for torchopt-vmap. Each case runs in a process of its own, after a
meta-gradient that is not counted (peers/peak_memory.py). Who is who: peers/contestants.py.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from peers import report
from peers.contestants import chosen, contestants
from peers.ours import first_order
from peers.peak_memory import Case
from peers.workloads import CONFIGS, from_config

TITLE = "Memory of a meta-gradient"
LEGEND = """\
`ours-<derivation>-<tasks at once>` is this package, `first-order` without second derivatives. In
float32; each case in a process of its own.
"""
EVERYONE = ("ours-*-1", "naive", "torchopt-*", "higher", "learn2learn")
Peaks = dict[str, list[int]]
"""Bytes by contestant, one number for each number of inner steps."""


def measure(tasks: int, options: argparse.Namespace) -> tuple[Peaks, dict[str, str]]:
    """All peaks, and the reasons of those that failed."""
    workload = from_config(options.workload)
    everyone = first_order(workload) | contestants(workload, options.learn2learn)
    source = options.learn2learn and str(options.learn2learn)
    found: Peaks = {}
    absent: dict[str, str] = {}
    for name in chosen(everyone, options.contestant):
        cases = [
            Case(options.workload, name, tasks, steps, options.device, learn2learn=source)
            for steps in options.steps
        ]
        try:
            found[name] = [case.peak_bytes() for case in cases]
        except OSError as error:
            absent[name] = str(error)
        print(name, found.get(name) or absent[name], file=sys.stderr, flush=True)
    return found, absent


def table(steps: Sequence[int], found: Peaks, absent: Mapping[str, str]) -> str:
    """As Markdown, in MB."""
    head = ["contestant", *(counted(number, "step") for number in steps), "last / first"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, peaks in found.items():
        cells = [name, *(f"{peak / 1e6:.0f}" for peak in peaks), f"{peaks[-1] / peaks[0]:.2f}"]
        lines += [f"| {' | '.join(cells)} |"]
    lines += [""] + [f"Not measured: {name}: {why}." for name, why in absent.items()]
    return "\n".join(lines).rstrip() + "\n"


def counted(number: int, what: str) -> str:
    """Say 1 step, 2 steps."""
    return f"{number} {what}{'s' * (number != 1)}"


def plot(path: Path, steps: Sequence[int], found: Mapping[int, Peaks]) -> None:
    """A panel for each number of tasks, a line for each contestant."""
    figure = Figure(figsize=(1 + 5 * len(found), 4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (tasks, peaks) in zip(panels, found.items(), strict=True):
        for name, values in peaks.items():
            axes.plot(steps, [value / 1e9 for value in values], marker="o", label=name)
        top = 1.05e-9 * max(map(max, peaks.values()), default=1)
        axes.set(title=counted(tasks, "task"), xlabel="inner steps", ylabel="peak memory (GB)")
        axes.set_ylim(0, top)
        axes.legend()
    figure.savefig(path)


def main() -> None:
    """Print a table for each number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=CONFIGS, default="mini_1shot")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2])
    parser.add_argument("--contestant", nargs="+", default=EVERYONE)
    parser.add_argument("--learn2learn", type=Path, help="folder of its source")
    parser.add_argument("--plot", type=Path, help="draw it into this file, too")
    options = parser.parse_args()
    print(report.heading(report.origin(options.device, Case.seed, 1), TITLE, LEGEND))
    print(f"{options.workload}, peak in MB above what was held before\n")
    found: dict[int, Peaks] = {}
    for tasks in options.tasks:
        try:
            found[tasks], absent = measure(tasks, options)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        print(f"## {counted(tasks, 'task')}\n")
        print(table(options.steps, found[tasks], absent), flush=True)
    if options.plot:
        plot(options.plot, options.steps, found)


if __name__ == "__main__":
    main()
