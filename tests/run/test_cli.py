"""What the command line says, where it writes, and what it refuses."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

import train
from lightning_maml.run.cli import COMMANDS
from lightning_maml.run.console import readable_output
from tests.run.conftest import QUIET, result_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def versions_of(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_run_gets_a_folder_of_its_own(config, tmp_path, capfd) -> None:
    runs = tmp_path / "runs" / "small"
    train.main(["fit", f"--config={config}"])
    first = contents(runs)
    for command in ("fit", "test", "validate", "predict"):
        train.main([command, f"--config={config}"])
    assert versions_of(runs) == [f"version_{i}" for i in range(5)]
    assert {path: data for path, data in contents(runs).items() if path in first} == first
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("Run folder")] == [
        f"Run folder: runs/small/version_{i}" for i in range(5)
    ]


@pytest.mark.parametrize("command", ["fit", "test"])
def test_folder_of_another_run_is_refused(config, tmp_path, refused, command) -> None:
    train.main(["fit", f"--config={config}"])
    before = contents(tmp_path)
    end = refused(command, f"--config={config}", "--trainer.logger.version=0")
    assert end.code == 2
    assert "`trainer.logger` must lead to a new folder, got runs/small/version_0" in end.message
    assert contents(tmp_path) == before


def test_without_a_logger_logs_go_to_runs(trained, tmp_path) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(
        "model:\n  class_path: lightning_maml.MetaLearner\n  init_args:\n    loss: mse\n"
        "    model: {class_path: lightning_maml.models.MLP, init_args: {hidden: [4]}}\n"
        "data: {class_path: datamodules.Sinusoid, init_args: {test_tasks: 2}}\n"
    )
    train.main(["test", f"--config={file}", *QUIET])
    assert (tmp_path / "runs" / "sinusoid" / "version_0" / "test_result.json").is_file()
    assert versions_of(tmp_path) == ["data.yaml", "runs"]


def test_no_logger_means_no_config_in_the_working_directory(trained, tmp_path) -> None:
    command = ["test", f"--ckpt_path={trained / 'last.ckpt'}", "--trainer.logger=false", *QUIET]
    train.main(command)
    train.main(command)
    assert versions_of(tmp_path) == [
        "test_result.json",
        "test_result_2.json",
        "test_result_2_fits.json",
        "test_result_2_tasks.csv",
        "test_result_fits.json",
        "test_result_tasks.csv",
    ]


def test_saved_config_gives_the_same_run(config, trained, tmp_path) -> None:
    saved = trained.parent / "config.yaml"
    train.main(["fit", f"--config={saved}"])
    again = torch.load(tmp_path / "runs/small/version_0/checkpoints/last.ckpt", weights_only=True)
    first = torch.load(trained / "last.ckpt", weights_only=True)
    for name, value in first["state_dict"].items():
        assert torch.equal(again["state_dict"][name], value)


def test_printed_config_holds_checkpoint_and_flags(trained, capsys) -> None:
    command = ["test", f"--ckpt_path={trained / 'last.ckpt'}", "--data.k_shot=4", "--print_config"]
    with pytest.raises(SystemExit) as stop:
        train.main(command)
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["inner_lr"] == 0.02
    assert printed["data"]["init_args"]["k_shot"] == 4
    assert printed["data"]["init_args"]["seed"] == 3
    assert printed["weights_only"] is True


def test_progress_bar_of_a_config_can_be_switched_off(tmp_path) -> None:
    config = ROOT / "configs" / "sinusoid.yaml"
    train.main(
        ["test", f"--config={config}", "--data.test_tasks=2", "--model.compile=false", *QUIET]
    )
    assert result_of(tmp_path)["tasks"] == 2


def test_short_names_of_learner_and_data(tmp_path) -> None:
    model = ["--model=MetaLearner", "--model.loss=mse", "--model.model=lightning_maml.models.MLP"]
    train.main(["test", *model, "--data=Sinusoid", "--data.test_tasks=2", *QUIET])
    assert result_of(tmp_path)["metric"] == "loss"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help(command, capsys) -> None:
    for args in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as stop:
            train.main(args)
        assert stop.value.code == 0
    assert "--ckpt_path" in capsys.readouterr().out


def test_each_command_is_described_in_whole_sentences(capsys) -> None:
    for args in (["--help"], *([command, "--help"] for command in COMMANDS)):
        with pytest.raises(SystemExit):
            train.main(args)
        said = " ".join(capsys.readouterr().out.split())
        for command in COMMANDS if args == ["--help"] else args[:1]:
            assert f" {COMMANDS[command]}" in said
            assert COMMANDS[command].endswith(".")


def test_a_run_does_not_advertise(config, monkeypatch) -> None:
    """The handler of Lightning's messages may write where capfd does not look."""
    logger, handler, records = logging.getLogger("lightning.pytorch"), logging.Handler(), []
    handler.emit = records.append  # type: ignore[method-assign]
    monkeypatch.setattr(logger, "handlers", [handler])
    train.main(["fit", f"--config={config}", "--trainer.max_steps=1"])
    said = "\n".join(record.getMessage() for record in records)
    assert "GPU available" in said
    for noise in ("💡", "weights_only"):
        assert noise not in said


# -- errors ------------------------------------------------------------------------------------

WRONG = {
    "value of data": (["--data.k_shot=0"], "`k_shot` must be an integer of at least 1, got 0."),
    "value of model": (["--model.tasks_at_once=0"], "`tasks_at_once`"),
    "setting of the trainer": (
        ["--trainer.accumulate_grad_batches=2"],
        "`Trainer(accumulate_grad_batches)` must be 1, got 2",
    ),
    "unknown option": (["--model.inr_lr=0.1"], "Option 'inr_lr' is not accepted"),
    "misspelt option": (["--model.iner_lr=0.1"], "did you mean `inner_lr`?"),
    "misspelt flag": (["--trainer.max_stepz=1"], "did you mean `trainer.max_steps`?"),
    "misspelt option of a class": (
        ["--model.model.init_args.hiden=[3]"],
        "did you mean `hidden`?",
    ),
    "type": (["--model.inner_steps=two"], "two"),
    "unknown flag": (["--nonsense=1"], "nonsense"),
    "setting of a setting": (
        ["--model.inner_lr.x=2"],
        "Expected a <class 'float'>; given: inner_lr.x = '2'",
    ),
    "no such config": (["--config=no/such.yaml"], "no/such.yaml"),
}


@pytest.mark.parametrize(("flags", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_end_in_one_line(config, refused, flags, message) -> None:
    end = refused("fit", f"--config={config}", *flags)
    assert end.code == 2
    assert end.message.startswith("error: ")
    assert message in end.message


def test_missing_data_ends_in_one_line(refused, tmp_path) -> None:
    end = refused("fit", f"--config={ROOT / 'configs' / 'mini_5shot.yaml'}", *QUIET)
    assert end.code == 2
    assert end.message.startswith("error: no mini-ImageNet under `root` = data")


def test_predict_says_what_to_use_for_a_policy(refused, tmp_path) -> None:
    end = refused(
        "predict", f"--config={ROOT / 'configs' / 'point.yaml'}", *QUIET, "--trainer.logger=false"
    )
    assert end.code == 2
    assert "`predict`" in end.message
    assert "got MetaPolicy, which acts; use `test`" in end.message
    assert not list(tmp_path.iterdir())


def test_no_command_is_said(refused) -> None:
    said = "say what to do: one of fit, validate, test, predict; see --help"
    assert refused() == (2, f"error: {said}")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_nothing_to_run_is_said(refused, command) -> None:
    end = refused(command)
    assert end == (2, f"error: `{command}` needs --config FILE, --model or --ckpt_path FILE.")


class Broken(nn.Module):
    """A network with a fault of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the fault of the user's own network")


def test_faults_of_a_users_network_keep_their_traceback(config, tmp_path) -> None:
    file = tmp_path / "broken.yaml"
    text = config.read_text().replace("lightning_maml.models.MLP", "tests.run.test_cli.Broken")
    file.write_text(text.replace("init_args: {hidden: [8]}", "init_args: {}"))
    with pytest.raises(ValueError, match="the fault of the user's own network"):
        train.main(["fit", f"--config={file}"])


def test_debugging_keeps_every_traceback(config, monkeypatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match="k_shot"):
        train.main(["fit", f"--config={config}", "--data.k_shot=0"])


# -- messages ----------------------------------------------------------------------------------


def test_messages_of_the_packages_are_lines(capsys) -> None:
    with readable_output(["lightning_maml", "datamodules"]):
        logging.getLogger("lightning_maml.some.file").info("one %d", 1)
        logging.getLogger("datamodules.file").info("two")
        logging.getLogger("lightning_maml").debug("not this")
    logging.getLogger("lightning_maml.some.file").info("not after")
    assert capsys.readouterr().err == "one 1\ntwo\n"


def test_messages_come_from_the_first_process_only(capsys, monkeypatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with readable_output(["lightning_maml"]):
        logging.getLogger("lightning_maml.file").info("one")
    assert capsys.readouterr().err == ""


def test_script_ends_with_one_line_and_exit_code_two(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "test", "--ckpt_path=nowhere.ckpt"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: `--ckpt_path` must be a file")
