"""Algorithm 3 as a whole, on the point robot."""

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.nn.utils import parameters_to_vector

from datamodules import RLTasks
from lightning_maml.episode import Episode
from lightning_maml.models import ContextVector
from lightning_maml.rl import GaussianMLP, MetaPolicy, meta_policy
from lightning_maml.rl.advantages import samples
from lightning_maml.rl.envs import Point
from lightning_maml.rl.meta_objective import fisher_product, gradient
from lightning_maml.rl.policy_engine import PolicyEngine
from lightning_maml.rl.policy_loss import targets
from lightning_maml.rl.trpo import set_parameters


def learner(**settings):
    seed_everything(0, verbose=False)
    options = {"trajectories": 10, "inner_lr": 0.1} | settings
    return MetaPolicy(GaussianMLP(2, 2, (8, 8)), Point(horizon=20), **options)


def data(**settings):
    options = {"meta_batch_size": 10, "val_tasks": 10, "test_tasks": 10} | settings
    return RLTasks(low=[-0.5, -0.5], high=[0.5, 0.5], **options)


def batch(tasks=10):
    return data().samplers["val"](0, tasks)


def trainer(tmp_path, steps, **settings):
    options = {
        "accelerator": "cpu",
        "max_steps": steps,
        "max_epochs": -1,
        "default_root_dir": tmp_path,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**options | settings)


def fitted(model, tmp_path, steps, **settings):
    trainer(tmp_path, steps).fit(model, data(**settings))
    return model


def test_curve_has_an_entry_before_and_after_each_step() -> None:
    """A41: steps + 1 entries, on fresh rollouts; with a step size of 0 and common noise all equal.

    Entry 0 is that of the policy as it is.
    """
    model = learner(inner_lr=0.0, eval_inner_steps=3, common_noise=True)
    curve = model.evaluate(batch()).metric
    assert curve.shape == (4, 10)
    assert all(torch.equal(curve[0], entry) for entry in curve)
    fresh = learner(inner_lr=0.0, eval_inner_steps=1).evaluate(batch()).metric
    assert not torch.equal(fresh[0], fresh[1])
    trained = learner(inner_lr=0.3, eval_inner_steps=1).evaluate(batch()).metric
    assert torch.equal(trained[0], fresh[0])


def against_the_gradient(*args):
    """Samples whose advantages, so the inner gradient as well, have the other sign."""
    made = samples(*args)
    x, y = made.episode.support_x, made.episode.support_y
    given = targets(y)
    y = given._replace(advantage=-given.advantage).packed()
    return made._replace(episode=Episode(x, y, x, y))


def test_training_helps_and_steps_up_the_loss_harm(tmp_path, monkeypatch) -> None:
    """A41: with the sign of the gradient flipped returns fall."""
    before = learner().evaluate(batch()).metric.mean(dim=1)
    model = fitted(learner(), tmp_path, 6)
    assert 0 < model.watched["kl"] <= 0.01
    after = model.evaluate(batch()).metric.mean(dim=1)
    assert after[-1] > before[-1] + 1
    assert after[1] > after[0] + 0.5
    monkeypatch.setattr(meta_policy, "samples", against_the_gradient)
    against = model.evaluate(batch()).metric.mean(dim=1)
    assert against[1] < against[0] - 0.5


def test_what_training_logs_are_the_returns_of_its_rollouts(tmp_path) -> None:
    """Entry 0 and the last entry of the curve on the same tasks, with the same random numbers."""
    settings = {"trajectories": 2, "inner_steps": 2, "later_inner_lr": 0.4}
    given = data().samplers["train"](0, 3)
    curve = learner(eval_inner_steps=2, **settings).evaluate(given).metric.mean(dim=1)
    watched = fitted(learner(**settings), tmp_path, 1, meta_batch_size=3).watched
    assert watched["return_before"] == pytest.approx(curve[0].item(), rel=1e-5)
    assert watched["return"] == pytest.approx(curve[2].item(), rel=1e-5)
    assert watched["std"] == 1
    assert watched["explained_variance"] < 1


def test_later_steps_have_a_step_size_of_their_own() -> None:
    curve = learner(later_inner_lr=0.0, common_noise=True, eval_inner_steps=3).evaluate(batch())
    assert not torch.equal(curve.metric[0], curve.metric[1])
    assert torch.equal(curve.metric[1], curve.metric[2])
    assert torch.equal(curve.metric[1], curve.metric[3])


@pytest.mark.parametrize("step", ["validation_step", "test_step"])
def test_results_are_collected_on_the_device_of_the_policy(step, monkeypatch) -> None:
    """Processes on accelerators can join nothing else. "meta" stands for one: it has no data."""
    model = learner(eval_inner_steps=0)
    monkeypatch.setattr(MetaPolicy, "device", torch.device("meta"))
    getattr(model, step)(batch(2), 0)
    curve = model.curve
    (loss,), (metric,), (digests,) = curve.loss, curve.metric, curve.digests
    assert {part.device.type for part in (loss, metric, digests)} == {"meta"}
    assert (loss.dtype, metric.dtype, digests.dtype) == (torch.float32, torch.float32, torch.int64)


def test_evaluation_may_take_more_trajectories() -> None:
    few, more = (learner(trajectories=n, eval_trajectories=4) for n in (2, 4))
    assert torch.equal(few.evaluate(batch(2)).metric, more.evaluate(batch(2)).metric)


def test_settings_reach_trpo() -> None:
    settings = {"max_kl": 0.03, "cg_iterations": 4, "damping": 0.5}
    (group,) = learner(**settings).configure_optimizers().param_groups
    assert {name: group[name] for name in settings} == settings
    (group,) = learner().configure_optimizers().param_groups
    paper = {"max_kl": 0.01, "cg_iterations": 10, "damping": 1e-5}
    paper |= {"backtrack_ratio": 0.8, "max_backtracks": 15}
    assert {name: group[name] for name in paper} == paper


def test_policy_starts_as_the_authors() -> None:
    """Xavier-uniform, biases 0, log-std 0, with a least standard deviation."""
    torch.manual_seed(0)
    policy = GaussianMLP(20, 6)
    for name, parameter in policy.mean.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.95 * bound < parameter.abs().max() <= bound
    assert [p.shape[0] for n, p in policy.mean.named_parameters() if "bias" in n] == [100, 100, 6]
    output = GaussianMLP(20, 6, init_std=0.5)(torch.zeros(1, 20))
    torch.testing.assert_close(output[0, 6:].exp(), torch.full((6,), 0.5))
    policy.log_std.data.fill_(-50.0)
    assert policy(torch.zeros(1, 20))[0, 6:].exp().tolist() == pytest.approx([1e-6] * 6)


def test_same_seed_same_weights(tmp_path) -> None:
    runs = [fitted(learner(trajectories=3), tmp_path, 1, meta_batch_size=3) for _ in range(2)]
    first, again = (dict(model.policy.named_parameters()) for model in runs)
    start = dict(learner().policy.named_parameters())
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert not torch.equal(value, start[name])


def problem(**settings):
    """The meta-update of a few tasks in float64, and a direction of the gradient's size."""
    model = learner(trajectories=5, **settings).double()
    for name, parameter in model.policy.named_parameters():
        if name.endswith("bias"):  # at 0, a start at the origin is on the kinks of all ReLUs
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    acted = model._act(batch(4), model.inner_steps, 5, pooled=False)
    rollouts = [one.samples.episode for one in acted]
    return model.engine.problem(model.inner_loop, rollouts, lambda vector: vector)


@torch.no_grad()
def test_chunks_of_tasks_give_the_same_gradient_and_product() -> None:
    whole, chunked = problem(tasks_at_once=4), problem(tasks_at_once=3)
    gradient, loss = whole.gradient()
    again, other = chunked.gradient()
    torch.testing.assert_close(gradient, again)
    assert abs(loss - other) < 1e-9
    product = whole.fisher_product(gradient)
    torch.testing.assert_close(product, chunked.fisher_product(gradient))
    assert whole.loss_and_kl() == pytest.approx(chunked.loss_and_kl(), abs=1e-9)


@torch.no_grad()
def test_the_gradient_is_that_at_the_present_parameters() -> None:
    """Its second value against finite differences of the loss, after the first was elsewhere."""
    here = problem()
    parameters = here.engine.parameters()
    first, _ = here.gradient()
    start = parameters_to_vector(parameters)
    moved = start + 1e-2 * first / first.norm()
    set_parameters(parameters, moved)
    again, _ = here.gradient()
    assert (again - first).norm() > 1e-4 * first.norm()
    losses = []
    for side in (1, -1):
        set_parameters(parameters, moved + side * 1e-6 * first)
        losses.append(here.loss_and_kl()[0])
    assert float(again @ first) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4)


class Scaled(torch.nn.Module):
    """A policy with a buffer."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x):
        return self.policy(self.scale * x)


@pytest.mark.slow
@torch.no_grad()
def test_a_program_is_not_used_with_another_buffer() -> None:
    """`.to(device)` puts new tensors in the buffers' places."""
    model = learner(trajectories=5)
    rollouts = [one.samples.episode for one in model._act(batch(4), 1, 5, pooled=False)]

    def gradient_of(engine):
        return engine.problem(model.inner_loop, rollouts, lambda vector: vector).gradient()[0]

    engine = PolicyEngine(Scaled(model.policy))
    first = gradient_of(engine)
    engine.policy.scale = torch.tensor(0.5)
    again, fresh = gradient_of(engine), gradient_of(PolicyEngine(engine.policy))
    assert torch.equal(again, fresh)
    assert not torch.allclose(again, first)


@torch.no_grad()
def test_update_starts_at_the_policies_that_sampled() -> None:
    """Also where later steps have a step size of their own."""
    loss, kl = problem(inner_steps=3, later_inner_lr=0.4).loss_and_kl()
    assert (loss, kl) == pytest.approx((0, 0), abs=1e-6)


@torch.no_grad()
def test_problem_filled_up_is_the_mean_over_tasks_and_shares_its_program() -> None:
    """101 to 108 samples are filled up to 110: one program, and the same values."""
    model = learner(trajectories=5)
    rollouts = [one.samples.episode for one in model._act(batch(3), 1, 7, pooled=False)]
    model.double()
    engine, loop = model.engine, model.inner_loop
    losses, meta = engine.losses(), engine.meta()
    for count in (101, 108):
        cut = [Episode(*(v[:, :count].double() for v in r)) for r in rollouts]
        problem = engine.problem(loop, cut, lambda vector: vector)
        found, loss = problem.gradient()
        product = problem.fisher_product(found)
        tasks = [[Episode(*(v[k] for v in r)) for r in cut] for k in range(3)]
        several = [gradient(loop, losses.inner, losses.surrogate, meta, task) for task in tasks]
        exact = {"rtol": 1e-10, "atol": 1e-13}
        assert loss == pytest.approx(sum(one[1].item() for one in several) / 3, rel=1e-10)
        expected = sum(flat(one[0]) for one in several) / 3
        torch.testing.assert_close(found, expected, **exact)
        u = problem._meta(found)
        expected = sum(flat(fisher_product(loop, losses, meta, task, u)) for task in tasks) / 3
        torch.testing.assert_close(product, expected, **exact)
    assert len(engine._programs) == 1


def flat(meta):
    return parameters_to_vector([*meta.adapted.values(), *meta.held.values()])


@pytest.mark.parametrize("steps", [1, 2])
@torch.no_grad()
def test_finite_differences_are_near_the_exact_product(steps) -> None:
    exact = problem(inner_steps=steps)
    differences = problem(inner_steps=steps, curvature="finite_differences")
    before = torch.cat([p.flatten() for p in differences.engine.parameters()])
    direction = 1e-3 * exact.gradient()[0]
    expected, found = exact.fisher_product(direction), differences.fisher_product(direction)
    assert (found - expected).norm() < 1e-3 * expected.norm()
    after = torch.cat([p.flatten() for p in differences.engine.parameters()])
    assert torch.equal(before, after)


@torch.no_grad()
def test_kl_of_a_step_is_half_its_square_in_the_fisher_matrix() -> None:
    """At half the step a quarter, to third order."""
    given = problem()
    step = given.gradient()[0]
    square = float(step @ given.fisher_product(step))
    parameters = given.engine.parameters()
    start = parameters_to_vector(parameters)
    for size in (1e-3, 5e-4):
        torch.nn.utils.vector_to_parameters(start - size * step, parameters)
        assert given.loss_and_kl()[1] == pytest.approx(size**2 * square / 2, rel=1e-3)


def test_step_that_is_rejected_leaves_the_weights_bit_equal(tmp_path) -> None:
    start = learner().policy.state_dict()
    model = fitted(learner(trajectories=2, max_kl=1e-30), tmp_path, 1, meta_batch_size=2)
    assert (model.watched["accepted"], model.watched["tries"], model.watched["kl"]) == (0, 15, 0)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, start[name])


@torch.no_grad()
def test_gradient_of_what_does_not_adapt_agrees_with_finite_differences() -> None:
    """Some parameters adapt, all are learned, each in its place of the flat vectors."""
    given = problem(adapts=["log_std", "*.bias"])
    gradient, _ = given.gradient()
    parameters = given.engine.parameters()
    start = parameters_to_vector(parameters)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(start), generator=generator, dtype=start.dtype)
    sides = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(start + sign * 1e-6 * direction, parameters)
        sides.append(given.loss_and_kl()[0])
    assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(float(gradient @ direction), rel=1e-4)


def test_context_vector_alone_adapts() -> None:
    policy = ContextVector(GaussianMLP(2 + 4, 2, (8, 8)), 4)
    model = MetaPolicy(policy, Point(horizon=20), adapts=["context"], trajectories=5)
    theta = model.engine.initial(3)
    assert list(theta) == ["context"]
    acted = next(iter(model._act(batch(3), 1, 5, pooled=False)))
    after = model.engine.update(model.inner_loop, theta, acted.samples.episode, 0)
    assert list(after) == ["context"]
    assert not torch.equal(after["context"], theta["context"])


def test_pretraining_is_trpo_without_an_inner_loop(tmp_path) -> None:
    model = learner(inner_steps=0, trajectories=1, pooled=True)
    before = model.evaluate(batch(), inner_steps=0).metric.mean()
    fitted(model, tmp_path, 5, meta_batch_size=60)
    assert model.evaluate(batch(), inner_steps=0).metric.mean() > before


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"trajectories": 0}, "trajectories"),
        ({"eval_inner_steps": -1}, "eval_inner_steps"),
        ({"discount": 1.5}, "discount"),
        ({"curvature": "none"}, "curvature"),
        ({"inner_lr": -0.1}, "inner_lr"),
        ({"adapts": ["nothing"]}, "adapts"),
        ({"tasks_at_once": 0}, "tasks_at_once"),
        ({"inner_steps": 1.5}, "`inner_steps` must be an integer, got 1.5"),
        ({"trajectories": 2.5}, "`trajectories` must be an integer, got 2.5"),
        ({"eval_trajectories": True}, "eval_trajectories"),
        ({"eval_inner_steps": 1.0}, "eval_inner_steps"),
        ({"max_kl": 0.0}, "max_kl"),
        ({"max_kl": float("nan")}, "max_kl"),
        ({"damping": -1e-5}, "damping"),
        ({"damping": float("nan")}, "damping"),
        ({"cg_iterations": 0}, "cg_iterations"),
        ({"cg_iterations": 2.5}, "`cg_iterations` must be an integer, got 2.5"),
    ],
)
def test_settings_out_of_range(wrong, named) -> None:
    with pytest.raises(ValueError, match=named):
        learner(**wrong)


def test_policy_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`policy` must take observations \[N, 2\]"):
        MetaPolicy(GaussianMLP(3, 2), Point())
    with pytest.raises(ValueError, match=r"`policy` must return \[N, 4\]"):
        MetaPolicy(GaussianMLP(2, 3), Point())
    with pytest.raises(ValueError, match=r"`policy` must return \[N, 4\].*got tuple"):
        MetaPolicy(Twice(2, 2), Point())


class Twice(GaussianMLP):
    """Mean and log-std apart."""

    def forward(self, observation):
        return super().forward(observation).chunk(2, dim=-1)


def test_policy_of_64_bits_is_as_one_of_32() -> None:
    """It is tried with its own dtype."""
    small = learner().policy
    double = GaussianMLP(2, 2, (8, 8)).double()
    double.load_state_dict(small.state_dict())
    settings = {"trajectories": 3, "eval_inner_steps": 1}
    results = [
        MetaPolicy(policy, Point(horizon=20), **settings).evaluate(batch(2)).metric.double()
        for policy in (small, double)
    ]
    assert not torch.equal(*results)  # 64 bits all through
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_trying_a_policy_leaves_no_trace() -> None:
    """Neither in its batch norm nor in the random numbers."""
    norm, dropout = torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    policy = torch.nn.Sequential(norm, dropout, GaussianMLP(2, 2, (8, 8)))
    state = torch.get_rng_state()
    MetaPolicy(policy, Point())
    assert torch.equal(torch.get_rng_state(), state)
    for name, buffer in norm.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert norm.training
    assert dropout.training
