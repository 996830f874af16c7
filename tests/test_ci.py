"""What is run on other machines: the workflow, the versions, and what a fresh clone must pass."""

import re
from pathlib import Path

import pytest
import yaml

from tests.versions import ROOT as OF_VERSIONS
from tests.versions import TESTS, lowest, name_of, requirements

ROOT = Path(__file__).parents[1]
CHECKS = ("ruff check .", "ruff format --check .", "mypy", "pytest -n auto")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
# As GitHub's page "Workflow syntax" has them; those that we use or may come to use.
OF_JOBS = {"strategy", "runs-on", "timeout-minutes", "defaults", "steps", "if", "needs", "env"}
OF_STEPS = {"name", "uses", "with", "run", "if", "env", "shell"}
SYSTEMS = {"ubuntu-latest", "macos-latest", "windows-latest", "${{ matrix.os }}"}


@pytest.mark.parametrize("name", WORKFLOW["jobs"])
def test_the_jobs_are_well_formed(name) -> None:
    """The part of `actionlint` that needs no program."""
    job = WORKFLOW["jobs"][name]
    assert re.fullmatch(r"[a-z_][a-z0-9_-]*", name)
    assert job.keys() <= OF_JOBS
    assert job["runs-on"] in SYSTEMS
    assert 0 < job["timeout-minutes"] <= 360
    matrix = job.get("strategy", {}).get("matrix", {})
    assert set(re.findall(r"\$\{\{ matrix\.(\w+) \}\}", str(job))) == set(matrix)
    for step in job["steps"]:
        assert step.keys() <= OF_STEPS
        assert len(step.keys() & {"uses", "run"}) == 1
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", step.get("uses", "a/b@v1"))


def test_packages_are_audited_and_the_workflow_is_linted() -> None:
    commands = {step.get("run") for job in WORKFLOW["jobs"].values() for step in job["steps"]}
    assert {"pip-audit --skip-editable", "actionlint"} <= commands


def test_ci_does_the_checks_on_three_systems() -> None:
    """The same as `.ci/run`."""
    job = WORKFLOW["jobs"]["tests"]
    systems = {system.partition("-")[0] for system in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["pip install -e '.[dev]'", *CHECKS]
    fresh_clone = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert " && ".join(CHECKS[:3]) in fresh_clone


def test_versions_are_those_of_the_project() -> None:
    """Every requirement has a lower bound, and every test that is run is there."""
    assert OF_VERSIONS == ROOT
    pinned = [lowest(needs) for needs in requirements()]
    assert {"torch", "lightning", "numpy", "pytest", "mujoco"} <= {name_of(one) for one in pinned}
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?==\d+(\.\d+)*", one) for one in pinned)
    assert all((ROOT / "tests" / name).exists() for name in TESTS)
    job = WORKFLOW["jobs"]["versions"]
    assert job["strategy"]["matrix"]["which"] == ["lowest", "newest"]
    assert job["steps"][-1]["run"] == "python -m tests.versions ${{ matrix.which }}"
