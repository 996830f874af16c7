"""The average of networks: what it learns, writes down, refuses; and every baseline's commands."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import train
from datamodules import Sinusoid
from lightning_maml.baselines import MultiTaskAverage, Pretrained
from lightning_maml.baselines.pretrained import FINE_TUNING_LRS
from lightning_maml.models import MLP
from tests.baselines.conftest import Slopes, line, make_trainer, slopes
from tests.run.conftest import QUIET, result_of

CONFIGS = Path(__file__).parents[2] / "configs"


def learner(**settings: object) -> MultiTaskAverage:
    settings = {"networks": 4, "training_lr": 0.05, "eval_inner_steps": 3, **settings}
    return MultiTaskAverage(line(), loss="mse", metric="mse", **settings)


def test_the_model_is_the_average_of_networks_that_learned_their_task(tmp_path) -> None:
    """Two batches of two tasks; a network of one weight ends near the slope of its task."""
    model = learner(target_loss=1e-8)
    trainer = make_trainer(tmp_path, max_steps=9)
    trainer.fit(model, Slopes())
    tasks = slopes(4)
    true = tasks.support_y[:, 0, 0] / tasks.support_x[:, 0, 0]
    torch.testing.assert_close(model.model.weight.squeeze(), true.mean(), rtol=0, atol=1e-3)
    assert trainer.global_step == 2  # it stops by itself
    assert (model.losses < 1e-8).all()
    assert (model.steps > 0).all()
    facts = model.result_facts()["networks"]
    assert facts == {
        "trained": 4,
        "loss": model.losses.tolist(),
        "steps": model.steps.tolist(),
    }


def test_a_pull_to_the_mean_spares_the_first_batch_and_reaches_the_second(tmp_path) -> None:
    free, drawn = learner(), learner(regularization="l2_to_mean", strength=0.005)
    for model in (free, drawn):
        torch.manual_seed(0)
        make_trainer(tmp_path, max_steps=2).fit(model, Slopes())
    assert torch.equal(free.losses[:2], drawn.losses[:2])
    assert not torch.equal(free.losses[2:], drawn.losses[2:])


@pytest.mark.parametrize(
    ("kind", "count", "strength", "to_mean"),
    [("l2", 0, 0.1, False), ("l2", 2, 0.1, False), ("l2_to_mean", 0, 0.0, True),
     ("l2_to_mean", 2, 0.1, True)],
)  # fmt: skip
def test_what_the_networks_are_drawn_to(kind, count, strength, to_mean) -> None:
    model = learner(regularization=kind, strength=0.1)
    own = dict(model.model.named_parameters())
    pull = model._pull({name: p.detach()[None] for name, p in own.items()}, count)
    assert float(pull.strength) == pytest.approx(strength)
    for name, parameter in own.items():
        assert torch.equal(pull.anchor[name], parameter if to_mean else torch.zeros_like(parameter))


def test_weight_decay_reaches_the_first_batch_too(tmp_path) -> None:
    free, drawn = learner(), learner(regularization="l2", strength=0.001)
    for model in (free, drawn):
        torch.manual_seed(0)
        make_trainer(tmp_path, max_steps=1).fit(model, Slopes())
    assert not torch.equal(free.losses[:2], drawn.losses[:2])


def test_networks_beyond_the_wanted_number_are_not_trained(tmp_path) -> None:
    model = learner(networks=3)
    make_trainer(tmp_path, max_steps=5).fit(model, Slopes())
    assert int(model.count) == 3
    assert model.losses.isfinite().all()


def test_no_network_is_done_before_its_least_number_of_steps(tmp_path) -> None:
    model = learner(min_training_steps=300)
    make_trainer(tmp_path, max_steps=2).fit(model, Slopes())
    assert model.steps.tolist() == [300] * 4
    assert (model.losses < 0.02).all()


def test_a_network_that_does_not_get_there_is_named(tmp_path) -> None:
    model = learner(max_training_steps=5, target_loss=1e-12)
    with pytest.raises(RuntimeError, match=r"after 5 steps.*network 0 \(\d.*\), 1 \(.*`strength`"):
        make_trainer(tmp_path).fit(model, Slopes())


@pytest.mark.slow
def test_compiled_networks_are_those_of_the_eager_way(tmp_path) -> None:
    found = []
    for compiled in (False, "auto"):
        torch.manual_seed(0)
        model = MultiTaskAverage(MLP(hidden=(6,)), "mse", networks=2, target_loss=2.0,
                                 compile=compiled)  # fmt: skip
        data = Sinusoid(meta_batch_size=1, k_shot=20, val_tasks=2, train_batches_per_epoch=2)
        make_trainer(tmp_path, max_steps=2).fit(model, data)
        found.append((model.steps, model.model.layers[0].weight))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"networks": 0}, "`networks` must be at least 1, got 0"),
        ({"regularization": "l1"}, r"`regularization` must be one of \['l2', 'l2_to_mean'\]"),
        ({"regularization": "l2"}, "`strength` must be a finite number > 0, got 0.0"),
        ({"strength": 0.1}, "`strength` must be 0 without `regularization`, got 0.1"),
        ({"training_lr": 0.0}, "`training_lr` must be a finite number > 0, got 0.0"),
        ({"target_loss": -1.0}, "`target_loss` must be a finite number > 0, got -1.0"),
        ({"min_training_steps": 5001}, r"`min_training_steps` must be 0 to 5000 .*, got 5001"),
        ({"max_training_steps": 0}, "`max_training_steps` must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        learner(**settings)


def test_a_model_that_cannot_start_anew_is_refused_at_once() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="`reset_parameters`"):
        MultiTaskAverage(nn.Sequential(Own()), "mse")


# -- the commands of every baseline ---------------------------------------------------------------

SHORT = [
    "--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--data.train_batches_per_epoch=2",
    "--data.val_tasks=4",
    "--data.test_tasks=5", "--trainer.check_val_every_n_epoch=1", "--model.eval_inner_steps=2",
    "--model.compile=false", "--trainer.enable_model_summary=false", *QUIET,
]  # fmt: skip
NAMES = [
    "sinusoid_pretrained", "sinusoid_oracle", "sinusoid_multi_task", "sinusoid_multi_task_l2",
    "sinusoid_multi_task_l2_to_mean",
]  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run of a config."""
    folder = tmp_path_factory.mktemp("fitted")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        train.main(["fit", f"--config={CONFIGS / request.param}.yaml", *SHORT])
    (path,) = folder.rglob("last.ckpt")
    return path


@pytest.mark.parametrize("k_shot", [None, 5])
def test_test_from_a_checkpoint_tunes_and_says_what_it_found(
    fitted, k_shot, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [] if k_shot is None else [f"--data.k_shot={k_shot}"]
    train.main(["test", f"--ckpt_path={fitted}", *flags, *QUIET])
    content = result_of(tmp_path)
    tuning = content["tuning"]
    assert tuning["fine_tuning_lrs"] == list(FINE_TUNING_LRS)
    finite = [m if m is not None else float("inf") for m in tuning["val_means"]]
    assert tuning["chosen"] == tuning["fine_tuning_lrs"][finite.index(min(finite))]
    assert len(content["mean"]) == 3
    assert k_shot in (None, content["data"]["init_args"]["k_shot"])
    if content["model"]["class_path"].endswith("MultiTaskAverage"):
        networks = content["networks"]
        assert networks["trained"] == len(networks["loss"]) == len(networks["steps"]) == 2
        assert max(networks["loss"]) < 0.02
    else:
        assert "networks" not in content


def test_the_grid_may_be_changed_at_a_test(fitted, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = "--model.fine_tuning_lrs=[0.003, 0.004]"
    train.main(["test", f"--ckpt_path={fitted}", grid, "--data.k_shot=5", *QUIET])
    assert result_of(tmp_path)["tuning"]["fine_tuning_lrs"] == [0.003, 0.004]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_average(tmp_path, monkeypatch) -> None:
    """Two networks, then two more from the checkpoint, are the four of one run."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    weights = []
    for place, parts in (("whole", [4]), ("parts", [2, 4])):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        for number, steps in enumerate(parts):
            flags = ["--ckpt_path=last"] if number else []
            train.main([
                "fit", f"--config={CONFIGS / 'sinusoid_multi_task.yaml'}", *SHORT,
                "--model.target_loss=0.5", f"--trainer.max_steps={steps}", *flags,
            ])  # fmt: skip
        newest = max(Path().rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        weights.append(torch.load(newest, weights_only=True)["state_dict"])
    torch.testing.assert_close(*weights, rtol=0, atol=0, equal_nan=True)
    assert int(weights[0]["count"]) == 4


@pytest.mark.slow
def test_the_oracle_is_far_better_than_what_does_not_know_the_task(tmp_path) -> None:
    """8,000 updates, eager: some 30 s."""
    data = Sinusoid(task_in_input=True, test_tasks=100, val_tasks=50, eval_query_shot=50)
    oracle = Pretrained(MLP(in_features=3), "mse", "mse", eval_inner_steps=5)
    trainer = make_trainer(tmp_path, max_steps=8000)
    trainer.fit(oracle, data)
    (values,) = trainer.test(oracle, data, verbose=False)
    assert values["test/mse_step0"] < 0.05
    assert values["test/mse"] < 0.05


def test_the_result_is_valid_json(tmp_path) -> None:
    model = learner()
    make_trainer(tmp_path).fit(model, Slopes())
    make_trainer(tmp_path).test(model, Slopes(), verbose=False)
    (path,) = tmp_path.rglob("test_result.json")
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["networks"]["trained"] == 2
