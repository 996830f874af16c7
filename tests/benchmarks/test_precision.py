"""benchmarks/precision.py: every precision computes what it says, and is tested as it trained."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import precision
from lightning_maml.losses import mse
from lightning_maml.models import MLP
from peers.agreement import relative_error
from peers.naive import naive
from peers.ours import precisions
from peers.workloads import Workload

ROOT = Path(__file__).parents[2]
WORKLOAD = Workload(
    "sinusoid", lambda: MLP(hidden=[40]), mse, inner_lr=0.05, inner_steps=1, adapts=("*",),
    tasks=4, example=(1,), n_way=0, support=8, query=8,
)  # fmt: skip


def printed(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["precision.py", "sinusoid", *arguments])
    precision.main()
    return capsys.readouterr().out


def test_bfloat16_rounds_as_its_eight_bits_do_and_float32_does_not() -> None:
    exact = naive(WORKLOAD.problem(0, torch.float64))()
    errors = {
        name: relative_error(make(WORKLOAD.problem(0))(), exact)
        for name, make in precisions(WORKLOAD, "cpu").items()
        if not name.endswith("compiled")
    }
    assert list(errors) == ["32-true", "bf16-mixed"]
    assert errors["32-true"] < 2**-20
    assert 2**-10 < errors["bf16-mixed"] < 2**-3


def test_the_table_has_a_row_for_each_and_is_kept(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(precision, "from_config", lambda name: replace(WORKLOAD, name=name))
    monkeypatch.setattr(precision, "peak", lambda *_: 2_000_000)
    text = printed(monkeypatch, capsys, "--turns", "3", "--out", str(tmp_path))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows[1:]] == ["| 32-true", "| bf16-mixed"]
    assert rows[1][2:4] == ["1.00", "2"]
    (kept,) = tmp_path.iterdir()
    assert kept.read_text().strip() == text.strip()


def test_flags_of_a_fit_need_one(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        printed(monkeypatch, capsys, "--trainer.max_steps", "3")
    assert "--trainer.max_steps 3: flags of a fit need --fit" in capsys.readouterr().err


@pytest.mark.slow
def test_each_precision_trains_and_is_tested(monkeypatch, capfd, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "configs"):
        Path(name).symlink_to(ROOT / name)
    few = ["--trainer.max_steps=4", "--data.train_batches_per_epoch=2", "--data.val_tasks=4",
           "--data.test_tasks=8", "--model.compile=false"]  # fmt: skip
    monkeypatch.setattr(precision, "measure", lambda options: [])
    text = printed(monkeypatch, capfd, "--fit", *few)
    assert [line.split(" | ")[0] for line in text.rstrip().splitlines()[-2:]] == [
        "| 32-true",
        "| bf16-mixed",
    ]
    assert all(line.endswith("| 8 |") for line in text.rstrip().splitlines()[-2:])
