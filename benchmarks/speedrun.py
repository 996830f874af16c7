"""Wall time from the start of a process to the paper's accuracy, on validation and then on test.

    python benchmarks/speedrun.py omniglot_5way_1shot
    python benchmarks/speedrun.py omniglot_5way_1shot --note "3,000 updates" \
        --trainer.max_steps 3000 --model.scheduler.init_args.T_max 3000
    python benchmarks/speedrun.py mini_1shot --log benchmarks/results/speedrun_cuda.json \
        --trainer.accelerator gpu --model.compile true

Each attempt is the command line's `fit` of the short config, which ends at the first validation
above the target, and its `test` of the best checkpoint. Flags that are not the benchmark's go to
both. Time is that of the whole process: imports, compilation, validations, checkpoints. Attempts
are added to a JSON file, and the Markdown table beside it is written anew.
"""

import argparse
import json
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning_maml.paper.reproduce import lines_of, result_of
from lightning_maml.run.files import write_whole
from timed_fit import table


class Course(NamedTuple):
    """A config, and the accuracy that the paper has for it (Table 1)."""

    config: str
    target: float


COURSES = {
    "omniglot_5way_1shot": Course("omniglot_5way_1shot_short", 0.987),
    "mini_5shot": Course("mini_5shot_short", 0.6311),
    "mini_1shot": Course("mini_1shot_short", 0.487),
}
HEAD = (
    "experiment", "what changed", "note", "minutes of fit", "update of the best", "target reached",
    "test accuracy", "paper", "minutes with test", "seed", "device", "date", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """What was tried, and what came of it.

    Attributes:
        flags: those that the config was changed by.
        fit_s, test_s: seconds of the two processes.
        reached: whether a validation was above the target.
        result: what `test` wrote (result_file.py).
    """

    experiment: str
    flags: str
    note: str
    fit_s: float
    test_s: float
    reached: bool
    result: dict[str, Any]


def attempt(name: str, flags: Sequence[str], note: str, target: float) -> Attempt:
    """Fit until the target, and test.

    Raises:
        subprocess.CalledProcessError: if one of them fails.
        ValueError: if `test` names no result file.
    """
    config = ["--config", f"configs/{COURSES[name].config}.yaml"]
    start = time.perf_counter()
    reached = False
    fit = ["python", "train.py", "fit", *config, *stopping(target), *flags]
    for line in lines_of(fit, stderr=subprocess.STDOUT):
        print(line, end="", flush=True)
        reached = reached or STOPPED in line
    fitted = time.perf_counter()
    test = ["python", "train.py", "test", *config, *flags, "--ckpt_path", "best"]
    result = json.loads(result_of(test).read_text())
    return Attempt(
        name, shlex.join(flags), note, fitted - start, time.perf_counter() - fitted,
        reached, result,
    )  # fmt: skip


STOPPED = "Stopping threshold reached"
"""What Lightning's `EarlyStopping` says, being verbose."""


def stopping(target: float) -> list[str]:
    """Flags for a callback that ends the fit at the first validation above the target."""
    settings = {
        "monitor": "val/accuracy", "mode": "max", "stopping_threshold": target,
        "patience": 1_000_000, "verbose": "true",
    }  # fmt: skip
    flags = [f"--trainer.callbacks.{key}={value}" for key, value in settings.items()]
    return ["--trainer.callbacks+=EarlyStopping", *flags]


def row(one: dict[str, Any]) -> list[str]:
    """Of the table, from an attempt as JSON has it."""
    result = one["result"]
    mean, ci95 = result["mean"][-1], result["ci95"][-1]
    device = result["device"]
    return [
        one["experiment"], f"`{one['flags']}`" if one["flags"] else "", one["note"],
        f"{one['fit_s'] / 60:.1f}", f"{result['meta_updates']:,}",
        "yes" if one["reached"] else "no",
        f"{100 * mean:.2f} +- {100 * ci95:.2f} ({result['tasks']} tasks)",
        f"{100 * COURSES[one['experiment']].target:.2f}",
        f"{(one['fit_s'] + one['test_s']) / 60:.1f}",
        str(result["training_seed"]), f"{device['name']} ({device['precision']})",
        result["date"][:10], (result["git"] or {}).get("commit", "")[:7],
    ]  # fmt: skip


def keep(one: Attempt, log: Path) -> str:
    """Add it to those in `log`; the table of all, which is written beside it."""
    attempts = json.loads(log.read_text()) if log.exists() else []
    attempts.append(asdict(one))
    write_whole(log, lambda file: file.write(json.dumps(attempts, indent=1) + "\n"))
    text = f"# Minutes to the paper's accuracy\n\n{table(HEAD, [row(each) for each in attempts])}\n"
    write_whole(log.with_suffix(".md"), lambda file: file.write(text))
    return text


def main() -> None:
    """Try, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=COURSES)
    parser.add_argument("--note", default="", help="for the table")
    parser.add_argument("--target", type=float, help="the paper's accuracy if not given")
    parser.add_argument("--log", type=Path, default=Path("runs/speedrun.json"))
    options, flags = parser.parse_known_args()
    target = COURSES[options.experiment].target if options.target is None else options.target
    if not 0 < target < 1:
        parser.error(f"--target must be between 0 and 1, got {target}")
    try:
        one = attempt(options.experiment, flags, options.note, target)
    except subprocess.CalledProcessError as error:
        parser.exit(error.returncode, f"error: failed: {shlex.join(error.cmd)}\n")
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"\n{keep(one, options.log)}")


if __name__ == "__main__":
    main()
