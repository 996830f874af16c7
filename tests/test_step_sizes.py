"""Step sizes: one for each inner step, in every form, against a loop written by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_maml import Episode, MetaLearner, maml_loss
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.step_sizes import StepSizes
from tests.cases import CASES, flat, meta_gradient, relative_error

FORMS = [None, "one", "per_tensor", "per_tensor_and_step", "per_weight"]
ALPHAS = (0.25, 0.125)


def line(**settings: object) -> MetaLearner:
    """f(x) = w x with w = 2."""
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(model.weight, 2.0)
    return MetaLearner(model, loss=F.mse_loss, **settings)


def scalar_task() -> Episode:
    """Support (1, 0), so that a step multiplies w by 1 - 2 alpha; query (2, 3)."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return Episode(one, 0 * one, 2 * one, 3 * one)


def weights(maml: MetaLearner, steps: int) -> list[float]:
    task = scalar_task()
    adapted = [maml.adapt(task.support_x[0], task.support_y[0], k) for k in range(steps + 1)]
    return [one["weight"].item() for one in adapted]


@pytest.mark.parametrize("learned", FORMS)
def test_each_step_has_its_own_and_the_last_holds_past_the_end(learned: str | None) -> None:
    """2, then times 1/2, then times 3/4 for ever, though only one step is trained for."""
    maml = line(inner_lr=list(ALPHAS), learn_inner_lr=learned)
    assert weights(maml, 4) == [2, 1, 0.75, 0.5625, 0.421875]
    # d(2 w' - 3)^2 / dw with w' = w (1 - 2 a0) (1 - 2 a1) = 0.75: 2 (-1.5) 2 (3 / 8)
    loss = line(inner_lr=list(ALPHAS), learn_inner_lr=learned, inner_steps=2)
    loss.meta_loss(scalar_task()).backward()
    assert loss.model.weight.grad.item() == -2.25


@pytest.mark.parametrize(
    ("learned", "expected"),
    [
        # d / da0 = 4 (2 w' - 3) w (-2) (1 - 2 a1) = 18, d / da1 likewise 12
        ("per_tensor_and_step", [18.0, 12.0]),
        ("per_tensor", 18 + 12 / 2),  # a1 is half of what is learned
        ("per_weight", [[24.0]]),
        ("one", 24.0),
    ],
)
def test_the_gradient_of_a_schedule_by_hand(learned: str, expected: object) -> None:
    maml = line(inner_lr=list(ALPHAS), learn_inner_lr=learned, inner_steps=2)
    maml.meta_loss(scalar_task()).backward()
    (alpha,) = maml.inner_lrs.values()
    torch.testing.assert_close(alpha.grad, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("learned", FORMS)
def test_sweep_equals_unrolled_with_a_schedule(learned: str | None) -> None:
    case, loop = CASES["group_norm_silu"], InnerLoop(3, StepSizes([0.1, 0.02, 0.05], learned))
    sweep = meta_gradient(case.engine(), loop, case.episode())
    unrolled = meta_gradient(case.engine(derivation="unrolled"), loop, case.episode())
    assert relative_error(flat(sweep), flat(unrolled)) < 1e-8


def test_evaluation_may_have_its_own() -> None:
    maml = line(inner_lr=0.25, eval_inner_lr=[0.125, 0.5], inner_steps=1)
    assert weights(maml, 3) == [2, 1.5, 0, 0]
    maml.meta_loss(scalar_task()).backward()
    assert maml.model.weight.grad.item() == -2  # training has 0.25


def test_the_plain_call_takes_a_schedule() -> None:
    model = line().model
    loss: Tensor = maml_loss(model, F.mse_loss, scalar_task(), inner_lr=ALPHAS, inner_steps=2)
    assert loss.item() == 1.5**2


def test_a_schedule_is_plain_data_in_a_checkpoint() -> None:
    maml = line(inner_lr=ALPHAS, eval_inner_lr=0.5)
    assert maml.hparams["inner_lr"] == [0.25, 0.125]
    assert type(maml.hparams["eval_inner_lr"]) is float


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"inner_lr": []}, r"`inner_lr` must be a finite number >= 0, or several, got \(\)"),
        ({"inner_lr": [0.1, -1.0]}, r"`inner_lr` .* got \(0.1, -1.0\)"),
        ({"inner_lr": [0.1, 0.0], "learn_inner_lr": "one"}, r"`inner_lr` must have no 0 .* 0.0\)"),
        ({"eval_inner_lr": 0.1, "learn_inner_lr": "one"}, "`eval_inner_lr` must be None"),
    ],
)
def test_wrong_step_sizes_are_named(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        line(**settings)


@pytest.mark.parametrize("learned", ["one", "per_tensor", "per_tensor_and_step", "per_weight"])
def test_a_learned_step_size_may_start_at_zero(learned) -> None:
    sizes = StepSizes(0.0, learned)
    alphas = sizes.initial({"w": torch.ones(2)}, 2)
    for step in range(4):
        assert torch.equal(sizes.at(alphas, "w", step), torch.zeros_like(sizes.at(alphas, "w", 0)))
