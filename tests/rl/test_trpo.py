"""TRPO on a quadratic problem whose answer is known."""

import pytest
import torch

from lightning_maml.rl.trpo import Trpo, conjugate_gradient, set_parameters


class Quadratic:
    """loss = g x, KL = x F x / 2, around the place where it was made."""

    def __init__(self, x, g, f, loss=None):
        self.x, self.start, self.g, self.f, self.loss = x, x.detach().clone(), g, f, loss

    def gradient(self):
        return self.g, 0.0

    def fisher_product(self, direction):
        return self.f @ direction

    def loss_and_kl(self):
        d = self.x.detach() - self.start
        loss = float(self.g @ d) if self.loss is None else self.loss
        return loss, float(d @ self.f @ d / 2)


def problem(**options):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    x = torch.nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))
    g = torch.randn(5, generator=generator, dtype=torch.float64)
    return Quadratic(x, g, root @ root.T + torch.eye(5, dtype=torch.float64), **options)


def test_conjugate_gradient_solves_and_reports_its_residual() -> None:
    given = problem()
    x, r = conjugate_gradient(given.fisher_product, given.g, 5, 0.0)
    torch.testing.assert_close(x, torch.linalg.solve(given.f, given.g))
    x, r = conjugate_gradient(given.fisher_product, given.g, 2)
    torch.testing.assert_close(r, given.g - given.f @ x)


def test_step_is_the_natural_gradient_at_the_kl_limit() -> None:
    given = problem()
    trpo = Trpo([given.x], max_kl=0.01, damping=0.0)
    trpo.step(lambda: given)
    direction = torch.linalg.solve(given.f, given.g)
    expected = given.start - direction * (0.02 / (given.g @ direction)).sqrt()
    # the limit is met to rounding, so the first try may be the one at 0.8
    moved = (given.x.detach() - given.start) / (expected - given.start)
    assert trpo.report.accepted
    torch.testing.assert_close(moved, moved[0].expand(5))
    assert min(abs(moved[0].item() - 1), abs(moved[0].item() - 0.8)) < 1e-6
    assert trpo.report.kl <= 0.01


def test_damping_is_added_to_the_diagonal() -> None:
    given = problem()
    Trpo([given.x], damping=3.0).step(lambda: given)
    direction = torch.linalg.solve(given.f + 3 * torch.eye(5), given.g)
    moved = (given.x.detach() - given.start) / direction
    torch.testing.assert_close(moved, moved[0].expand(5))
    assert moved[0] < 0


def test_step_is_at_the_limit_though_conjugate_gradient_is_not_at_its_end() -> None:
    given = problem()
    trpo = Trpo([given.x], max_kl=0.01, cg_iterations=1, damping=0.0)
    trpo.step(lambda: given)
    whole = trpo.report.kl / 0.64 ** (trpo.report.tries - 1)
    assert whole == pytest.approx(0.01, rel=1e-6)


def test_tries_get_shorter_until_the_kl_divergence_is_within_the_limit() -> None:
    """It is 100 times what its second derivative says: 0.64^10 is 0.0115, 0.64^11 is 0.0074."""
    given = problem()
    given.loss_and_kl = lambda: (-1.0, 100 * Quadratic.loss_and_kl(given)[1])
    trpo = Trpo([given.x], max_kl=0.01)
    trpo.step(lambda: given)
    assert trpo.report.tries == 12
    assert trpo.report.kl == pytest.approx(0.01 * 100 * 0.64**11, rel=1e-4)


def test_kl_grows_with_the_square_of_the_step() -> None:
    kls = []
    for limit in (0.01, 0.04):
        given = problem()
        trpo = Trpo([given.x], max_kl=limit)
        trpo.step(lambda given=given: given)
        kls.append(trpo.report.kl / 0.64 ** (trpo.report.tries - 1))
    assert kls[1] / kls[0] == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("loss", [1.0, float("nan"), 0.0])
def test_rejected_step_leaves_the_parameters_bit_equal(loss) -> None:
    given = problem(loss=loss)
    trpo = Trpo([given.x])
    trpo.step(lambda: given)
    assert not trpo.report.accepted
    assert trpo.report.tries == 15
    assert torch.equal(given.x, given.start)


def test_gradient_that_is_not_finite_is_an_error() -> None:
    given = problem()
    given.g[0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        Trpo([given.x]).step(lambda: given)
    assert torch.equal(given.x, given.start)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_kl": 0.0},
        {"damping": -1.0},
        {"backtrack_ratio": 1.0},
        {"cg_iterations": 0},
        {"max_backtracks": 0},
    ],
)
def test_settings_out_of_range(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Trpo([torch.nn.Parameter(torch.zeros(1))], **wrong)


def test_parameters_keep_memory_of_their_own() -> None:
    """So that saving one of them does not save all."""
    several = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    set_parameters(several, torch.arange(10.0))
    assert several[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert several[1].tolist() == [6, 7, 8, 9]
    assert [p.untyped_storage().nbytes() for p in several] == [24, 16]
