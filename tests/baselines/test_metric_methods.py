"""Prototypical, matching and Siamese nets against formulas by hand and naive loops."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner
from lightning_maml.baselines import (
    EpisodicLearner,
    MatchingNets,
    PrototypicalNets,
    SiameseNets,
)
from lightning_maml.baselines.embedded_sets import by_class, cosines, squared_distances
from lightning_maml.baselines.matching import FullContext, similarities
from lightning_maml.baselines.prototypical import prototypes
from lightning_maml.models import Conv4, ConvEmbedding

FEATURES = 6


def vectors(*rows: tuple[float, ...]) -> Tensor:
    """One task of given vectors, float64."""
    return torch.tensor([rows], dtype=torch.float64)


def tasks(count: int, n_way: int = 3, k_shot: int = 2, seed: int = 0) -> Episode:
    """Vectors around class centres, float64, in an order of their own in each task."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, n_way, FEATURES, generator=g, dtype=torch.float64)
    parts = []
    for shots in (k_shot, 4):
        y = torch.stack([torch.arange(n_way).repeat(shots)] * count)
        order = torch.rand(y.shape, generator=g).argsort(dim=1)
        y = y.gather(1, order)
        noise = torch.randn(*y.shape, FEATURES, generator=g, dtype=torch.float64)
        parts += [centres.gather(1, y[..., None].expand_as(noise)) + 0.5 * noise, y]
    return Episode(*parts)


METHODS: dict[str, Callable[[], nn.Module]] = {
    "prototypical": lambda: PrototypicalNets(nn.Linear(FEATURES, FEATURES)),
    "matching": lambda: MatchingNets(nn.Linear(FEATURES, FEATURES)),
    "matching, euclidean": lambda: MatchingNets(nn.Linear(FEATURES, FEATURES), "euclidean"),
    "matching, context": lambda: MatchingNets(
        nn.Linear(FEATURES, FEATURES), context_steps=3, features=FEATURES
    ),
    "siamese": lambda: SiameseNets(nn.Linear(FEATURES, FEATURES), FEATURES),
    "siamese, nearest": lambda: SiameseNets(nn.Linear(FEATURES, FEATURES), FEATURES, "nearest"),
}


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def method(request) -> nn.Module:
    torch.manual_seed(0)
    return request.param().double()


def test_other_numbers_of_the_classes_permute_the_probabilities(method) -> None:
    episode = tasks(2)
    renamed = torch.tensor([2, 0, 1])[episode.support_y]  # class 0 is called 2, and so on
    expected = method(*episode[:3])
    found = method(episode.support_x, renamed, episode.query_x)
    torch.testing.assert_close(found[..., [2, 0, 1]], expected)


def test_training_finds_a_space_in_which_tasks_are_solved(method) -> None:
    """Classes differ in one direction; noise in all others hides it until f is trained."""
    g = torch.Generator().manual_seed(1)

    def hidden() -> Episode:
        y = torch.arange(3).repeat(20, 2)
        x = 3 * torch.randn(20, 12, FEATURES, generator=g, dtype=torch.float64)
        x[..., 0] = 4 * torch.cat([y, y], dim=1) + 0.3 * x[..., 0]
        return Episode(x[:, :6], y, x[:, 6:], y)

    def accuracy(episode: Episode) -> float:
        return float((method(*episode[:3]).argmax(-1) == episode.query_y).double().mean())

    before = accuracy(hidden())
    optimizer = torch.optim.Adam(method.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        method.training_loss(hidden()).backward()
        optimizer.step()
    assert accuracy(hidden()) > before + 0.15


# -- prototypical -------------------------------------------------------------------------------


def test_prototypes_and_loss_by_hand() -> None:
    support = vectors((0.0, 0.0), (4.0, 1.0), (2.0, 0.0))
    labels, query = torch.tensor([[0, 1, 0]]), vectors((1.0, 1.0))
    torch.testing.assert_close(prototypes(support, labels), vectors((1.0, 0.0), (4.0, 1.0)))
    # Squared distances 1 and 9: p(0) = e^-1 / (e^-1 + e^-9).
    method = PrototypicalNets(nn.Identity())
    found = method(support, labels, query).exp().flatten()
    expected = 1 / (1 + math.exp(-8))
    assert found.tolist() == pytest.approx([expected, 1 - expected])
    loss = method.training_loss(Episode(support, labels, query, torch.tensor([[1]])))
    assert float(loss) == pytest.approx(8 + math.log1p(math.exp(-8)))
    quarter = PrototypicalNets(nn.Identity(), scale=0.25)(support, labels, query).exp().flatten()
    assert quarter[0].item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_distances_are_not_rounded_under_mixed_precision() -> None:
    """Vectors of bfloat16 have exact distances of float64; bfloat16's own are multiples of 8."""
    torch.manual_seed(0)
    support = torch.randn(2, 6, 1600).bfloat16()
    query = torch.randn(2, 4, 1600).bfloat16()
    labels = torch.tensor([[0, 1, 2, 0, 1, 2]]).repeat(2, 1)
    exact = prototypes(support.double(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        means = prototypes(support, labels)
        distances = squared_distances(query, means)
        found = cosines(query, support)
    torch.testing.assert_close(means, exact.float())
    torch.testing.assert_close(distances, squared_distances(query.double(), exact).float())
    angles = F.cosine_similarity(query.double()[:, :, None], support.double()[:, None], dim=-1)
    torch.testing.assert_close(found, angles.float())


# -- matching -----------------------------------------------------------------------------------


def test_attention_and_loss_of_three_vectors_by_hand() -> None:
    support = vectors((2.0, 0.0), (0.0, 3.0), (-1.0, 0.0))
    labels, query = torch.tensor([[0, 1, 1]]), vectors((5.0, 0.0))
    # Cosines 1, 0, -1: attention e, 1, 1/e over their sum; class 1 has the last two.
    total = math.e + 1 + 1 / math.e
    method = MatchingNets(nn.Identity())
    found = method(support, labels, query).exp().flatten()
    assert found.tolist() == pytest.approx([math.e / total, (1 + 1 / math.e) / total])
    loss = method.training_loss(Episode(support, labels, query, torch.tensor([[1]])))
    assert float(loss) == pytest.approx(-math.log((1 + 1 / math.e) / total))
    total = math.e**2 + 1 + math.e**-2
    doubled = MatchingNets(nn.Identity(), scale=2.0)(support, labels, query).exp().flatten()
    assert doubled[0].item() == pytest.approx(math.e**2 / total)
    # Squared distances 9, 34, 36.
    distances = -similarities(query, support, "euclidean").flatten()
    assert distances.tolist() == pytest.approx([9.0, 34.0, 36.0])
    euclidean = MatchingNets(nn.Identity(), "euclidean")(support, labels, query).exp().flatten()
    odds = math.exp(-25) + math.exp(-27)
    assert euclidean.tolist() == pytest.approx([1 / (1 + odds), odds / (1 + odds)])


def gates(weight_x: Tensor, weight_h: Tensor, bias: Tensor, x: Tensor, h: Tensor, c: Tensor):
    """An LSTM step from its equations; torch orders the gates: input, forget, cell, output."""
    i, f, g, o = (weight_x @ x + weight_h @ h + bias).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def test_full_context_is_that_of_the_papers_equations() -> None:
    """Appendix A in loops over vectors; the hidden state of the second LSTM is [h, r]."""
    torch.manual_seed(3)
    steps, context = 3, FullContext(FEATURES, 3).double()
    episode = tasks(1)
    support, query = episode.support_x[0], episode.query_x[0]
    found_support, found_query = (part[0] for part in context(support[None], query[None]))
    lstm, zero = context.over_support, torch.zeros(FEATURES, dtype=torch.float64)
    sums = [vector.clone() for vector in support]
    for ending, order in (("", range(6)), ("_reverse", reversed(range(6)))):
        h = c = zero
        weights = [getattr(lstm, f"{name}_l0{ending}") for name in ("weight_ih", "weight_hh")]
        bias = getattr(lstm, f"bias_ih_l0{ending}") + getattr(lstm, f"bias_hh_l0{ending}")
        for i in order:
            h, c = gates(*weights, bias, support[i], h, c)
            sums[i] = sums[i] + h
    torch.testing.assert_close(found_support, torch.stack(sums))
    cell = context.of_query
    on_x, on_r = cell.weight_ih.chunk(2, dim=1)
    on_state, bias = torch.cat([cell.weight_hh, on_r], dim=1), cell.bias_ih + cell.bias_hh
    for x, found in zip(query, found_query, strict=True):
        h = c = zero
        for _ in range(steps):
            attention = torch.stack([h @ g for g in sums]).softmax(dim=0)
            r = sum(a * g for a, g in zip(attention, sums, strict=True))
            hidden, c = gates(on_x, on_state, bias, x, torch.cat([h, r]), c)
            h = hidden + x
        torch.testing.assert_close(found, h)


def test_one_reading_is_the_mean_of_the_support_set() -> None:
    """h_0 = 0 attends to all alike. Other support images give the query another embedding."""
    torch.manual_seed(3)
    context, episode = FullContext(FEATURES, 1).double(), tasks(1)
    support, query = context(episode.support_x, episode.query_x)
    cell, zero = context.of_query, torch.zeros(FEATURES, dtype=torch.float64)
    seen = torch.cat([episode.query_x[0, 0], support[0].mean(dim=0)])
    bias = cell.bias_ih + cell.bias_hh
    hidden, _ = gates(cell.weight_ih, cell.weight_hh, bias, seen, zero, zero)
    torch.testing.assert_close(query[0, 0], hidden + episode.query_x[0, 0])
    _, other = context(episode.support_x.flip(-1), episode.query_x)
    assert (other - query).abs().max() > 0.01


# -- Siamese ------------------------------------------------------------------------------------


def test_siamese_is_symmetric_in_its_pair() -> None:
    method, episode = METHODS["siamese"]().double(), tasks(2)
    a, b = episode.support_x, episode.query_x
    torch.testing.assert_close(method.pair_logits(a, b), method.pair_logits(b, a).mT)
    same = method.pair_logits(a, a).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(same, method.same.bias.expand_as(same))


def test_siamese_pairs_and_classes_by_hand() -> None:
    method = SiameseNets(nn.Identity(), 2).double()
    method.load_state_dict(
        {"same.weight": torch.tensor([[-1.0, -2.0]]), "same.bias": torch.ones(1)}
    )
    support, labels = vectors((0.0, 0.0), (1.0, 0.0), (0.0, 2.0)), torch.tensor([[0, 0, 1]])
    query = vectors((0.0, 1.0))
    logits = [1 - 2.0, 1 - 1 - 2.0, 1 - 2.0]  # 1 - |x| - 2 |y|
    assert method.pair_logits(query, support).flatten().tolist() == pytest.approx(logits)
    p = [1 / (1 + math.exp(-z)) for z in logits]
    for score, first in (("mean", (p[0] + p[1]) / 2), ("nearest", p[0])):
        method.class_score = score
        found = method(support, labels, query).exp().flatten()
        assert found.tolist() == pytest.approx([first / (first + p[2]), p[2] / (first + p[2])])
    loss = method.training_loss(Episode(support, labels, query, torch.tensor([[0]])))
    same, different = -(math.log(p[0]) + math.log(p[1])) / 2, -math.log(1 - p[2])
    assert loss.item() == pytest.approx((same + different) / 2)


# -- the shell ----------------------------------------------------------------------------------


def test_values_by_class() -> None:
    values = torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1, 2, 0], [2, 2, -1, 1, 0]])  # -1: of no class
    found = by_class(values, labels, 3)
    for t in range(2):
        for n in range(3):
            expected = values[t][:, labels[t] == n]
            torch.testing.assert_close(found[t, :, :, n].amax(dim=1), expected.amax(dim=1))
            sums = expected.exp().sum(dim=1).log()
            torch.testing.assert_close(found[t, :, :, n].logsumexp(dim=1), sums)


def test_evaluation_uses_running_statistics_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    learner = EpisodicLearner(PrototypicalNets(ConvEmbedding(channels=4)))
    x = torch.rand(2, 10, 1, 28, 28)
    y = torch.arange(5).repeat(2, 1)
    episode = Episode(x[:, :5], y, x[:, 5:], y)
    learner.meta_loss(episode).backward()  # moves the running statistics
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    whole = learner.outputs(episode)
    assert whole.shape == (1, 2, 5, 5)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])
    one = learner.outputs(Episode(x[:1, :5], y[:1], x[:1, 5:6], y[:1, :1]))
    torch.testing.assert_close(one[0, 0, 0], whole[0, 0, 0])  # alone, or among others
    result = learner.evaluate(episode)
    expected = F.nll_loss(whole[0, 1], y[1])
    torch.testing.assert_close(result.loss[0, 1], expected)
    assert result.metric.shape == (1, 2)


def test_siamese_nets_answer_tasks_of_one_class_but_do_not_train_on_them() -> None:
    model, episode = METHODS["siamese"]().double(), tasks(2, n_way=1)
    torch.testing.assert_close(model(*episode[:3]), torch.zeros(2, 4, 1, dtype=torch.float64))
    message = r"`support_y` must hold at least 2 classes \(`n_way`\), .*, got 1\."
    with pytest.raises(ValueError, match=message):
        model.training_loss(episode)
    assert model.training_loss(tasks(2, n_way=2)).isfinite()


def labels_without(number: int) -> Episode:
    episode = tasks(2)
    return episode._replace(support_y=episode.support_y.where(episode.support_y != number, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EpisodicLearner(nn.Linear(2, 2)), "`model` must be a method .* got Linear"),
        (lambda: MatchingNets(nn.Identity(), "manhattan"), "`distance` must be one of"),
        (lambda: MatchingNets(nn.Identity(), context_steps=-1), "`context_steps` must be at least"),
        (lambda: MatchingNets(nn.Identity(), context_steps=1), "`features` must be given"),
        (lambda: SiameseNets(nn.Identity(), 2, "median"), "`class_score` must be one of"),
        (lambda: learner().outputs(labels_without(1)), "`support_y` must hold each of the classes"),
        (lambda: learner().outputs(tasks(1), inner_steps=2), "`inner_steps` must be 0"),
        (lambda: learner().adapt(*tasks(1)[:2]), "`adapt` is for learners with an inner loop"),
        (lambda: PrototypicalNets(nn.Unflatten(1, (2, 3)))(*tasks(1)[:3]), "`encoder` must return"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def learner() -> EpisodicLearner:
    return EpisodicLearner(METHODS["prototypical"]().double())


def convolution(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten())


def trained_by_maml(encoder: nn.Module) -> nn.Module:
    model = nn.Sequential(encoder, nn.LazyLinear(3))
    model(torch.rand(2, 1, 6, 6))
    body = MetaLearner(model, loss="cross_entropy").model[0]
    assert isinstance(body, nn.Module)
    return body


@pytest.mark.parametrize(
    ("encoder", "layer"),
    [
        (lambda: Conv4(5), r"'.*norm' \(EpisodeBatchNorm\)"),
        (
            lambda: convolution(nn.BatchNorm2d(4, track_running_stats=False)),
            r"'1' \(BatchNorm2d\)",
        ),
        (
            lambda: trained_by_maml(convolution(nn.BatchNorm2d(4))),
            r"'1' \(_BatchStatisticsNorm\); .* load the weights of a `MetaLearner`'s network",
        ),
    ],
)
def test_tasks_may_not_be_normalised_together(encoder, layer) -> None:
    with pytest.raises(ValueError, match=rf"`encoder` must not normalise tasks .*, {layer}"):
        PrototypicalNets(encoder())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d, lambda n: nn.GroupNorm(2, n)])
def test_norms_that_keep_tasks_apart_are_taken(norm) -> None:
    PrototypicalNets(convolution(norm(4)))


def test_batch_norm_that_maml_keeps_frozen_is_taken() -> None:
    PrototypicalNets(trained_by_maml(convolution(nn.BatchNorm2d(4)).requires_grad_(False)))


def test_weights_of_maml_go_into_a_network_made_anew() -> None:
    body, encoder = trained_by_maml(convolution(nn.BatchNorm2d(4))), convolution(nn.BatchNorm2d(4))
    encoder.load_state_dict(body.state_dict())
    assert torch.equal(PrototypicalNets(encoder).encoder[0].weight, body[0].weight)
