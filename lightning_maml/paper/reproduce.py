"""`python -m lightning_maml.paper.reproduce`: the runs that results at hand lack, one by one.

An experiment is a `train.py fit` of its config and a `train.py test`. Where a run of the config is
there, it goes on from its newest checkpoint; so whatever was stopped is begun again by the same
command. Results are copied to ``DIR/<experiment>/``, where the tables and figures find them.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lightning_maml.paper.book import sort_results
from lightning_maml.paper.cells import EXPERIMENTS, Experiment
from lightning_maml.paper.results import FITS_ENDING, read_results

RESULT_LINE = re.compile(r"result file: (.+)")
Command = list[str]


class Flags(NamedTuple):
    """What the commands are given beside their configs."""

    data: str
    fit: tuple[str, ...]
    test: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them; stops at the first command that fails, with its exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    flags = Flags(chosen.data, tuple(shlex.split(chosen.fit)), tuple(shlex.split(chosen.test)))
    try:
        there = read_results(chosen.results) if chosen.results.exists() else []
        wanted = [named(name) for name in chosen.experiment] or sort_results(there).missing(
            EXPERIMENTS
        )
        if not Path("train.py").is_file():
            raise ValueError(f"Run it where train.py is; there is none in {Path.cwd()}.")
        done: set[str] = set()
        for experiment in wanted:
            for command in commands(experiment, flags):
                print(f"{experiment.name}: {shlex.join(command)}", flush=True)
            if not chosen.dry_run:
                run(experiment, flags, chosen.results, done)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    except subprocess.CalledProcessError as error:
        parser.exit(error.returncode, f"error: failed: {shlex.join(error.cmd)}\n")


def named(name: str) -> Experiment:
    """An experiment, with another config of the same after ``=``.

    >>> named("omniglot_5way_1shot=omniglot_5way_1shot_short").config
    'omniglot_5way_1shot_short'

    Raises:
        ValueError: if there is no such experiment.
    """
    name, _, config = name.partition("=")
    if name not in EXPERIMENTS:
        raise ValueError(f"EXPERIMENT must be one of {', '.join(EXPERIMENTS)}, got {name!r}.")
    experiment = EXPERIMENTS[name]
    return replace(experiment, config=config) if config else experiment


def run(experiment: Experiment, flags: Flags, results: Path, done: set[str]) -> None:
    """Fit and test, and keep the result. A run that is finished already ends at once.

    A fit in `done`, which several experiments may share, is not called again.

    Raises:
        subprocess.CalledProcessError: if a command fails.
        ValueError: if the test names no result file.
    """
    *fits, test = commands(experiment, flags)
    for command in fits:
        if (fit := shlex.join(command)) not in done:
            subprocess.run(_resumed(command, experiment.config), check=True)
            done.add(fit)
    keep(result_of(test), results / experiment.name)


def result_of(test: Command) -> Path:
    """Run a test, showing what it prints; the result file that it names.

    Raises:
        subprocess.CalledProcessError: if it fails.
        ValueError: if it names none.
    """
    found = None
    for line in lines_of(test):
        print(line, end="", flush=True)
        found = RESULT_LINE.match(line) or found
    if found is None:
        raise ValueError(f"No result file was named by: {shlex.join(test)}")
    return Path(found[1])


def commands(experiment: Experiment, flags: Flags) -> list[Command]:
    """Fit, unless nothing is trained, and test.

    >>> flags = Flags("data", ("--trainer.max_steps", "9"), ())
    >>> commands(EXPERIMENTS["sinusoid_maml_k5"], flags)[0]
    ['python', 'train.py', 'fit', '--config', 'configs/sinusoid.yaml', '--trainer.max_steps', '9']
    """
    split = [shlex.split(command) for command in experiment.commands]
    *fits, test = [[flags.data if word == "DATA" else word for word in words] for words in split]
    return [*([*fit, *flags.fit] for fit in fits), [*test, *flags.test]]


def keep(result: Path, folder: Path) -> None:
    """Copy a result, and the fits beside it, under the names of a first one."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(result, folder / "test_result.json")
    fits = result.with_name(result.stem + FITS_ENDING)
    if fits.exists():
        shutil.copyfile(fits, folder / f"test_result{FITS_ENDING}")


def _resumed(fit: Command, config: str) -> Command:
    """The command as it is, or to go on where a run of the config is."""
    there = any(Path("runs", config).glob("version_*/checkpoints/*.ckpt"))
    return [sys.executable, *fit[1:], *(["--ckpt_path", "last"] if there else [])]


def lines_of(command: Command, stderr: int | None = None) -> Iterator[str]:
    """What it prints, line by line; `stderr` is as for `subprocess.Popen`.

    Raises:
        subprocess.CalledProcessError: at its end, if it fails.
    """
    command = [sys.executable, *command[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightning_maml.paper.reproduce",
        description="Train and test what the results at hand lack, and keep the results.",
    )
    parser.add_argument(
        "experiment", nargs="*", metavar="EXPERIMENT",
        help="e.g. mini_5shot, or omniglot_5way_1shot=omniglot_5way_1shot_short to take another "
        "config; without any: all that have no result of their own",
    )  # fmt: skip
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="where results are, and go"
    )
    parser.add_argument("--data", default="data", help="folder of the images (default: data)")
    parser.add_argument("--fit", default="", metavar="FLAGS", help="more for each fit, quoted")
    parser.add_argument("--test", default="", metavar="FLAGS", help="more for each test, quoted")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    return parser


if __name__ == "__main__":
    main()
