"""The losses and the meta-gradient against closed forms, and J^T F J against autograd."""

from functools import partial

import pytest
import torch
from torch.func import functional_call, hessian, vmap

from lightning_maml.episode import Episode
from lightning_maml.functional_model import module_tensors, task_loss
from lightning_maml.inner_loop import InnerLoop, MetaParams, inner_step
from lightning_maml.rl.meta_objective import fisher_product, gradient, objective, policy_losses
from lightning_maml.rl.partial_evaluation import Split
from lightning_maml.rl.policy import GaussianMLP, kl, log_prob
from lightning_maml.rl.policy_loss import Targets, mean_kl, reinforce, surrogate
from lightning_maml.step_sizes import StepSizes


class Bandit(torch.nn.Module):
    """One action, one step: mean and log-std are the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
        self.log_std = torch.nn.Parameter(torch.tensor([-0.2], dtype=torch.float64))

    def forward(self, x):
        return torch.cat([self.mean, self.log_std]).expand(len(x), 2)


def joined(policy, adapts=("*",)):
    tensors = module_tensors(policy, adapts)
    bind = partial(task_loss, policy, frozen=tensors.frozen, buffers=tensors.buffers)
    parts = ({n: p.detach() for n, p in t.items()} for t in (tensors.adapted, tensors.held))
    return policy_losses(bind), MetaParams(*parts, {})


def drawn(policy, theta, held, observations, generator, reward=None):
    """Samples of one task: actions of the policy, random advantages or those of `reward`."""
    output = functional_call(policy, {**theta, **held}, (observations,))
    mean, log_std = output.chunk(2, dim=-1)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    action = mean + log_std.exp() * noise
    advantage = torch.randn(len(action), generator=generator, dtype=mean.dtype)
    if reward is not None:
        advantage = reward(action[:, 0])
    weight = torch.ones(len(action), dtype=mean.dtype)
    y = Targets(action, advantage, weight, output).packed()
    return Episode(observations, y, observations, y)


def test_log_prob_and_kl_are_those_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64)
    action = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    p, q = (torch.distributions.Normal(o[:, :3], o[:, 3:].exp()) for o in (old, new))
    torch.testing.assert_close(log_prob(new, action), q.log_prob(action).sum(-1))
    expected = torch.distributions.kl_divergence(p, q).sum(-1)
    torch.testing.assert_close(kl(old, new), expected)


def test_losses_are_means_over_what_has_weight() -> None:
    """By torch.distributions, away from the policy that sampled."""
    generator = torch.Generator().manual_seed(7)
    output, old = 0.5 * torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    action = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    advantage = torch.randn(9, generator=generator, dtype=torch.float64)
    weight = torch.tensor([1.0] * 6 + [0.0] * 3, dtype=torch.float64)
    y = Targets(action, advantage, weight, old).packed()
    p, q = (torch.distributions.Normal(o[:6, :2], o[:6, 2:].exp()) for o in (old, output))
    before, now = (d.log_prob(action[:6]).sum(-1) for d in (p, q))
    divergence = torch.distributions.kl_divergence(p, q).sum(-1).mean()
    torch.testing.assert_close(mean_kl(output, y), divergence)
    torch.testing.assert_close(reinforce(output, y), -(now * advantage[:6]).mean())
    ratio = now.exp() / before.exp()
    torch.testing.assert_close(surrogate(output, y), -(ratio * advantage[:6]).mean())


def test_policy_gradient_of_a_bandit_is_the_exact_one() -> None:
    """E[-(a - g)^2] = -(m - g)^2 - s^2: gradients -2 (m - g) and -2 s^2, with rewards - mean."""
    policy, goal = Bandit(), 0.8
    losses, meta = joined(policy)
    m, s = policy.mean.item(), policy.log_std.exp().item()
    n = 1_000_000
    x = torch.zeros(n, 1, dtype=torch.float64)

    def reward(a):
        r = -((a - goal) ** 2)
        return r - r.mean()

    task = drawn(policy, meta.adapted, {}, x, torch.Generator().manual_seed(1), reward)
    step = inner_step(InnerLoop(1, StepSizes(1.0)), losses.inner, meta, meta.adapted, (), task, 0)
    a, advantage = task.support_y[:, 0], task.support_y[:, 1]
    z = (a - m) / s
    for name, exact, terms in (
        ("mean", -2 * (m - goal), advantage * z / s),
        ("log_std", -2 * s**2, advantage * (z**2 - 1)),
    ):
        error = 4 * terms.std().item() / n**0.5
        assert abs(-step.grads[name].item() - exact) < error


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_meta_gradient_of_a_bandit_is_that_of_the_surrogate(offset) -> None:
    """With the log-std held, theta' = theta + alpha g(theta), where the surrogate's g has the
    derivative -mean(A) / s^2, which a mean baseline makes 0: so the meta-gradient is that of the
    objective at theta' (the true second-order term would be -2 alpha). With a baseline that is off
    by a number, its J is 1 - alpha * offset / s^2."""
    policy, goal, alpha = Bandit(), 0.8, 0.1
    losses, meta = joined(policy, ["mean"])
    n = 1_000_000
    x = torch.zeros(n, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)

    def reward(a):
        r = -((a - goal) ** 2)
        return r - r.mean() + offset

    loop = InnerLoop(1, StepSizes(alpha))
    first = drawn(policy, meta.adapted, meta.held, x, generator, reward)
    theta = inner_step(loop, losses.inner, meta, meta.adapted, (), first, 0).theta
    second = drawn(policy, theta, meta.held, x, generator, reward)
    grads, _ = gradient(loop, losses.inner, losses.surrogate, meta, [first, second])
    adapted, s = theta["mean"].item(), policy.log_std.exp().item()
    terms = second.query_y[:, 1] * (second.query_y[:, 0] - adapted) / s**2
    j = 1 - alpha * offset / s**2
    exact = 2 * (adapted - goal) * j
    terms = terms * j
    assert abs(grads.adapted["mean"].item() - exact) < 4 * terms.std().item() / n**0.5
    assert abs(grads.adapted["mean"].item() - exact * (1 - 2 * alpha)) > 0.1
    if offset:
        assert abs(grads.adapted["mean"].item() - exact / j) > 0.1  # what first order gives


def small_task(steps, first_order=False, tasks=1):
    """A small network, and samples after 0 .. `steps` updates of each task."""
    torch.manual_seed(3)
    policy = GaussianMLP(3, 2, (6, 5)).double()
    losses, meta = joined(policy)
    loop = InnerLoop(steps, StepSizes(0.3), first_order)
    generator = torch.Generator().manual_seed(4)
    every = []
    for _ in range(tasks):
        theta, rollouts = meta.adapted, []
        for step in range(steps + 1):
            x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
            rollouts.append(drawn(policy, theta, {}, x, generator))
            if step < steps:
                after = inner_step(loop, losses.inner, meta, theta, (), rollouts[step], step)
                theta = after.theta
        every.append(rollouts)
    return loop, losses, meta, every


def flat(params):
    return torch.cat([p.reshape(-1) for p in params.values()])


def shaped(vector, like):
    parts = vector.split([p.numel() for p in like.values()])
    return {n: part.view_as(p) for part, (n, p) in zip(parts, like.items(), strict=True)}


def test_fisher_product_is_the_second_derivative_of_the_kl() -> None:
    for steps in (0, 1, 2):
        loop, losses, meta, (task,) = small_task(steps)

        def divergence(theta, loop=loop, losses=losses, meta=meta, task=task):
            there = MetaParams(shaped(theta, meta.adapted), {}, {})
            return objective(loop, losses, there, task).kl

        theta = flat(meta.adapted)
        u = torch.randn(len(theta), generator=torch.Generator().manual_seed(5)).double()
        product = fisher_product(
            loop, losses, meta, task, MetaParams(shaped(u, meta.adapted), {}, {})
        )
        torch.testing.assert_close(
            flat(product.adapted), hessian(divergence)(theta) @ u, rtol=1e-6, atol=1e-9
        )


def padded(task, generator):
    """With twenty more samples, of no weight, that would change everything."""
    x, y = task.support_x, task.support_y
    more_x = 2 * torch.randn(20, x.shape[1], generator=generator, dtype=x.dtype)
    more_y = torch.randn(20, y.shape[1], generator=generator, dtype=y.dtype)
    more_y[:, 3] = 0  # the weight, after two numbers of an action and the advantage
    x, y = torch.cat([more_x[:5], x, more_x[5:]]), torch.cat([more_y[:5], y, more_y[5:]])
    return Episode(x, y, x, y)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_padding_changes_nothing(steps) -> None:
    """Losses, KL divergence, gradient and product, wherever the padding stands."""
    loop, losses, meta, (task,) = small_task(steps)
    generator = torch.Generator().manual_seed(6)
    longer = [padded(part, generator) for part in task]
    there = MetaParams({n: p + 0.05 * p.cos() for n, p in meta.adapted.items()}, {}, {})
    for at in (meta, there):
        for left, right in (
            (objective(loop, losses, at, task), objective(loop, losses, at, longer)),
            *[
                [gradient(loop, losses.inner, outer, at, given) for given in (task, longer)]
                for outer in (losses.surrogate, losses.kl)
            ],
            [fisher_product(loop, losses, at, given, there) for given in (task, longer)],
        ):
            torch.testing.assert_close(left, right)


def test_gradient_is_that_of_the_objective_and_first_order_leaves_j_out() -> None:
    loop, losses, meta, (task,) = small_task(2)
    grads, loss = gradient(loop, losses.inner, losses.surrogate, meta, task)

    def surrogate(theta):
        return objective(loop, losses, MetaParams(shaped(theta, meta.adapted), {}, {}), task).loss

    theta = flat(meta.adapted)
    torch.testing.assert_close(loss, surrogate(theta))
    torch.testing.assert_close(flat(grads.adapted), torch.func.grad(surrogate)(theta))
    loop, losses, meta, (task,) = small_task(1, first_order=True)
    grads, _ = gradient(loop, losses.inner, losses.surrogate, meta, task)
    after = inner_step(loop, losses.inner, meta, meta.adapted, (), task[0], 0).theta
    there = MetaParams(after, {}, {})
    at_once, _ = gradient(
        InnerLoop(0, loop.step_sizes), losses.inner, losses.surrogate, there, task
    )
    torch.testing.assert_close(flat(grads.adapted), flat(at_once.adapted))


def test_split_gives_the_same_product_for_other_places_and_vectors() -> None:
    loop, losses, meta, every = small_task(1, tasks=2)
    stacked = [
        Episode(*map(torch.stack, zip(*(task[k] for task in every), strict=True))) for k in (0, 1)
    ]

    def product(fixed, u):
        return vmap(partial(fisher_product, loop, losses), in_dims=(None, 0, None))(*fixed, u)

    split = Split(product, (meta, stacked), meta)  # the same tensors in both: must not be confused
    there = MetaParams({n: 1.1 * p for n, p in meta.adapted.items()}, {}, {})
    prepared = split.prepare((there, stacked))
    for factor in (1.0, -2.0):
        u = MetaParams({n: factor * p.cos() for n, p in meta.adapted.items()}, {}, {})
        expected = product((there, stacked), u)
        for name, value in split.apply(prepared, u).adapted.items():
            torch.testing.assert_close(value, expected.adapted[name])
    assert any(node.target is torch.ops.aten.relu.default for node in split._prepare.graph.nodes)
    assert all(node.target is not torch.ops.aten.relu.default for node in split._apply.graph.nodes)


def test_split_gives_what_is_wanted_beside_the_product() -> None:
    def product(x, w):
        return x.exp() @ w

    x, w = torch.randn(4, 3), torch.randn(3, 2)
    split = Split(product, x, w, aside=lambda x: {"sum": x.exp().sum()})
    prepared = split.prepare(x + 1)
    torch.testing.assert_close(prepared.aside["sum"], (x + 1).exp().sum())
    assert torch.equal(split.apply(prepared, w), (x + 1).exp() @ w)
    called = [str(node.target) for node in split._prepare.graph.nodes]
    assert called.count("aten.exp.default") == 1  # once for both


def test_what_is_zero_whatever_comes_in_is_not_added() -> None:
    def product(x, w):
        still = torch.zeros_like(x) @ w.sin()  # zero, but not for its shape
        return still.T.T + x @ w

    x, w = torch.randn(4, 3), torch.randn(3, 2)
    split = Split(product, x, w)
    assert torch.equal(split.apply(split.prepare(x + 1), w - 1), (x + 1) @ (w - 1))
    called = [str(node.target) for node in split._apply.graph.nodes if node.op == "call_function"]
    assert called.count("aten.mm.default") == 1
    assert "aten.sin.default" not in called
