"""The paper's networks: sizes computed by hand, derivatives, independence of train and eval."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from lightning_maml.models import (
    MLP,
    Conv4,
    ConvEmbedding,
    OmniglotDense,
    ResNet12,
    conv4,
    conv_embedding,
)

MINI = {
    "in_channels": 3,
    "channels": 32,
    "image_size": 84,
    "downsample": "max_pool",
    "head": "flatten",
}

NETS = {
    # 1*40 + 40, 40*40 + 40, 40*1 + 1
    "mlp": (lambda: MLP(), (7, 1), (7, 1), 80 + 1640 + 41),
    # 1*64*9 + 64, three of 64*64*9 + 64, four offsets of 64, 64*5 + 5
    "omniglot": (lambda: Conv4(5), (7, 1, 28, 28), (7, 5), 640 + 3 * 36928 + 256 + 325),
    "omniglot_20way": (lambda: Conv4(20), (7, 1, 28, 28), (7, 20), 640 + 3 * 36928 + 256 + 1300),
    # 3*32*9 + 32, three of 32*32*9 + 32, four offsets of 32, 800*5 + 5 (with a scale: 32,901)
    "mini": (lambda: Conv4(5, **MINI), (7, 3, 84, 84), (7, 5), 896 + 3 * 9248 + 128 + 4005),
    # 784*256 + 256, 256*128 + 128, 128*64 + 64, 64*64 + 64, offsets, 64*5 + 5
    "dense": (
        lambda: OmniglotDense(5),
        (7, 1, 28, 28),
        (7, 5),
        200960 + 32896 + 8256 + 4160 + 512 + 325,
    ),
    # A block from a to b channels: 9 a b + 2 * 9 b b, shortcut a b, scales and offsets 4 * 2 b;
    # 512*5 + 5, 640*5 + 5
    "resnet12": (
        lambda: ResNet12(5),
        (2, 3, 84, 84),
        (2, 5),
        76_160 + 377_856 + 1_509_376 + 6_033_408 + 2_565,
    ),
    "resnet12_wide": (
        lambda: ResNet12(5, widths=(64, 160, 320, 640)),
        (2, 3, 32, 48),
        (2, 5),
        76_160 + 564_480 + 2_357_760 + 9_425_920 + 3_205,
    ),
}
SMALL = {
    "mlp": (lambda: MLP(1, 2, hidden=(8,)), (1,)),
    "strided": (lambda: Conv4(3, channels=4, image_size=12), (1, 12, 12)),
    "max_pool": (
        lambda: Conv4(3, 2, channels=4, image_size=20, downsample="max_pool", head="flatten"),
        (2, 20, 20),
    ),
    "dense": (lambda: OmniglotDense(3, image_size=6, hidden=(8, 6)), (1, 6, 6)),
    "resnet12": (lambda: ResNet12(3, 2, widths=(3, 4, 5, 6)), (2, 17, 33)),
}


def parameters(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in net.named_parameters()}


def gradient_of(net: nn.Module):
    def loss(params, x):
        return functional_call(net, params, (x,)).square().mean()

    return grad(loss)


@pytest.mark.parametrize(("make", "given", "gives", "count"), NETS.values(), ids=NETS)
def test_shapes_and_parameter_counts_are_the_papers(make, given, gives, count) -> None:
    net = make()
    assert net(torch.randn(given)).shape == gives
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(
    ("size", "downsample", "sizes"),
    [(84, "max_pool", [42, 21, 10, 5]), (28, "stride", [14, 7, 4, 2])],
)
def test_maps_shrink_as_with_the_authors_padding(size, downsample, sizes) -> None:
    net = Conv4(5, image_size=size, downsample=downsample, channels=2)
    x, seen = torch.randn(2, 1, size, size), []
    for block in net.blocks:
        x = block(x)
        seen.append(x.shape[-1])
    assert seen == sizes


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
@pytest.mark.parametrize("size", [16, 17, 28, 31, 84])
def test_conv4_takes_any_size_with_either_head(size, downsample) -> None:
    for head in ("mean", "flatten"):
        net = Conv4(3, channels=2, image_size=size, downsample=downsample, head=head)
        assert net(torch.randn(2, 1, size, size)).shape == (2, 3)


@pytest.mark.parametrize(("make", "shape"), SMALL.values(), ids=SMALL)
def test_train_equals_eval(make, shape) -> None:
    net, x = make(), torch.randn(6, *shape)
    assert torch.equal(net.train()(x), net.eval()(x))


@pytest.mark.parametrize(("make", "shape"), SMALL.values(), ids=SMALL)
def test_batched_gradients_equal_a_loop(make, shape) -> None:
    net, x = make().double(), torch.randn(4, 6, *shape, dtype=torch.float64)
    gradient, params = gradient_of(net), parameters(net)
    batched = vmap(gradient, in_dims=(None, 0))(params, x)
    looped = [gradient(params, task) for task in x]
    for name, value in batched.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in looped]))


@pytest.mark.parametrize(("make", "shape"), SMALL.values(), ids=SMALL)
def test_forward_over_reverse_agrees_with_finite_differences(make, shape) -> None:
    torch.manual_seed(0)  # a difference across a kink is not small, however rare
    net, x = make().double(), torch.randn(6, *shape, dtype=torch.float64)
    gradient, params = gradient_of(net), parameters(net)
    move = {name: torch.randn_like(p) for name, p in params.items()}
    product = jvp(gradient, (params, x), (move, torch.zeros_like(x)))[1]

    def moved(eps: float) -> dict[str, torch.Tensor]:
        return gradient({name: p + eps * move[name] for name, p in params.items()}, x)

    ahead, behind = moved(1e-6), moved(-1e-6)
    for name, value in product.items():
        expected = (ahead[name] - behind[name]) / 2e-6
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_batched_products_equal_a_loop() -> None:
    net, x = SMALL["strided"][0]().double(), torch.randn(3, 6, 1, 12, 12, dtype=torch.float64)
    params = parameters(net)

    def product(x):
        return jvp(gradient_of(net), (params, x), (params, torch.zeros_like(x)))[1]

    batched, looped = vmap(product)(x), [product(task) for task in x]
    for name, value in batched.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in looped]))


@pytest.mark.parametrize("make", [lambda: Conv4(5), lambda: OmniglotDense(5)])
def test_names_tell_the_offsets_of_batch_norm_apart(make) -> None:
    offsets = {name for name, _ in make().named_parameters() if ".norm." in name}
    assert len(offsets) == 4
    assert all(name.endswith(".norm.bias") for name in offsets)


def test_a_residual_block_is_what_its_formula_says() -> None:
    """Written anew with torch's functions: leaky ReLU of slope 0.1, then 2x2 max-pooling."""
    block, x = ResNet12(3, 2, widths=(3, 4, 5, 6)).blocks[0], torch.randn(4, 2, 6, 6)
    for p in block.parameters():
        nn.init.normal_(p)

    def convolved(part, x):
        y = F.conv2d(x, part.conv.weight, padding=part.conv.weight.shape[-1] // 2)
        var, mean = torch.var_mean(y, (0, 2, 3), correction=0, keepdim=True)
        y = (y - mean) / (var + 1e-3).sqrt()
        return y * part.norm.weight.view(1, -1, 1, 1) + part.norm.bias.view(1, -1, 1, 1)

    def leaky(x):
        return torch.where(x > 0, x, 0.1 * x)

    one, two, three = block.layers
    inner = convolved(three, leaky(convolved(two, leaky(convolved(one, x)))))
    expected = F.max_pool2d(leaky(inner + convolved(block.shortcut, x)), 2)
    torch.testing.assert_close(block(x), expected)


def test_without_outputs_conv4_and_resnet12_give_embeddings() -> None:
    x = torch.randn(2, 3, 84, 84)
    assert Conv4(None, **MINI)(x).shape == (2, 32 * 5 * 5)
    net = ResNet12(None, widths=(2, 3, 4, 5))
    assert net(x).shape == (2, 5)
    assert {name.partition(".")[0] for name, _ in net.named_parameters()} == {"blocks"}


def test_truncated_normal_is_the_authors() -> None:
    net = MLP(hidden=(400, 400), init="truncated_normal")
    weight = net.layers[1].weight
    assert weight.abs().max() <= 0.02
    assert weight.std().item() == pytest.approx(0.0088, rel=0.02)  # sd 0.01, cut at two sd
    assert not any(layer.bias.any() for layer in [*net.layers, net.head])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MLP(init="xavier"), "`init` must be"),
        (lambda: Conv4(5, downsample="pool"), "`downsample` must be"),
        (lambda: Conv4(5, head="max"), "`head` must be"),
        (lambda: Conv4(5, image_size=15, downsample="max_pool"), "at least 16 .* got 15"),
        (lambda: Conv4(5)(torch.zeros(2, 3, 28, 28)), r"\[N, 1, 28, 28\] .* got shape \(2, 3"),
        (lambda: OmniglotDense(5)(torch.zeros(1, 1, 28, 28)), "at least 2 values per channel"),
    ],
)
def test_a_wrong_setting_is_named(make, says) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("net", "block"),
    [(ConvEmbedding(3, channels=4), "blocks.0"), (Conv4(5, **MINI), "blocks.0.conv")],
    ids=["ConvEmbedding", "Conv4"],
)
def test_photos_lie_channels_last_on_a_cpu_and_give_the_same(net, block, monkeypatch) -> None:
    maps = []
    hook = net.get_submodule(block).register_forward_hook(lambda *found: maps.append(found[-1]))
    x = torch.rand(2, 3, 84, 84)
    found = net.eval()(x)
    assert maps[0].is_contiguous(memory_format=torch.channels_last)
    for module in (conv4, conv_embedding):
        monkeypatch.setattr(module, "channels_last", lambda x: x)
    torch.testing.assert_close(net(x), found)
    assert maps[1].is_contiguous()
    hook.remove()
