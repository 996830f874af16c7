"""Control steps per second of the locomotion environments, beside MuJoCo's bare rate.

    OMP_NUM_THREADS=1 python benchmarks/rl_sampling.py
    python benchmarks/rl_sampling.py --robot ant --episodes 800 --repetitions 5

Bare: one `mujoco.rollout` of the same model, all steps in one call with given actions. Ours:
`step` in closed loop with a random linear policy, so with observations and rewards. The two take
turns; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from lightning_maml.rl.envs import Ant, HalfCheetah

ROBOTS = {"half_cheetah": HalfCheetah, "ant": Ant}


def bare(environment: HalfCheetah | Ant, episodes: int) -> Callable[[], None]:
    """All steps in one call."""
    simulator, steps = environment._simulator, environment.horizon
    model, rng = simulator.model, np.random.default_rng(0)
    state, _ = environment.start(*_beginnings(environment, episodes))
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    initial = np.ascontiguousarray(state[:, :size])
    controls = np.clip(rng.standard_normal((episodes, steps, model.nu)), -1, 1)
    pool = Rollout(nthread=simulator.threads)
    data = [mujoco.MjData(model) for _ in range(simulator.threads)]
    after = np.empty((episodes, steps, size))
    return lambda: pool.rollout(model, data, initial, controls, state=after) and None


def closed_loop(environment: HalfCheetah | Ant, episodes: int) -> Callable[[], None]:
    """Step by step, each action from the observation before it, with noise of deviation 1."""
    rng = np.random.default_rng(0)
    tasks, start_noise = _beginnings(environment, episodes)
    weights = 0.1 * rng.standard_normal((environment.observation_size, environment.action_size))
    noise = rng.standard_normal((environment.horizon, episodes, environment.action_size))

    def run() -> None:
        state, observation = environment.start(tasks, start_noise)
        for action_noise in noise:
            state, observation, *_ = environment.step(
                state, observation @ weights + action_noise, tasks
            )

    return run


def _beginnings(environment: HalfCheetah | Ant, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(1).standard_normal((episodes, environment.start_size))
    return np.ones((episodes, 1)), noise


def seconds(run: Callable[[], None]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robot", choices=ROBOTS, help="both if not given")
    parser.add_argument("--episodes", type=int, default=800)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, help="one per core if not given")
    options = parser.parse_args()
    print(f"MuJoCo {mujoco.__version__}, {options.episodes} episodes")
    print("| robot | threads | bare, steps/s | `step`, steps/s | ratio |\n|---|---|---|---|---|")
    for name in [options.robot] if options.robot else ROBOTS:
        environment = ROBOTS[name]("velocity", threads=options.threads)
        runs = [make(environment, options.episodes) for make in (bare, closed_loop)]
        times = [[seconds(run) for run in runs] for _ in range(options.repetitions + 1)][1:]
        physics, ours = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(one / other for one, other in times)
        steps = options.episodes * environment.horizon
        threads = environment._simulator.threads
        print(
            f"| {name} | {threads} | {steps / physics:,.0f} | {steps / ours:,.0f} | {ratio:.0%} |"
        )


if __name__ == "__main__":
    main()
