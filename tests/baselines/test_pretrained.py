"""Pretraining and fine-tuning against closed forms; the step size is the best of the grid."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lightning_maml import MetaLearner
from lightning_maml.baselines import Pretrained
from lightning_maml.baselines.tuning import Tuning, higher_is_better, tune
from lightning_maml.losses import accuracy, cross_entropy, mse
from tests.baselines.conftest import Slopes, errors_of_gradient_descent, line, make_trainer, slopes

GRID = (0.001, 0.03, 0.3, 5.0)


def learner(**settings: object) -> Pretrained:
    settings = {"eval_inner_steps": 4, "fine_tuning_lrs": GRID, "meta_lr": 0.01, **settings}
    return Pretrained(line(), loss="mse", metric="mse", **settings)


def test_training_is_regression_on_the_query_points_of_all_tasks(tmp_path) -> None:
    """d/dw mean (w x - y)^2 = 2 mean x (w x - y); SGD of rate 0.1 from w = 0.5."""
    model = learner(meta_lr=None, optimizer=partial(torch.optim.SGD, lr=0.1))
    make_trainer(tmp_path).fit(model, Slopes())
    x, y = slopes(4).query_x[:2], slopes(4).query_y[:2]
    expected = 0.5 - 0.1 * 2 * (x * (0.5 * x - y)).mean()
    torch.testing.assert_close(model.model.weight.squeeze(), expected)


@pytest.mark.parametrize("lr", [0.001, 0.03, 0.3])
def test_fine_tuning_is_gradient_descent_in_closed_form(tmp_path, lr) -> None:
    trainer = make_trainer(tmp_path)
    (values,) = trainer.test(learner(fine_tuning_lrs=[lr]), Slopes(), verbose=False)
    expected = errors_of_gradient_descent(slopes(7, seed=2), 0.5, lr, 4).mean(dim=1)
    found = torch.tensor([values[f"test/mse_step{k}"] for k in range(5)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_choice_is_the_best_on_the_validation_tasks(tmp_path) -> None:
    model, data = learner(), Slopes()
    make_trainer(tmp_path).test(model, data, verbose=False)
    expected = [
        errors_of_gradient_descent(slopes(5, seed=1), 0.5, lr, 4)[-1].mean().item() for lr in GRID
    ]
    assert model.tuning is not None
    assert model.tuning.means == pytest.approx(expected)
    assert model.tuning.chosen == GRID[expected.index(min(expected))]
    assert model.tuning.chosen not in (GRID[0], GRID[-1])  # or the test would say little
    assert model.inner_loop.step_sizes.inner_lr == model.tuning.chosen
    assert "validate" in data.stages


def test_candidates_are_judged_without_the_query_loss_of_earlier_steps() -> None:
    """Of four steps: once for each support gradient, once for the query; with a curve, five."""
    model, calls = learner(), []
    model.engine.model.register_forward_hook(lambda *_: calls.append(1))
    last, whole = model.evaluate_last(slopes(4)), model.evaluate(slopes(4))
    assert len(calls) == (4 + 1) + (4 + 5)
    assert torch.equal(last.loss, whole.loss[-1:])
    assert torch.equal(last.metric, whole.metric[-1:])


def test_validation_keeps_the_fixed_step_size_after_a_test_too(tmp_path) -> None:
    model = learner(inner_lr=0.07)
    expected = errors_of_gradient_descent(slopes(5, seed=1), 0.5, 0.07, 4)[-1].mean()
    for _ in range(2):
        (values,) = make_trainer(tmp_path).validate(model, Slopes(), verbose=False)
        assert values["val/mse"] == pytest.approx(expected.item())
        make_trainer(tmp_path).test(model, Slopes(), verbose=False)


def test_predictions_are_fine_tuned_with_the_tuned_step_size(tmp_path) -> None:
    model = learner()
    outputs = torch.cat(make_trainer(tmp_path).predict(model, Slopes()))
    errors = (outputs - slopes(7, seed=2).query_y).square().mean(dim=(1, 2))
    expected = errors_of_gradient_descent(slopes(7, seed=2), 0.5, model.tuning.chosen, 4)[-1]
    torch.testing.assert_close(errors, expected)


@pytest.mark.parametrize(
    ("higher", "means", "chosen"),
    [
        (False, (3.0, 1.0, 2.0), 0.2),
        (True, (3.0, 1.0, 2.0), 0.1),
        (False, (float("nan"), float("inf"), 2.0), 0.3),
        (True, (float("nan"), float("inf"), 2.0), 0.3),
        (False, (1.0, 1.0, 1.0), 0.1),
    ],
)
def test_tune_takes_the_best_and_never_what_is_not_finite(higher, means, chosen) -> None:
    grid = (0.1, 0.2, 0.3)
    by_step_size = dict(zip(grid, means, strict=True))
    assert tune(grid, by_step_size.__getitem__, higher).chosen == chosen


def test_a_grid_on_which_all_diverges_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`fine_tuning_lrs` .*\[1e\+60, 1e\+200\].*smaller"):
        make_trainer(tmp_path).test(learner(fine_tuning_lrs=[1e60, 1e200]), Slopes())


def test_accuracy_is_better_when_higher() -> None:
    assert higher_is_better(accuracy, cross_entropy)
    assert not higher_is_better(mse, mse)
    assert not higher_is_better(F.l1_loss, F.l1_loss)
    with pytest.raises(ValueError, match=r"`metric` must .*`higher_is_better`.*l1_loss"):
        higher_is_better(F.l1_loss, mse)

    def own(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.mean()

    own.higher_is_better = True  # type: ignore[attr-defined]
    assert higher_is_better(own, mse)


@pytest.mark.parametrize("grid", [[], [0.1, 0.0], [float("nan")], [float("inf")], [-1.0]])
def test_grids_that_are_none_are_refused(grid) -> None:
    with pytest.raises(ValueError, match="`fine_tuning_lrs` must be finite numbers > 0"):
        learner(fine_tuning_lrs=grid)


def test_without_a_datamodule_there_is_nothing_to_tune_on(tmp_path) -> None:
    with pytest.raises(ValueError, match="`datamodule` must be given"):
        make_trainer(tmp_path).test(learner(), DataLoader([slopes(2)], batch_size=None))


def test_a_checkpoint_holds_its_own_settings_and_loads(tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(learner(), Slopes())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Pretrained.load_from_checkpoint(tmp_path / "a.ckpt", model=line(), weights_only=True)
    assert loaded.fine_tuning_lrs == GRID
    assert loaded.eval_inner_steps == 4
    assert not {"inner_steps", "first_order", "derivation"} & set(loaded.hparams)
    torch.testing.assert_close(loaded.model.weight, trainer.lightning_module.model.weight)


def test_the_result_file_says_what_was_tuned(tmp_path) -> None:
    model = learner()
    make_trainer(tmp_path).test(model, Slopes(), verbose=False)
    (path,) = tmp_path.rglob("test_result.json")
    content = json.loads(path.read_text())
    assert content["tuning"] == {
        "fine_tuning_lrs": list(GRID),
        "val_means": list(model.tuning.means),
        "chosen": model.tuning.chosen,
    }


def test_a_result_of_meta_learning_says_nothing_of_tuning(tmp_path) -> None:
    model = MetaLearner(line(), loss="mse")
    make_trainer(tmp_path).test(model, Slopes(), verbose=False)
    (path,) = tmp_path.rglob("test_result.json")
    assert "tuning" not in json.loads(path.read_text())


def test_facts_of_a_mean_that_is_not_finite() -> None:
    facts = Tuning((0.1, 9.0), (1.0, float("inf")), 0.1).facts()
    assert facts["val_means"] == [1.0, float("inf")]
