"""Every method without an inner loop in half precision: it trains, and says about the same."""

from copy import deepcopy

import pytest
import torch

from tests.baselines.small_methods import PLAIN, STATEFUL, small_learner, small_tasks
from tests.test_meta_learner import trainer


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", [*PLAIN, *STATEFUL])
def test_it_trains_in_half_precision(name, precision, tmp_path) -> None:
    learner = small_learner(name)
    before = deepcopy(learner.state_dict())
    run = trainer(tmp_path, max_steps=3, max_epochs=1, precision=precision)
    run.fit(learner, datamodule=small_tasks())
    parameters = dict(learner.named_parameters())
    assert all(p.isfinite().all() for p in parameters.values())
    assert any(not torch.equal(before[key].to(p), p) for key, p in parameters.items())
    (tested,) = run.test(learner, datamodule=small_tasks(), verbose=False)
    assert 0 <= tested["test/accuracy"] <= 1


@pytest.mark.parametrize("name", [*PLAIN, *STATEFUL])
def test_mixed_precision_says_about_the_same(name) -> None:
    learner = small_learner(name)
    (episode, *_) = small_tasks().test_dataloader()
    episode = episode._replace(
        support_x=episode.support_x.float() / 255, query_x=episode.query_x.float() / 255
    )
    exact = learner.outputs(episode)
    with torch.autocast("cpu", torch.bfloat16):
        found = learner.outputs(episode)
    assert found.isfinite().all()
    # Eight bits of a few layers, of log-probabilities that may be in the tens.
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.1)
