"""Tests with the lowest, or the newest, versions of what pyproject.toml depends on.

python -m tests.versions lowest

makes a virtual environment, in it installs them as `pip` finds them, and runs `TESTS`.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = {"ruff", "mypy", "types-PyYAML", "types-tqdm"}  # of the extra `dev`, but of no test
TESTS = (
    "test_scalar_case.py", "test_meta_gradient.py", "test_inner_rules.py", "test_meta_learner.py",
    "test_runs.py", "models", "datamodules", "search", "run/test_cli.py", "run/test_answers.py",
    "run/test_result_file.py", "rl/test_meta_policy.py", "rl/test_trpo.py",
)  # fmt: skip


def requirements() -> list[str]:
    """What the package and its tests need, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [needs for needs in every if needs not in TOOLS and name_of(needs) not in TOOLS]


def name_of(requirement: str) -> str:
    """Its package."""
    found = re.match(r"[\w-]+", requirement)
    assert found is not None
    return found[0]


def lowest(requirement: str) -> str:
    """The same of its lower bound alone.

    >>> lowest("jsonargparse[signatures]>=4.52,<5")
    'jsonargparse[signatures]==4.52'
    """
    found = re.match(r"([\w\[\]-]+)>=([\d.]+)", requirement)
    assert found is not None, f"{requirement} has no lower bound"
    return f"{found[1]}=={found[2]}"


def main(args: list[str] | None = None) -> int:
    """Install, say what, test; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("which", choices=["lowest", "newest"])
    which = parser.parse_args(args).which
    wanted = requirements()
    if which == "lowest":
        wanted = [lowest(needs) for needs in wanted]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        scripts = Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        tests = [f"tests/{name}" for name in TESTS]
        # What old versions warn of is not ours to mend.
        warnings = ["-W", "default"] if which == "lowest" else []
        path = os.pathsep.join([str(scripts), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        quiet = ["-q", "-n", "auto", "-p", "no:cacheprovider"]
        command = [python, "-m", "pytest", *quiet, *warnings, *tests]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
