"""The sweep against the unrolled derivation, finite differences, closed forms and a naive loop."""

import pytest
import torch

from lightning_maml.inner_loop import InnerLoop
from lightning_maml.inner_rules import SGD, InnerRule
from lightning_maml.meta_gradient import DERIVATIONS
from lightning_maml.step_sizes import StepSizes
from tests.cases import CASES, Case, flat, meta_gradient, relative_error
from tests.naive_maml import naive_meta_gradient

FORMS = [None, "one", "per_tensor", "per_tensor_and_step", "per_weight"]
QUICK = [name for name in CASES if "resnet18" not in name]
SLOW = [pytest.param("resnet18", marks=pytest.mark.slow)]
LR = 0.05


def errors(case: Case, loop: InnerLoop, **settings: object) -> float:
    episode = case.episode()
    sweep = meta_gradient(case.engine(**settings), loop, episode)
    unrolled = meta_gradient(case.engine(**settings, derivation="unrolled"), loop, episode)
    torch.testing.assert_close(sweep.loss, unrolled.loss, rtol=1e-12, atol=0)
    return relative_error(flat(sweep), flat(unrolled))


DEEP = [pytest.param("resnet18", k, marks=pytest.mark.slow if k > 1 else ()) for k in (1, 2, 5)]


@pytest.mark.parametrize(("name", "steps"), [*((n, k) for n in QUICK for k in (1, 2, 5)), *DEEP])
def test_sweep_equals_unrolled(name: str, steps: int) -> None:
    assert errors(CASES[name], InnerLoop(steps, StepSizes(LR))) < 1e-8


@pytest.mark.parametrize("learned", FORMS)
@pytest.mark.parametrize("adapts", ["all", "head"])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_sweep_equals_unrolled_for_every_form_of_step_size(
    name: str, adapts: str, learned: str | None
) -> None:
    case = CASES[name]
    patterns = ("*",) if adapts == "all" else (case.head,)
    loop = InnerLoop(2, StepSizes(LR, learned))
    assert errors(case, loop, adapts=patterns) < 1e-8


@pytest.mark.parametrize("learned", [None, "per_weight"])
@pytest.mark.parametrize("name", QUICK)
def test_first_order_sweep_equals_unrolled(name: str, learned: str | None) -> None:
    assert errors(CASES[name], InnerLoop(3, StepSizes(LR, learned), first_order=True)) < 1e-8


def test_multi_step_loss_sweep_equals_unrolled() -> None:
    loop = InnerLoop(3, StepSizes(LR, "per_tensor"), step_weights=(0.2, 0.3, 0.5))
    assert errors(CASES["group_norm_silu"], loop) < 1e-8


def test_multi_step_loss_is_the_weighted_sum_of_losses_after_each_step() -> None:
    case = CASES["mlp"]
    engine, episode = case.engine(), case.episode()
    weights = (0.2, 0.0, 0.8)
    total = engine.meta_gradient(InnerLoop(3, StepSizes(LR), step_weights=weights), episode)
    each = [engine.meta_gradient(InnerLoop(k + 1, StepSizes(LR)), episode) for k in range(3)]
    expected = sum(w * part.loss for w, part in zip(weights, each, strict=True))
    torch.testing.assert_close(total.loss, expected, rtol=1e-12, atol=0)
    gradient = sum(w * flat(part) for w, part in zip(weights, each, strict=True))
    assert relative_error(flat(total), gradient) < 1e-10


def finite_difference_error(
    case: Case, steps: int, adapts: tuple[str, ...], learned: object
) -> float:
    """Relative error of the directional derivative along a random direction of all parameters."""
    loop, episode = InnerLoop(steps, StepSizes(LR, learned)), case.episode()
    engine = case.engine(adapts=adapts)
    tensors = engine.tensors()
    sizes = loop.step_sizes.initial(tensors.adapted, steps)
    result = engine.meta_gradient(loop, episode, sizes)
    parts = (tensors.adapted, tensors.held, sizes)
    g = torch.Generator().manual_seed(2)
    directions = [
        {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in part.items()}
        for part in parts
    ]
    exact = sum(
        (result.grads[i][n] * d).sum() for i, part in enumerate(directions) for n, d in part.items()
    )

    def loss_at(distance: float) -> torch.Tensor:
        with torch.no_grad():
            for part, direction in zip(parts, directions, strict=True):
                for n, p in part.items():
                    p.add_(direction[n], alpha=distance)
            loss = engine.meta_gradient(loop, episode, sizes).loss
            for part, direction in zip(parts, directions, strict=True):
                for n, p in part.items():
                    p.add_(direction[n], alpha=-distance)
        return loss

    numeric = (loss_at(case.eps) - loss_at(-case.eps)) / (2 * case.eps)
    return float((exact - numeric).abs() / numeric.abs())


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", [*QUICK, pytest.param("smooth_resnet18", marks=pytest.mark.slow)])
def test_sweep_agrees_with_finite_differences(name: str, steps: int) -> None:
    """A01, small conv nets and others: the second-order gradient is really that."""
    assert finite_difference_error(CASES[name], steps, ("*",), None) < 1e-6


@pytest.mark.parametrize("learned", FORMS)
@pytest.mark.parametrize("adapts", ["all", "head"])
@pytest.mark.parametrize("name", ["mlp", "conv4", "group_norm_silu"])
def test_every_form_of_step_size_agrees_with_finite_differences(
    name: str, adapts: str, learned: str | None
) -> None:
    case = CASES[name]
    patterns = ("*",) if adapts == "all" else (case.head,)
    assert finite_difference_error(case, 2, patterns, learned) < 1e-6


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", ["mlp", "conv4", "lstm", "attention"])
def test_sweep_agrees_with_a_naive_loop(name: str, first_order: bool) -> None:
    case = CASES[name]
    episode, engine = case.episode(), case.engine()
    ours = engine.meta_gradient(InnerLoop(3, StepSizes(LR), first_order), episode)
    loss, grads = naive_meta_gradient(engine.model, case.loss, episode, LR, 3, first_order)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-10, atol=0)
    naive = torch.cat([grads[name].flatten() for name in ours.grads.adapted])
    assert relative_error(flat(ours), naive) < 1e-8


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
@pytest.mark.parametrize("derivation", DERIVATIONS)
def test_tasks_at_once_does_not_change_the_result(at_once: int, derivation: str) -> None:
    """A10: chunks of 1, 2, 3 (no divisor) or all of 8 tasks give the same meta-gradient."""
    case = CASES["conv4"]
    loop, episode = InnerLoop(2, StepSizes(LR, "per_tensor")), case.episode(tasks=8)
    chunked = meta_gradient(
        case.engine(tasks_at_once=at_once, derivation=derivation), loop, episode
    )
    together = meta_gradient(case.engine(), loop, episode)
    assert relative_error(flat(chunked), flat(together)) < 1e-6
    torch.testing.assert_close(chunked.report, together.report)


def test_an_inner_rule_with_state_goes_through_the_sweep() -> None:
    """Momentum as a user would write it: sweep, unrolled and finite differences agree."""

    class Momentum(InnerRule):
        linear = True

        def init(self, theta):  # type: ignore[no-untyped-def]
            return ({n: torch.zeros_like(p) for n, p in theta.items()},)

        def update(self, theta, grads, state, step_size):  # type: ignore[no-untyped-def]
            velocity = {n: 0.9 * state[0][n] + g for n, g in grads.items()}
            return {n: p - step_size(n) * velocity[n] for n, p in theta.items()}, (velocity,)

    case = CASES["group_norm_silu"]
    for learned in (None, "per_weight"):
        loop = InnerLoop(3, StepSizes(LR, learned), rule=Momentum())
        assert errors(case, loop) < 1e-8
        plain = InnerLoop(3, StepSizes(LR, learned), rule=SGD)
        there = meta_gradient(case.engine(), loop, case.episode())
        assert (
            relative_error(flat(there), flat(meta_gradient(case.engine(), plain, case.episode())))
            > 1e-3
        )


def test_a_rule_that_is_not_linear_in_the_gradient_goes_through_the_sweep() -> None:
    class Bounded(InnerRule):
        def update(self, theta, grads, state, step_size):  # type: ignore[no-untyped-def]
            return {n: p - step_size(n) * torch.tanh(grads[n]) for n, p in theta.items()}, state

    assert errors(CASES["group_norm_silu"], InnerLoop(3, StepSizes(LR), rule=Bounded())) < 1e-8
