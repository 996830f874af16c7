"""W&B: without a login, on disk, with the number of meta-updates as its step."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from PIL import Image

import train
from lightning_maml.run.provenance import git_state
from lightning_maml.run.wandb_file import config, history
from lightning_maml.run.wandb_logging import STATE, WandbLogger

ROOT = Path(__file__).parents[2]
LOGGERS = """
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: runs, name: small}
    - class_path: lightning_maml.run.wandb_logging.WandbLogger
      init_args: {save_dir: runs, name: small, project: mine}
"""


@pytest.fixture
def with_wandb(config, tmp_path, monkeypatch) -> Path:
    """The small config with both loggers, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    one = "\n    class_path: lightning.pytorch.loggers.CSVLogger\n"
    text = config.read_text()
    first, last = text.index(one), text.index("  callbacks:")
    path = tmp_path / "small.yaml"
    path.write_text(text[:first] + LOGGERS + text[last:])
    return path


def test_a_run_without_a_login_is_logged_to_disk(with_wandb, tmp_path) -> None:
    """No prompt, no failure; all that is asked for is in the file that W&B would upload."""
    unset = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "fit", "--config=small.yaml"],
        env={**environment, "HOME": str(tmp_path / "nobody")}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("runs/wandb/offline-run-*")
    said = [line for line in done.stderr.splitlines() if "W&B" in line or "wandb" in line]
    upload = f"wandb sync {folder.relative_to(tmp_path)}"
    assert said == [
        f"W&B: logging offline; to upload later: {upload}",
        f"W&B: logged offline; to upload: {upload}",
    ]

    rows = history(folder)
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert [row["trainer/global_step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["train/loss"] < row["train/loss_before"]
        assert row["train/meta_lr"] == 0.001
        assert row["train/meta_grad_norm"] > 0
        assert row["train/tasks_per_s"] > 0
    for row in (rows[1], rows[3]):
        assert row["val/mse"] == row["val/mse_step2"] < row["val/mse_step0"]
        for name, count in (("val/curve", 1), ("val/tasks", 3)):
            assert row[f"{name}/count"] == count
            for picture in row[f"{name}/filenames"]:
                assert np.asarray(Image.open(folder / "files" / picture)).std() > 10

    settings = config(folder)
    assert settings["config"]["trainer"]["max_steps"] == 4
    assert settings["config"]["model"]["init_args"]["inner_lr"] == 0.02
    assert settings["git"] == git_state(ROOT / "train.py")
    assert settings["k_shot"] == 10


@pytest.mark.parametrize("logger", ["false", "TensorBoardLogger"])
def test_other_loggers(with_wandb, tmp_path, logger) -> None:
    flags = [] if logger == "false" else ["--trainer.logger.save_dir=tb"]
    train.main(["fit", "--config=small.yaml", f"--trainer.logger={logger}", *flags])
    assert len(list(tmp_path.glob("tb/**/events.out*"))) == len(flags)
    assert not list(tmp_path.rglob("wandb"))


def test_lightnings_own_logger_works_alone(with_wandb, tmp_path, monkeypatch) -> None:
    """Its runs have a folder each."""
    kind = "--trainer.logger=lightning_maml.run.wandb_logging.WandbLogger"
    for _ in range(2):
        train.main(["fit", "--config=small.yaml", kind, "--trainer.logger.save_dir=here"])
    found = list(tmp_path.glob("here/lightning_maml/*/config.yaml"))
    assert len(found) == 2
    assert all((path.parent / "checkpoints" / "last.ckpt").exists() for path in found)
    flags = [kind, "--trainer.logger.save_dir=here", "--trainer.logger.name=one"]
    train.main(["fit", "--config=small.yaml", *flags, "--trainer.max_steps=6", "--ckpt_path=last"])
    train.main(["test", "--ckpt_path", str(found[0].parent / "checkpoints" / "last.ckpt"), kind])
    assert len(list(tmp_path.glob("runs/lightning_maml/*/test_result.json"))) == 1


CHECK = """
import json, os, sys
from lightning_maml.run.wandb_logging import WandbLogger

for environment in json.load(sys.stdin):  # a process each, forked after the long imports
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        os.environ.clear()
        os.environ.update(environment)
        print(WandbLogger()._wandb_init.get("mode"), flush=True)
        os._exit(0)
"""
KEY = "0123456789" * 4
OTHER = {"WANDB_BASE_URL": "http://wandb.example.org:8080"}
SETTINGS = {"WANDB_CONFIG_DIR": "~/wandb"}  # where `wandb login --host` leaves the server's name
LOGINS: list[tuple[dict[str, str], str | None, str]] = [  # environment, ~/.netrc's machine, mode
    ({}, None, "offline"),
    ({"WANDB_API_KEY": KEY}, None, "None"),
    ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, None, "offline"),
    ({"WANDB_MODE": "disabled"}, None, "None"),
    ({}, "api.wandb.ai", "None"),
    ({}, "wandb.example.org:8080", "offline"),
    (OTHER, "wandb.example.org:8080", "None"),
    (OTHER, "api.wandb.ai", "offline"),
    (SETTINGS, "wandb.example.org:8080", "None"),
]


def test_who_logs_offline(tmp_path) -> None:
    """The rules of `wandb login`, which leaves its key in ~/.netrc."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC"))}
    environments = []
    for number, (environment, machine, _) in enumerate(LOGINS):
        home = tmp_path / str(number)
        (home / "wandb").mkdir(parents=True)
        (home / "wandb" / "settings").write_text(
            f"[default]\nbase_url = {OTHER['WANDB_BASE_URL']}\n"
        )
        if machine is not None:
            (home / ".netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
        environments.append({**clean, "HOME": str(home), **environment})
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env={**clean, "HOME": str(tmp_path)},
        input=json.dumps(environments), capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(zip(LOGINS, done.stdout.split(), strict=True)) == [
        (login, login[2]) for login in LOGINS
    ]
    assert KEY not in done.stdout + done.stderr


class FakeRun:
    """Takes what is logged."""

    starting_step = 0
    id = "abc"

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        """Remember it."""
        self.logged.append((step, {k: v for k, v in values.items() if "trainer" not in k}))


def checkpoint(path: Path, updates: int, rows: list[int], run: str = "abc") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{"_step": step, "a": float(step)} for step in rows]
    state = {"id": run, "offline": False, "folder": "", "rows": kept}
    torch.save({"state_dict": {}, "global_step": updates, "callbacks": {STATE: state}}, path)
    return path


def logger_on(run: FakeRun, continues: Path | None = None) -> WandbLogger:
    logger = WandbLogger()
    if continues is not None:
        logger.continue_from(continues)
    logger._experiment = run  # type: ignore[assignment]
    logger._begin(run)
    return logger


def test_the_step_never_goes_back() -> None:
    run = FakeRun()
    logger = logger_on(run)
    for step in (10, 20, 20, 15, None, 30):
        logger.log_metrics({"a": 1.0, f"at_{step}": 1}, step)
    logger.finalize("success")
    assert [step for step, _ in run.logged] == [10, 20, 30]
    assert run.logged[1][1].keys() == {"a", "at_20", "at_15", "at_None"}


def test_what_the_server_missed_is_logged_again_and_the_rest_is_not(tmp_path) -> None:
    run = FakeRun()
    run.starting_step = 21  # the server has the rows up to 20
    logger = logger_on(run, checkpoint(tmp_path / "last.ckpt", 30, [10, 20, 30]))
    assert logger.version == "abc"
    logger.log_metrics({"a": 40.0}, 40)
    logger.finalize("success")
    assert run.logged == [(30, {"a": 30.0}), (40, {"a": 40.0})]
    run = FakeRun()
    run.starting_step = 51  # it has more than the checkpoint knows
    logger = logger_on(run, checkpoint(tmp_path / "last.ckpt", 30, [10, 20, 30]))
    for step in (40, 50, 60):
        logger.log_metrics({"a": float(step)}, step)
    logger.finalize("success")
    assert run.logged == [(60, {"a": 60.0})]


def test_only_recent_rows_are_kept_for_a_resume(monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    logger = logger_on(FakeRun())
    for step in range(10):
        now = 20.0 * step
        logger.log_metrics({"a": step}, step)
    logger.log_metrics({"b": 1}, 9)
    assert [row["_step"] for row in logger.state()["rows"]] == [4, 5, 6, 7, 8, 9]
    assert logger.state()["rows"][-1] == {"_step": 9, "a": 9, "b": 1, "trainer/global_step": 9}


def test_rows_far_apart_are_kept_until_they_are_written(monkeypatch) -> None:
    """Each is written when the one after the next comes."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    run = FakeRun()
    logger = logger_on(run)
    for step in range(5):
        now = 1000.0 * step
        logger.log_metrics({"a": step}, step)
        kept = [row["_step"] for row in logger.state()["rows"]]
        assert {*range(step + 1)} <= {*kept, *(s for s, _ in run.logged[:-1])}
    assert len(kept) < 5


def test_only_the_row_of_a_broken_validation_is_forgotten() -> None:
    run = FakeRun()
    logger = logger_on(run)
    logger.log_metrics({"a": 1.0}, 10)
    logger.forget_row(15)
    logger.log_metrics({"a": 2.0}, 20)
    logger.forget_row(20)
    logger.finalize("failed")
    assert run.logged == [(10, {"a": 1.0})]


@pytest.mark.parametrize("newer", ["checkpoints/best.ckpt", "../version_1/checkpoints/last.ckpt"])
def test_from_an_older_checkpoint_a_new_run_starts(tmp_path, newer) -> None:
    """Of the same run, perhaps of the part after a resume; other runs do not count."""
    run = tmp_path / "runs" / "version_0"
    old = checkpoint(run / "checkpoints" / "last.ckpt", 30, [30])
    os.utime(old, (1, 1))
    checkpoint(tmp_path / "runs" / "version_2" / "checkpoints" / "last.ckpt", 40, [40], run="xyz")
    checkpoint(run / "checkpoints" / "earlier.ckpt", 20, [20])
    (run / "checkpoints" / "copied_half.ckpt").write_bytes(b"PK")
    assert logger_on(FakeRun(), old)._id == "abc"
    checkpoint(run / newer, 40, [40])
    assert WandbLogger().version is None
    assert logger_on(FakeRun(), old)._id is None


def test_an_id_that_was_set_is_kept(tmp_path, monkeypatch) -> None:
    last = checkpoint(tmp_path / "last.ckpt", 30, [30])
    for chosen, rows in (("mine", 0), ("abc", 1)):
        logger = WandbLogger(id=chosen)
        logger.continue_from(last)
        assert (logger.version, len(logger.state()["rows"])) == (chosen, rows)
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    logger = WandbLogger()
    logger.continue_from(last)
    assert logger.version is None  # W&B reads it itself


@pytest.mark.slow
def test_no_key_is_written_anywhere(with_wandb, tmp_path) -> None:
    """Neither that of the environment nor one of a .netrc, by a fit and the test of what it left.

    W&B's own logs are in the home folder, which is looked through as well.
    """
    keys = {"environment": "5ec7e1" + "0b" * 17, "netrc": "ca5cade" + "1d3" * 11}
    assert {len(key) for key in keys.values()} == {40}
    (tmp_path / ".netrc").write_text(
        f"machine api.wandb.ai\n  login user\n  password {keys['netrc']}\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    here = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    config = "--config=small.yaml"
    both = f"import train; train.main(['fit', '{config}']); "
    both += f"train.main(['test', '{config}', '--ckpt_path=last'])"
    done = subprocess.run(
        [sys.executable, "-c", both],
        env={
            **os.environ, **here, "WANDB_MODE": "offline", "WANDB_API_KEY": keys["environment"],
            "PYTHONPATH": str(ROOT),
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/wandb/offline-run-*"))) == 2
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    netrc = files.pop(tmp_path / ".netrc")
    assert keys["netrc"].encode() in netrc
    kinds = {path.suffix for path in files}
    assert kinds >= {".ckpt", ".wandb", ".json", ".csv", ".yaml", ".log"}
    for where, key in keys.items():
        bad = [path for path, content in files.items() if key.encode() in content]
        assert not bad, where
        assert key not in done.stdout + done.stderr, where


def test_a_file_that_breaks_off_is_read_up_to_there(tmp_path) -> None:
    with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)) as run:
        for step in range(2000):  # several blocks of 32 KiB
            run.log({"a": step / 7, "text": "x" * 50}, step=step)
        run.log({"long": "y" * 100_000}, step=2000)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # W&B's own process may close the file after `finish`
    while len(rows := history(path.parent)) < 2001 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [row["_step"] for row in rows] == list(range(2001))
    assert [row["a"] for row in rows[:-1]] == [step / 7 for step in range(2000)]
    assert len(rows[-1]["long"]) == 100_000
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    half = history(path.parent)
    assert half == rows[: len(half)]
    assert 500 < len(half) < 2000
    path.write_bytes(b"")
    assert history(path.parent) == []
