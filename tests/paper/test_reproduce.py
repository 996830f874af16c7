"""Running what results lack: real runs of a few updates, in a folder of their own."""

import json
from pathlib import Path

import pytest

from lightning_maml.paper.book import sort_results
from lightning_maml.paper.cells import EXPERIMENTS
from lightning_maml.paper.reproduce import main
from lightning_maml.paper.results import read_results

ROOT = Path(__file__).parents[2]
SHORT = (
    "--trainer.max_steps 4 --trainer.check_val_every_n_epoch 1 --data.train_batches_per_epoch 2 "
    "--data.val_tasks 4 --model.compile false"
)


def stopped(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.slow
def test_runs_are_made_resumed_and_kept(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "configs"):
        Path(name).symlink_to(ROOT / name)
    few = ["--results", "kept", "--fit", SHORT, "--test", "--data.test_tasks 8"]
    main(["sinusoid_maml_k5", *few])
    book = sort_results(read_results(Path("kept")))
    (chosen,) = book.chosen.values()
    assert (chosen.experiment.name, chosen.first.tasks) == ("sinusoid_maml_k5", 8)
    assert chosen.first.meta_updates == 4
    assert json.loads(chosen.first.fits.read_text())
    assert len(book.missing(EXPERIMENTS)) == len(EXPERIMENTS) - 1

    # Another test of the same run: nothing is trained anew. What fails ends it.
    weights = next(Path("runs").rglob("last.ckpt")).stat().st_mtime_ns
    few[-1] = "--data.test_tasks 0"
    capfd.readouterr()
    assert stopped("sinusoid_maml_k10", *few) != 0
    said = capfd.readouterr()
    assert "--data.test_tasks 0" in said.err.partition("error: failed: ")[2]
    assert max(p.stat().st_mtime_ns for p in Path("runs").rglob("*.ckpt")) == weights
    assert len(list(Path("kept").iterdir())) == 1


def test_without_names_all_that_is_missing_is_listed(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    main(["--results", "docs/results", "--dry-run", "--data", "images"])
    listed = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    missing = sort_results(read_results(Path("docs/results"))).missing(EXPERIMENTS)
    assert list(dict.fromkeys(listed)) == [one.name for one in missing]
    main(["mini_1shot=mini_1shot_of_mine", "--results", str(tmp_path / "none"), "--dry-run"])
    fit, test = capsys.readouterr().out.splitlines()
    assert "fit --config configs/mini_1shot_of_mine.yaml --data.root data" in fit
    assert "test --config configs/mini_1shot_of_mine.yaml --data.root data" in test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["mini_2shot"], "EXPERIMENT must be one of sinusoid"), ([], "Run it where train.py is")],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert stopped(*arguments, "--results", "none", "--dry-run") == 2
    assert message in capsys.readouterr().err
