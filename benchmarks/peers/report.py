"""What was measured, as plain JSON and as Markdown."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from lightning_maml.run.provenance import command_line, cpu_name, git_state, versions
from peers.agreement import Admitted
from peers.contestants import LIBRARIES
from peers.turns import median_interval
from quartiles import quartiles

TITLE = "Meta-gradients beside other libraries"
LEGEND = """\
`ours-<derivation>-<tasks at once>[-compiled]` is this package; ratios are to its row in bold, which
is as configured. Milliseconds are medians (and quartiles) over turns, a ratio is the median of the
ratios within a turn, with the 95% interval of that median from order statistics. Memory is the peak
above what was held before. On a CPU ours keeps the memory that it frees, as in a run of this
package (`lightning_maml/run/freed_memory.py`); others do so in rows of their own, "memory kept".
Others have torch's batch norm, ours its own (`lightning_maml/models/normalise.py`).
In float32, without TF32. Everyone's meta-gradient agreed with ours in float64, and in float32 on
one of three problems: a kink makes two right ones differ (`benchmarks/peers/agreement.py`).
"""
COLUMNS = ("contestant", "ms", "quartiles", "time / ours", "95% interval", "peak MB")


def origin(device: str, seed: int, turns: int) -> dict[str, Any]:
    """What the numbers depend on."""
    libraries = {name: _version(name) for name in LIBRARIES}
    return {
        "command": f"python {command_line()}",
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions() | {name: v for name, v in libraries.items() if v},
        "git": git_state(Path(__file__)),
        "date": str(date.today()),
        "seed": seed,
        "turns": turns,
    }


def device_name(device: str) -> str:
    """The model of the GPU, or of the processor."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"CPU ({cpu_name()})"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def result(
    ours: str,
    admitted: Mapping[str, Admitted],
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int],
    absent: Mapping[str, str],
) -> dict[str, Any]:
    """The numbers of a workload; `ours` is the contestant that the ratios are to."""
    rows: dict[str, Any] = {}
    for name, entry in admitted.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[ours], strict=True)]
        rows[name] = {
            "seconds": list(seconds[name]),
            "quartiles": quartiles(seconds[name]),
            "ratio": quartiles(ratios)[1],
            "ratio_ci95": median_interval(ratios),
            "peak_bytes": peaks.get(name),
            "error_float64": entry.error64,
            "error_float32": entry.error32,
        }
    return {"ours": ours, "contestants": rows, "not_measured": dict(absent)}


def heading(about: Mapping[str, Any], title: str = TITLE, legend: str = LEGEND) -> str:
    """Where the numbers come from."""
    git = about["git"] or {"commit": "unknown", "dirty": False}
    facts = [
        f"{about['device']}, {about['threads']} threads",
        ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"commit {git['commit'][:10]}{' (changed)' * git['dirty']}",
        about["date"],
        f"seed {about['seed']}, {about['turns']} turns",
    ]
    return "\n\n".join(
        [
            f"# {title}",
            "; ".join(facts) + ":",
            f"```\n{about['command']}\n```",
            legend,
        ]
    )


def section(name: str, workload: str, found: Mapping[str, Any]) -> str:
    """The table of a workload, described by a line, and who is not in it."""
    lines = [f"## {name}", "", workload, ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [_row(who, row, found["ours"]) for who, row in found["contestants"].items()]
    lines += [""] + [f"Not measured: {who}: {why}." for who, why in found["not_measured"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _row(who: str, row: Mapping[str, Any], ours: str) -> str:
    low, middle, high = (f"{1e3 * value:.4g}" for value in row["quartiles"])
    interval, peak = row["ratio_ci95"], row["peak_bytes"]
    cells = [
        f"**{who}**" if who == ours else who,
        middle,
        f"{low} to {high}",
        f"{row['ratio']:.2f}",
        f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "",
        "" if peak is None else f"{peak / 1e6:.0f}" if peak > 1e7 else f"{peak / 1e6:.1f}",
    ]
    return f"| {' | '.join(cells)} |"
