"""Breaks the code on purpose, one patch at a time, and sees whether the named test fails.

python -m tests.mutations.run                  # all patches
python -m tests.mutations.run sum_over_tasks   # some
python -m tests.mutations.run --list

Each patch says what it breaks and which test must notice (`Test:`). All is done in a copy of the
working tree. The exit code is 1 if a fault was not noticed, or a test fails without one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = ("lightning_maml", "datamodules", "tests", "benchmarks", "configs", "docs")
FILES = ("train.py", "pyproject.toml")
FAILED = 1  # pytest's exit code for tests that ran and failed; others mean that none ran


class Mutation(NamedTuple):
    """A fault, and the test that must see it."""

    name: str
    what: str
    test: str
    patch: Path


def mutations() -> list[Mutation]:
    """Those of the patches in this folder, by name.

    Raises:
        ValueError: naming the patch, if its head lacks what it breaks or its test.
    """
    found = []
    for path in sorted(HERE.glob("*.patch")):
        head = re.match(r"(.+)\n\nTest: (\S.*)\n\n--- a/", path.read_text(encoding="utf-8"))
        if head is None:
            raise ValueError(f"{path} must begin with what it breaks and `Test: ` of one test.")
        found.append(Mutation(path.stem, head[1], head[2], path))
    return found


def applies(mutation: Mutation, folder: Path, *flags: str) -> bool:
    """Apply the patch in `folder`; whether it fits."""
    command = ["git", "apply", *flags, str(mutation.patch)]
    # Outside of a repository, so that git changes the files of `folder` and nothing else.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(command, cwd=folder, env=environment).returncode == 0


def fails(tests: list[str], folder: Path) -> bool:
    """Whether one of `tests` fails in `folder`.

    Raises:
        RuntimeError: if none ran.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, FAILED):
        raise RuntimeError(f"{tests} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == FAILED


def main(args: list[str] | None = None) -> int:
    """Run the patches, print which test noticed each; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of patches; by default all")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    given = parser.parse_args(args)
    chosen = [one for one in mutations() if not given.names or one.name in given.names]
    if given.list:
        print(*(f"{one.name}: {one.what} ({one.test})" for one in chosen), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "copy"
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name)
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        if fails([one.test for one in chosen], folder):
            print("A test fails without a fault; nothing is known of the others.")
            return 1
        unnoticed = [one for one in chosen if not _noticed(one, folder)]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults were noticed.")
    return int(bool(unnoticed))


def _noticed(mutation: Mutation, folder: Path) -> bool:
    start = time.perf_counter()
    if not applies(mutation, folder):
        raise RuntimeError(f"{mutation.patch} does not fit the code any more.")
    noticed = fails([mutation.test], folder)
    applies(mutation, folder, "--reverse")
    says = "noticed by" if noticed else "NOT NOTICED by"
    seconds = time.perf_counter() - start
    print(f"{mutation.name}: {says} {mutation.test} ({seconds:.0f} s)", flush=True)
    return noticed


if __name__ == "__main__":
    sys.exit(main())
