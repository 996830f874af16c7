"""docs/your_own_data.md keeps its word: its files and commands run in order, in one folder."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import train
from tests.run.conftest import result_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_own_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# A user's script may warn: of a loader without workers, of a folder that is there, and so on.
pytestmark = pytest.mark.filterwarnings("default")


def test_every_block_runs(tmp_path, monkeypatch) -> None:
    """Scripts and commands, in the order of the page, with nothing but what it made itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    scripts = commands = 0
    for kind, text in BLOCKS:
        if name := re.match(r"# (\S+\.\w+)\n", text):
            Path(name[1]).write_text(text, encoding="utf-8")
        if kind == "python":
            runpy.run_path(name[1], run_name="__main__")
            scripts += 1
        for line in [] if kind else text.splitlines():
            program, *args = shlex.split(line)
            assert program == "lightning-maml"
            if "other_photos" in args:
                shutil.copytree("photos", "other_photos")
            train.main([*args, "--trainer.enable_progress_bar=false"])
            commands += 1
    assert (scripts, commands) == (5, 6)
    assert "waves" in sys.modules
    first, other = (result_of(tmp_path / f"runs/photos/version_{number}") for number in (1, 4))
    assert first["mean"][-1] > first["mean"][0] + 0.2  # it learned to learn
    assert other["data"]["init_args"]["root"] == "other_photos"
    assert Path(other["checkpoint"]).parts[:3] == ("runs", "photos", "version_3")


def test_the_table_of_configs_is_what_the_configs_say() -> None:
    """Each config's data set, and as many classes as its lists or fractions come to."""
    rows = re.findall(r"^\| (`.*?) \| (\S+) \| (\d+), (\d+) and (\d+),", PAGE, re.MULTILINE)
    seen = []
    for names, data, *sizes in rows:
        for name in re.findall(r"`(\w+)\.yaml`", names):
            settings = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())["data"]
            settings = settings["init_args"]
            total = sum(map(int, sizes))
            split = settings.get("classes") or settings["fractions"]
            if isinstance(split, dict):
                assert [len(several) for several in split.values()] == [int(n) for n in sizes]
            else:
                assert all(abs(f * total - int(n)) < 1 for f, n in zip(split, sizes, strict=True))
            assert settings["dataset"] == data.replace("-", "")
            seen.append(name)
    assert len(seen) == 8


def test_what_it_names_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert all((ROOT / "docs" / link).exists() for link in links)
