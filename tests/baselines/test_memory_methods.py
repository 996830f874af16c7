"""Addressing of external memories on scripted sequences, against naive loops and by hand."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lightning_maml import Episode
from lightning_maml.baselines import MANN, EpisodicLearner, MemoryModule, mann, memory_module

CONFIGS = Path(__file__).parents[2] / "configs"


def images(tasks: int, n_way: int, shots: int, seed: int = 0) -> Episode:
    """4x4 images: noise around a pattern per class, float64."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.rand(tasks, n_way, 1, 4, 4, generator=g, dtype=torch.float64)
    y = torch.arange(n_way).repeat_interleave(shots).repeat(tasks, 1)

    def drawn() -> torch.Tensor:
        noise = torch.randn(tasks, n_way * shots, 1, 4, 4, generator=g, dtype=torch.float64)
        return patterns.repeat_interleave(shots, dim=1) + 0.02 * noise

    return Episode(drawn(), y, drawn(), y)


def small_mann() -> MANN:
    torch.manual_seed(0)
    return MANN(3, image_size=4, hidden=16, slots=6, width=5, heads=2).double()


def small_memory() -> MemoryModule:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
    return MemoryModule(encoder, features=8, slots=12).double()


# -- MANN ---------------------------------------------------------------------------------------


def test_addressing_of_a_scripted_sequence() -> None:
    """Equations 2 to 8 in loops over heads, slots and numbers, but for one least used slot a head.

    In the paper each head gets those of all.
    """
    heads, slots, width, decay = 2, 4, 3, 0.9
    g = torch.Generator().manual_seed(0)
    like = torch.zeros(1, 1, dtype=torch.float64)
    memory = mann.Memory.empty(like, heads, slots, width)
    rows = [[mann.EMPTY] * width for _ in range(slots)]
    usage, reads = [0.0] * slots, [[0.0] * slots for _ in range(heads)]
    for _ in range(7):
        gate = torch.rand(1, heads, generator=g, dtype=torch.float64)
        content, keys = torch.randn(2, 1, heads, width, generator=g, dtype=torch.float64)
        memory, reading = mann.access(memory, gate, content, keys, decay)
        by_usage = sorted(range(slots), key=lambda i: usage[i])
        rows[by_usage[0]] = [0.0] * width
        writes = []
        for r in range(heads):
            a = float(gate[0, r])
            w = [a * reads[r][i] + (1 - a) * (by_usage[r] == i) for i in range(slots)]
            writes.append(w)
            for i in range(slots):
                rows[i] = [m + w[i] * float(v) for m, v in zip(rows[i], content[0, r], strict=True)]
        for r in range(heads):
            key = keys[0, r].tolist()
            cosines = [
                sum(k * m for k, m in zip(key, row, strict=True)) / math.hypot(*key)
                / (math.hypot(*row) or 1.0)
                for row in rows
            ]  # fmt: skip
            total = sum(map(math.exp, cosines))
            reads[r] = [math.exp(c) / total for c in cosines]
            read = [sum(reads[r][i] * rows[i][d] for i in range(slots)) for d in range(width)]
            assert reading[0, r].tolist() == pytest.approx(read)
        usage = [
            decay * usage[i] + sum(reads[r][i] + writes[r][i] for r in range(heads))
            for i in range(slots)
        ]
        torch.testing.assert_close(memory.rows[0], torch.tensor(rows, dtype=torch.float64))
        assert memory.usage[0].tolist() == pytest.approx(usage)


def test_labels_come_a_step_late() -> None:
    """A guess knows the labels before it and not its own; a query knows that of the last."""
    model, episode = small_mann().eval(), images(1, 3, 1)
    order = torch.tensor([[2, 0, 1]])
    guesses, answers = model._sequence(*episode[:3], order)
    for t in range(3):
        labels = episode.support_y.clone()
        labels[0, order[0, t]] = (labels[0, order[0, t]] + 1) % 3
        changed, others = model._sequence(episode.support_x, labels, episode.query_x, order)
        torch.testing.assert_close(changed[:, : t + 1], guesses[:, : t + 1])
        assert not torch.allclose(changed[:, t + 1 :], guesses[:, t + 1 :]) or t == 2
        assert not torch.allclose(others, answers)


@pytest.mark.slow
def test_mann_learns_to_bind() -> None:
    """New patterns in each task: above chance only by what the support set says."""
    model = small_mann()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(800):
        optimizer.zero_grad()
        model.training_loss(images(16, 3, 1, seed=step)).backward()
        optimizer.step()
    metric = EpisodicLearner(model).evaluate(images(300, 3, 1, seed=10_000)).metric
    assert metric.mean() > 0.42  # chance is 0.33 +- 0.02


# -- memory module ------------------------------------------------------------------------------


def unit(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)


def test_update_and_ages_of_a_scripted_sequence() -> None:
    memory = memory_module.Memory.empty(1, 3, unit(0))
    script = [  # query in degrees, its class; then the memory: degrees, classes, ages
        (0, 0, [0, None, None], [0, -1, -1], [0, 1, 1]),  # nothing there: into the first slot
        (90, 1, [0, 90, None], [0, 1, -1], [1, 0, 2]),  # nearest is of class 0: a new slot
        (20, 0, [10, 90, None], [0, 1, -1], [0, 1, 3]),  # right: halfway between, age 0
        (80, 0, [10, 90, 80], [0, 1, 0], [1, 2, 0]),  # nearest is of class 1: the empty slot
        (84, 0, [10, 90, 82], [0, 1, 0], [2, 3, 0]),  # right
        (200, 2, [10, 200, 82], [0, 2, 0], [3, 0, 1]),  # full: the oldest goes
    ]
    for degrees, label, angles, values, ages in script:
        memory = memory_module.update(memory, unit(degrees), torch.tensor([label]))
        for key, angle in zip(memory.keys[0], angles, strict=True):
            expected = torch.zeros(2, dtype=torch.float64) if angle is None else unit(angle)[0]
            torch.testing.assert_close(key, expected)
        assert memory.values[0].tolist() == values
        assert memory.ages[0].tolist() == ages
    scores = memory_module.class_similarities(memory, unit(40)[None], 3).flatten()
    cosines = [math.cos(math.radians(30)), -math.inf, math.cos(math.radians(160))]
    assert scores.tolist() == pytest.approx(cosines)


def test_margin_loss_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.4, -0.2], [0.3, 0.35, 0.1], [-torch.inf, 0.5, 0.2]])
    found = memory_module.margin_loss(scores, torch.zeros(3, dtype=torch.int64), 0.1)
    assert found.item() == pytest.approx((0 + 0.15 + 0.6) / 3)


def test_keys_in_memory_are_constants() -> None:
    """The gradient of the loss is that of the query's similarity, with the stored key given."""
    model, episode = small_memory(), images(1, 2, 1)
    one = Episode(*(part[:, :1] for part in episode))  # one support image, one query of its class
    one = one._replace(query_x=one.query_x - 1)  # turned away from its key

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, model.project.weight)[0]

    def half_of_loss(detached: bool) -> torch.Tensor:  # the other half is 0.1: an empty memory
        key, query = model._keys(one.support_x, one.query_x)
        similarity = ((key.detach() if detached else key) * query).sum()
        assert similarity < 0
        return (0.1 - similarity) / 2

    found = gradient(model.training_loss(one))
    assert found.abs().max() > 0.01
    torch.testing.assert_close(found, gradient(half_of_loss(detached=True)))
    assert not torch.allclose(found, gradient(half_of_loss(detached=False)))


def test_training_needs_a_slot_for_each_example() -> None:
    """With fewer, a class can lose all its keys before its queries come; answers need less."""
    model, episode = small_memory(), images(1, 3, 2)
    assert model.training_loss(episode).isfinite()  # 6 + 6 examples, 12 slots
    model.slots = 11
    model(*episode[:3])
    with pytest.raises(ValueError, match=r"`slots` must be at least 12, .* in training, got 11"):
        model.training_loss(episode)


@pytest.mark.parametrize("name", [p.stem for p in sorted(CONFIGS.glob("*memory_module*.yaml"))])
def test_configs_have_a_slot_for_each_example(name) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    data, model = config["data"]["init_args"], config["model"]["init_args"]["model"]
    shown = data["n_way"] * (data["k_shot"] + data["query_shot"])
    assert shown <= model["init_args"]["slots"]


def test_memory_learns() -> None:
    model = small_memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = model.training_loss(images(50, 3, 2, seed=999)).item()
    for step in range(40):
        optimizer.zero_grad()
        model.training_loss(images(16, 3, 2, seed=step)).backward()
        optimizer.step()
    assert model.training_loss(images(50, 3, 2, seed=999)).item() < before
