"""The result file and the table: right numbers, valid JSON, never in another's place."""

import csv
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import train
from datamodules import Sinusoid
from lightning_maml import Episode, EvalResult, MetaLearner
from lightning_maml.fingerprint import fingerprint, task_digests
from lightning_maml.run.files import write_whole
from lightning_maml.run.fits import FirstTasks, fits
from lightning_maml.run.provenance import git_state, plain, settings, versions
from lightning_maml.run.result_file import ResultFile, curve_facts, table, write_result
from lightning_maml.task_curve import summarize
from tests.run.conftest import QUIET, result_of

ROOT = Path(__file__).parents[2]
NAN, INF = float("nan"), float("inf")
# Two inner steps (rows) of four tasks; the third task diverges in the second step.
METRIC = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 1.0, NAN, 5.0]], dtype=torch.float64)
LOSS = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 1.0, INF, 5.0]], dtype=torch.float64)
DIGESTS = torch.tensor([1, -1, 2, 3])


def write(folder: Path) -> Path:
    result = EvalResult(LOSS, METRIC)
    return write_result(folder, curve_facts(summarize(result)), result, DIGESTS)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_numbers_are_those_computed_by_hand(tmp_path) -> None:
    content = read(write(tmp_path))
    assert content["steps"] == [0, 1]
    assert content["mean"] == [3.0, None]
    assert content["median"] == [2.5, 3.0]  # the diverged task counts as infinity
    assert content["diverged"] == [0, 1]
    assert content["finite_mean"] == [3.0, 2.0]
    # 1.96 sd / sqrt(tasks): squares about the mean 4 + 1 + 0 + 9 = 14 and 4 + 1 + 9 = 14.
    sd = [(14 / 3) ** 0.5, (14 / 2) ** 0.5]
    assert content["ci95"] == [pytest.approx(1.96 * sd[0] / 2), None]
    assert content["finite_ci95"] == pytest.approx([1.96 * sd[0] / 2, 1.96 * sd[1] / 3**0.5])


def test_values_of_each_task_lie_beside_it(tmp_path) -> None:
    path = write(tmp_path)
    text = (tmp_path / read(path)["per_task"]).read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["task"] for row in rows] == [
        "0000000000000001",
        "ffffffffffffffff",
        "0000000000000002",
        "0000000000000003",
    ]
    for step in range(2):
        for name, values in (("loss", LOSS), ("metric", METRIC)):
            column = torch.tensor([float(row[f"{name}_{step}"]) for row in rows])
            torch.testing.assert_close(column, values[step].float(), equal_nan=True)


def test_fits_of_the_first_tasks_lie_beside_it(tmp_path) -> None:
    """Against the learner's own adaptation, task by task."""
    learner = make_learner()
    data = Sinusoid(k_shot=5, eval_query_shot=7, test_tasks=30, eval_batch_size=8)
    make_trainer(tmp_path).test(learner, data, verbose=False)
    folder = tmp_path / "run" / "version_0"
    result = read(folder / "test_result.json")
    drawn = read(folder / result["fits"])
    assert result["fits"] == "test_result_fits.json"
    assert drawn["fingerprint"] == result["fingerprint"]
    assert drawn["steps"] == [0, 1, 2]
    assert len(drawn["tasks"]) == 20
    episode = data.samplers["test"](0, 20)
    for t, task in enumerate(drawn["tasks"]):
        x, order = episode.query_x[t].flatten().sort()
        expected = {
            "query_x": x,
            "query_y": episode.query_y[t].flatten()[order],
            "support_x": episode.support_x[t].flatten(),
            "support_y": episode.support_y[t].flatten(),
        }
        for name, values in expected.items():
            assert task[name] == pytest.approx(values.tolist(), rel=1e-5)
        for step in (0, 1, 2):
            adapted = learner.adapt(episode.support_x[t], episode.support_y[t], step)
            output = torch.func.functional_call(learner.model, adapted, (x[:, None],))
            assert task["outputs"][str(step)] == pytest.approx(output.flatten().tolist(), abs=1e-5)


def test_no_fits_where_none_can_be_drawn(tmp_path) -> None:
    assert read(write(tmp_path))["fits"] is None
    x, y, outputs = torch.zeros(3, 5, 2), torch.zeros(3, 5, 1), torch.zeros(2, 3, 5, 1)
    first = FirstTasks()
    first.add(Episode(x, y, x, y))  # two features
    first.add(Episode(x, y[..., 0].long(), x, y[..., 0].long()))  # classes
    assert first.take() is None
    assert fits(Episode(y, y, y, y), outputs.expand(2, 3, 5, 4)) is None  # four outputs


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path) -> None:
    paths = [write(tmp_path) for _ in range(3)]
    assert [path.name for path in paths] == [
        "test_result.json",
        "test_result_2.json",
        "test_result_3.json",
    ]
    (tmp_path / "test_result_4_tasks.csv").write_text("of somebody else")
    assert write(tmp_path).name == "test_result_5.json"
    assert (tmp_path / "test_result_4_tasks.csv").read_text() == "of somebody else"
    assert len(list(tmp_path.iterdir())) == 2 * 4 + 1


def test_a_failed_write_leaves_what_was_there(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def fail(file: IO[str]) -> None:
        file.write("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert [place.name for place in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def test_table_fits_a_terminal_and_says_what_diverged() -> None:
    facts = {"metric": "mse", "tasks": 4, "fingerprint": "0123456789abcdef"}
    lines = table(
        facts, summarize(EvalResult(LOSS * 1e5, METRIC * 1e5)), Path("x.json")
    ).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[:6] == ["steps", "mean", "95%", "CI", "median", "diverged"]
    assert lines[2].split()[:2] == ["0", "3e+05"]
    assert lines[3].split() == ["1", "nan", "+-", "nan", "3e+05", "1", "2e+05", "+-", "2.99e+05"]
    assert lines[4:] == ["fingerprint of the tasks: 0123456789abcdef", "result file: x.json"]
    calm = table(facts, summarize(EvalResult(LOSS[:1], METRIC[:1])), None)
    assert calm.splitlines()[1:3] == [
        "steps          mean      95% CI      median  diverged",
        "    0        3.0000   +- 2.1170      2.5000         0",
    ]
    assert "finite" not in calm


def test_plain_values_are_valid_json() -> None:
    value = {"a": (NAN, INF, 1.5), 2: {"b": Path("c")}, "f": nn.functional.relu, "m": nn.ReLU()}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "a": [None, None, 1.5],
        "2": {"b": "c"},
        "f": "torch.nn.functional.relu",
        "m": "torch.nn.modules.activation.ReLU",
    }


# -- where it comes from -----------------------------------------------------------------------


def test_git_state_of_a_checkout(tmp_path) -> None:
    def git(*args: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file, other = tmp_path / "file.py", tmp_path / "untracked.py"
    file.write_text("a = 1\n")
    other.write_text("a = 1\n")
    assert git_state(file) is None
    git("init", "-q")
    git("add", "file.py")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state(file) == {"commit": commit, "dirty": False}
    assert git_state(other) is None  # installed into an environment inside another checkout
    file.write_text("a = 2\n")
    assert git_state(file) == {"commit": commit, "dirty": True}


def test_without_git_there_is_no_commit(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__)) is None


def test_versions() -> None:
    found = versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert set(found) == {"python", "torch", "lightning", "torchmetrics", "numpy", "lightning-maml"}


def make_trainer(folder: Path, **options: object) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=CSVLogger(folder, "run"), enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def make_learner() -> MetaLearner:
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    return MetaLearner(net, loss=nn.functional.mse_loss, inner_lr=0.01, eval_inner_steps=2)


def test_result_says_where_it_comes_from(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-mine")
    monkeypatch.setattr(sys, "argv", ["train.py", "test", "--data.k_shot", "5"])
    learner, data = make_learner(), Sinusoid(k_shot=5, test_tasks=3, amplitude_range=(1.0, 2.0))
    make_trainer(tmp_path).test(learner, data, verbose=False)
    text = (tmp_path / "run" / "version_0" / "test_result.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content["model"] == {
        **settings(learner),
        "class_path": "lightning_maml.meta_learner.MetaLearner",
    }
    assert content["model"]["init_args"]["loss"] == "torch.nn.functional.mse_loss"
    assert content["data"]["class_path"] == "datamodules.sinusoid.Sinusoid"
    assert content["data"]["init_args"]["amplitude_range"] == [1.0, 2.0]
    assert content["checkpoint"] is None
    assert content["meta_updates"] == 0
    assert content["command"] == "train.py test --data.k_shot 5"
    assert content["versions"] == versions()
    assert content["git"] == git_state(ROOT / "train.py")
    assert content["device"]["type"] == "cpu"
    assert content["device"]["name"]
    assert content["device"]["precision"] == "32-true"
    assert content["device"]["processes"] == 1
    assert content["date"].endswith("+00:00")
    assert content["tasks"] == 3
    assert content["parameters"] == 4 + 4 + 4 + 1
    assert len(content["fingerprint"]) == 16
    assert "a-secret-of-mine" not in text


def test_a_result_leads_back_to_what_made_it(trained, tmp_path, monkeypatch) -> None:
    """From the file alone: the weights, the tasks, and with them the same numbers again."""
    monkeypatch.chdir(tmp_path)
    train.main(["test", f"--ckpt_path={trained / 'last.ckpt'}", "--data.seed=5", *QUIET])
    content = result_of(tmp_path)
    stored = torch.load(content["checkpoint"], weights_only=True)
    digest = hashlib.sha256()
    for name in sorted(stored["state_dict"]):
        digest.update(name.encode() + stored["state_dict"][name].numpy().tobytes())
    assert content["weights"] == digest.hexdigest()[:16]
    assert content["meta_updates"] == stored["global_step"] == 4
    assert content["training_commands"] == stored["callbacks"]["RunState"]["commands"]
    assert len(content["training_commands"]) == 1
    assert content["training_seconds"] == stored["callbacks"]["RunState"]["seconds"] > 0
    for package in ("torch", "lightning", "numpy"):
        assert content["versions"][package] == importlib.metadata.version(package)
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    assert (content["git"] or {"commit": ""})["commit"] == head

    assert content["data"]["class_path"] == "datamodules.Sinusoid"
    data = Sinusoid(**content["data"]["init_args"])
    episodes = list(data.test_dataloader())
    digests = torch.cat([task_digests(episode) for episode in episodes])
    assert content["fingerprint"] == fingerprint(digests)
    learner = MetaLearner.load_from_checkpoint(content["checkpoint"], weights_only=True)
    metric = torch.cat([learner.evaluate(episode).metric for episode in episodes], dim=1)
    assert content["mean"] == pytest.approx(metric.mean(dim=1).tolist(), rel=1e-5)


def test_second_test_in_a_folder_gets_its_own_file(tmp_path) -> None:
    trainer, learner = make_trainer(tmp_path, callbacks=[ResultFile()]), make_learner()
    paths = []
    for _ in range(2):
        trainer.test(learner, Sinusoid(test_tasks=2), verbose=False)
        (callback,) = [c for c in trainer.callbacks if isinstance(c, ResultFile)]
        paths.append(callback.path)
    assert [path.name for path in paths if path] == ["test_result.json", "test_result_2.json"]
    first, second = (read(path) for path in paths if path)
    assert first["mean"] == second["mean"]


def test_a_diverging_run_gives_a_valid_file(trained, tmp_path, monkeypatch, capsys) -> None:
    """Targets of 1e30 overflow in float32."""
    monkeypatch.chdir(tmp_path)
    huge = ["--data.amplitude_range=[1e30, 1e30]", *QUIET]
    train.main(["test", f"--ckpt_path={trained / 'last.ckpt'}", *huge])
    content = result_of(tmp_path)
    assert content["diverged"] == [7, 7, 7]
    assert content["mean"] == [None, None, None]
    assert content["finite_mean"] == [None, None, None]
    assert content["median"] == [None, None, None]
    assert "finite mean" in capsys.readouterr().out


def depth(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A metric of which more is better: the first target, where it is below 1."""
    return target[0, 0].where(target[0, 0] < 1, NAN)


depth.higher_is_better = True  # type: ignore[attr-defined]


def test_what_is_not_finite_is_the_worst_of_a_metric_of_which_more_is_better(tmp_path) -> None:
    net, data = nn.Linear(1, 1), Sinusoid(test_tasks=41)
    learner = MetaLearner(net, loss=nn.functional.mse_loss, metric=depth, eval_inner_steps=0)
    make_trainer(tmp_path).test(learner, data, verbose=False)
    firsts = [float(y[0]) for batch in data.test_dataloader() for y in batch.query_y]
    middle = sorted(first if first < 1 else -INF for first in firsts)[20]
    content = read(tmp_path / "run" / "version_0" / "test_result.json")
    assert 0 < content["diverged"][0] < 20
    assert content["median"] == [pytest.approx(middle)]


def test_fast_dev_run_writes_no_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make_trainer(tmp_path, fast_dev_run=True).test(make_learner(), Sinusoid(), verbose=False)
    assert "fingerprint" in capsys.readouterr().out
    assert not list(tmp_path.rglob("test_result*"))


def test_two_processes_write_one_file_with_the_same_result(trained, tmp_path, monkeypatch) -> None:
    """Seven tasks on two processes, in batches of four, through the script itself."""
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    command = ["test", f"--ckpt_path={trained / 'last.ckpt'}", *QUIET]
    train.main(command)
    (tmp_path / "two").mkdir()
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command, *two],
        cwd=tmp_path / "two",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result file: ") == 1
    assert done.stderr.count("Run folder: ") == 1
    one, both = result_of(tmp_path / "one"), result_of(tmp_path / "two")
    assert both["device"]["processes"] == 2
    for key in ("fingerprint", "tasks", "diverged"):
        assert both[key] == one[key]
    fits_1, fits_2 = (
        read(next(f.rglob("test_result_fits.json"))) for f in (tmp_path / "one", tmp_path / "two")
    )
    assert len(fits_1["tasks"]) == 7
    assert len(fits_2["tasks"]) == 3  # the first process's share
    assert [t["query_x"] for t in fits_2["tasks"]] == [t["query_x"] for t in fits_1["tasks"][:3]]
    assert both["mean"] == pytest.approx(one["mean"], rel=1e-6)
    assert both["ci95"] == pytest.approx(one["ci95"], rel=1e-6)
