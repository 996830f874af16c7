"""A module from labelled examples: hand-checked values, batch norm, names, saving and export."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner
from lightning_maml.adapted import Adapted
from lightning_maml.models import Conv4, EpisodeBatchNorm, EpisodeHead
from tests.test_scalar_case import EXACT, learner, number

NAMES = ["newt", "toad", "frog"]


def stock_net() -> nn.Module:
    """Stock batch norm of both kinds, and one without running statistics."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3),
    )  # fmt: skip


def conv4() -> nn.Module:
    return Conv4(3, channels=8, image_size=8)


NETS = {"stock": stock_net, "conv4": conv4}


def classifier(net: str = "stock", **settings: object) -> MetaLearner:
    torch.manual_seed(0)
    settings = {"loss": F.cross_entropy, "inner_lr": 0.3, "inner_steps": 2, **settings}
    return MetaLearner(NETS[net](), **settings)


def support() -> tuple[Tensor, list[str]]:
    """Two images for each of three classes; the seventh is a query's."""
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, [NAMES[i % 3] for i in range(6)]


def queries(n: int = 5) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("steps", "w"), [(0, 2), (1, 1), (2, 0.5), (3, 0.25)])
def test_scalar_case(steps: int, w: float) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    adapted = learner().fast_adapt(one, 0 * one, inner_steps=steps)
    torch.testing.assert_close(adapted(3 * one).squeeze(), number(3 * w), **EXACT)
    assert adapted.class_names == ()
    with pytest.raises(ValueError, match="`labels` must have been classes"):
        adapted.predict(one)


def test_support_statistics_by_hand() -> None:
    """Of 0 and 2 mean and biased variance are 1: (3 - 1) / sqrt(1 + 3) = 1, and 5 becomes 2."""
    net = EpisodeBatchNorm(1, eps=3.0).double()
    maml = MetaLearner(net, loss=F.mse_loss, inner_steps=0)
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    adapted = maml.fast_adapt(x, x)
    answers = [adapted(torch.tensor([[value]]).double()).item() for value in (3.0, 5.0)]
    assert answers == pytest.approx([1.0, 2.0], abs=1e-12)
    transductive = maml.fast_adapt(x, x, statistics="transductive")
    torch.testing.assert_close(transductive(x + 7), adapted(x))


@pytest.mark.parametrize("net", NETS)
def test_a39_transductive_is_the_episode(net: str) -> None:
    """A39: the same as in an episode with these images, and the names go with the outputs."""
    maml, (x, names), query = classifier(net), support(), queries()
    adapted = maml.fast_adapt(x, names, statistics="transductive")
    assert adapted.class_names == ("frog", "newt", "toad")
    y = torch.tensor([adapted.class_names.index(name) for name in names])[None]
    expected = maml.outputs(Episode(x[None], y, query[None], y[:, :5]))[-1][0]
    torch.testing.assert_close(adapted(query), expected, rtol=0, atol=1e-6)
    probabilities = adapted.probabilities(query)
    torch.testing.assert_close(probabilities, expected.exp() / expected.exp().sum(1, keepdim=True))
    assert adapted.predict(query) == [adapted.class_names[i] for i in expected.argmax(1)]


@pytest.mark.parametrize("net", NETS)
def test_support_statistics_are_those_of_the_support_set(net: str) -> None:
    """For the support set itself both kinds agree, and a query's answer is its own."""
    maml, (x, names), query = classifier(net), support(), queries()
    adapted = maml.fast_adapt(x, names)
    transductive = maml.fast_adapt(x, names, statistics="transductive")
    torch.testing.assert_close(adapted(x), transductive(x), rtol=1e-5, atol=1e-5)
    alone = torch.cat([adapted(one[None]) for one in query])
    torch.testing.assert_close(adapted(query), alone, rtol=1e-5, atol=1e-6)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    assert (transductive(query)[:1] - transductive(query[:2])[:1]).abs().max() > 1e-3


def test_half_precision_is_near_full_precision() -> None:
    """Statistics are in 32 bits; under autocast the layers around them are not."""
    maml, (x, names), query = classifier("stock"), support(), queries()
    expected = maml.fast_adapt(x, names)(query)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = maml.fast_adapt(x, names)
        assert mixed.model[1].running_var.dtype == torch.float32
        assert mixed(query).dtype == torch.bfloat16
        torch.testing.assert_close(mixed(query).float(), expected, rtol=0.1, atol=0.1)
    halves = maml.to(torch.bfloat16).fast_adapt(x.bfloat16(), names)
    torch.testing.assert_close(halves(query.bfloat16()).float(), expected, rtol=0.1, atol=0.1)


def test_the_learner_stays_as_it_is() -> None:
    maml, (x, names) = classifier(), support()
    maml.train()
    before = copy.deepcopy(maml.state_dict())
    adapted = maml.fast_adapt(x, names)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.zero_()
    assert maml.training
    assert not adapted.training
    assert list(maml.state_dict()) == list(before)
    assert all(torch.equal(maml.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("statistics", ["support", "transductive"])
def test_it_can_be_copied_saved_and_exported(net: str, statistics: str) -> None:
    (x, names), query = support(), queries()
    adapted = classifier(net).fast_adapt(x, names, statistics=statistics)
    expected = adapted(query)
    file = io.BytesIO()
    torch.save(adapted, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded.class_names == adapted.class_names
    other = classifier(net).fast_adapt(1 - x, names, inner_steps=0, statistics=statistics)
    other.load_state_dict(adapted.state_dict())
    exported = torch.export.export(adapted, (query,)).module()
    for again in (copy.deepcopy(adapted), loaded, other, exported):
        torch.testing.assert_close(again(query), expected)


def test_exported_for_any_number_of_images() -> None:
    (x, names), query = support(), queries()
    adapted = classifier("stock").fast_adapt(x, names)
    any_number = ({0: torch.export.Dim("n", min=1)},)
    exported = torch.export.export(adapted, (query,), dynamic_shapes=any_number).module()
    for n in (1, 3):
        torch.testing.assert_close(exported(query[:n]), adapted(query[:n]))


@pytest.mark.parametrize("statistics", ["support", "transductive"])
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_exported_to_onnx(tmp_path: Path, statistics: str) -> None:
    """As docs/predictions.md has it; another program computes the same."""
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    (x, names), query = support(), queries()
    adapted = classifier("conv4").fast_adapt(x, names, statistics=statistics)
    any_number = ({0: torch.export.Dim("n", min=1)},)
    torch.onnx.export(adapted, (query,), tmp_path / "net.onnx", dynamic_shapes=any_number)
    program = reference.ReferenceEvaluator(str(tmp_path / "net.onnx"))
    for n in (2, 5):
        (output,) = program.run(None, {program.input_names[0]: query[:n].numpy()})
        torch.testing.assert_close(torch.from_numpy(output), adapted(query[:n]).detach())


@pytest.mark.parametrize(
    "labels",
    [
        [NAMES.index(name) for name in support()[1]],
        np.array([i % 3 for i in range(6)], np.uint8),
        torch.tensor([i % 3 for i in range(6)], dtype=torch.int32),
        torch.tensor([5 + 10 * (i % 3) for i in range(6)]),
        np.array(["a", "b", "c"] * 2),
    ],
    ids=["list", "uint8", "int32", "gaps", "numpy names"],
)
def test_labels_in_any_form(labels) -> None:
    maml, (x, _), query = classifier(), support(), queries()
    adapted = maml.fast_adapt(x, labels)
    expected = maml.fast_adapt(x, torch.arange(6) % 3)(query)
    assert torch.equal(adapted(query), expected)
    assert list(adapted.class_names) == sorted(
        set(labels.tolist() if hasattr(labels, "tolist") else labels)
    )


def test_tied_and_frozen_parameters_stay_so() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    net[3].requires_grad_(False)
    maml = MetaLearner(net, loss=F.cross_entropy, inner_lr=0.5)
    x, y = torch.randn(3, 3), torch.arange(3)
    adapted = maml.fast_adapt(x, y)
    assert adapted.model[2].weight is adapted.model[0].weight
    assert torch.equal(adapted.model[3].weight, net[3].weight)
    expected = torch.func.functional_call(net, maml.adapt(x, y), (x,))
    torch.testing.assert_close(adapted(x), expected)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.norm(x[:, 0, :4, 0]).relu()))


def test_a_layer_that_runs_twice_has_no_statistics_of_its_own() -> None:
    maml, (x, names) = MetaLearner(Twice(), loss=F.cross_entropy), support()
    with pytest.raises(ValueError, match=r'"transductive" for this model.*`norm` runs more than'):
        maml.fast_adapt(x, names)
    assert maml.fast_adapt(x, names, statistics="transductive")(x).shape == (6, 3)


X, LABELS = support()
REFUSED = {
    "two classes": (X, ["a", "b"] * 3, "`labels` must have 3 classes, .* got 2: a, b"),
    "any number": (X, ["a"] * 6, "An `EpisodeHead` as the model takes any number of classes"),
    "bytes": ((255 * X).byte(), LABELS, r"floats \(.*images / 255\), got torch.uint8"),
    "count": (X, LABELS[:5], "`images` and `labels` must hold the same number .* 6 and 5"),
    "none": (X[:0], [], "at least one, got 0 and 0"),
    "floats": (X, torch.zeros(6), "`labels` must hold integer class numbers .*float32"),
    "mixed": (X, [1, 2, 3, "a", "b", "c"], "`labels` must be class names, integers or targets"),
}


@pytest.mark.parametrize(("x", "labels", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(x, labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        classifier().fast_adapt(x, labels)


class TakesBytes(nn.Sequential):
    """A network that makes floats of its images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 255)


def test_bytes_are_taken_by_a_model_that_takes_them() -> None:
    net = TakesBytes(nn.Flatten(), nn.Linear(64, 3))
    learner = MetaLearner(net, loss="cross_entropy", inner_lr=0.1)
    x = (255 * X).byte()
    same = learner.fast_adapt(x.float(), LABELS)(x)
    torch.testing.assert_close(learner.fast_adapt(x, LABELS)(x), same, rtol=0, atol=0)


@pytest.mark.parametrize("loss", ["mse", F.mse_loss, nn.MSELoss()])
def test_classes_are_no_targets_of_a_squared_error(loss) -> None:
    with pytest.raises(ValueError, match="`labels` must be float targets"):
        classifier(loss=loss).fast_adapt(X, LABELS)


def test_other_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`statistics` must be one of .* got 'batch'"):
        classifier().fast_adapt(X, LABELS, statistics="batch")


def test_a_diverging_inner_loop_is_said() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"not finite after 700 steps.*`inner_lr`"):
        learner(inner_lr=2.0).fast_adapt(one, 0 * one, inner_steps=700)


def test_a_head_that_each_task_makes_goes_into_the_module() -> None:
    """For any number of classes, also where it was trained for none in particular."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())
    maml = MetaLearner(EpisodeHead(body, 5), loss="cross_entropy", inner_lr=0.1, inner_steps=2)
    x, names = support()
    for classes in (3, 2):
        some = [i for i, name in enumerate(names) if name in sorted(NAMES)[:classes]]
        labels = [names[i] for i in some]
        adapted = maml.fast_adapt(x[some], labels)
        numbers = torch.tensor([sorted(NAMES).index(name) for name in labels])
        query = queries()
        episode = Episode(x[some][None], numbers[None], query[None], numbers[:1].expand(1, 5))
        expected = maml.outputs(episode, 2)[-1, 0]
        assert expected.shape == (5, classes)
        torch.testing.assert_close(adapted(query), expected, rtol=0, atol=1e-6)
        assert maml.model.head.weight.shape == (0, 5)
    again = Adapted(copy.deepcopy(adapted.model))
    again.load_state_dict(adapted.state_dict())
    torch.testing.assert_close(again(query), adapted(query), rtol=0, atol=0)
