"""Modules as users have them: tied, frozen, unused and buffered tensors, dropout, batch norm."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner, maml_loss
from lightning_maml.meta_gradient import DERIVATIONS
from lightning_maml.models import with_episode_statistics
from tests.cases import CASES
from tests.naive_maml import naive_meta_gradient
from tests.test_scalar_case import number

EXACT = {"rtol": 0, "atol": 1e-9}


def regression(tasks: int = 4, width: int = 1) -> Episode:
    g = torch.Generator().manual_seed(3)
    shapes = [(tasks, 5, width), (tasks, 5, 1), (tasks, 6, width), (tasks, 6, 1)]
    return Episode(*(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes))


def images(tasks: int = 4) -> Episode:
    g = torch.Generator().manual_seed(3)
    x = torch.randn((tasks, 12, 1, 8, 8), generator=g, dtype=torch.float64)
    y = torch.arange(6).remainder(3).expand(tasks, -1).contiguous()
    return Episode(x[:, :6], y, x[:, 6:], y)


class Tied(nn.Module):
    """f(x) = w * (w * x), one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        self.second = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        self.second.weight = self.first.weight
        nn.init.constant_(self.first.weight, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("adapts", ["*", "first.*", "second.*"])
def test_tied_weights_stay_one(adapts: str) -> None:
    """A05: adapted w = 0.4, prediction 0.16 (1.44 if they came apart), meta-gradient 1.8816."""
    maml = MetaLearner(Tied(), loss=F.mse_loss, inner_lr=0.05, adapts=(adapts,))
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    theta = maml.adapt(one[0], 0 * one[0])
    torch.testing.assert_close(theta["first.weight"].squeeze(), number(0.4), **EXACT)
    prediction = torch.func.functional_call(maml.model, theta, (one[0],))
    torch.testing.assert_close(prediction.squeeze(), number(0.16), **EXACT)
    maml.meta_loss(Episode(one, 0 * one, one, one)).backward()
    torch.testing.assert_close(maml.model.first.weight.grad.squeeze(), number(1.8816), **EXACT)
    torch.optim.SGD(maml.parameters(), lr=0.1).step()
    assert maml.model.second.weight is maml.model.first.weight
    again = MetaLearner(Tied(), loss=F.mse_loss)
    again.load_state_dict(maml.state_dict())
    assert again.model.second.weight is again.model.first.weight


def test_tied_embedding_and_decoder_agree_with_a_naive_loop() -> None:
    """A05: a language-model head that shares the embedding's weight."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 5, dtype=torch.float64)
            self.decoder = nn.Linear(5, 7, bias=False, dtype=torch.float64)
            self.decoder.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(torch.tanh(self.embedding(x)).mean(dim=1))

    torch.manual_seed(0)
    maml = MetaLearner(Decoder(), loss=F.cross_entropy, inner_lr=0.1, inner_steps=2)
    episode = CASES["embedding"].episode()
    maml.meta_loss(episode).backward()
    _, naive = naive_meta_gradient(maml.model, F.cross_entropy, episode, 0.1, 2)
    torch.testing.assert_close(
        maml.model.embedding.weight.grad, naive["embedding.weight"], rtol=1e-6, atol=1e-12
    )


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def test_frozen_weights_are_constants() -> None:
    """A06: no crash, bit-equal afterwards, the others as with features computed beforehand."""
    model = two_layers()
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    episode = regression(width=3)
    maml = MetaLearner(model, loss=F.mse_loss, inner_lr=0.1, inner_steps=2)
    maml.meta_loss(episode).backward()
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    assert torch.equal(theta["0.weight"], frozen)
    assert not torch.equal(theta["2.weight"], model[2].weight)
    optimizer = maml.configure_optimizers()
    optimizer.step()
    assert torch.equal(model[0].weight, frozen)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(model[2].weight), id(model[2].bias)}

    head = two_layers()[2]
    features = [
        model[1](F.linear(x, frozen, model[0].bias)) for x in (episode.support_x, episode.query_x)
    ]
    beforehand = Episode(features[0], episode.support_y, features[1], episode.query_y)
    alone = MetaLearner(head, loss=F.mse_loss, inner_lr=0.1, inner_steps=2)
    alone.meta_loss(beforehand).backward()
    torch.testing.assert_close(model[2].weight.grad, head.weight.grad, rtol=1e-6, atol=0)


class WithUnused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = two_layers()
        self.unused = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("derivation", DERIVATIONS)
def test_an_unused_parameter_is_no_obstacle(derivation: str) -> None:
    """A07: adapted value = initial value, meta-gradient 0, the others' as without it."""
    episode, model = regression(width=3), WithUnused()
    maml = MetaLearner(model, loss=F.mse_loss, inner_lr=0.1, derivation=derivation)
    optimizer = torch.optim.SGD(maml.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        maml.meta_loss(episode).backward()
        optimizer.step()
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    assert torch.equal(theta["unused.weight"], model.unused.weight)
    assert not model.unused.weight.grad.any()

    without = two_layers()
    alone = MetaLearner(without, loss=F.mse_loss, inner_lr=0.1)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        alone.meta_loss(episode).backward()
        optimizer.step()
    torch.testing.assert_close(model.body[0].weight, without[0].weight, rtol=1e-12, atol=0)


def stock_conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 3)
    ).double()


def test_stock_batch_norm_works_batched() -> None:
    """A11: the batched gradient of 4 tasks is the mean of 4 single ones."""
    maml = MetaLearner(stock_conv_net(), loss=F.cross_entropy, inner_lr=0.1)
    episode = images()
    maml.meta_loss(episode).backward()
    together = [p.grad.clone() for p in maml.model.parameters()]
    maml.zero_grad()
    for task in range(4):
        one = Episode(*(part[task : task + 1] for part in episode))
        (maml.meta_loss(one) / 4).backward()
    for batched, p in zip(together, maml.model.parameters(), strict=True):
        torch.testing.assert_close(batched, p.grad, rtol=1e-5, atol=1e-12)


def test_train_and_eval_mode_give_the_same_numbers() -> None:
    """A12: no dependence on the mode or on any running statistics."""
    maml, episode = MetaLearner(stock_conv_net(), loss=F.cross_entropy, inner_lr=0.1), images()
    results = []
    for training in (True, False):
        for fill in (0.0, 1e6):
            maml.train(training)
            for buffer in maml.model.buffers():
                buffer.fill_(fill)
            results.append((maml.meta_loss(episode), *maml.evaluate(episode)))
            assert maml.training == training == maml.model[1].training
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            assert torch.equal(ours, first)


class Counter(nn.Module):
    """Counts its calls in a buffer, as layers with running state do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) / self.calls


@pytest.mark.parametrize("make", [Counter, stock_conv_net])
def test_episodes_leave_no_trace(make: object) -> None:
    """A13: the state is bit-identical after evaluation, and task B after A is B alone."""
    maml = MetaLearner(
        make(), loss=F.mse_loss if make is Counter else F.cross_entropy, inner_lr=0.1
    )
    episode = regression(2) if make is Counter else images(2)
    before = {n: t.clone() for n, t in maml.state_dict().items()}
    a, b = (Episode(*(part[t : t + 1] for part in episode)) for t in (0, 1))
    alone = maml.evaluate(b)
    maml.evaluate(a)
    maml.meta_loss(a)
    after_a = maml.evaluate(b)
    assert torch.equal(alone.loss, after_a.loss)
    assert all(torch.equal(before[n], t) for n, t in maml.state_dict().items())


def dropout_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 1)).double()


def test_dropout_differs_between_tasks_in_training_and_not_in_evaluation() -> None:
    """A14: two copies of a task get two masks in training; evaluation is deterministic."""
    maml = MetaLearner(dropout_net(), loss=F.mse_loss, inner_lr=0.1)
    episode = Episode(*(torch.cat([part, part]) for part in regression(1)))
    torch.manual_seed(5)
    losses = maml.engine.meta_gradient(maml.inner_loop, episode).report.query_loss
    assert losses[0] != losses[1]
    torch.manual_seed(5)
    assert torch.equal(
        maml.engine.meta_gradient(maml.inner_loop, episode).report.query_loss, losses
    )
    curve = maml.evaluate(episode)
    # A batched product rounds its rows differently; one by one the two tasks are bit-equal.
    torch.testing.assert_close(curve.loss[:, 0], curve.loss[:, 1], rtol=1e-14, atol=0)
    assert torch.equal(curve.loss, maml.evaluate(episode).loss)
    maml = MetaLearner(dropout_net(), loss=F.mse_loss, inner_lr=0.1, tasks_at_once=1)
    curve = maml.evaluate(episode)
    assert torch.equal(curve.loss[:, 0], curve.loss[:, 1])


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize("weights", [None, (0.5, 0.2, 0.3)])
def test_the_sweep_draws_the_same_dropout_masks_twice(at_once: int | None, weights: object) -> None:
    """Sweep = unrolled under the same seed, and what is drawn afterwards is the same too."""
    results, drawn = [], []
    for derivation in ("sweep", "unrolled"):
        maml = MetaLearner(
            dropout_net(), loss=F.mse_loss, inner_lr=0.1, inner_steps=3, step_weights=weights,
            derivation=derivation, tasks_at_once=at_once,
        )  # fmt: skip
        torch.manual_seed(5)
        maml.meta_loss(regression()).backward()
        results.append(torch.cat([p.grad.flatten() for p in maml.model.parameters()]))
        drawn.append(torch.rand(3))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)
    assert torch.equal(drawn[0], drawn[1])


def test_more_steps_at_test_than_in_training() -> None:
    """A17: steps + 1 entries, and the first six of ten steps are those of five, bit-equal."""
    maml = MetaLearner(two_layers(), loss=F.mse_loss, inner_lr=0.1, inner_steps=5)
    episode = regression(width=3)
    curves = {steps: maml.evaluate(episode, steps) for steps in (0, 5, 10)}
    assert {steps: len(curve.loss) for steps, curve in curves.items()} == {0: 1, 5: 6, 10: 11}
    assert torch.equal(curves[10].loss[:6], curves[5].loss)
    assert torch.equal(curves[5].loss[:1], curves[0].loss)


@pytest.mark.parametrize("learned", ["per_tensor", "per_tensor_and_step"])
def test_learned_step_sizes_serve_steps_past_the_trained_ones(learned: str) -> None:
    maml = MetaLearner(two_layers(), loss=F.mse_loss, learn_inner_lr=learned, inner_steps=2)
    assert len(maml.evaluate(regression(width=3), 4).loss) == 5


def test_evaluation_keeps_no_graph() -> None:
    """A16: nothing that evaluation or a meta-update returns drags a graph along."""
    maml, episode = MetaLearner(two_layers(), loss=F.mse_loss), regression(width=3)
    curve, report = maml.evaluate(episode), maml._meta_loss(episode)[1].report
    assert not any(t.requires_grad for t in (*curve, *report))
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    assert not any(t.requires_grad for t in theta.values())


def test_label_dtypes() -> None:
    """A30: int32, uint8 and int64 labels give bit-equal losses."""
    maml, episode = MetaLearner(stock_conv_net(), loss=F.cross_entropy), images()
    losses = [
        maml.meta_loss(
            episode._replace(support_y=episode.support_y.to(d), query_y=episode.query_y.to(d))
        )
        for d in (torch.int32, torch.uint8, torch.int64)
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("name", ["support_y", "query_y"])
def test_bad_labels_are_refused_by_name(name: str) -> None:
    """A30: float class labels, and labels >= n_way."""
    maml, episode = MetaLearner(stock_conv_net(), loss=F.cross_entropy), images()
    with pytest.raises(ValueError, match=f"`{name}`.*torch.float64"):
        maml.meta_loss(episode._replace(**{name: getattr(episode, name).double()}))
    with pytest.raises(ValueError, match=f"`{name}`.*0 .. 2.*got 1 .. 3"):
        maml.evaluate(episode._replace(**{name: getattr(episode, name) + 1}))


def test_a_pattern_that_matches_nothing_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"`adapts`.*'body.\*'.*'0.weight'"):
        MetaLearner(two_layers(), loss=F.mse_loss, adapts=("2.*", "body.*"))


def test_only_what_the_patterns_match_is_adapted() -> None:
    episode = regression(width=3)
    maml = MetaLearner(two_layers(), loss=F.mse_loss, inner_lr=0.1, adapts=("2.*",))
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    changed = {n for n, p in maml.model.named_parameters() if not torch.equal(theta[n], p)}
    assert changed == {"2.weight", "2.bias"}


class Looks(nn.Module):
    """Decides by a value, which no batched run can."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.sum() > 0 else 2 * y


def test_a_model_that_cannot_be_batched_says_what_to_do() -> None:
    maml = MetaLearner(Looks(), loss=F.mse_loss)
    with pytest.raises(RuntimeError, match="set `tasks_at_once` to 1"):
        maml.meta_loss(regression())
    MetaLearner(Looks(), loss=F.mse_loss, tasks_at_once=1).meta_loss(regression()).backward()


def test_an_lstm_in_float32_trains_with_the_sweep() -> None:
    """The CPU's fused LSTM has no forward-mode derivative; the engine avoids it."""
    gradients = []
    for derivation in ("sweep", "unrolled"):
        case = CASES["lstm"]
        maml = MetaLearner(
            case.model().float(), loss=F.mse_loss, tasks_at_once=1, derivation=derivation
        )
        maml.meta_loss(Episode(*(part.float() for part in case.episode()))).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in maml.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_an_operator_without_forward_mode_says_what_to_do() -> None:
    maml = MetaLearner(two_layers(), loss=F.huber_loss)
    with pytest.raises(RuntimeError, match='set `derivation` to "unrolled"'):
        maml.meta_loss(regression(width=3))
    MetaLearner(two_layers(), loss=F.huber_loss, derivation="unrolled").meta_loss(
        regression(width=3)
    )


def test_views_of_images_work_one_task_at_a_time() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.head(x.view(x.size(0), -1))

    MetaLearner(Views().double(), loss=F.cross_entropy, tasks_at_once=1).meta_loss(images())


def test_a_counter_with_a_classification_loss_is_left_alone() -> None:
    """A13: finding out the number of outputs leaves no trace either."""

    class Classes(Counter):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.cat([y, -y], dim=-1)

    model = Classes()
    labels = torch.arange(6).remainder(2).expand(4, -1)
    episode = regression()._replace(support_y=labels[:, :5], query_y=labels)
    MetaLearner(model, loss=F.cross_entropy).evaluate(episode)
    assert model.calls == 0


def test_adapt_returns_tensors_of_its_own() -> None:
    maml, episode = MetaLearner(two_layers(), loss=F.mse_loss, adapts=("2.*",)), regression(width=3)
    for steps in (0, 1):
        theta = maml.adapt(episode.support_x[0], episode.support_y[0], steps)
        before = maml.model[0].weight.clone(), maml.model[2].weight.clone()
        for tensor in theta.values():
            tensor.add_(1)
        assert torch.equal(maml.model[0].weight, before[0])
        assert torch.equal(maml.model[2].weight, before[1])


def test_a_learner_that_was_frozen_after_training_still_adapts() -> None:
    maml, episode = MetaLearner(two_layers(), loss=F.mse_loss, inner_lr=0.1), regression(width=3)
    before = maml.evaluate(episode)
    maml.freeze()
    assert torch.equal(maml.evaluate(episode).loss, before.loss)
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    assert not torch.equal(theta["0.weight"], maml.model[0].weight)


def test_a_copy_runs_its_own_module() -> None:
    maml, episode = MetaLearner(two_layers(), loss=F.mse_loss), regression(width=3)
    first = maml.meta_loss(episode)
    other = copy.deepcopy(maml)
    with torch.no_grad():
        maml.model[0].weight.zero_()
    assert torch.equal(other.meta_loss(episode), first)
    assert isinstance(pickle.dumps(maml), bytes)


def test_a_loss_with_parameters_and_a_model_of_many_outputs_are_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return self.scale * F.mse_loss(output, target)

    with pytest.raises(ValueError, match="`loss` must have no parameters, got Scaled"):
        MetaLearner(two_layers(), loss=Scaled())

    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    with pytest.raises(ValueError, match="`model` must return one tensor, got tuple"):
        MetaLearner(Pair(1, 1).double(), loss=F.mse_loss).meta_loss(regression())


def test_the_plain_call_refuses_stock_batch_norm_by_name() -> None:
    """A11: naming the submodule and the change to make."""
    settings = {"inner_lr": 0.1, "tasks_at_once": 1}
    with pytest.raises(ValueError, match=r"'1', a BatchNorm2d; give `with_episode_statistics"):
        maml_loss(stock_conv_net(), F.cross_entropy, images(), **settings)
    converted = with_episode_statistics(stock_conv_net())
    maml_loss(converted, F.cross_entropy, images(), **settings).backward()
