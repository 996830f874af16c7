"""A head made from the support set: prototypes by hand, its gradient by a naive loop, any n_way."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml import Episode, MetaLearner, maml_loss
from lightning_maml.models import EpisodeHead

FEATURES, LR = 4, 0.1
PATTERNS = {"all": ("*",), "head": ("head.*",), "body": ("body.*",)}


def body() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, FEATURES)).double()


def episode(n_way: int = 3, tasks: int = 3) -> Episode:
    g = torch.Generator().manual_seed(n_way)
    parts = []
    for per_class in (2, 3):
        y = torch.arange(n_way).repeat(per_class).expand(tasks, -1).contiguous()
        parts += [torch.randn((*y.shape, 3), generator=g, dtype=torch.float64), y]
    return Episode(*parts)


def learner(initial: str = "prototypes", **settings: object) -> MetaLearner:
    model = EpisodeHead(body(), FEATURES, initial).double()
    return MetaLearner(model, loss=F.cross_entropy, inner_lr=LR, **settings)


def test_three_vectors_by_hand() -> None:
    """Prototypes (0, 0), (3, 4) and (0, 2): logits 2 c x - |c|^2, so the nearest one wins."""
    maml = MetaLearner(EpisodeHead(nn.Identity(), 2), loss=F.cross_entropy)
    x = torch.tensor([[0.0, 0.0], [2.0, 4.0], [4.0, 4.0], [0.0, 2.0]])
    made = maml.adapt(x, torch.tensor([0, 1, 1, 2]), inner_steps=0)
    assert torch.equal(made["head.weight"], torch.tensor([[0.0, 0.0], [6.0, 8.0], [0.0, 4.0]]))
    assert torch.equal(made["head.bias"], torch.tensor([0.0, -25.0, -4.0]))
    queries = torch.tensor([[-1.0, 0.5], [2.0, 3.0], [1.0, 2.0]])
    logits = functional_call(maml.model, made, (queries,))
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]
    assert maml.model(queries).shape == (3, 0)  # no episode, no classes


def naive(model: EpisodeHead, task: Episode, steps: int, adapts: str, first_order: bool) -> Tensor:
    """The query loss of one task after `steps` gradient steps, all in plain autograd."""
    net, (support_x, support_y, query_x, query_y) = model.body, task
    # Copies: the inner gradient is by theta and the head apart, not through the head's making.
    theta = {name: p.clone() for name, p in net.named_parameters()}
    n_way = int(support_y.max()) + 1
    if model.initial == "zero":
        w, b = torch.zeros(n_way, FEATURES).double(), torch.zeros(n_way).double()
        w.requires_grad_(), b.requires_grad_()
    else:
        embedded = net(support_x)
        c = torch.stack([embedded[support_y == k].mean(dim=0) for k in range(n_way)])
        w, b = 2 * c, -(c * c).sum(dim=1)
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(net, theta, (support_x,)) @ w.T + b, support_y)
        moved = [w, b] if adapts == "head" else [*theta.values()]
        moved = [*theta.values(), w, b] if adapts == "all" else moved
        grads = torch.autograd.grad(loss, moved, create_graph=not first_order)
        after = [p - LR * g for p, g in zip(moved, grads, strict=True)]
        if adapts != "body":
            *after, w, b = after
        theta = dict(zip(theta, after, strict=True)) if after else theta
    return F.cross_entropy(functional_call(net, theta, (query_x,)) @ w.T + b, query_y)


@pytest.mark.parametrize("derivation", ["sweep", "unrolled"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapts", PATTERNS)
@pytest.mark.parametrize("initial", ["prototypes", "zero"])
def test_meta_gradient_is_that_of_a_naive_loop(
    initial: str, adapts: str, first_order: bool, derivation: str
) -> None:
    maml = learner(
        initial, inner_steps=3, adapts=PATTERNS[adapts], first_order=first_order,
        derivation=derivation,
    )  # fmt: skip
    loss = maml.meta_loss(episode())
    loss.backward()
    tasks = [Episode(*parts) for parts in zip(*episode(), strict=True)]
    each = [naive(maml.model, task, 3, adapts, first_order) for task in tasks]
    torch.testing.assert_close(loss, sum(each) / 3)
    parameters = list(maml.model.body.parameters())
    expected = torch.autograd.grad(sum(each) / 3, parameters)
    for p, g in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("initial", ["prototypes", "zero"])
def test_meta_gradient_agrees_with_finite_differences(initial: str) -> None:
    """Along a random direction of all weights and of the step sizes, which classes share."""
    maml = learner(initial, inner_steps=2, learn_inner_lr="per_weight")
    assert maml.inner_lrs["head/weight"].shape == (1, FEATURES)
    maml.meta_loss(episode()).backward()
    directions = [torch.randn_like(p) for p in maml.parameters()]
    exact = sum((p.grad * d).sum() for p, d in zip(maml.parameters(), directions, strict=True))
    losses = []
    for distance in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(maml.parameters(), directions, strict=True):
                p.add_(d, alpha=distance)
        losses.append(maml.meta_loss(episode()).item())
    numeric = (losses[0] - losses[1]) / 2e-6
    assert abs(exact.item() - numeric) < 1e-6 * abs(numeric)


def test_tasks_one_by_one_and_the_plain_call_give_the_same() -> None:
    together, single = learner(), learner(tasks_at_once=1)
    loss = together.meta_loss(episode())
    torch.testing.assert_close(single.meta_loss(episode()), loss)
    plain = maml_loss(together.model, F.cross_entropy, episode(), inner_lr=LR)
    torch.testing.assert_close(plain, loss)


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    eager, compiled = learner(inner_steps=2), learner(inner_steps=2, compile=True)
    for maml in (eager, compiled):
        maml.meta_loss(episode()).backward()
        maml.meta_loss(episode(n_way=4)).backward()
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_training_with_five_classes_and_evaluation_with_three() -> None:
    maml = learner(inner_steps=1)
    optimizer = torch.optim.Adam(maml.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        maml.meta_loss(episode(n_way=5)).backward()
        optimizer.step()
    fewer = episode(n_way=3)
    assert maml.outputs(fewer).shape == (2, 3, 9, 3)
    alone = [
        naive(maml.model, Episode(*task), 1, "all", False) for task in zip(*fewer, strict=True)
    ]
    torch.testing.assert_close(maml.evaluate(fewer).loss[1], torch.stack(alone).detach())
    assert maml.outputs(episode(n_way=5)).shape == (2, 3, 15, 5)


def test_labels_that_make_no_head_are_refused_by_name() -> None:
    maml, given = learner(), episode()
    with pytest.raises(ValueError, match=r"`support_y` must hold integer class numbers.*float64"):
        maml.meta_loss(given._replace(support_y=given.support_y.double()))
    with pytest.raises(ValueError, match=r"`support_y` must hold each of .* 0 .. 3 .*\[0, 2, 3\]"):
        maml.meta_loss(given._replace(support_y=given.support_y + (given.support_y > 0)))
    with pytest.raises(ValueError, match=r"`query_y` must hold class numbers 0 .. 2"):
        maml.evaluate(given._replace(query_y=given.query_y + 1))


def test_settings_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"`initial` must be one of .*, got 'one'"):
        EpisodeHead(nn.Identity(), 3, "one")
    with pytest.raises(ValueError, match=r"`body` must return \[N, 5\] \(`features`\), got .*3"):
        EpisodeHead(nn.Identity(), 5)(torch.zeros(2, 3))


def test_as_a_part_of_a_model_it_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Flatten(), EpisodeHead(nn.Linear(4, 3), features=3))
    with pytest.raises(ValueError, match="not have EpisodeHead as a part, got one as `1`"):
        MetaLearner(model, loss="cross_entropy")


def test_under_autocast_the_head_is_made_in_full_precision() -> None:
    """In 16 bits small inner steps would round away."""
    model = EpisodeHead(nn.Linear(4, 3), 3)
    x, y = torch.randn(6, 4), torch.arange(3).repeat(2)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.autocast("cpu", torch.bfloat16):
        made = model.make(tensors, x, y, 3)
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}
