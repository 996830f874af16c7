"""Neural statistician (Edwards and Storkey, 2017): a variational autoencoder of sets of images.

A set has a context c, each of its images a latent z; a query gets the class whose support set has
the most alike distribution of c.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.baselines.embedded_sets import at_least_float32, class_count
from lightning_maml.episode import Episode

SIZE, LAST = 28, 4  # height and width of an image and of the last map

# B sets, K images of a set, T tasks, N classes, C numbers in a context


class Gaussian(NamedTuple):
    """Independent normal distributions, ``[..., C]`` both."""

    mean: Tensor
    log_var: Tensor

    @classmethod
    def of(cls, both: Tensor) -> "Gaussian":
        """From one tensor ``[..., 2 C]``; in float32 at least, as divergences need it."""
        return cls(*at_least_float32(both).chunk(2, dim=-1))

    def sample(self) -> Tensor:
        """A draw that gradients go through."""
        return self.mean + (self.log_var / 2).exp() * torch.randn_like(self.mean)


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p), summed over the last axis: ``[...]``."""
    ratio = q.log_var - p.log_var
    distance = (q.mean - p.mean).square() / p.log_var.exp()
    return (ratio.exp() + distance - 1 - ratio).sum(dim=-1) / 2


def sets(
    images: Tensor, labels: Tensor, n_way: int, part: str = "support", equal: bool = False
) -> tuple[Tensor, Tensor]:
    """Images by class, and each class's number; K is the largest, others are filled up.

    Shapes: ``[T, S, ...]``, ``[T, S]`` -> ``[T, N, K, ...]``, ``[T, N]``.

    Raises:
        ValueError: naming the labels of this `part` if a class has no image, or, with `equal`,
            if classes have different numbers.
    """
    counts = F.one_hot(labels, n_way).sum(dim=1)
    found = sorted(set(counts.flatten().tolist()))
    if found[0] < 1 or (equal and len(found) > 1):
        often = "equally often" if equal else "at least once"
        raise ValueError(f"`{part}_y` must hold each class {often}, got {found} times.")
    tasks, places = (torch.arange(n, device=labels.device) for n in (len(labels), found[-1]))
    ends = counts.cumsum(dim=1)[..., None]  # of classes, where labels are in order
    order = labels.argsort(dim=1, stable=True)
    order = order.gather(1, (ends - counts[..., None] + places).minimum(ends - 1).flatten(1))
    return images[tasks[:, None], order].unflatten(1, (n_way, -1)), counts


def conv_block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ELU."""
    conv = nn.Conv2d(before, after, 3, stride=stride, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ELU())


def encoder(in_channels: int, channels: int) -> nn.Sequential:
    """28x28 images to ``16 * 4 * channels`` numbers: nine convolutions, each third of stride 2."""
    layers: list[nn.Module] = []
    before = in_channels
    for after in (channels, 2 * channels, 4 * channels):
        layers += [conv_block(before, after), conv_block(after, after)]
        layers += [conv_block(after, after, stride=2)]
        before = after
    return nn.Sequential(*layers, nn.Flatten())


def decoder(in_channels: int, channels: int, hidden: int) -> nn.Sequential:
    """The way back, from ``hidden`` numbers to the logits of pixels: 4, 7, 14, 28."""
    sizes = ((4, 2, 3, 1), (2, 1, 2, 0), (1, 1, 2, 0))  # widths before and after; kernel, padding
    unflatten = nn.Unflatten(1, (4 * channels, LAST, LAST))
    layers: list[nn.Module] = [nn.Linear(hidden, 4 * channels * LAST**2), unflatten]
    for before, after, kernel, padding in sizes:
        wide = before * channels
        up = nn.ConvTranspose2d(wide, after * channels, kernel, stride=2, padding=padding)
        layers += [conv_block(wide, wide), conv_block(wide, wide), up]
        layers += [nn.BatchNorm2d(after * channels), nn.ELU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, in_channels, 1))


class GlobalNorm(nn.Module):
    """Batch norm of all numbers of a batch together, with one scale and one offset.

    The means among them have a spread from the start, which keeps contexts from saying nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``[E, C] -> [E, C]``."""
        return self.norm(x[:, None]).squeeze(1)


def dense(before: int, after: int) -> nn.Sequential:
    """Linear map, batch norm, ELU."""
    return nn.Sequential(nn.Linear(before, after), nn.BatchNorm1d(after), nn.ELU())


def gaussian(hidden: int, size: int) -> nn.Sequential:
    """From ``[E, hidden]`` to ``[E, 2 * size]``: the mean and the logarithm of the variance."""
    return nn.Sequential(nn.Linear(hidden, 2 * size), GlobalNorm())


class Mix(nn.Module):
    """Linear maps of several vectors, summed, ELU."""

    def __init__(self, sizes: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(size, hidden) for size in sizes)

    def forward(self, *vectors: Tensor) -> Tensor:
        """``[E, size]`` each -> ``[E, hidden]``."""
        pairs = zip(self.maps, vectors, strict=True)
        return F.elu(torch.stack([layer(vector) for layer, vector in pairs]).sum(dim=0))


class Latent(nn.Module):
    """A distribution of z given several vectors: their mix, a residual block of three layers."""

    def __init__(self, sizes: tuple[int, ...], hidden: int, latent: int) -> None:
        super().__init__()
        self.mix = Mix(sizes, hidden)
        last = (nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden))
        self.block = nn.Sequential(dense(hidden, hidden), dense(hidden, hidden), *last)
        self.out = gaussian(hidden, latent)

    def forward(self, *vectors: Tensor) -> Tensor:
        """``[E, size]`` each -> ``[E, 2 * latent]``."""
        x = self.mix(*vectors)
        return self.out(F.elu(x + self.block(x)))


def initialise(layer: nn.Module) -> None:
    """Weights of dense layers and convolutions by Glorot and Bengio with ReLU's gain, offsets 0.

    Transposed convolutions keep PyTorch's.
    """
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.xavier_normal_(layer.weight, nn.init.calculate_gain("relu"))
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


class NeuralStatistician(nn.Module):
    """p(c) = N(0, I), p(z | c), p(x | z, c) Bernoulli; q(c | set), q(z | x, c).

    Training sees pixels of 0 or 1, drawn anew each time; evaluation sees the values they are drawn
    with, their mean.

    Args:
        in_channels: channels of an image, which is 28x28 with values in [0, 1].
        channels: filters of the first convolutions.
        context: numbers in c.
        latent: numbers in z.
        hidden: units of dense layers.
        warm_up: lest the contexts come to say nothing, the loss has 1 + a times the pixels and the
            divergences divided by it; a is 1 and is halved after each `warm_up` batches. 0: none.

    Raises:
        ValueError: naming what is out of range or does not fit in the images or labels of a task.
    """

    batches: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        context: int = 512,
        latent: int = 16,
        hidden: int = 256,
        warm_up: int = 0,
    ) -> None:
        check_types(NeuralStatistician.__init__, locals())
        check_counts(in_channels=(in_channels, 1), channels=(channels, 1), context=(context, 1))
        check_counts(latent=(latent, 1), hidden=(hidden, 1), warm_up=(warm_up, 0))
        super().__init__()
        features = 4 * channels * LAST**2
        self.in_channels, self.warm_up = in_channels, warm_up
        if warm_up:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.encoder = encoder(in_channels, channels)
        self.of_image = dense(features, hidden)
        self.of_set = nn.Sequential(
            dense(hidden + 1, hidden), dense(hidden, hidden), gaussian(hidden, context)
        )
        self.posterior = Latent((features, context), hidden, latent)
        self.prior = Latent((context,), hidden, latent)
        self.mix = Mix((latent, context), hidden)
        self.decoder = decoder(in_channels, channels, hidden)
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)  # a fifth faster

    def context(self, features: Tensor, seen: Tensor | None = None) -> Gaussian:
        """q(c | set) of sets of images, or of the first `seen` of each; their number is told, too.

        Shapes: ``[B, K, F]``, ``[B]`` -> ``[B, C]``.

        Raises:
            ValueError: if a number in `seen` is not one of 1 .. K.
        """
        count, size = features.shape[:2]
        if seen is not None and not ((seen >= 1) & (seen <= size)).all():
            raise ValueError(f"`seen` must hold numbers of 1 .. {size}, got {seen.tolist()}.")
        each = self.of_image(features.flatten(0, 1)).unflatten(0, (count, size))
        number = each.new_full((count, 1), size) if seen is None else seen[:, None].to(each.dtype)
        is_seen = torch.arange(size, device=each.device) < number
        mean = (each * is_seen[..., None]).sum(dim=1) / number
        return Gaussian.of(self.of_set(torch.cat((mean, number), dim=1)))

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Softmax of -KL(q(c | support set of a class) || q(c | query)), ``[T, Q, N]``, its log."""
        self._check_images(support_x=support_x, query_x=query_x)
        by_class, counts = sets(support_x, support_y, class_count(support_y))
        tasks, classes = by_class.shape[:2]
        of_classes = self.context(self._features(by_class.flatten(0, 1)), counts.flatten())
        of_queries = self.context(self._features(query_x.flatten(0, 1)[:, None]))
        q = Gaussian(*(part.view(tasks, 1, classes, -1) for part in of_classes))
        p = Gaussian(*(part.view(tasks, query_x.shape[1], 1, -1) for part in of_queries))
        return (-kl_divergence(q, p)).log_softmax(dim=-1)

    def training_loss(self, episode: Episode) -> Tensor:
        """Minus the evidence lower bound per image, of sets of a class's images.

        Support and query images of a class are one set. The context is inferred from the first n,
        n drawn for each set, and all are reconstructed from it, so that a context of few images
        learns what the others have in common with them. Pixels are drawn as well.
        """
        support_x, support_y, query_x, query_y = episode
        self._check_images(support_x=support_x, query_x=query_x)
        n_way = class_count(support_y)
        support, _ = sets(support_x, support_y, n_way, equal=True)
        query, _ = sets(query_x, query_y, n_way, "query", equal=True)
        images = torch.cat((support, query), dim=2).flatten(0, 1)
        seen = torch.randint(1, images.shape[1] + 1, images.shape[:1]).to(images.device)
        weight = 1.0
        if self.warm_up:
            weight += 0.5 ** (int(self.batches) // self.warm_up)
            self.batches += 1
        return -self.bound(torch.bernoulli(images), weight, seen)

    def bound(self, images: Tensor, weight: float = 1.0, seen: Tensor | None = None) -> Tensor:
        """Evidence lower bound of sets of binary images, divided by their number (Eq. 5).

        Pixels count `weight` times, divergences are divided by it. The context is inferred from
        the first `seen` images of a set, by default from all.

        Shapes: ``[B, K, in_channels, 28, 28]``, ``[B]`` -> scalar.
        """
        features = self._features(images)
        q_c = self.context(features, seen)
        c = q_c.sample().to(features).repeat_interleave(images.shape[1], dim=0)
        q_z = Gaussian.of(self.posterior(features.flatten(0, 1), c))
        z = q_z.sample().to(features)
        logits = self.decoder(self.mix(z, c))
        pixels = F.binary_cross_entropy_with_logits(logits, images.flatten(0, 1), reduction="sum")
        of_latents = kl_divergence(q_z, Gaussian.of(self.prior(c))).sum()
        standard = Gaussian(torch.zeros_like(q_c.mean), torch.zeros_like(q_c.log_var))
        of_contexts = kl_divergence(q_c, standard).sum()
        both = weight * pixels + (of_latents + of_contexts) / weight
        return -both / images.shape[:2].numel()

    def _features(self, images: Tensor) -> Tensor:
        """``[B, K, channels, 28, 28] -> [B, K, F]``."""
        return self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def _check_images(self, **parts: Tensor) -> None:
        right = (self.in_channels, SIZE, SIZE)
        for name, images in parts.items():
            if images.shape[2:] != right:
                raise ValueError(
                    f"`{name}` must hold images of shape {list(right)}, "
                    f"got {list(images.shape[2:])}."
                )
            low, high = images.min().item(), images.max().item()
            if not 0 <= low <= high <= 1:
                raise ValueError(
                    f"`{name}` must hold values in [0, 1], the probabilities of white pixels, "
                    f"got {low:g} .. {high:g}."
                )
