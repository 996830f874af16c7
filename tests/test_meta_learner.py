"""MetaLearner under a Trainer: meta-updates, evaluation, refusals."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

from lightning_maml import Episode, MetaLearner
from lightning_maml.meta_update import MetaUpdate
from tests.test_modules import Counter, images, regression, stock_conv_net, two_layers
from tests.test_scalar_case import EXACT, learner, number, scalar_model, scalar_task


def loader(*episodes: Episode) -> DataLoader:
    return DataLoader(list(episodes), batch_size=None)


def trainer(folder: Path, **settings: object) -> Trainer:
    return Trainer(
        **{
            "max_steps": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            **settings,
        }
    )


def test_fit_validate_test_and_predict_all_adapt(tmp_path: Path) -> None:
    """A15: query losses 1, 1, 4, 6.25 at steps 0 .. 3 in each, under the default Trainer."""
    maml, data = learner(eval_inner_steps=3, meta_lr=0.0), loader(scalar_task())
    expected = {f"loss_step{k}": value for k, value in enumerate((1, 1, 4, 6.25))}

    runs = trainer(tmp_path)
    runs.fit(maml, data, data)
    fitted = {k.removeprefix("val/"): v.item() for k, v in runs.callback_metrics.items()}
    assert {k: fitted[k] for k in expected} == expected
    for stage in ("validate", "test"):
        (values,) = getattr(trainer(tmp_path), stage)(maml, data, verbose=False)
        prefix = "val" if stage == "validate" else "test"
        assert {k: values[f"{prefix}/{k}"] for k in expected} == expected
    (output,) = trainer(tmp_path).predict(maml, data)
    # w = 0.25 after three steps, and x = 2
    torch.testing.assert_close(output.squeeze(), number(0.5), **EXACT)


def test_a_meta_update_is_the_optimizers_step_on_the_meta_gradient(tmp_path: Path) -> None:
    """From w = 2 with meta-gradient -2 and SGD of rate 0.5: w = 3."""
    maml = learner(optimizer=partial(torch.optim.SGD, lr=0.5))
    trainer(tmp_path).fit(maml, loader(scalar_task()))
    torch.testing.assert_close(maml.model.weight.squeeze(), number(3.0), **EXACT)


def test_the_default_optimizer_is_adam(tmp_path: Path) -> None:
    """Three steps by its formula, on the meta-gradient 2 (w - 3), in one call each."""
    rate, beta1, beta2, w, mean, square = 0.1, 0.9, 0.999, 2.0, 0.0, 0.0
    for step in (1, 2, 3):
        gradient = 2 * (w - 3)
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        w -= rate * mean / (1 - beta1**step) / ((square / (1 - beta2**step)) ** 0.5 + 1e-8)
    maml, runs = learner(meta_lr=rate), trainer(tmp_path, max_steps=3)
    runs.fit(maml, loader(*[scalar_task()] * 3))
    torch.testing.assert_close(maml.model.weight.squeeze(), number(w), rtol=1e-12, atol=0)
    assert runs.optimizers[0].defaults["fused"]


def test_the_default_optimizer_bears_parameters_of_any_layout() -> None:
    """Where torch's step for all in one call would go by the storage, not by the strides."""
    storage = torch.zeros(4, 6)
    parameter = torch.nn.Parameter(storage[:, ::2])
    optimizer = MetaUpdate(meta_lr=0.1).configure([parameter])
    parameter.grad = torch.ones(4, 3)
    optimizer.step()
    torch.testing.assert_close(storage[:, ::2], torch.full((4, 3), -0.1))
    assert not storage[:, 1::2].any()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_global_step_counts_meta_updates(tmp_path: Path, accumulate: int) -> None:
    """max_steps = 4 takes 4 n batches with accumulation over n."""
    seen = []

    class Counting(MetaLearner):
        def training_step(self, episode: Episode, batch_idx: int) -> None:
            seen.append(batch_idx)
            super().training_step(episode, batch_idx)

    maml = Counting(scalar_model(), loss=F.mse_loss, accumulate_batches=accumulate)
    run = trainer(tmp_path, max_steps=4)
    run.fit(maml, loader(*[scalar_task()] * 5))
    assert run.global_step == 4
    assert len(seen) == 4 * accumulate


def test_accumulated_batches_give_the_update_of_one_larger_batch(tmp_path: Path) -> None:
    """A03: the mean over tasks, also under accumulation."""
    episode = regression(4, width=3)
    halves = [Episode(*(part[s] for part in episode)) for s in (slice(0, 2), slice(2, 4))]
    weights = []
    for data, accumulate in ((loader(episode), 1), (loader(*halves), 2)):
        maml = MetaLearner(
            two_layers(), loss=F.mse_loss, accumulate_batches=accumulate,
            optimizer=partial(torch.optim.SGD, lr=0.1),
        )  # fmt: skip
        trainer(tmp_path).fit(maml, data)
        weights.append(maml.model[0].weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("clip", "step"), [({"clip_meta_grad_value": 0.5}, 0.5), ({"clip_meta_grad_norm": 0.25}, 0.25)]
)
def test_the_meta_gradient_is_clipped(tmp_path: Path, clip: dict, step: float) -> None:
    maml = learner(optimizer=partial(torch.optim.SGD, lr=1.0), **clip)
    trainer(tmp_path).fit(maml, loader(scalar_task()))
    torch.testing.assert_close(maml.model.weight.squeeze(), number(2 + step), rtol=1e-5, atol=0)


def test_the_scheduler_steps_once_per_meta_update(tmp_path: Path) -> None:
    """Cosine over 10 updates from 0.001: 0.0005 after 5 of them, 0 after all."""
    rates = []

    class Watching(MetaLearner):
        def on_train_batch_end(self, *_: object) -> None:
            rates.append(self.optimizers().param_groups[0]["lr"])

    maml = Watching(
        scalar_model(), loss=F.mse_loss, accumulate_batches=2,
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10),
    )  # fmt: skip
    trainer(tmp_path, max_steps=10).fit(maml, loader(*[scalar_task()] * 20))
    assert rates[9] == pytest.approx(0.0005)
    assert rates[19] == pytest.approx(0, abs=1e-12)


def test_a_plateau_scheduler_gets_the_monitored_metric(tmp_path: Path) -> None:
    maml = learner(
        meta_lr=0.0,
        scheduler=partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0),
    )
    run = trainer(tmp_path, max_steps=2)
    run.fit(maml, loader(scalar_task()), loader(scalar_task()))
    assert maml.lr_schedulers().best == 1.0


def test_learned_step_sizes_are_trained_and_saved(tmp_path: Path) -> None:
    maml = MetaLearner(two_layers(), loss=F.mse_loss, learn_inner_lr="per_tensor")
    run = trainer(tmp_path, max_steps=2)
    run.fit(maml, loader(regression(width=3), regression(width=3)))
    sizes = {k: v for k, v in maml.state_dict().items() if k.startswith("inner_lrs.")}
    assert set(sizes) == {f"inner_lrs.{n}/{p}" for n in (0, 2) for p in ("weight", "bias")}
    assert all(size != 0.01 for size in sizes.values())


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")
def test_divergence_stops_training_before_it_reaches_the_weights(tmp_path: Path) -> None:
    """A09: 100 steps of alpha = 2 overflow; the error names the update, and weights stay finite."""
    maml = learner(inner_lr=2.0, inner_steps=1)
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    run = trainer(tmp_path, max_steps=5, enable_checkpointing=True, callbacks=[saves])
    hard = scalar_task(float("nan"))
    with pytest.raises(FloatingPointError, match=r"meta-update 3.*comes from `query_y`"):
        run.fit(maml, loader(scalar_task(), scalar_task(), hard))
    assert torch.isfinite(maml.model.weight).all()
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.isfinite(state["model.weight"]).all()

    endless = MetaLearner(scalar_model().float(), loss=F.mse_loss, inner_lr=2.0, inner_steps=100)
    task = Episode(*(part.float() for part in scalar_task()))
    with pytest.raises(FloatingPointError, match=r"meta-update 1;.*`inner_lr`, now 2.0"):
        trainer(tmp_path).fit(endless, loader(task))
    assert endless.model.weight.item() == 2.0


def test_diverged_tasks_are_counted_in_evaluation(tmp_path: Path) -> None:
    two = Episode(*map(torch.cat, zip(scalar_task(), scalar_task(float("inf")), strict=True)))
    (values,) = trainer(tmp_path).test(learner(eval_inner_steps=1), loader(two), verbose=False)
    assert values["test/diverged"] == 1
    assert values["test/loss"] == float("inf")


def test_validation_changes_nothing(tmp_path: Path) -> None:
    """A13: the state is bit-identical after `validate` and `test`, stock batch norm included."""
    for make, loss, data in (
        (Counter, F.mse_loss, loader(regression())),
        (stock_conv_net, F.cross_entropy, loader(images())),
    ):
        maml = MetaLearner(make(), loss=loss)
        before = {n: t.clone() for n, t in maml.state_dict().items()}
        for stage in ("validate", "test"):
            getattr(trainer(tmp_path), stage)(maml, data, verbose=False)
        assert all(torch.equal(before[n], t) for n, t in maml.state_dict().items())


def test_evaluation_leaves_no_tensors_behind(tmp_path: Path) -> None:
    """A16: no graph in what is collected, and a new validation forgets the last one."""
    maml = learner()
    run = trainer(tmp_path)
    run.validate(maml, loader(*[scalar_task()] * 5), verbose=False)
    run.validate(maml, loader(*[scalar_task()] * 5), verbose=False)
    result, _ = maml.curve.collected()
    assert result.loss.shape == (2, 5)
    assert not any(state.requires_grad for state in maml.curve.loss)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accumulate_grad_batches": 2}, r"accumulate_grad_batches.*got 2.*accumulate_batches"),
        ({"gradient_clip_val": 1.0}, r"gradient_clip_val.*got 1.0.*clip_meta_grad_norm"),
    ],
)
def test_trainer_settings_that_would_be_ignored_are_refused(
    tmp_path: Path, settings: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, **settings).fit(learner(), loader(scalar_task()))


def test_sharding_and_half_precision_are_refused_with_the_reason() -> None:
    from types import SimpleNamespace

    from lightning_maml.run.trainer_checks import check_trainer

    plain = {"accumulate_grad_batches": 1, "gradient_clip_val": None, "precision": "32-true"}
    with pytest.raises(ValueError, match=r"strategy.*FSDPStrategy.*ddp"):
        check_trainer(SimpleNamespace(**plain, strategy=FSDPStrategy()))
    with pytest.raises(ValueError, match=r'precision.*"16-mixed".*bf16-mixed'):
        check_trainer(SimpleNamespace(**{**plain, "precision": "16-mixed"}, strategy=None))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner_lr": -0.1}, r"`inner_lr`.*got -0.1"),
        ({"inner_lr": float("nan")}, r"`inner_lr`.*got nan"),
        ({"inner_steps": -1}, r"`inner_steps`.*got -1"),
        ({"eval_inner_steps": -1}, r"`eval_inner_steps`.*got -1"),
        ({"learn_inner_lr": "some"}, r"`learn_inner_lr`.*'some'"),
        ({"inner_rule": "newton"}, r"`inner_rule`.*'newton'"),
        ({"step_weights": [1.0, 2.0]}, r"`step_weights`.*got 2"),
        ({"loss": "mean"}, r"`loss`.*'mean'"),
        ({"loss": None}, r"`loss`.*None"),
        ({"metric": "acuracy"}, r"`metric`.*'acuracy'"),
        ({"meta_lr": -1.0}, r"`meta_lr`.*got -1.0"),
        ({"meta_lr": 0.1, "optimizer": torch.optim.SGD}, r"`meta_lr`.*`optimizer`.*got 0.1"),
        ({"clip_meta_grad_value": 0.0}, r"`clip_meta_grad_value`.*got 0.0"),
        ({"clip_meta_grad_norm": -1.0}, r"`clip_meta_grad_norm`.*got -1.0"),
        ({"accumulate_batches": 0}, r"`accumulate_batches`.*got 0"),
        ({"tasks_at_once": 0}, r"`tasks_at_once`.*got 0"),
        ({"derivation": "magic"}, r"`derivation`.*'magic'"),
        ({"adapts": []}, r"`adapts`.*none"),
        ({"compile": "maybe"}, r"`compile`.*'maybe'"),
    ],
)
def test_a_bad_setting_is_named(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        learner(**settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"support_x": torch.zeros(0, 1, 1)}, "`support_x`.*at least one task"),
        ({"query_x": torch.zeros(2, 1, 1)}, r"`query_x`.*1 tasks.*\[2, 1, 1\]"),
        ({"query_y": torch.zeros(1, 2, 1)}, "`query_x` and `query_y`.*got 1 and 2"),
        ({"support_y": torch.zeros(1)}, r"`support_y`.*\[1\]"),
    ],
)
def test_an_episode_that_does_not_fit_together_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        learner().meta_loss(scalar_task()._replace(**changes))
