"""Batch norm on the statistics of the current batch, and the conversion of stock layers."""

import io
import logging
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from lightning_maml import Episode, MetaLearner
from lightning_maml.meta_gradient import DERIVATIONS
from lightning_maml.models import EpisodeBatchNorm
from lightning_maml.models.batch_norm import with_episode_statistics

SHAPES = {"dense": (6, 3), "sequence": (4, 3, 5), "image": (4, 3, 5, 6)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_episode_batch_norm_is_the_formula(shape, scale, offset) -> None:
    norm = EpisodeBatchNorm(3, scale=scale, offset=offset).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = 2 + 3 * torch.randn(shape, dtype=torch.float64)
    expected = torch.empty_like(x)
    for channel in range(3):
        values = x[:, channel]
        normal = (values - values.mean()) / (values.var(correction=0) + 1e-3).sqrt()
        gamma = norm.weight[channel] if scale else 1.0
        beta = norm.bias[channel] if offset else 0.0
        expected[:, channel] = gamma * normal + beta
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(
        norm(x), F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=1e-3)
    )
    assert torch.equal(norm.eval()(x), norm.train()(x))
    assert not list(norm.buffers())


def test_scale_and_offset_are_parameters_named_weight_and_bias() -> None:
    assert [name for name, _ in EpisodeBatchNorm(3).named_parameters()] == ["bias"]
    both = EpisodeBatchNorm(3, scale=True)
    assert [name for name, _ in both.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_second_derivatives_under_vmap_agree_with_finite_differences(shape) -> None:
    norm = EpisodeBatchNorm(3, scale=True).double()
    params = {name: torch.randn_like(p) for name, p in norm.named_parameters()}
    x, move = torch.randn(2, 4, *shape, dtype=torch.float64)

    def gradient(x):
        return grad(lambda x: functional_call(norm, params, (x,)).sin().sum())(x)

    def product(x, move):
        return jvp(gradient, (x,), (move,))[1]

    batched = vmap(product)(x, move)
    expected = (vmap(gradient)(x + 1e-6 * move) - vmap(gradient)(x - 1e-6 * move)) / 2e-6
    torch.testing.assert_close(batched, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (0, 3), (3,)])
def test_too_few_values_per_channel_are_refused(shape) -> None:
    with pytest.raises(ValueError, match="at least 2 values per channel, got shape"):
        EpisodeBatchNorm(3)(torch.zeros(shape))


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 channels .* got an input of shape \(4, 2\)"):
        EpisodeBatchNorm(3)(torch.zeros(4, 2))


def user_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 6),
        nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 3),
    )


def images(tasks: int) -> torch.Tensor:
    return torch.randn(tasks, 5, 1, 6, 6, dtype=torch.float64)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def assert_same_state(net: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a11_stock_batch_norm_is_batched_over_tasks() -> None:
    """A11: the batched gradient of four tasks is the mean of four single ones."""
    net, x = with_episode_statistics(user_net().double()), images(4)
    params = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params, x):
        return functional_call(net, params, (x,)).square().mean()

    batched = grad(lambda p: vmap(loss, in_dims=(None, 0))(p, x).mean())(params)
    for name, value in batched.items():
        single = torch.stack([grad(loss)(params, task)[name] for task in x])
        torch.testing.assert_close(value, single.mean(dim=0))


def test_a12_eval_equals_train_and_ignores_running_buffers() -> None:
    """A12: no dependence on any running buffer, in neither mode."""
    net, x = with_episode_statistics(user_net().double()), images(1)[0]
    expected = net.train()(x)
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.fill_(1e6)
    assert torch.equal(net.train()(x), expected)
    assert torch.equal(net.eval()(x), expected)


def test_a13_no_task_leaves_a_trace() -> None:
    """A13: the state stays bit-equal, and task B after A is task B alone."""
    net, (a, b) = with_episode_statistics(user_net().double()), images(2)
    before = state(net)
    alone = deepcopy(net)(b)
    net(a)
    assert torch.equal(net(b), alone)
    assert_same_state(net, before)


def test_converted_layers_compute_what_stock_ones_do_in_training() -> None:
    original, x = user_net().double(), images(1)[0]
    torch.testing.assert_close(with_episode_statistics(original)(x), original.train()(x))


def test_checkpoints_load_both_ways() -> None:
    original = user_net()
    original(torch.randn(8, 1, 6, 6))  # moves the running statistics
    copy = with_episode_statistics(user_net())
    copy.load_state_dict(original.state_dict())
    assert_same_state(copy, state(original))
    back = user_net()
    back.load_state_dict(copy.state_dict())
    assert_same_state(back, state(original))
    bare = {name: t for name, t in original.state_dict().items() if "running" not in name}
    copy.load_state_dict(bare)


def test_a_checkpoint_must_have_the_statistics_that_are_used() -> None:
    norm = nn.BatchNorm1d(3).requires_grad_(False)
    bare = {name: t for name, t in norm.state_dict().items() if "running" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*running_mean"):
        with_episode_statistics(norm).load_state_dict(bare)


def test_the_original_is_left_alone() -> None:
    original = user_net()
    before = state(original)
    with_episode_statistics(original)(torch.randn(8, 1, 6, 6))
    assert_same_state(original, before)
    assert isinstance(original[1], nn.BatchNorm2d)


def test_nothing_to_convert_returns_the_very_model() -> None:
    free = nn.BatchNorm1d(3, track_running_stats=False)
    net = nn.Sequential(nn.Linear(3, 3), free, EpisodeBatchNorm(3), nn.InstanceNorm1d(3))
    assert with_episode_statistics(net) is net
    converted = with_episode_statistics(user_net())
    assert with_episode_statistics(converted) is converted


@pytest.mark.parametrize("training", [True, False])
def test_frozen_batch_norm_keeps_its_running_statistics(training) -> None:
    original = user_net().double()
    original(images(1)[0])
    for parameter in original[1].parameters():
        parameter.requires_grad_(False)
    net, x = with_episode_statistics(original).train(training), images(3)
    before = state(net)
    expected = torch.stack([deepcopy(original[:2]).eval()(task) for task in x])
    torch.testing.assert_close(vmap(net[:2])(x), expected)
    assert_same_state(net, before)
    # Frozen or not is asked layer by layer: the other one uses the batch.
    torch.testing.assert_close(net[5](x[0].flatten(1)[:, :6]).mean(dim=0).abs().max().item(), 0.0)


def test_partly_frozen_batch_norm_uses_the_batch() -> None:
    norm = nn.BatchNorm1d(3)
    norm.bias.requires_grad_(False)
    x = 5 + torch.randn(8, 3)
    torch.testing.assert_close(with_episode_statistics(norm)(x).mean(dim=0), torch.zeros(3))


def test_ties_and_names_survive() -> None:
    """A05 for the copy: a shared layer and a shared weight stay one."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.norm = nn.BatchNorm1d(3)
            self.blocks = nn.ModuleList([nn.Sequential(self.first, self.norm)])
            self.unregistered = [self.norm]

    original = Tied()
    net = with_episode_statistics(original)
    names = [name for name, _ in original.named_parameters(remove_duplicate=False)]
    assert [name for name, _ in net.named_parameters(remove_duplicate=False)] == names
    assert net.second.weight is net.first.weight
    assert net.blocks[0][1] is net.norm
    assert net.unregistered[0] is net.norm
    assert net.norm.weight is not original.norm.weight


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(2), (4, 2)),
        (nn.BatchNorm1d(2), (4, 2, 3)),
        (nn.BatchNorm2d(2), (4, 2, 3, 3)),
        (nn.BatchNorm3d(2), (4, 2, 3, 3, 3)),
        (nn.SyncBatchNorm(2), (4, 2, 3)),
        (type("Derived", (nn.BatchNorm1d,), {})(2), (4, 2)),
    ],
)
def test_every_stock_kind_converts(norm, shape) -> None:
    x = torch.randn(shape)
    converted = with_episode_statistics(norm).eval()
    torch.testing.assert_close(
        converted(x), F.batch_norm(x, None, None, training=True, eps=norm.eps)
    )
    assert "2, eps=1e-05, affine=True" in repr(converted)
    # Trainer(sync_batchnorm=True) calls this; it must not undo the conversion.
    assert not isinstance(
        nn.SyncBatchNorm.convert_sync_batchnorm(converted), nn.modules.batchnorm._BatchNorm
    )


class OwnForward(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("norm", "says"),
    [
        (nn.InstanceNorm1d(2, track_running_stats=True), "`0.1` is a InstanceNorm1d.*track_runn"),
        (OwnForward(2), "`0.1` is a OwnForward.*track_running_stats=False"),
        (nn.LazyBatchNorm1d(), "`0.1` is a LazyBatchNorm1d without a size.*run the model once"),
    ],
)
def test_a11_what_cannot_be_converted_is_named(norm, says) -> None:
    """A11: otherwise an error naming the submodule and the change to make."""
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), norm))
    with pytest.raises(ValueError, match=says):
        with_episode_statistics(net)


def test_one_log_line_says_what_was_converted(caplog) -> None:
    net = user_net()
    net[1].requires_grad_(False)
    with caplog.at_level(logging.INFO, logger="lightning_maml"):
        with_episode_statistics(net)
    (record,) = caplog.records
    assert "1 layer(s)" in record.getMessage()
    assert "1 frozen" in record.getMessage()


def large_image(*shape: int) -> torch.Tensor:
    """Laid out as large images are on a CPU."""
    *batch, channels, height, width = shape
    return torch.randn(*batch, height, width, channels, dtype=torch.float64).movedim(-1, -3)


@pytest.mark.parametrize("derivation", DERIVATIONS)
def test_what_comes_after_it_may_write_in_place(derivation) -> None:
    body = [nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, affine=False), nn.ReLU(inplace=True)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(8, 2)).double()
    x, y = large_image(2, 4, 2, 4, 4), torch.tensor([[0, 1, 0, 1]] * 2)
    found = []
    for inplace in (True, False):
        body[2].inplace = inplace
        learner = MetaLearner(
            model, loss="cross_entropy", inner_lr=0.1, tasks_at_once=1, derivation=derivation
        )
        learner.meta_loss(Episode(x, y, x, y)).backward()
        found.append([p.grad for p in learner.parameters()])
    torch.testing.assert_close(*found)


def test_large_images_have_the_short_derivatives_and_are_normalised_alike() -> None:
    norm, x = EpisodeBatchNorm(2, scale=True).double(), large_image(4, 2, 5, 5)
    short = norm(x.requires_grad_())
    stock = norm(x.contiguous())
    assert "Normalise" in str(short.grad_fn.next_functions[0][0].next_functions[0][0].name())
    assert "NativeBatchNorm" in stock.grad_fn.name()
    torch.testing.assert_close(short, stock)


@pytest.mark.filterwarnings("ignore")  # of tracing, which is on its way out
def test_it_can_be_traced_and_saved() -> None:
    norm, x = EpisodeBatchNorm(2).double(), large_image(4, 2, 3, 3)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(norm, x), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), norm(x))
