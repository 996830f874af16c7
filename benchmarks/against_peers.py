"""One meta-gradient of each experiment: this package beside a plain loop and other libraries.

    python benchmarks/against_peers.py                     # on the CPU
    python benchmarks/against_peers.py --device cuda --out benchmarks/results
    python benchmarks/against_peers.py --workload sinusoid --contestant naive "ours-sweep-*"

Network, loss, inner loop and number of tasks are those of the configs, weights and tasks random
but the same for all. Nobody is timed whose meta-gradient is not ours (peers/agreement.py). Then all
take turns (peers/turns.py). Above each table stands what bounds it (peers/bound.py). Other
libraries are optional: `pip install -e '.[peers]'`, and learn2learn, which does not build on newer
Pythons, from its source (--learn2learn). Who is not installed or does not run is listed with the
reason. Compiling takes minutes for a convolutional network, twice for each contestant (float64 and
float32), and on a CPU once more for its memory;
`--contestant "ours-*[0-9]" naive "torchopt-*" higher learn2learn` leaves it out.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_maml.run.provenance import plain
from peers import report
from peers.agreement import Admitted, admit
from peers.bound import bound
from peers.contestants import chosen, contestants
from peers.ours import configured, reference
from peers.peak_memory import Case, peak_bytes
from peers.turns import take_turns
from peers.workloads import CONFIGS, Problem, Workload, from_config

KEPT = ", memory kept"
"""Of others that keep what they free as well."""


def measure(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """Agreement, memory and seconds of everyone asked for, and of ours as configured.

    Raises:
        ValueError: naming a contestant whose meta-gradient is not ours.
    """

    def problem(dtype: torch.dtype, number: int = 0) -> Problem:
        return workload.problem(options.seed + number, dtype, options.device)

    everyone = contestants(workload, options.learn2learn)
    ours = configured(problem(torch.float32))
    makes = chosen(everyone, [*options.contestant, ours])
    admitted, absent = admit(makes, everyone[reference(workload)], problem, tell)
    if ours in absent:
        raise ValueError(f"`{ours}`, which the others are compared with, fails: {absent[ours]}")
    peaks = {}
    for name, entry in admitted.items():
        try:
            peaks[name] = peak(workload, name, entry, options)
        except OSError as error:
            absent[f"memory of {name}"] = str(error)
    tell(f"{options.turns} turns")
    if options.device == "cpu":
        admitted |= {name + KEPT: admitted[name] for name in list(admitted) if "ours" not in name}
    runs = {name: entry.run for name, entry in admitted.items()}
    keeping = {name for name in runs if "ours" in name or name.endswith(KEPT)}
    seconds = take_turns(runs, options.turns, options.seed, options.device, keeping)
    return report.result(ours, admitted, seconds, peaks, absent)


def peak(workload: Workload, name: str, entry: Admitted, options: argparse.Namespace) -> int:
    """Bytes: of the allocator, or of a process that does nothing else.

    Raises:
        OSError: if that process failed.
    """
    if options.device == "cuda":
        return peak_bytes(entry.run, "cuda")
    source = options.learn2learn and str(options.learn2learn)
    case = Case(workload.name, name, seed=options.seed, threads=options.threads, learn2learn=source)
    return case.peak_bytes()


tell = partial(print, file=sys.stderr, flush=True)


def describe(workload: Workload) -> str:
    """What there is to do, in a line."""
    return (
        f"{workload.tasks} tasks of {workload.support} + {workload.query} examples, "
        f"{workload.inner_steps} inner step{'s' * (workload.inner_steps > 1)}."
    )


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=CONFIGS, nargs="+", default=CONFIGS)
    parser.add_argument("--contestant", nargs="+", default=["*"], help="names, or patterns of them")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--threads", type=int, help="torch's own choice if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learn2learn", type=Path, help="folder of its source")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    parser.add_argument("--out", type=Path, help="write table and figures into this folder, too")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error(f"--turns must be at least 1, got {options.turns}")
    return options


def main() -> None:
    """Print a table for each workload, once it is measured."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    about = report.origin(options.device, options.seed, options.turns)
    results: dict[str, Any] = {}
    text = report.heading(about)
    print(text)
    for name in options.workload:
        tell(name)
        workload = from_config(name)
        try:
            results[name] = measure(workload, options)
        except ValueError as error:
            raise SystemExit(f"{name}: {error}") from error
        limits = bound(workload.problem(options.seed, device=options.device), options.device)
        results[name]["bound"] = limits.as_dict()
        table = report.section(name, f"{describe(workload)}\n\n{limits}", results[name])
        print(table, flush=True)
        text += f"\n{table}"
        write(options, text, {"about": about, "results": results})


def write(options: argparse.Namespace, text: str, found: dict[str, Any]) -> None:
    """Both forms, to where the options say."""
    figures = json.dumps(plain(found), indent=1) + "\n"
    if options.json:
        options.json.write_text(figures, encoding="utf-8")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = f"against_peers_{options.device}_{found['about']['date']}"
        (options.out / f"{stem}.md").write_text(text, encoding="utf-8")
        (options.out / f"{stem}.json").write_text(figures, encoding="utf-8")


if __name__ == "__main__":
    main()
