"""Control steps per second of the locomotion environments, beside MuJoCo's bare rate.

    OMP_NUM_THREADS=1 python benchmarks/rl_sampling.py
    python benchmarks/rl_sampling.py --robot ant --turns 15 --json rates.json

Bare: one `mujoco.rollout` of the environment's model, all steps in one call with given actions.
`step`: the environment in closed loop with a random linear policy, so with observations and
rewards. `sample`: the whole of what training does, with a `GaussianMLP` of its own for each task;
counted are valid steps. The three take turns. "Of bare" is the median of the ratios within a turn;
after it the quartiles. CPU is that of all threads, which other work on the machine changes less:
seconds per million steps.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP
from lightning_maml.rl.envs import Ant, HalfCheetah
from lightning_maml.rl.policy_engine import PolicyEngine
from lightning_maml.rl.rollout import sample

ROBOTS = {"half_cheetah": HalfCheetah, "ant": Ant}
Run = Callable[[], int]
"""Does the work, and says how many steps it was."""


def bare(environment: HalfCheetah | Ant, tasks: int, streams: int) -> Run:
    """All steps in one call."""
    simulator, steps, episodes = environment._simulator, environment.horizon, tasks * streams
    model, rng = simulator.model, np.random.default_rng(0)
    state, _ = environment.start(*_beginnings(environment, episodes))
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    initial = np.ascontiguousarray(state[:, :size])
    controls = np.clip(rng.standard_normal((episodes, steps, model.nu)), -1, 1)
    pool = Rollout(nthread=simulator.threads if simulator.threads > 1 else 0)
    data = [mujoco.MjData(model) for _ in range(simulator.threads)]
    after = np.empty((episodes, steps, size))

    def run() -> int:
        pool.rollout(model, data, initial, controls, state=after)
        return episodes * steps

    return run


def closed_loop(environment: HalfCheetah | Ant, tasks: int, streams: int) -> Run:
    """Step by step, each action from the observation before it, with noise of deviation 1."""
    rng, episodes = np.random.default_rng(0), tasks * streams
    goals, start_noise = _beginnings(environment, episodes)
    weights = 0.1 * rng.standard_normal((environment.observation_size, environment.action_size))
    noise = rng.standard_normal((environment.horizon, episodes, environment.action_size))

    def run() -> int:
        state, observation = environment.start(goals, start_noise)
        for action_noise in noise:
            state, observation, *_ = environment.step(
                state, observation @ weights + action_noise, goals
            )
        return episodes * environment.horizon

    return run


def training(environment: HalfCheetah | Ant, tasks: int, streams: int) -> Run:
    """Rollouts of a policy of its own for each task."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    engine = PolicyEngine(GaussianMLP(environment.observation_size, environment.action_size))
    theta = {
        name: p + 0.01 * torch.randn(p.shape, generator=generator)
        for name, p in engine.initial(tasks).items()
    }
    batch = RLTasks(low=[0.0], high=[2.0]).samplers["train"](0, tasks)
    return lambda: sample(environment, engine.policies(theta), batch, streams).steps


def _beginnings(environment: HalfCheetah | Ant, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(1).standard_normal((episodes, environment.start_size))
    return np.ones((episodes, 1)), noise


KINDS = {"bare": bare, "step": closed_loop, "sample": training}


def measured(run: Run) -> tuple[float, float]:
    """Steps per second, and CPU seconds per step."""
    start, cpu = time.perf_counter(), time.process_time()
    steps = run()
    return steps / (time.perf_counter() - start), (time.process_time() - cpu) / steps


def measure(name: str, options: argparse.Namespace) -> dict[str, object]:
    """All kinds in turns: what of each turn, and medians and quartiles over turns."""
    environment = ROBOTS[name]("velocity", threads=options.threads)
    runs = {kind: make(environment, options.tasks, options.streams) for kind, make in KINDS.items()}
    turns = [{kind: measured(run) for kind, run in runs.items()} for _ in range(options.turns + 1)]
    del turns[0]  # a warm-up
    result: dict[str, object] = {"robot": name, "threads": environment._simulator.threads}
    for kind in KINDS:
        result[kind] = {
            "steps_per_s": quartiles([turn[kind][0] for turn in turns]),
            "cpu_s_per_million": quartiles([1e6 * turn[kind][1] for turn in turns]),
            "of_bare": quartiles([turn[kind][0] / turn["bare"][0] for turn in turns]),
            "of_bare_by_cpu": quartiles([turn["bare"][1] / turn[kind][1] for turn in turns]),
        }
    return result


def quartiles(values: list[float]) -> list[float]:
    """First, second and third."""
    return statistics.quantiles(values, method="inclusive") if len(values) > 1 else 3 * values


def table(results: list[dict], head: str) -> str:
    """As Markdown."""
    lines = [head, ""]
    lines += ["| robot | threads | kind | steps/s | of bare | CPU s/million | of bare by CPU |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for result in results:
        for kind in KINDS:
            low, mid, high = result[kind]["of_bare"]
            lines += [
                f"| {result['robot']} | {result['threads']} | {kind} "
                f"| {result[kind]['steps_per_s'][1]:,.0f} | {mid:.0%} ({low:.0%} to {high:.0%}) "
                f"| {result[kind]['cpu_s_per_million'][1]:.2f} "
                f"| {result[kind]['of_bare_by_cpu'][1]:.0%} |"
            ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robot", choices=ROBOTS, help="both if not given")
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--streams", type=int, default=20, help="episodes per task")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, help="one per core if not given")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    options = parser.parse_args()
    results = [measure(name, options) for name in ([options.robot] if options.robot else ROBOTS)]
    head = (
        f"MuJoCo {mujoco.__version__}, torch {torch.__version__}, {date.today()}: {options.tasks} "
        f"tasks x {options.streams} episodes of 200 steps, {options.turns} turns."
    )
    print(table(results, head))
    if options.json:
        options.json.write_text(json.dumps({"about": head, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
