"""Task vectors are drawn as said, each a function of (seed, split, number)."""

import pytest
import torch

from datamodules import RLTasks
from datamodules.sampling import uniforms

BOX = {"low": [-0.5, 0.0], "high": [0.5, 2.0]}


def test_tasks_are_those_of_their_numbers() -> None:
    sampler = RLTasks(**BOX, seed=3).samplers["val"]
    whole, part = sampler(0, 10), sampler(6, 2)
    assert torch.equal(whole.task[6:8], part.task)
    assert part.key.tolist() == [[3, 1, 6], [3, 1, 7]]
    expected = uniforms(3, "val", 0, 10, 2) * [1.0, 2.0] + [-0.5, 0.0]
    torch.testing.assert_close(whole.task, torch.from_numpy(expected).float())
    many = RLTasks(choices=[[-1], [1]]).samplers["test"](0, 1000).task
    assert set(many.flatten().tolist()) == {-1.0, 1.0}
    assert abs(many.mean()) < 0.15


def test_evaluation_serves_the_fixed_tasks() -> None:
    batches = list(RLTasks(**BOX, test_tasks=5, eval_batch_size=2).test_dataloader())
    assert [b.tasks for b in batches] == [2, 2, 1]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "low"),
        ({"low": [0.0], "high": [1.0, 2.0]}, "low"),
        ({"low": [1.0], "high": [0.0]}, "low"),
        ({"low": [float("nan")], "high": [0.0]}, "low"),
        ({"choices": [[1], [1, 2]]}, "choices"),
        ({"choices": []}, "choices"),
        ({"choices": [[float("inf")]]}, "choices"),
        ({**BOX, "choices": [[1]]}, "left out"),
        ({**BOX, "val_tasks": 0}, "val_tasks"),
    ],
)
def test_settings_out_of_range(wrong, named) -> None:
    with pytest.raises(ValueError, match=named):
        RLTasks(**wrong)
