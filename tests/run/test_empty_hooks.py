"""Lightning passes over hooks that do nothing, and over no others."""

from collections import Counter

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP
from lightning_maml.run.empty_hooks import OF_EVERY_UPDATE

UPDATES = 3


class Counting(Callback):
    """With one hook of every update; counts when others are passed over."""

    def __init__(self, failing: bool = False) -> None:
        self.calls: Counter[str] = Counter()
        self.beside: list[Callback] = []
        self.failing = failing

    def on_after_backward(self, *_: object) -> None:
        self.calls["after_backward"] += 1

    def on_validation_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.beside = trainer.callbacks
        self.calls["empty"] += any("on_before_backward" in vars(one) for one in trainer.callbacks)
        self.on_before_backward(None, None, None)  # a user's callback may call its own
        if self.failing:
            raise RuntimeError("on purpose")


def fitted(*callbacks: Callback) -> None:
    trainer = Trainer(
        accelerator="cpu", max_steps=UPDATES, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks),
    )  # fmt: skip
    data = Sinusoid(train_batches_per_epoch=UPDATES, val_tasks=4, meta_batch_size=2)
    trainer.fit(MetaLearner(MLP(hidden=[4]), loss="mse"), data)


def test_hooks_that_do_something_are_called_at_every_update() -> None:
    given: Counter[str] = Counter()

    def count(*_: object) -> None:
        given["batch_end"] += 1

    counting = Counting()
    fitted(counting, LambdaCallback(on_train_batch_end=count))
    assert counting.calls["after_backward"] == UPDATES
    assert given["batch_end"] == UPDATES


@pytest.mark.parametrize("failing", [False, True])
def test_empty_ones_are_passed_over_in_training_and_are_back_afterwards(failing: bool) -> None:
    counting = Counting(failing)
    if failing:
        with pytest.raises(RuntimeError, match="on purpose"):
            fitted(counting)
    else:
        fitted(counting)
    assert counting.calls["empty"] > 0
    assert not any(set(OF_EVERY_UPDATE) & set(vars(one)) for one in counting.beside)
