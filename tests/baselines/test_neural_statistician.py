"""Neural statistician: KL divergences in closed form, its bound by hand, classes by divergence."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_torch

from lightning_maml import Episode
from lightning_maml.baselines import EpisodicLearner, NeuralStatistician
from lightning_maml.baselines.neural_statistician import (
    Gaussian,
    GlobalNorm,
    Latent,
    kl_divergence,
    sets,
)
from lightning_maml.functional_model import eval_mode


def method() -> NeuralStatistician:
    torch.manual_seed(0)
    return NeuralStatistician(channels=2, context=6, latent=3, hidden=8)


def images(tasks: int, shots: int, seed: int = 0) -> Episode:
    """Three classes of blurred squares in places of their own."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat_interleave(shots).repeat(tasks, 1)
    x = [0.1 * torch.rand(tasks, 3 * shots, 1, 28, 28, generator=g) for _ in range(2)]
    corners = torch.randint(0, 20, (tasks, 3, 2), generator=g)
    for part in x:
        for t in range(tasks):
            for e in range(3 * shots):
                a, b = corners[t, y[0, e]].tolist()
                part[t, e, 0, a : a + 8, b : b + 8] += 0.8
    return Episode(x[0], y, x[1], y)


def test_divergence_is_that_of_torch() -> None:
    parts = torch.randn(4, 5, 7, dtype=torch.float64)
    q, p = Gaussian(parts[0], parts[1]), Gaussian(parts[2], parts[3])
    normals = [Normal(one.mean, (one.log_var / 2).exp()) for one in (q, p)]
    torch.testing.assert_close(kl_divergence(q, p), kl_of_torch(*normals).sum(dim=-1))
    # N(1, 4) against N(0, 1): (4 + 1 - 1 - log 4) / 2.
    one = Gaussian(torch.ones(1), torch.full((1,), math.log(4)))
    unit = Gaussian(torch.zeros(1), torch.zeros(1))
    assert kl_divergence(one, unit).item() == pytest.approx((4 - math.log(4)) / 2)


def test_kl_of_half_precision_is_not_rounded() -> None:
    """Of 512 numbers each; bfloat16 has eight bits for their sum."""
    torch.manual_seed(1)
    both = [torch.randn(5, 2 * 512).bfloat16() for _ in range(2)]
    found = kl_divergence(*map(Gaussian.of, both))
    exact = kl_divergence(*(Gaussian.of(parameters.double()) for parameters in both))
    torch.testing.assert_close(found, exact.float())


def test_samples_have_their_mean_and_variance() -> None:
    torch.manual_seed(0)
    drawn = Gaussian(torch.full((40_000,), 2.0), torch.full((40_000,), math.log(9.0))).sample()
    assert drawn.mean().item() == pytest.approx(2, abs=3 * 3 / 200)
    assert drawn.var().item() == pytest.approx(9, rel=0.03)


def test_sets_are_the_images_of_a_class() -> None:
    x = torch.arange(6.0).view(1, 6, 1)
    found, counts = sets(x, torch.tensor([[2, 0, 1, 0, 2, 1]]), 3)
    assert found.squeeze().tolist() == [[1, 3], [2, 5], [0, 4]]
    assert counts.tolist() == [[2, 2, 2]]
    found, counts = sets(x, torch.tensor([[1, 0, 1, 2, 1, 0]]), 3)
    assert found.squeeze().tolist() == [[1, 5, 5], [0, 2, 4], [3, 3, 3]]  # filled up by the last
    assert counts.tolist() == [[2, 3, 1]]


@pytest.mark.parametrize(
    ("labels", "equal", "message"),
    [
        ([0, 0, 0, 0, 1, 1], True, r"each class equally often, got \[2, 4\] times"),
        ([0, 0, 0, 2, 2, 2], False, r"each class at least once, got \[0, 3\] times"),
    ],
)
def test_numbers_of_a_class_are_checked(labels, equal, message) -> None:
    with pytest.raises(ValueError, match=f"`support_y` must hold {message}"):
        sets(torch.arange(6.0).view(1, 6, 1), torch.tensor([labels]), max(labels) + 1, equal=equal)


def test_classes_may_have_different_numbers_of_images() -> None:
    """The context of each is that of its images alone, computed class by class."""
    model, episode = method().double(), images(2, 4)
    support_x, query_x = episode.support_x.double(), episode.query_x.double()
    model.context(model._features(support_x))  # fills running statistics: contexts differ more
    model.eval()
    labels = torch.tensor([[0, 1, 2, 1, 1, 0, 1, 1, 2, 1, 1, 1], [2, 2, 2, 0, 1] + [0] * 7])
    found = model(support_x, labels, query_x)
    for t in range(2):
        of_classes = [
            model.context(model._features(support_x[t, labels[t] == n][None])) for n in range(3)
        ]
        for i, image in enumerate(query_x[t]):
            of_query = model.context(model._features(image[None, None]))
            scores = torch.cat([-kl_divergence(one, of_query) for one in of_classes])
            torch.testing.assert_close(found[t, i], scores.log_softmax(dim=0))
    assert found.std(dim=-1).max() > 0.01  # classes differ


def test_training_needs_equal_numbers_of_images() -> None:
    episode = images(1, 2)
    unequal = episode._replace(support_y=torch.tensor([[0, 0, 1, 1, 1, 2]]))
    with pytest.raises(ValueError, match=r"`support_y` must .* equally often, got \[1, 2, 3\]"):
        method().training_loss(unequal)


def test_bound_is_that_of_its_parts(monkeypatch) -> None:
    """Without noise, set by set and image by image."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    model = method().eval()
    binary = (images(1, 2).support_x > 0.5).float().view(3, 2, 1, 28, 28)
    total = torch.zeros(())
    for one in binary:
        features = model.encoder(one)
        pooled = model.of_image(features).mean(dim=0)
        c = model.of_set(torch.cat((pooled, torch.tensor([2.0])))[None])[0]  # of two images
        mean, log_var = c[:6], c[6:]
        q_c = Normal(mean, (log_var / 2).exp())
        total -= kl_of_torch(q_c, Normal(torch.zeros(6), torch.ones(6))).sum()
        for k in range(2):
            z = model.posterior(features[k : k + 1], mean[None])[0]
            prior = model.prior(mean[None])[0]
            both = [Normal(v[:3], (v[3:] / 2).exp()) for v in (z, prior)]
            total -= kl_of_torch(*both).sum()
            p = model.decoder(model.mix(z[None, :3], mean[None])).sigmoid()[0]
            total += torch.where(one[k] > 0, p, 1 - p).log().sum()
    torch.testing.assert_close(model.bound(binary), total / 6, rtol=1e-4, atol=1e-3)


def test_global_norm_is_that_of_all_numbers() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # mean 3, variance (4 + 1 + 0 + 9) / 4
    torch.testing.assert_close(GlobalNorm()(x), (x - 3) / math.sqrt(3.5 + 1e-3))


def test_contexts_differ_from_the_start() -> None:
    """Mean and variance of c, together, have mean 0 and variance 1 over the sets of a batch."""
    model = NeuralStatistician(channels=4, context=32, latent=3, hidden=16)
    found = model.context(model.encoder(images(8, 1).support_x.flatten(0, 1)).unsqueeze(1))
    both = torch.cat(found, dim=1)
    assert both.mean().item() == pytest.approx(0, abs=1e-5)
    assert both.var(correction=0).item() == pytest.approx(1, abs=0.01)


def test_distribution_of_the_latent_by_hand() -> None:
    """ELU of summed maps; three dense layers added to it, the last without ELU; a linear map."""
    torch.manual_seed(0)
    net = Latent((2, 3), 4, 5).eval()
    a, b = torch.randn(6, 2), torch.randn(6, 3)
    elu = torch.nn.functional.elu
    x = elu(net.mix.maps[0](a) + net.mix.maps[1](b))
    linear = [layer for layer in net.block.modules() if isinstance(layer, nn.Linear)]
    by = 1 / math.sqrt(1 + 1e-5)  # batch norm that has seen nothing
    y = linear[2](elu(by * linear[1](elu(by * linear[0](x))))) * by
    torch.testing.assert_close(net(a, b), net.out[0](elu(x + y)) / math.sqrt(1 + 1e-3))


def test_the_pixels_weight_falls_from_two_to_one(monkeypatch) -> None:
    """1 + a of the pixels, 1 / (1 + a) of the divergences, a = 1, 1/2, 1/4 two batches each."""
    weights = []

    def bound(images: torch.Tensor, weight: float, seen: torch.Tensor) -> torch.Tensor:
        weights.append(weight)
        return images.sum()

    model = NeuralStatistician(channels=2, context=6, latent=3, hidden=8, warm_up=2)
    monkeypatch.setattr(model, "bound", bound)
    for _ in range(3):
        model.training_loss(images(1, 2))
    resumed = NeuralStatistician(channels=2, context=6, latent=3, hidden=8, warm_up=2)
    resumed.load_state_dict(model.state_dict())
    monkeypatch.setattr(resumed, "bound", bound)
    for _ in range(3):
        resumed.training_loss(images(1, 2))
    assert weights == [2, 2, 1.5, 1.5, 1.25, 1.25]


def test_any_number_of_a_set_may_be_seen(monkeypatch) -> None:
    """The bound is of whole sets; of each, some are seen, one or two or ... or all."""
    drawn = []

    def bound(images: torch.Tensor, weight: float, seen: torch.Tensor) -> torch.Tensor:
        assert images.shape == (3, 6, 1, 28, 28)
        drawn.append(seen)
        return images.sum()

    model = method()
    monkeypatch.setattr(model, "bound", bound)
    for _ in range(60):
        model.training_loss(images(1, 3))  # three of each class in either part
    assert set(torch.cat(drawn).tolist()) == {1, 2, 3, 4, 5, 6}
    assert any(len(set(seen.tolist())) > 1 for seen in drawn)


def test_a_context_depends_on_what_is_seen_alone() -> None:
    """Of the first one, two, three of three images: those of sets that have no more."""
    model = method().eval()
    features = torch.rand(3, 3, 8 * 16)
    found = model.context(features, torch.tensor([1, 2, 3]))
    for i in range(3):
        alone = model.context(features[i : i + 1, : i + 1])
        torch.testing.assert_close(Gaussian(*(part[i : i + 1] for part in found)), alone)
    all_seen = model.context(features, torch.tensor([3, 3, 3]))
    assert torch.equal(all_seen.mean, model.context(features).mean)  # to the last bit
    assert not torch.allclose(found.mean[0], model.context(features[:1]).mean[0])


@pytest.mark.parametrize("number", [0, 4])
def test_numbers_of_seen_images_are_checked(number) -> None:
    features = torch.rand(2, 3, 8 * 16)
    with pytest.raises(ValueError, match=rf"`seen` must .* 1 \.\. 3, got \[1, {number}\]"):
        method().context(features, torch.tensor([1, number]))


def test_weights_at_the_start() -> None:
    """Glorot and Bengio's deviation, sqrt(2 / (inputs + outputs)), times ReLU's gain."""
    torch.manual_seed(0)
    model = NeuralStatistician(channels=16)
    dense, conv = model.of_set[1][0], model.encoder[4][0]
    for layer, inputs, outputs in ((dense, 256, 256), (conv, 9 * 32, 9 * 32)):
        expected = math.sqrt(2) * math.sqrt(2 / (inputs + outputs))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()


def test_global_norm_remembers_slowly() -> None:
    norm = GlobalNorm()
    norm(torch.full((4, 3), 5.0) + torch.randn(4, 3).round())
    assert 0.02 < norm.norm.running_mean.item() < 0.08  # a hundredth of about 5


def test_unseen_images_are_in_the_bound(monkeypatch) -> None:
    """All three images are reconstructed by the context of the first."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    model = method().eval()
    binary = (images(1, 3).support_x > 0.5).float().view(3, 3, 1, 28, 28)
    seen = torch.ones(3, dtype=torch.int64)
    whole = model.bound(binary, 1.0, seen)
    changed = binary.clone()
    changed[:, 2] = 1 - changed[:, 2]
    assert abs(model.bound(changed, 1.0, seen) - whole) > 1
    features = model._features(binary)
    c = model.context(features[:, :1]).mean.repeat_interleave(3, dim=0)
    z = Gaussian.of(model.posterior(features.flatten(0, 1), c)).mean
    probability = model.decoder(model.mix(z, c)).sigmoid()
    pixels = torch.where(binary.flatten(0, 1) > 0, probability, 1 - probability).log().sum()
    two = model.bound(binary, 2.0, seen)
    torch.testing.assert_close((2 * two - whole) / 3, pixels / 9)  # 2 p + d / 2, p + d


def test_without_a_warm_up_nothing_is_counted() -> None:
    assert "batches" not in method().state_dict()


def test_weighted_bound_is_that_of_its_parts(monkeypatch) -> None:
    """Linear in the weight and its inverse: from two of them follows the third."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    model = method()  # normalised by the batch
    binary = (images(1, 2).support_x > 0.5).float().view(3, 2, 1, 28, 28)
    one, two, three = (model.bound(binary, weight) for weight in (1.0, 2.0, 3.0))
    divergences = (2 * one - two) * 2 / 3  # pixels + d, 2 pixels + d / 2
    torch.testing.assert_close(three, 3 * (one - divergences) + divergences / 3)
    assert one - divergences < 5 * divergences < 0  # 784 pixels, each about log 2


def test_classes_by_divergence_in_loops() -> None:
    """Softmax over classes of -KL(q(c | support set of the class) || q(c | query)).

    Here c follows twelve pixels: untrained networks make contexts so alike that either order fits.
    """
    model, episode = method(), images(2, 2)

    def parameters(of_sets: torch.Tensor) -> torch.Tensor:  # [..., K, 784] -> [..., 12]
        return 4 * of_sets.mean(dim=-2)[..., ::66]

    model.encoder = nn.Flatten()
    model.context = lambda features, _=None: Gaussian.of(parameters(features))  # type: ignore[method-assign]
    found = model(*episode[:3])

    def q(images_of_set: torch.Tensor) -> Normal:
        both = parameters(images_of_set.flatten(1))
        return Normal(both[:6], (both[6:] / 2).exp())

    for t in range(2):
        of_classes = [q(episode.support_x[t, episode.support_y[t] == n]) for n in range(3)]
        for i, image in enumerate(episode.query_x[t]):
            of_query = q(image)
            scores = torch.stack([-kl_of_torch(one, of_query).sum() for one in of_classes])
            torch.testing.assert_close(found[t, i], scores.log_softmax(dim=0), rtol=1e-4, atol=1e-5)


def test_the_bound_rises_and_classes_are_told_apart() -> None:
    """The bound of images that training does not see, in eval mode and with the same noise."""
    model, unseen = method(), (images(8, 2, seed=999).support_x > 0.5).float()

    def bound() -> float:
        torch.manual_seed(1)
        with torch.no_grad(), eval_mode(model):
            return model.bound(unseen.unflatten(1, (3, 2)).flatten(0, 1)).item()

    before = bound()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for seed in range(60):
        optimizer.zero_grad()
        model.training_loss(images(4, 2, seed)).backward()
        optimizer.step()
    assert bound() > 0.75 * before  # both are negative
    metric = EpisodicLearner(model).evaluate(images(40, 2, seed=999)).metric
    assert metric.mean() > 0.82  # 0.72 untrained
