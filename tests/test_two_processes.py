"""Training on two processes (gloo, CPU), started as a user's script would be."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer

from lightning_maml import Episode, MetaLearner
from tests.test_meta_learner import loader, trainer
from tests.test_modules import WithUnused, regression

ROOT = Path(__file__).parents[1]


def learner() -> MetaLearner:
    return MetaLearner(WithUnused(), loss=F.mse_loss, inner_lr=0.1, optimizer=sgd)


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def share(rank: int) -> Episode:
    return Episode(*(part[2 * rank : 2 * rank + 2] for part in regression(4, width=3)))


def main(folder: str) -> None:
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    run = Trainer(
        max_steps=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip
    maml = learner()
    run.fit(maml, loader(share(rank), share(rank)))
    if run.is_global_zero:
        torch.save(maml.state_dict(), Path(folder) / "weights.pt")


def test_an_unused_parameter_on_two_processes(tmp_path: Path) -> None:
    """A07: no hang, and the weights are those of one process with all four tasks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, check=True, timeout=120
    )
    alone = learner()
    everything = regression(4, width=3)
    trainer(tmp_path, max_steps=2).fit(alone, loader(everything, everything))
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    main(sys.argv[1])
