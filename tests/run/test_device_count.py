"""No search for a GPU at each step while a run without one trains; as before it afterwards."""

import os

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP
from lightning_maml.run.device_count import BY_NVML

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


class Ask(Callback):
    """What a step of an optimizer would find; then an error, if there is to be one."""

    def __init__(self, error: bool) -> None:
        self.error, self.seen = error, []

    def on_train_batch_end(self, *_: object) -> None:
        self.seen.append((os.environ.get(BY_NVML), torch.cuda.is_available()))
        if self.error:
            raise ZeroDivisionError


@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize("before", ["1", None])
def test_asks_the_driver_while_it_trains_and_as_before_afterwards(
    monkeypatch, error, before
) -> None:
    monkeypatch.setenv(BY_NVML, "1")
    if before is None:
        monkeypatch.delenv(BY_NVML)
    ask = Ask(error)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", callbacks=[ask], limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    learner = MetaLearner(MLP(1, 1, [4]), loss="mse", inner_lr=0.1)
    try:
        trainer.fit(learner, Sinusoid())
    except ZeroDivisionError:
        assert error
    assert ask.seen == [(None, False)]
    assert os.environ.get(BY_NVML) == before
