"""Compiled equals eager, and what cannot be compiled is refused."""

import logging

import pytest
import torch
import torch.nn.functional as F

from lightning_maml import MetaLearner
from lightning_maml.compiling import compiled, resolve_compile
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.models import MLP, Conv4
from lightning_maml.step_sizes import StepSizes
from tests.cases import CASES, flat, meta_gradient, relative_error
from tests.test_modules import dropout_net, images, regression


def error(name: str, loop: InnerLoop, **settings: object) -> float:
    case = CASES[name]
    results = [
        meta_gradient(case.engine(compile=compile, **settings), loop, case.episode())
        for compile in (True, False)
    ]
    return relative_error(flat(results[0]), flat(results[1]))


def test_compiled_equals_eager() -> None:
    """A04: the compiled second-order gradient is that of the eager path."""
    assert error("mlp", InnerLoop(2, StepSizes(0.05))) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("name", ["mlp", "conv4", "group_norm_silu", "embedding", "attention"])
def test_compiled_equals_eager_for_every_net(name: str, steps: int, first_order: bool) -> None:
    """A04: MLP, conv nets and attention, both orders."""
    assert error(name, InnerLoop(steps, StepSizes(0.05), first_order)) < 1e-8


@pytest.mark.slow
def test_compiled_equals_eager_task_by_task() -> None:
    """Large maps are laid out anew inside the program, with their tangents."""
    assert error("conv4", InnerLoop(1, StepSizes(0.05)), tasks_at_once=1) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("learned", ["one", "per_tensor_and_step", "per_weight"])
def test_compiled_equals_eager_with_learned_step_sizes(learned: str) -> None:
    loop = InnerLoop(2, StepSizes(0.05, learned))
    assert error("group_norm_silu", loop, adapts=("4.*",)) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
def test_three_compiled_meta_updates_equal_three_eager_ones(steps: int, first_order: bool) -> None:
    """A04: relative error at most 1e-4 on a conv net after three updates from the same seed."""
    weights = []
    for compile in (True, False):
        torch.manual_seed(0)
        model = Conv4(3, 1, 4, 8, "stride").double()
        maml = MetaLearner(
            model, loss=F.cross_entropy, inner_lr=0.1, inner_steps=steps,
            first_order=first_order, compile=compile,
        )  # fmt: skip
        optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            maml.meta_loss(images()).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert relative_error(*weights) < 1e-4


@pytest.mark.parametrize(
    ("device", "changed"), [("cpu", {"layout_optimization": False}), ("cuda", {})]
)
def test_maps_keep_their_layout_on_a_cpu(device, changed, monkeypatch) -> None:
    """With torch's own choice kernels read across: nothing is wrong, but Omniglot takes 1.25x."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda program, **options: asked.append(options))
    compiled(torch.relu, torch.device(device))
    assert (asked[0]["options"] or {}) == changed


def test_dropout_is_refused_by_name() -> None:
    maml = MetaLearner(dropout_net(), loss=F.mse_loss, compile=True)
    with pytest.raises(ValueError, match=r"`compile` must be false.*got true with \['1'\]"):
        maml.meta_loss(regression())


def test_auto_runs_dropout_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    maml = MetaLearner(dropout_net(), loss=F.mse_loss, compile="auto")
    with caplog.at_level(logging.INFO, logger="lightning_maml"):
        maml.meta_loss(regression()).backward()
    assert "eager" in caplog.text
    assert "random numbers" in caplog.text


def test_auto_says_in_one_line_which_path_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lightning_maml"):
        compiled = resolve_compile("auto", MLP(), torch.zeros(1, 1))
    (record,) = caplog.records
    assert ("compiled" if compiled else "eager") in record.message


def test_auto_falls_back_aloud_where_no_compiler_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    maml = MetaLearner(MLP().double(), loss=F.mse_loss, compile="auto")
    with caplog.at_level(logging.INFO, logger="lightning_maml"):
        maml.meta_loss(regression()).backward()
    assert [r.message for r in caplog.records] == [
        "Meta-gradient: eager; torch.compile does not work here (No C++ compiler found)."
    ]
