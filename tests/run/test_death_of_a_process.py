"""One of two processes is killed, or hangs: the other ends, too, and the run can go on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run.test_resume import CONFIG, ROOT, WHEN, assert_same, final

AT = 45  # of 60 batches, 30 updates
LIMIT = 60.0  # seconds from the death to the end of all processes


def command(folder: Path, *flags: str) -> list[str]:
    config = folder / "small.yaml"
    folder.mkdir(exist_ok=True)
    text = CONFIG.replace("SAVE", WHEN["after an epoch"])
    config.write_text(text, encoding="utf-8")
    return [
        sys.executable, str(ROOT / "train.py"), "fit", f"--config={config}", "--trainer.devices=2",
        "--trainer.strategy=ddp", "--trainer.use_distributed_sampler=false", *flags,
    ]  # fmt: skip


def sent(number: int, rank: int) -> list[str]:
    values = {"number": int(number), "batch": AT, "rank": rank}
    return [f"--trainer.callbacks.init_args.{name}={value}" for name, value in values.items()]


def start(folder: Path, flags: list[str], **environment: str) -> subprocess.Popen[str]:
    """What it says goes to a pipe, which ends with the last process that holds it."""
    kept = {name: v for name, v in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    return subprocess.Popen(
        command(folder, *flags), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
        env={
            **kept, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "PYTHONWARNINGS": "ignore",
            **environment,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run on two processes that nothing happened to, and how many seconds it took."""
    folder, begin = tmp_path_factory.mktemp("straight"), time.monotonic()
    run = start(folder, [])
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    return folder, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_end_with_it_and_the_run_goes_on(
    straight: tuple[Path, float], tmp_path: Path, rank: int
) -> None:
    """As one command starts them. Then the same weights, to the bit."""
    folder, seconds = straight
    run = start(tmp_path, sent(signal.SIGKILL, rank))
    said, _ = run.communicate(timeout=seconds + LIMIT)
    # The first process sees the connection end, or Lightning, which watches the others, kills it.
    assert run.returncode in ((-9,) if rank == 0 else (1, -9)), said
    assert 0 < final(tmp_path)["global_step"] < 30
    run = start(tmp_path, ["--ckpt_path=last"])
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    one, other = final(folder), final(tmp_path)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(one[part], other[part], part)


def start_apart(folder: Path, flags: list[str]) -> list[subprocess.Popen[str]]:
    """As torchrun and SLURM do it, here without anything that watches over the two."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    return [start(folder, flags, RANK=str(i), LOCAL_RANK=str(i), **common) for i in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_was_started_apart_ends_with_an_error(
    straight: tuple[Path, float], tmp_path: Path, rank: int
) -> None:
    runs = start_apart(tmp_path, sent(signal.SIGKILL, rank))
    said = [run.communicate(timeout=straight[1] + LIMIT)[0] for run in runs]
    assert runs[rank].returncode == -9, said[rank]
    assert runs[1 - rank].returncode == 1, said[1 - rank]
    assert "Error: " in said[1 - rank]


@pytest.mark.slow
def test_one_that_hangs_is_given_up_after_the_timeout_that_was_set(
    straight: tuple[Path, float], tmp_path: Path
) -> None:
    """The flags are those of docs/scaling.md."""
    kind = "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy"
    flags = [kind, "--trainer.strategy.timeout=0:00:20", *sent(signal.SIGSTOP, rank=1)]
    runs = start_apart(tmp_path, flags)
    try:
        said, _ = runs[0].communicate(timeout=straight[1] + LIMIT)
        assert runs[0].returncode == 1, said
        assert "Timed out" in said
        assert runs[1].poll() is None
    finally:
        for run in runs:
            run.kill()
            run.communicate()
