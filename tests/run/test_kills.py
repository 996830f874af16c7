"""A run that is killed again and again ends where one ends that nothing happened to."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.killing import MOMENTS
from tests.run.test_resume import CONFIG, ROOT, WHEN, assert_same, final, rows

UPDATES = 200
KILLS = 20


def fit(folder: Path, moment: str = "", count: int = 0, *flags: str) -> tuple[int, str]:
    """Run the config in `folder` up to a moment; returns the exit code and what it said."""
    config = folder / "small.yaml"
    folder.mkdir(exist_ok=True)
    # As the configs do it. Of a checkpoint between an update and its validation Lightning goes on
    # without that validation, so its row would be missing.
    text = CONFIG.replace("SAVE", WHEN["after an epoch"])
    text = text.replace("tests.run.test_resume.EndBy", "tests.run.killing.Kill")
    config.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "train.py"), "fit", f"--config={config}", *flags,
            f"--trainer.max_steps={UPDATES}", f"--model.scheduler.init_args.T_max={UPDATES}",
            f"--trainer.callbacks.init_args.moment={moment}",
            f"--trainer.callbacks.init_args.count={count}",
        ],
        cwd=folder, capture_output=True, text=True, timeout=1800,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline",
            "PYTHONWARNINGS": "ignore",
        },
    )  # fmt: skip
    return done.returncode, done.stderr


def kills(seed: int) -> list[tuple[str, int]]:
    """Moments, each kind at least twice, and how often they have to come, in random order."""
    rng = random.Random(seed)
    kinds = [MOMENTS[i % len(MOMENTS)] for i in range(KILLS - 1)]
    rng.shuffle(kinds)
    longest = {"by the clock": 50, "loading a batch": 50, "validating": 2}
    longest |= dict.fromkeys(MOMENTS[3:6], 3)
    drawn = [(kind, rng.randint(1, longest.get(kind, 25))) for kind in kinds]
    return [("after an update", 8), *drawn]  # the first after there is a checkpoint


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_as_if_never_killed(tmp_path) -> None:
    """Weights, optimizer and scheduler to the bit; the curve without gap or step back."""
    code, said = fit(tmp_path / "straight")
    assert code == 0, said
    folder, updates = tmp_path / "killed", []
    for number, (moment, count) in enumerate(kills(seed=0)):
        code, said = fit(folder, moment, count, *["--ckpt_path=last"][: min(number, 1)])
        assert code == -9, (moment, count, said)
        updates.append(final(folder)["global_step"])
    assert updates == sorted(updates)
    assert updates[-1] < UPDATES
    code, said = fit(folder, "", 0, "--ckpt_path=last")
    assert code == 0, said
    one, other = final(tmp_path / "straight"), final(folder)
    assert other["global_step"] == UPDATES
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(one[part], other[part], part)
    assert rows(folder) == rows(tmp_path / "straight")
    steps = [row["_step"] for row in rows(folder)]
    assert steps == sorted(set(steps))
    assert set(range(2, UPDATES + 1, 2)) <= set(steps)
