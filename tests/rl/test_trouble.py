"""What goes wrong in a run: one line and it stops, or it is counted and logged; no silent NaN."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.run.trainer_checks import check_policy_trainer
from lightning_maml.task_curve import EvalResult
from tests.rl.test_meta_policy import batch, data, fitted, learner, trainer

mujoco = pytest.importorskip("mujoco", reason="needs the extra `rl`")
from lightning_maml.rl.envs import HalfCheetah
from lightning_maml.rl.envs.quiet import without_warnings


class Wild(HalfCheetah):
    """In each third step the first robot turns so fast that MuJoCo cannot go on.

    Of five steps that is the third, and the third step of the episode that begins in its place.
    """

    steps = made = 0

    def side_by_side(self):
        return (self,)  # one that counts

    def step(self, state, actions, tasks):
        self.steps += 1
        if self.steps % 3 == 0:
            state = state.copy()
            state[0, 12] = 1e12  # an angular velocity
            self.made += 1
        return super().step(state, actions, tasks)


def cheetah(environment):
    seed_everything(0, verbose=False)
    policy = GaussianMLP(20, 6, (8, 8))
    return MetaPolicy(policy, environment, trajectories=3, eval_inner_steps=1)


def velocities(low=0.0, high=2.0):
    return RLTasks(low=[low], high=[high], meta_batch_size=3, val_tasks=3, test_tasks=3)


def test_physics_that_is_unstable_is_counted_and_the_run_goes_on(tmp_path, monkeypatch) -> None:
    """No NaN anywhere, and no MUJOCO_LOG.TXT in the working folder."""
    monkeypatch.chdir(tmp_path)
    environment = Wild("velocity", horizon=5)
    model, run = cheetah(environment), trainer(tmp_path, 1)
    run.fit(model, velocities())
    assert model.watched["broken"] == environment.made == 4
    assert all(np.isfinite(value) for value in model.watched.values())
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
    (logged,) = run.test(model, velocities(), verbose=False)
    assert logged["test/broken"] == environment.made - 4 == 4
    assert np.isfinite(logged["test/return"])
    assert not list(tmp_path.rglob("MUJOCO_LOG.TXT"))


def test_policy_that_diverges_stops_the_training_with_one_line(tmp_path) -> None:
    start = learner().policy.state_dict()
    model = learner(inner_lr=1e38, trajectories=2)
    with pytest.raises(FloatingPointError, match=r"not finite at meta-update 1.*`inner_lr`, now"):
        fitted(model, tmp_path, 1, meta_batch_size=2)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, start[name])


def test_policy_that_diverges_in_evaluation_is_counted(tmp_path) -> None:
    model = learner(inner_lr=1e38, trajectories=2, eval_inner_steps=2)
    curve = model.evaluate(batch()).metric
    assert torch.isfinite(curve[0]).all()
    assert curve[1:].isnan().all()
    (logged,) = trainer(tmp_path, 1).test(model, data(), verbose=False)
    assert logged["test/diverged"] == 10
    assert logged["test/broken"] == 2 * 10 * 2 * 20  # every try: one a step


def test_diverged_task_is_the_worst_in_the_result_file(tmp_path, monkeypatch) -> None:
    """Of returns -2, -1 and one that is no number the middle one is -2: more is better."""
    model, returns = learner(), torch.tensor([[-2.0, -1.0, torch.nan]])
    result = EvalResult(-returns, returns), torch.tensor(0)
    monkeypatch.setattr(model, "_evaluate", lambda batch: result)
    loader = torch.utils.data.DataLoader([batch(3)], batch_size=None)
    trainer(tmp_path, 1).test(model, loader, verbose=False)
    (path,) = tmp_path.rglob("test_result.json")
    assert json.loads(path.read_text())["median"] == [-2.0]


def test_impossible_tasks_stop_the_run_before_the_first_step(tmp_path) -> None:
    model = cheetah(HalfCheetah("velocity", horizon=5))
    with pytest.raises(ValueError, match="`tasks` must be velocities, finite numbers >= 0"):
        trainer(tmp_path, 1).fit(model, velocities(-2.0, -1.0))
    with pytest.raises(ValueError, match="Task vectors must have 2 numbers each"):
        trainer(tmp_path, 1).fit(learner(), velocities())


def unstable_step():
    """A simulation of the user's own that MuJoCo warns of."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>"
    )
    simulation = mujoco.MjData(model)
    simulation.qvel[0] = 1e12
    mujoco.mj_step(model, simulation)


def test_warnings_of_the_user_s_own_simulations_stay() -> None:
    """Whichever thread leaves first."""
    heard = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(heard.append)
    try:
        unstable_step()
        assert len(heard) == 1
        inside, leave = threading.Event(), threading.Event()

        def other():
            with without_warnings():
                inside.set()
                leave.wait()

        thread = threading.Thread(target=other)
        with without_warnings():
            thread.start()
            inside.wait()
            unstable_step()
        unstable_step()  # the other thread is still inside
        assert len(heard) == 1
        leave.set()
        thread.join()
        unstable_step()
        assert len(heard) == 2
    finally:
        mujoco.set_mju_user_warning(before)


def moved(tmp_path, precision):
    """How far a meta-update takes the weights, and what it logs."""
    model = learner(trajectories=5, cg_iterations=2)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer(tmp_path, 1, precision=precision).fit(model, data(meta_batch_size=5))
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert weights.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    return (weights - start).double(), model.watched


@pytest.mark.slow
def test_precisions_that_work_take_nearly_the_same_step(tmp_path) -> None:
    step, _ = moved(tmp_path, "32-true")
    for precision, tolerance in (("64-true", 1e-4), ("bf16-mixed", 0.1)):
        other, watched = moved(tmp_path, precision)
        assert 0 < (other - step).norm() < tolerance * step.norm()
        assert watched["accepted"] == 1
        assert 0 < watched["kl"] <= 0.01


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_precision_that_cannot_work_is_refused(precision, tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"`Trainer\(precision\)`.*bf16-mixed.*'{precision}'"):
        trainer(tmp_path, 1, precision=precision).fit(learner(), data())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"precision": "16-mixed"}, r"`Trainer\(precision\)`.*'16-mixed'"),  # on a CPU it is bf16
        ({"accumulate_grad_batches": 2}, r"`Trainer\(accumulate_grad_batches\)`.*got 2"),
        ({"gradient_clip_val": 0.5}, r"`Trainer\(gradient_clip_val\)`.*0\.5.*max_kl"),
        ({"predicting": True}, r"`predict`.*got MetaPolicy.*use `test`.*`MetaPolicy.evaluate`"),
    ],
)
def test_settings_of_the_trainer_that_do_not_fit_are_refused(wrong, said) -> None:
    fine = {"accumulate_grad_batches": 1, "gradient_clip_val": None, "precision": "32-true"}
    fine |= {"predicting": False}
    check_policy_trainer(SimpleNamespace(**fine))
    with pytest.raises(ValueError, match=said):
        check_policy_trainer(SimpleNamespace(**fine | wrong))
