"""The derivation "joint": for each operator that it lets through, the sweep's meta-gradient."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml import MetaLearner
from lightning_maml.engine import Engine
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.inner_rules import Adam, Clipped, Momentum
from lightning_maml.joint_operators import COMPARED, ELEMENTWISE, operators
from lightning_maml.models import EpisodeHead
from lightning_maml.step_sizes import StepSizes
from tests.cases import CASES, Case, flat, meta_gradient, relative_error
from tests.naive_maml import naive_meta_gradient

LOOP = InnerLoop(2, StepSizes(0.05, "per_tensor"))
LOOP_OF_ONE = InnerLoop(1, StepSizes(0.05))
POSITIVE = ("log", "pow", "sqrt")
FUNCTIONS = {
    **{name: getattr(torch, name) for name in ("cos", "exp", "log", "neg", "relu", "sigmoid")},
    **{name: getattr(F, name) for name in ("gelu", "leaky_relu", "silu")},
    **{name: getattr(torch, name) for name in ("sin", "sqrt", "tanh")},
    "add": lambda x: x + x.mean(),
    "sub": lambda x: x - 0.1 * x.sum(1, keepdim=True),
    "rsub": lambda x: 1 - x,
    "mul": lambda x: x * x.mean(),
    "div": lambda x: x / (1 + x.square().sum()),
    "pow": lambda x: x**1.5,
    "logsumexp": lambda x: x - x.logsumexp(1, keepdim=True),
    "_softmax": lambda x: F.softmax(x, 1),
    "_log_softmax": lambda x: F.log_softmax(x, 1),
    "var_mean": lambda x: (x - x.mean(0)) / torch.var_mean(x, 0)[0],
    "bmm": lambda x: torch.bmm(x[:, None], x[:, :, None] * x[:, None]).squeeze(1),
    "mm": lambda x: x @ x.t() @ x,
    "cat": lambda x: torch.cat([x[:, 2:], x[:, :2]], 1),
    "stack": lambda x: torch.stack([x, 2 * x], 2).sum(2),
    "select": lambda x: x * x[0],
    "expand": lambda x: x * x[:, :1].expand_as(x),
    "permute": lambda x: (x.permute(1, 0) * x.transpose(0, 1)).t(),
    "avg_pool2d": lambda x: F.avg_pool2d(x.reshape(-1, 1, 2, 4), 2, 1, 1).flatten(1)[:, :8] * x,
}  # fmt: skip
"""Of ``[examples, 8]``, by the operator that each is there for."""


class Between(nn.Module):
    """A function between two linear layers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.first, self.head = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(FUNCTIONS[self.name](1 + x**2 if self.name in POSITIVE else x))


def difference(case: Case, loop: InnerLoop = LOOP) -> float:
    episode = case.episode()
    found = [
        flat(meta_gradient(case.engine(derivation=derivation), loop, episode))
        for derivation in ("joint", "sweep")
    ]
    return relative_error(*found)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_operator_has_the_meta_gradient_of_the_sweep(name: str) -> None:
    case = Case(lambda: Between(name), (3,), "head.*")
    ran = operators(case.model(), [case.episode().support_x[0]])
    assert name in ran
    assert difference(case) < 1e-9


def test_no_elementwise_operator_is_let_through_without_a_case() -> None:
    assert set(ELEMENTWISE) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", ["mlp", "conv4"])
@pytest.mark.parametrize("rule", [None, Momentum(0.5), Adam(), Clipped(0.1)])
def test_networks_of_the_paper_with_every_inner_rule(name: str, rule) -> None:
    """Convolutions, batch norm, max-pooling, cross entropy and squared error are in them."""
    loop = LOOP if rule is None else InnerLoop(2, LOOP.step_sizes, rule=rule)
    assert difference(CASES[name], loop) < 1e-8


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("embedding", "embedding, native_layer_norm"),
        ("group_norm_silu", "native_group_norm"),
        ("attention", ".*native_layer_norm"),
    ],
)
def test_other_operators_are_refused_by_name(name: str, operator: str) -> None:
    with pytest.raises(
        ValueError, match=f'`derivation` must be "sweep", "unrolled" or.*{operator}'
    ):
        CASES[name].engine(derivation="joint").meta_gradient(LOOP, CASES[name].episode())


def test_torch_has_a_layer_norm_wrong_that_is_let_through(monkeypatch) -> None:
    """Why there is a list. Once this fails, torch has mended it, and the list can go."""
    monkeypatch.setattr(
        "lightning_maml.joint_operators.COMPARED",
        COMPARED | {"embedding", "native_layer_norm"},
    )
    assert difference(CASES["embedding"]) > 1e-5


def test_one_task_at_a_time_takes_any_operator() -> None:
    case, episode = CASES["embedding"], CASES["embedding"].episode()
    engine = case.engine(derivation="joint", tasks_at_once=1)
    loop = InnerLoop(2, StepSizes(0.05))
    _, expected = naive_meta_gradient(engine.model, case.loss, episode, 0.05, 2)
    found = engine.meta_gradient(loop, episode).grads.adapted
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "at_once", "said"),
    [
        ("conv4", None, "jointly for 3 tasks"),
        ("conv4", 1, "by the sweep."),
        ("embedding", None, r"by the sweep \(embedding, native_layer_norm\)"),
    ],
)
def test_auto_is_joint_where_it_may_be_and_says_so(name, at_once, said, caplog) -> None:
    caplog.set_level("INFO", "lightning_maml")
    case, episode = CASES[name], CASES[name].episode()
    found = meta_gradient(case.engine(derivation="auto", tasks_at_once=at_once), LOOP, episode)
    assert re.search(said, caplog.text)
    assert relative_error(flat(found), flat(meta_gradient(case.engine(), LOOP, episode))) < 1e-8


def test_looking_for_operators_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    assert "bernoulli" in operators(nn.Dropout(), [torch.ones(3)])
    drawn = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(2))


def test_a_head_that_the_task_makes_is_left_to_the_sweep() -> None:
    model = EpisodeHead(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), 4).double()
    episode = CASES["group_norm_silu"].episode()
    auto, sweep = (
        flat(Engine(model, F.cross_entropy, derivation=way).meta_gradient(LOOP_OF_ONE, episode))
        for way in ("auto", "sweep")
    )
    assert torch.equal(auto, sweep)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_value_is_there_whatever_the_mode(mode) -> None:
    case = CASES["conv4"]
    learner = MetaLearner(case.model(), loss=case.loss, inner_lr=0.05, derivation="joint")
    value = learner.meta_loss(case.episode())
    with mode():
        again = learner.meta_loss(case.episode())
    assert not again.requires_grad
    torch.testing.assert_close(again.clone(), value.detach(), rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    case, episode = CASES["conv4"], CASES["conv4"].episode()
    eager, compiled = (
        flat(Engine(case.model(), case.loss, derivation="joint", compile=c).meta_gradient(
            InnerLoop(2, StepSizes(0.05)), episode))
        for c in (False, True)
    )  # fmt: skip
    assert relative_error(compiled, eager) < 1e-9
