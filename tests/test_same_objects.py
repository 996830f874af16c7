"""The same learner, data and trainers again and again; validation changes nothing."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.run.checkpointing import generator_states
from tests.baselines.small_methods import PLAIN, STATEFUL, small_learner, small_tasks
from tests.run.test_resume import assert_same
from tests.test_meta_learner import trainer


def learner(**settings: Any) -> MetaLearner:
    torch.manual_seed(0)
    layers = [nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1)]
    return MetaLearner(nn.Sequential(*layers), loss="mse", learn_inner_lr="per_tensor", **settings)


def data() -> Sinusoid:
    return Sinusoid(meta_batch_size=2, val_tasks=6, test_tasks=4, train_batches_per_epoch=5)


def state(maml: MetaLearner) -> dict[str, Any]:
    """All that validation could change: weights, buffers, modes, gradients, generators."""
    return deepcopy(
        {
            "state": dict(maml.state_dict()),
            "modes": [module.training for module in maml.modules()],
            "grads": {n: p.grad for n, p in maml.named_parameters() if p.grad is not None},
            "generators": {k: v for k, v in generator_states().items() if k != "python"},
            "python": str(generator_states()["python"]),
        }
    )


Case = tuple[Callable[[], MetaLearner], Callable[[], Any]]  # a learner and its data
CASES: dict[str, Case] = {"MAML": (learner, data)}
CASES |= {name: (partial(small_learner, name), small_tasks) for name in PLAIN | STATEFUL}
QUICK = {"MAML", "meta-LSTM", "prototypical, batch norm", "MANN", "statistician"}
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES]


@pytest.fixture(params=NAMES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_changes_nothing(tmp_path, case, stage) -> None:
    maml, tasks = (make() for make in case)
    trainer(tmp_path, max_steps=3).fit(maml, tasks)
    before = state(maml)
    verbose = {} if stage == "predict" else {"verbose": False}
    getattr(trainer(tmp_path), stage)(maml, tasks, **verbose)
    assert_same(state(maml), before)


def test_validate_fit_validate_fit_with_the_same_objects(tmp_path, case) -> None:
    """As without the validations, to the bit; and each gives the same numbers again."""
    weights = []
    for validates in (False, True):
        (maml, tasks), seen = (make() for make in case), []
        run = trainer(tmp_path, max_steps=5, num_sanity_val_steps=0, limit_val_batches=1.0)
        torch.manual_seed(1)
        for steps in (5, 10):
            for _ in range(2 * validates):
                seen.append(run.validate(maml, tasks, verbose=False)[0])
            run.fit_loop.epoch_loop.max_steps = steps
            run.fit(maml, tasks)
        weights.append(maml.state_dict())
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[0] != seen[2]
    assert_same(dict(weights[0]), dict(weights[1]))


def test_checkpoint_within_a_meta_update_keeps_what_was_gathered(tmp_path) -> None:
    """Updates of two batches, a checkpoint after the third: weights as without it, to the bit."""
    half = tmp_path / "half.ckpt"

    class Save(Callback):
        def on_train_batch_end(self, run: Trainer, module: LightningModule, *args: Any) -> None:
            if args[-1] == 2:
                run.save_checkpoint(half)

    straight, resumed = (learner(accumulate_batches=2) for _ in range(2))
    trainer(tmp_path, max_steps=2, callbacks=[Save()]).fit(straight, data())
    trainer(tmp_path, max_steps=2).fit(resumed, data(), ckpt_path=half, weights_only=True)
    assert_same(dict(resumed.state_dict()), dict(straight.state_dict()))


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_method_without_an_inner_loop_goes_on_as_if_nothing_had_happened(tmp_path, name) -> None:
    """From a checkpoint within an epoch: weights, statistics and optimizer, to the bit."""
    third, ends = tmp_path / "third.ckpt", []

    class Save(Callback):
        def on_train_batch_end(self, run: Trainer, module: LightningModule, *args: Any) -> None:
            if run.global_step == 3:
                run.save_checkpoint(third)

    for resumes in (False, True):
        method = small_learner(name)
        torch.manual_seed(1 + resumes)
        more = {"ckpt_path": third, "weights_only": True} if resumes else {}
        run = trainer(tmp_path, max_steps=8, callbacks=[] if resumes else [Save()])
        run.fit(method, small_tasks(), **more)
        ends.append({"state": dict(method.state_dict()), "adam": run.optimizers[0].state_dict()})
    assert_same(*ends)
