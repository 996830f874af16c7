"""Inner rules against torch's optimizers and finite differences, and sweep against unrolled."""

import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner
from lightning_maml.engine import Engine
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.inner_rules import Adam, Clipped, HeldBack, InnerRule, Momentum
from lightning_maml.models import MLP
from lightning_maml.step_sizes import StepSizes
from tests.cases import CASES, flat, meta_gradient, relative_error
from tests.test_meta_gradient import errors

STEPS, ALPHA = 3, 0.05
RULES = {
    "momentum": Momentum(0.8),
    "adam": Adam(0.8, 0.9, eps=1e-3),
    "clipped": Clipped(0.1),
    "held_back": HeldBack(2.0),
    "other way round": HeldBack(0.5, Clipped(0.2, Momentum(0.5))),
    "all": Clipped(0.2, HeldBack(0.5, Adam(0.5, 0.9, eps=1e-2))),
}


def task() -> tuple[nn.Module, Episode]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    parts = [torch.randn(1, 5, n, dtype=torch.float64) for n in (3, 2, 3, 2)]
    return model, Episode(*parts)


def adapted(rule: InnerRule, steps: int = STEPS) -> tuple[nn.Module, list[Tensor]]:
    """The model before, and its parameters after some steps on the support set."""
    model, episode = task()
    loop = InnerLoop(steps, StepSizes(ALPHA), rule=rule)
    engine = Engine(model, F.mse_loss)
    return model, list(engine.adapt(loop, episode.support_x[0], episode.support_y[0]).values())


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, change=lambda ps: None) -> None:
    """A plain loop; `change` may change the gradients."""
    _, episode = task()
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.mse_loss(model(episode.support_x[0]), episode.support_y[0]).backward()
        change(list(model.parameters()))
        optimizer.step()


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (Momentum(0.8), lambda ps: torch.optim.SGD(ps, ALPHA, momentum=0.8)),
        (Adam(0.8, 0.9, 1e-3), lambda ps: torch.optim.Adam(ps, ALPHA, (0.8, 0.9), 1e-3)),
    ],
)
def test_steps_are_those_of_torchs_optimizer(rule, optimizer) -> None:
    model, after = adapted(rule)
    by_hand(model, optimizer(model.parameters()))
    for ours, theirs in zip(after, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", [0.1, 100.0])
def test_clipping_is_that_of_torch(norm) -> None:
    model, after = adapted(Clipped(norm))
    by_hand(
        model,
        torch.optim.SGD(model.parameters(), ALPHA),
        lambda ps: nn.utils.clip_grad_norm_(ps, norm),
    )
    for ours, theirs in zip(after, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-9)  # its 1e-6


def test_weight_decay_is_toward_the_initialisation() -> None:
    model, after = adapted(HeldBack(2.0))
    start = [p.detach().clone() for p in model.parameters()]

    def pull(parameters) -> None:
        for p, p0 in zip(parameters, start, strict=True):
            p.grad += 2.0 * (p.detach() - p0)

    by_hand(model, torch.optim.SGD(model.parameters(), ALPHA), pull)
    for ours, theirs in zip(after, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("learned", [None, "per_tensor_and_step"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_sweep_equals_unrolled(rule, learned) -> None:
    loop = InnerLoop(STEPS, StepSizes(ALPHA, learned), rule=rule)
    assert errors(CASES["group_norm_silu"], loop) < 1e-8
    plain = meta_gradient(
        CASES["group_norm_silu"].engine(),
        InnerLoop(STEPS, loop.step_sizes),
        CASES["group_norm_silu"].episode(),
    )
    there = meta_gradient(
        CASES["group_norm_silu"].engine(), loop, CASES["group_norm_silu"].episode()
    )
    assert relative_error(flat(there), flat(plain)) > 1e-3


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_meta_gradient_is_that_of_finite_differences(rule) -> None:
    model, episode = task()
    loop = InnerLoop(STEPS, StepSizes(ALPHA), rule=rule)
    engine = Engine(model, F.mse_loss)
    grads = flat(engine.meta_gradient(loop, episode))
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.manual_seed(1)
    for direction in torch.randn(3, len(start), dtype=torch.float64):
        sides = []
        for sign in (1, -1):
            moved = start + sign * 1e-5 * direction
            nn.utils.vector_to_parameters(moved, model.parameters())
            sides.append(float(engine.meta_gradient(loop, episode).loss))
        slope = (sides[0] - sides[1]) / 2e-5
        assert float(grads @ direction) == pytest.approx(slope, rel=1e-6)
        nn.utils.vector_to_parameters(start, model.parameters())


@pytest.mark.parametrize("rule", [Adam(), Clipped(1.0)], ids=["adam", "clipped"])
def test_a_gradient_of_zero_gives_no_nan(rule) -> None:
    model, episode = task()
    nn.init.zeros_(model[2].weight)  # nothing comes back to the first layer
    episode = episode._replace(support_y=torch.zeros_like(episode.support_y))
    nn.init.zeros_(model[2].bias)  # and the loss is at its minimum
    loop = InnerLoop(1, StepSizes(ALPHA), rule=rule)
    for derivation in ("sweep", "unrolled"):
        result = Engine(model, F.mse_loss, derivation=derivation).meta_gradient(loop, episode)
        assert torch.isfinite(flat(result)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", [Adam(), Clipped(1.0)], ids=["adam", "clipped"])
def test_half_precision_steps_are_those_of_32_bits(rule, dtype) -> None:
    """With a gradient whose square is beyond 16 bits, and one of zero."""
    theta = {"w": torch.tensor([1.0, 2.0, 3.0])}
    grads = {"w": torch.tensor([1000.0, 0.0, -2000.0])}
    moved, _ = rule.update(theta, grads, rule.init(theta), lambda name: 0.25)
    half = [{"w": part["w"].to(dtype)} for part in (theta, grads)]
    there, _ = rule.update(*half, rule.init(half[0]), lambda name: 0.25)
    assert there["w"].dtype == dtype
    torch.testing.assert_close(there["w"].float(), moved["w"], rtol=0.01, atol=0)
    assert not torch.equal(moved["w"], theta["w"])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_first_order_holds_the_gradients_constant(rule) -> None:
    loop = InnerLoop(STEPS, StepSizes(ALPHA), first_order=True, rule=rule)
    assert errors(CASES["group_norm_silu"], loop) < 1e-8


def test_equal_rules_are_equal_and_can_be_copied() -> None:
    for rule in RULES.values():
        again = pickle.loads(pickle.dumps(rule))
        assert again == rule
        assert hash(again) == hash(rule)
    assert Momentum(0.5) != Momentum(0.6)


def test_a_learner_takes_a_rule_by_name_or_as_it_is(tmp_path) -> None:
    learner = MetaLearner(MLP(), loss="mse", inner_rule="adam")
    assert learner.inner_loop.rule == Adam()
    assert learner.hparams["inner_rule"] == "adam"
    rule = Momentum(0.5)
    assert MetaLearner(MLP(), loss="mse", inner_rule=rule).inner_loop.rule is rule


def test_a_rule_that_was_an_object_must_be_given_again(tmp_path) -> None:
    """A checkpoint holds plain settings; to load it with another rule would be silent."""
    learner = MetaLearner(MLP(), loss="mse", inner_rule=Momentum(0.5))
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(learner)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    load = partial(MetaLearner.load_from_checkpoint, tmp_path / "a.ckpt", model=MLP())
    with pytest.raises(ValueError, match=r"`inner_rule` must be .*got 'Momentum.*give it again"):
        load()
    assert load(inner_rule=Momentum(0.5)).inner_loop.rule == Momentum(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Momentum(1.0), "`momentum` must be >= 0 and < 1, got 1.0"),
        (lambda: Adam(beta2=-0.1), "`beta2` must be >= 0 and < 1, got -0.1"),
        (lambda: Adam(eps=0.0), "`eps` must be > 0, got 0.0"),
        (lambda: Clipped(0.0), r"`norm` must be > 0 and < 1e\+19, got 0.0"),
        (lambda: HeldBack(-1.0), "`strength` must be >= 0, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
