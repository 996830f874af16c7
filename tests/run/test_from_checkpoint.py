"""`validate`, `test`, `predict`, `fit` with --ckpt_path: what comes from where, what is refused."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torch.func import functional_call

import train
from datamodules import ImageFolder, Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.fingerprint import fingerprint, task_digests
from lightning_maml.inner_rules import Clipped, Momentum
from lightning_maml.run.from_checkpoint import find_checkpoint
from lightning_maml.task_curve import EvalResult, summarize
from tests.run.conftest import CONFIG, QUIET, TRAINER, result_of

# Lightning says so whenever a run goes on in a new folder; what is best starts anew there.
NEW_FOLDER = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def expected(checkpoint: Path, data: Sinusoid, split: str = "test") -> EvalResult:
    """Results computed without a Trainer."""
    learner = MetaLearner.load_from_checkpoint(checkpoint, weights_only=True)
    loader = data.test_dataloader() if split == "test" else data.val_dataloader()
    results = [learner.evaluate(episode) for episode in loader]
    return EvalResult(*(torch.cat(parts, dim=1) for parts in zip(*results, strict=True)))


def data_of(checkpoint: Path, **changes: object) -> Sinusoid:
    hparams = torch.load(checkpoint, weights_only=True)["datamodule_hyper_parameters"]
    settings = {name: v for name, v in hparams.items() if not name.startswith("_")}
    return Sinusoid(**(settings | changes))


def test_checkpoint_holds_plain_settings(trained) -> None:
    checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
    for key, class_path in {
        "hyper_parameters": "lightning_maml.MetaLearner",
        "datamodule_hyper_parameters": "datamodules.Sinusoid",
    }.items():
        settings = json.loads(json.dumps(checkpoint[key], allow_nan=False))
        assert settings["_class_path"] == class_path
        assert settings["_instantiator"] == "lightning.pytorch.cli.instantiate_module"


def test_test_alone(trained, tmp_path, capsys) -> None:
    train.main(["test", "--ckpt_path", str(trained / "last.ckpt"), *QUIET])
    result = result_of(tmp_path)
    summary = summarize(expected(trained / "last.ckpt", data_of(trained / "last.ckpt")))
    assert result["mean"] == pytest.approx(summary.mean.tolist(), rel=1e-6)
    assert result["tasks"] == 7
    assert result["checkpoint"] == str(trained / "last.ckpt")
    assert result["meta_updates"] == 4
    path = Path("runs", "small", "version_0", "test_result.json")
    said = capsys.readouterr().out.splitlines()
    assert f"result file: {path}" in said
    assert not any("DataLoader" in line for line in said)  # one table, not Lightning's as well
    assert path.is_file()
    assert [place.name for place in tmp_path.iterdir()] == ["runs"]


def test_validate_alone(trained, tmp_path, capsys) -> None:
    train.main(["validate", "--ckpt_path", str(trained / "last.ckpt"), *QUIET])
    (path,) = tmp_path.rglob("metrics.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    want = expected(trained / "last.ckpt", data_of(trained / "last.ckpt"), "val").metric.mean(1)
    assert float(row["val/mse"]) == pytest.approx(want[-1].item(), rel=1e-6)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "mse over 5 val tasks, after each number of inner steps"
    assert [float(line.split()[1]) for line in rows] == pytest.approx(want.tolist(), abs=6e-5)


def test_predict_alone(trained, tmp_path) -> None:
    train.main(["predict", "--ckpt_path", str(trained / "last.ckpt"), *QUIET])
    (path,) = tmp_path.rglob("predictions.pt")
    saved = torch.load(path, weights_only=True)
    assert saved["output"].shape == saved["target"].shape == (7, 6, 1)
    learner = MetaLearner.load_from_checkpoint(trained / "last.ckpt", weights_only=True)
    episode = next(iter(data_of(trained / "last.ckpt").test_dataloader()))
    adapted = learner.adapt(episode.support_x[1], episode.support_y[1], inner_steps=2)
    want = functional_call(learner.model, adapted, (episode.query_x[1],))
    torch.testing.assert_close(saved["output"][1], want.detach())
    assert torch.equal(saved["target"][1], episode.query_y[1])


@pytest.mark.parametrize("with_config", [False, True], ids=["checkpoint alone", "with config"])
def test_number_of_shots_may_change(trained, config, tmp_path, with_config) -> None:
    files = [f"--config={config}"] if with_config else []
    train.main(["test", *files, f"--ckpt_path={trained / 'last.ckpt'}", "--data.k_shot=5", *QUIET])
    result = result_of(tmp_path)
    data = data_of(trained / "last.ckpt", k_shot=5)
    digests = torch.cat([task_digests(episode) for episode in data.test_dataloader()])
    assert result["fingerprint"] == fingerprint(digests)
    assert result["data"]["init_args"]["k_shot"] == 5
    assert result["data"]["init_args"]["seed"] == 3
    want = summarize(expected(trained / "last.ckpt", data)).mean.tolist()
    assert result["mean"] == pytest.approx(want, rel=1e-6)


def test_data_of_a_config_replaces_that_of_the_checkpoint(trained, tmp_path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text("data: {class_path: datamodules.Sinusoid, init_args: {test_tasks: 9}}")
    train.main(["test", f"--ckpt_path={trained / 'last.ckpt'}", f"--config={file}", *QUIET])
    result = result_of(tmp_path)
    assert result["tasks"] == 9
    assert result["data"]["init_args"]["seed"] == 0


OTHER_DATA = """
model:
  class_path: lightning_maml.MetaLearner
  init_args:
    model:
      class_path: lightning_maml.models.Conv4
      init_args: {n_way: 3, channels: 4, image_size: 28}
    loss: cross_entropy
    inner_lr: 0.1
data:
  class_path: datamodules.Glyphs
  init_args:
    n_way: 3
    k_shot: 2
    query_shot: [1, 2]
    eval_query_shot: 4
    characters: [10, 5, 5]
    drawings: 6
    meta_batch_size: 2
    train_batches_per_epoch: 1
    val_tasks: 2
    seed: 3
"""


def test_a_flag_names_other_data_which_keeps_the_size_of_the_tasks(tmp_path) -> None:
    """Trained on generated characters, tested on a folder of images."""
    rng = np.random.default_rng(0)
    for number in range(4):
        (tmp_path / "photos" / f"kind{number}").mkdir(parents=True)
        for i in range(7):
            image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            image.save(tmp_path / "photos" / f"kind{number}" / f"{i}.png")
    Path("other.yaml").write_text(
        OTHER_DATA + TRAINER.replace("callbacks:", "limit_val_batches: 0")
    )
    train.main(["fit", "--config=other.yaml", "--trainer.max_steps=1"])
    checkpoint = next(Path("runs").rglob("*.ckpt"))
    flags = ["--data=ImageFolder", "--data.root=photos", "--data.fractions=[0, 0, 1]"]
    flags += ["--data.image_size=28", "--data.channels=1", "--data.test_tasks=5"]
    train.main(["test", f"--ckpt_path={checkpoint}", *flags, *QUIET])
    result = result_of(tmp_path)
    settings = result["data"]["init_args"]
    assert result["data"]["class_path"].endswith("ImageFolder")
    kept = {"n_way": 3, "k_shot": 2, "query_shot": [1, 2], "eval_query_shot": 4}
    assert {key: settings[key] for key in kept} == kept
    assert (settings["root"], settings["seed"], settings["test_tasks"]) == ("photos", 0, 5)
    learner = MetaLearner.load_from_checkpoint(checkpoint, weights_only=True)
    data = ImageFolder("photos", 3, 2, fractions=(0, 0, 1), eval_query_shot=4, test_tasks=5,
                       image_size=28, channels=1)  # fmt: skip
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    means = torch.cat([learner.evaluate(batch).metric[-1] for batch in batches])
    assert result["mean"][-1] == pytest.approx(means.mean().item(), abs=1e-6)


def test_a_config_sets_an_inner_rule_which_the_checkpoint_keeps(tmp_path) -> None:
    rules = "lightning_maml.inner_rules"
    inner = {"class_path": f"{rules}.Momentum", "init_args": {"momentum": 0.5}}
    rule = {"class_path": f"{rules}.Clipped", "init_args": {"norm": 0.5, "rule": inner}}
    Path("small.yaml").write_text(CONFIG)
    train.main(["fit", "--config=small.yaml", f"--model.inner_rule={json.dumps(rule)}"])
    checkpoint = next(Path("runs").rglob("last.ckpt"))
    train.main(["test", f"--ckpt_path={checkpoint}", *QUIET])
    result = result_of(tmp_path)
    assert result["model"]["init_args"]["inner_rule"] == rule
    data = data_of(checkpoint)
    learner = MetaLearner.load_from_checkpoint(checkpoint, weights_only=True)
    of_hand = MetaLearner(
        learner.model,
        loss="mse",
        inner_lr=0.02,
        eval_inner_steps=2,
        inner_rule=Clipped(0.5, Momentum(0.5)),
    )
    means = [float(of_hand.evaluate(e).metric[2].sum()) for e in data.test_dataloader()]
    assert result["mean"][2] == pytest.approx(sum(means) / 7, rel=1e-5)


def test_free_settings_may_change(trained, tmp_path) -> None:
    free = ["--model.eval_inner_steps=1", "--model.tasks_at_once=2", "--trainer.precision=64-true"]
    train.main(
        ["test", f"--ckpt_path={trained / 'last.ckpt'}", "--model.compile=false", *free, *QUIET]
    )
    result = result_of(tmp_path)
    assert result["steps"] == [0, 1]
    assert result["model"]["init_args"]["tasks_at_once"] == 2
    assert result["device"]["precision"] == "64-true"
    want = summarize(expected(trained / "last.ckpt", data_of(trained / "last.ckpt")))
    assert result["mean"] == pytest.approx(want.mean[:2].tolist(), rel=1e-5)


CONTRADICTIONS = {
    "number": (["--model.inner_lr=0.5"], "`model.init_args.inner_lr` must be 0.02", "got 0.5."),
    "default of the class": (
        ["--model.inner_lr=0.01"],
        "`model.init_args.inner_lr` must be 0.02",
        "got 0.01.",
    ),
    "list": (
        ["--model.adapts=[head.*]"],
        '`model.init_args.adapts` must be ["*"]',
        'got ["head.*"].',
    ),
    "network": (
        ["--model.model.init_args.hidden=[9]"],
        "`model.init_args.model.init_args.hidden` must be [8]",
        "got [9].",
    ),
    "class": (
        ["--model.model=lightning_maml.models.OmniglotDense", "--model.model.n_way=5"],
        '`model.init_args.model.class_path` must be "lightning_maml.models.MLP"',
        'got "lightning_maml.models.OmniglotDense".',
    ),
}


# One check is for all commands.
REFUSED = {name: ("test", *row) for name, row in CONTRADICTIONS.items()}
REFUSED |= {name: (name, *CONTRADICTIONS["number"]) for name in ("fit", "validate", "predict")}


@pytest.mark.parametrize(("command", "flags", "saved", "got"), REFUSED.values(), ids=REFUSED)
def test_contradicted_settings_are_refused(trained, tmp_path, refused, command, flags, saved, got):
    end = refused(command, "--ckpt_path", trained / "last.ckpt", *flags, *QUIET)
    assert end.code == 2
    assert end.message.startswith(f"error: {saved} as in the checkpoint, {got}")
    assert str(trained / "last.ckpt") in end.message
    assert end.message.count("must be") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["fit", "test"])
def test_contradictions_in_a_config_are_refused_each_by_name(trained, config, refused, command):
    file = Path("other.yaml")
    text = config.read_text(encoding="utf-8")
    file.write_text(text.replace("0.02", "0.3").replace("[8]", "[7]"), encoding="utf-8")
    end = refused(command, "--config", file, "--ckpt_path", trained / "last.ckpt")
    assert "`model.init_args.inner_lr` must be 0.02 as in the checkpoint, got 0.3." in end.message
    assert "`model.init_args.model.init_args.hidden` must be [8]" in end.message
    assert end.message.count("must be") == 2


def test_what_a_config_leaves_out_contradicts_nothing(trained, tmp_path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(
        "model:\n  class_path: lightning_maml.MetaLearner\n  init_args:\n    eval_inner_steps: 3\n"
        "    model: {class_path: lightning_maml.models.MLP}\n"
    )
    train.main(["test", f"--config={file}", f"--ckpt_path={trained / 'last.ckpt'}", *QUIET])
    result = result_of(tmp_path)
    assert result["steps"] == [0, 1, 2, 3]
    assert result["model"]["init_args"]["inner_lr"] == 0.02


@NEW_FOLDER
def test_fit_goes_on_and_free_settings_win(trained, config, tmp_path) -> None:
    more = ["--trainer.max_steps=6", "--model.eval_inner_steps=4"]
    train.main(["fit", f"--config={config}", f"--ckpt_path={trained / 'last.ckpt'}", *more])
    checkpoint = torch.load(
        tmp_path / "runs/small/version_0/checkpoints/last.ckpt", weights_only=True
    )
    assert checkpoint["global_step"] == 6
    assert checkpoint["hyper_parameters"]["eval_inner_steps"] == 4
    # What a run without a break gives.
    (tmp_path / "whole").mkdir()
    train.main(
        ["fit", f"--config={config}", "--trainer.max_steps=6", "--trainer.logger.save_dir=whole"]
    )
    whole = torch.load(tmp_path / "whole/small/version_0/checkpoints/last.ckpt", weights_only=True)
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(checkpoint["state_dict"][name], value, rtol=0, atol=0)


def test_fit_from_a_checkpoint_alone(trained, tmp_path) -> None:
    flags = ["--trainer.max_steps=5", "--trainer.log_every_n_steps=1"]
    quiet = [*QUIET, "--trainer.enable_model_summary=false"]
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        train.main(["fit", f"--ckpt_path={trained / 'last.ckpt'}", *flags, *quiet])
    (path,) = tmp_path.rglob("last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 5


# -- which file --------------------------------------------------------------------------------


@pytest.fixture
def copied_run(trained, tmp_path) -> Path:
    """The run in this test's folder; its checkpoints are older than any written from now on."""
    target = tmp_path / "runs" / "small" / "version_0" / "checkpoints"
    shutil.copytree(trained, target)
    return target


@pytest.mark.parametrize("with_config", [False, True], ids=["checkpoint alone", "with config"])
@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_last_and_best_of_the_newest_run(
    copied_run, config, tmp_path, command, with_config
) -> None:
    files = [f"--config={config}"] if with_config else []
    best = next(copied_run.glob("best*.ckpt"))
    for name, want in {"last": copied_run / "last.ckpt", "best": best}.items():
        train.main([command, *files, "--ckpt_path", name, *QUIET])
        folder = max(tmp_path.glob("runs/small/*"), key=lambda place: place.stat().st_mtime_ns)
        saved = (folder / "config.yaml").read_text()
        assert f"ckpt_path: {want.relative_to(tmp_path)}\n" in saved


def test_best_is_the_best_not_the_last(tmp_path, config) -> None:
    """The error falls, so with the largest as the best it is that of the first validation."""
    file = tmp_path / "largest.yaml"
    file.write_text(
        config.read_text().replace("monitor: val/mse", "monitor: val/mse\n        mode: max")
    )
    train.main(["fit", f"--config={file}"])
    train.main(["test", f"--config={file}", "--ckpt_path=best"])
    assert result_of(tmp_path)["checkpoint"].endswith("best-step=2.ckpt")
    assert result_of(tmp_path)["meta_updates"] == 2


def test_newest_is_by_time_not_by_name(copied_run, tmp_path) -> None:
    tenth = tmp_path / "runs" / "small" / "version_10" / "checkpoints"
    shutil.copytree(copied_run, tenth)
    ninth = shutil.copytree(copied_run, tmp_path / "runs" / "small" / "version_9" / "checkpoints")
    for path in ninth.iterdir():
        os.utime(path, (1, 1))
    assert find_checkpoint("last", None) == Path("runs/small/version_10/checkpoints/last.ckpt")
    for path in [*tenth.iterdir(), *copied_run.iterdir()]:
        os.utime(path, (0, 0))
    assert find_checkpoint("last", None) == Path("runs/small/version_9/checkpoints/last.ckpt")


def test_last_is_the_one_that_goes_furthest(copied_run) -> None:
    """A run may be killed after its best checkpoint, or another, was written and before its last.

    Not one to go on from: weights alone, what is damaged, and what is newer but of fewer updates.
    """
    content = torch.load(copied_run / "last.ckpt", weights_only=True)
    place = Path("runs/small/version_0/checkpoints")
    torch.save(content | {"global_step": 3}, copied_run / "copied.ckpt")
    (copied_run / "damaged.ckpt").write_bytes(b"PK")
    weights = {key: value for key, value in content.items() if key != "optimizer_states"}
    torch.save(weights | {"global_step": 9}, copied_run / "weights.ckpt")
    assert find_checkpoint("last", None) == place / "last.ckpt"
    torch.save(content | {"global_step": 6}, copied_run / "best-step=6.ckpt")
    assert find_checkpoint("last", None) == place / "best-step=6.ckpt"


@NEW_FOLDER
def test_fit_last(copied_run, config, tmp_path) -> None:
    train.main(["fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_steps=6"])
    new = tmp_path / "runs" / "small" / "version_1" / "checkpoints" / "last.ckpt"
    assert torch.load(new, weights_only=True)["global_step"] == 6
    train.main(["fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_steps=8"])
    newer = tmp_path / "runs" / "small" / "version_2" / "checkpoints" / "last.ckpt"
    assert torch.load(newer, weights_only=True)["global_step"] == 8


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("name", ["last", "best"])
def test_nothing_there_is_said(config, tmp_path, refused, command, name) -> None:
    end = refused(command, f"--config={config}", f"--ckpt_path={name}")
    place = tmp_path / "runs" / "small"
    assert end == (2, f"error: `--ckpt_path {name}`: no checkpoint (*.ckpt) in {place}.")


@pytest.fixture
def plain(config, tmp_path) -> Path:
    """`config` without a logger and callbacks: Lightning's ModelCheckpoint comes."""
    path = tmp_path / "plain.yaml"
    path.write_text(config.read_text().partition("  logger:")[0])
    return path


@pytest.mark.parametrize("given", ["name", "class", "file", "JSON"])
def test_own_runs_are_found_however_the_data_is_given(plain, tmp_path, given) -> None:
    """Of a config that names the model only, as of one that the flag overrules."""
    (tmp_path / "data.yaml").write_text("class_path: datamodules.Sinusoid\n")
    forms = {
        "name": "Sinusoid",
        "class": "datamodules.Sinusoid",
        "file": "data.yaml",
        "JSON": '{"class_path": "datamodules.Sinusoid", "init_args": {"k_shot": 5}}',
    }
    model = tmp_path / "model.yaml"
    model.write_text(plain.read_text().partition("data:")[0])
    flags = [f"--config={model}", f"--data={forms[given]}", "--trainer.max_steps=2"]
    train.main(["fit", *flags, "--trainer.accelerator=cpu"])
    train.main(["test", *flags[:2], "--ckpt_path=last", "--trainer.accelerator=cpu"])


def test_data_that_is_no_yaml_ends_in_one_line(plain, tmp_path, refused) -> None:
    flags = [f"--config={plain}", '--data={"class_path": [']
    code, said = refused("fit", *flags, "--ckpt_path=last")
    assert code == 2
    assert said.startswith("error: `--ckpt_path last`: no checkpoint")


@pytest.mark.parametrize("flag", [[], ["--trainer.logger=false"]], ids=["none", "false"])
def test_other_configs_runs_are_named_not_taken(copied_run, plain, tmp_path, refused, flag) -> None:
    end = refused("test", f"--config={plain}", "--ckpt_path=last", *flag)
    own = tmp_path / ("checkpoints" if flag else "runs/sinusoid")
    assert end == (
        2, f"error: `--ckpt_path last`: no checkpoint (*.ckpt) in {own}; runs of other configs, if "
        "you mean one give its path: runs/small/version_0/checkpoints/last.ckpt.",
    )  # fmt: skip


@NEW_FOLDER
def test_a_finished_run_goes_on_though_another_is_newer(trained, plain, tmp_path, capfd) -> None:
    """Its last update is followed by a validation, and saved under another name as well."""
    folder = tmp_path / "runs" / "sinusoid"
    for steps, flags in {4: [], 6: ["--ckpt_path=last"]}.items():
        train.main(["fit", f"--config={plain}", f"--trainer.max_steps={steps}", *flags])
        shutil.copytree(trained, tmp_path / "runs" / "small" / f"version_{steps}" / "checkpoints")
    said = "--ckpt_path last: runs/sinusoid/version_0/checkpoints/last.ckpt"
    assert said in capfd.readouterr().err.splitlines()
    train.main(["fit", f"--config={plain}", "--trainer.max_steps=6"])
    went_on, straight = (
        torch.load(folder / f"version_{n}/checkpoints/last.ckpt", weights_only=True) for n in (1, 2)
    )
    assert went_on["global_step"] == 6
    torch.testing.assert_close(went_on["state_dict"], straight["state_dict"], rtol=0, atol=0)


def test_fit_looks_for_runs_of_the_data_that_a_flag_names(plain, tmp_path, refused) -> None:
    for command, name in {"fit": "glyphs", "test": "sinusoid"}.items():
        end = refused(command, f"--config={plain}", "--data=Glyphs", "--ckpt_path=last")
        assert end.message.endswith(f"no checkpoint (*.ckpt) in {tmp_path / 'runs' / name}.")


def test_a_run_without_a_validation_has_no_best(tmp_path, config, refused) -> None:
    state = {"ModelCheckpoint": {"monitor": "val/mse", "best_model_path": ""}}
    folder = tmp_path / "runs" / "small" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {}, "callbacks": state}, folder / "last.ckpt")
    end = refused("test", f"--config={config}", "--ckpt_path=best")
    assert end.code == 2
    assert end.message.startswith("error: `--ckpt_path best`: no best checkpoint is known in ")


def test_missing_and_foreign_files_are_named(tmp_path, refused) -> None:
    end = refused("test", "--ckpt_path=no/such.ckpt")
    assert end == (
        2, "error: `--ckpt_path` must be a file, \"last\" or \"best\", got 'no/such.ckpt', which "
        "is not there.",
    )  # fmt: skip
    Path("there.ckpt").touch()
    assert "(beside it: there.ckpt)" in refused("test", "--ckpt_path=not_there.ckpt").message
    contents = {"text": None, "dict": {"a": 1}, "weights": {"state_dict": {}}}
    for name, content in contents.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_text("no checkpoint") if content is None else torch.save(content, path)
        end = refused("test", f"--ckpt_path={path}")
        assert end.code == 2
        assert str(path) in end.message
        assert "must be a checkpoint" in end.message


def test_a_pickle_is_not_run(tmp_path, refused) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return open, (str(tmp_path / "sprung"), "w")

    torch.save({"state_dict": {}, "trap": Trap()}, tmp_path / "trap.ckpt")
    end = refused("test", f"--ckpt_path={tmp_path / 'trap.ckpt'}")
    assert "trap.ckpt" in end.message
    assert not (tmp_path / "sprung").exists()


TRAP = """
from pathlib import Path
from lightning_maml.models import MLP
Path(__file__).with_suffix(".ran").touch()
class Net(MLP): pass
loss = lambda output, target: (output - target).square().mean()
"""
NAMING = {
    "network": ("model.init_args.model.class_path", "--model.model=sprung.Net"),
    "network without `class_path`": ("model.init_args.model", "--model.model=sprung.Net"),
    "learner": ("model.class_path", "--model=sprung.Net"),
    "loss": ("model.init_args.loss", "--model.loss=sprung.loss"),
    "loss that is not there": ("model.init_args.loss", "--model.loss=sprung.no/such-loss"),
    "data": ("data.class_path", "--data=sprung.Net"),
}


@pytest.fixture
def sprung(tmp_path, monkeypatch) -> Iterator[Path]:
    """A module in the working directory; the file that is there as soon as it was imported."""
    (tmp_path / "sprung.py").write_text(TRAP, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sprung.ran"
    sys.modules.pop("sprung", None)


def saved_with(trained: Path, key: str, value: str) -> Path:
    """A checkpoint with one setting replaced; it bears the module's name."""
    content = torch.load(trained / "last.ckpt", weights_only=True)
    part, *names, last = key.replace("init_args.", "", 1).split(".")
    place = content["hyper_parameters" if part == "model" else "datamodule_hyper_parameters"]
    if not names and last == "class_path":
        last = "_class_path"
    for name in names:
        place = place[name]
    place[last] = value
    torch.save(content, "sprung.ckpt")
    return Path("sprung.ckpt")


@pytest.mark.parametrize(("key", "flag"), NAMING.values(), ids=NAMING)
def test_a_checkpoint_imports_no_module_that_the_user_did_not_name(
    trained, sprung, refused, key, flag
) -> None:
    value = flag.partition("=")[2]
    path = saved_with(trained, key, value)
    end = refused("test", f"--ckpt_path={path}", *QUIET)
    assert end.code == 2
    assert f"would import {value!r} (`{key}`)" in end.message
    assert end.message.endswith(f"give its `--config`, or `{flag}`.")
    assert not sprung.exists()


@pytest.mark.parametrize("by", ["flag", "flag and value", "config"])
def test_what_the_user_names_is_imported(trained, config, sprung, tmp_path, by) -> None:
    path = saved_with(trained, "model.init_args.model.class_path", "sprung.Net")
    file = tmp_path / "own.yaml"
    file.write_text(config.read_text("utf-8").replace("lightning_maml.models.MLP", "sprung.Net"))
    naming = {
        "flag": ["--model.model=sprung.Net"],
        "flag and value": ["--model.model", "sprung.Net"],
        "config": [f"--config={file}"],
    }
    train.main(["test", f"--ckpt_path={path}", *naming[by], *QUIET])
    assert sprung.exists()
    network = result_of(tmp_path)["model"]["init_args"]["model"]
    assert network["class_path"] == "sprung.Net"
    assert network["init_args"]["hidden"] == [8]


# -- learners made in Python -------------------------------------------------------------------


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))


def save_from_python(folder: Path, **settings: object) -> tuple[Path, MetaLearner]:
    learner = MetaLearner(small_net(), inner_lr=0.03, inner_steps=2, **settings)  # type: ignore[arg-type]
    trainer = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(learner, datamodule=Sinusoid(train_batches_per_epoch=1))
    trainer.save_checkpoint(folder / "python.ckpt")
    return folder / "python.ckpt", learner


def test_load_needs_nothing_for_learners_of_the_command_line(trained) -> None:
    learner = MetaLearner.load_from_checkpoint(trained / "last.ckpt", weights_only=True)
    checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
    assert learner.inner_loop.step_sizes.inner_lr == 0.02
    assert learner.eval_inner_steps == 2
    for name, value in learner.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])


def test_load_needs_the_model_for_learners_made_in_python(tmp_path) -> None:
    path, learner = save_from_python(tmp_path, loss=nn.functional.mse_loss)
    again = MetaLearner.load_from_checkpoint(path, model=small_net(), weights_only=True)
    assert again.inner_loop == learner.inner_loop
    assert again.loss is nn.functional.mse_loss
    episode = next(iter(Sinusoid().test_dataloader()))
    torch.testing.assert_close(again.evaluate(episode), learner.evaluate(episode))


def test_load_needs_the_loss_only_if_it_has_no_name(tmp_path) -> None:
    loss = lambda output, target: (output - target).abs().mean()  # noqa: E731
    path, learner = save_from_python(tmp_path, loss=loss)
    again = MetaLearner.load_from_checkpoint(path, model=small_net(), loss=loss, weights_only=True)
    episode = next(iter(Sinusoid().test_dataloader()))
    torch.testing.assert_close(again.evaluate(episode), learner.evaluate(episode))


def test_command_line_needs_the_model_of_a_learner_made_in_python(tmp_path, refused) -> None:
    path, learner = save_from_python(tmp_path, loss=nn.functional.mse_loss)
    end = refused("test", f"--ckpt_path={path}")
    assert f"{path} was made in Python" in end.message
    file = tmp_path / "model.yaml"
    file.write_text(
        "model:\n  class_path: lightning_maml.MetaLearner\n  init_args:\n"
        "    model: {class_path: tests.run.test_from_checkpoint.SmallNet}\n"
        "data: {class_path: datamodules.Sinusoid, init_args: {test_tasks: 4}}\n"
    )
    end = refused("test", f"--config={file}", f"--ckpt_path={path}", "--model.inner_lr=0.5")
    assert "`model.init_args.inner_lr` must be 0.03" in end.message
    train.main(["test", f"--config={file}", f"--ckpt_path={path}", *QUIET])
    episode = next(iter(Sinusoid(test_tasks=4).test_dataloader()))
    want = learner.evaluate(episode).metric.mean(dim=1).tolist()
    assert result_of(tmp_path)["mean"] == pytest.approx(want, rel=1e-6)


class SmallNet(nn.Sequential):
    """`small_net` as a class, with the same names of parameters."""

    def __init__(self) -> None:
        super().__init__(*small_net())


def test_logger_given_as_a_list(copied_run, tmp_path) -> None:
    file = tmp_path / "logger.yaml"
    file.write_text(
        "trainer:\n  logger:\n    - class_path: lightning.pytorch.loggers.CSVLogger\n"
        "      init_args: {save_dir: runs, name: small}\n"
    )
    train.main(["test", f"--config={file}", "--ckpt_path=last", *QUIET])
    assert CSVLogger("runs", "small").version == 2
