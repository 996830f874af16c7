"""benchmarks/speedrun.py: a real fit that ends where it should, and what is written of it."""

import json
import sys
from pathlib import Path

import pytest

import speedrun
from lightning_maml.paper.cells import EXPERIMENTS
from speedrun import COURSES, Course

ROOT = Path(__file__).parents[2]
FEW = ["--trainer.max_steps=6", "--data.train_batches_per_epoch=2", "--data.val_tasks=4",
       "--data.test_tasks=8"]  # fmt: skip


def tried(*arguments: str) -> list[dict]:
    """The attempts on record after one with these arguments."""
    before, sys.argv = sys.argv, ["speedrun.py", "omniglot_5way_1shot", *arguments, *FEW]
    try:
        speedrun.main()
    finally:
        sys.argv = before
    return json.loads(Path("runs/speedrun.json").read_text())


@pytest.fixture
def short_course(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "configs"):
        Path(name).symlink_to(ROOT / name)
    monkeypatch.setitem(COURSES, "omniglot_5way_1shot", Course("glyphs_5way_1shot", 0.987))


@pytest.mark.slow
def test_a_fit_ends_at_the_target_and_each_attempt_is_kept(short_course, capfd) -> None:
    (easy,) = tried("--target", "0.001", "--note", "anything will do")
    assert easy["reached"]
    assert easy["result"]["meta_updates"] == 2  # the first validation
    assert easy["fit_s"] > 0 < easy["test_s"]

    first, hard = tried("--target", "0.999")
    assert first == easy
    assert not hard["reached"]
    assert hard["result"]["tasks"] == 8
    rows = Path("runs/speedrun.md").read_text().splitlines()[-2:]
    assert "| anything will do |" in rows[0]
    assert [row.split(" | ")[5] for row in rows] == ["yes", "no"]
    assert all("`--trainer.max_steps=6" in row and "(8 tasks)" in row for row in rows)


def test_a_fit_that_fails_leaves_no_attempt(short_course, capfd) -> None:
    with pytest.raises(SystemExit) as stop:
        tried("--model.inner_lr=-1")
    assert stop.value.code != 0
    # Named is the fit: the test after it might find another run's checkpoint.
    assert "train.py fit" in capfd.readouterr().err.partition("error: failed: ")[2]
    assert not Path("runs/speedrun.json").exists()


def test_targets_are_those_of_the_paper() -> None:
    assert set(COURSES) <= set(EXPERIMENTS)
    assert [course.target for course in COURSES.values()] == [0.987, 0.6311, 0.487]
