"""Control steps per second of the locomotion environments, beside MuJoCo's bare rate.

    OMP_NUM_THREADS=1 python benchmarks/rl_sampling.py
    python benchmarks/rl_sampling.py --robot ant --turns 15 --json rates.json

`sample` is the whole of what training does, with a `GaussianMLP` of its own for each task; counted
are valid steps. `bare`: one `mujoco.rollout` for each of the environment's models, of one step from
each state in which `sample` was and under its action; `first model`: that without the ant's second
model, which gives its contact forces. `step`: the environment in closed loop under the actions of
`sample`, so with observations and rewards. `policy`: the outputs alone, as many as `sample` takes.
All take turns. "Of bare" is the median of the ratios within a turn; after it the quartiles. CPU is
that of all threads, which other work on the machine changes less: seconds per million steps.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from torch import Tensor

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP
from lightning_maml.rl.envs import Ant, HalfCheetah
from lightning_maml.rl.policy_engine import PolicyEngine
from lightning_maml.rl.rollout import sample
from lightning_maml.rl.trajectories import Trajectories
from quartiles import quartiles

ROBOTS: dict[str, type[HalfCheetah | Ant]] = {"half_cheetah": HalfCheetah, "ant": Ant}
Run = Callable[[], int]
"""Does the work, and says how many steps it was."""


@dataclass(frozen=True)
class Sampled:
    """What training does, and all states in which its environment was.

    Attributes:
        sample: does it.
        physics: ``[N, size]`` before each step.
        controls: ``[N, 1, nu]``.
    """

    environment: HalfCheetah | Ant
    sample: Callable[[], Trajectories]
    policy: Callable[[Tensor], Tensor]
    paths: Trajectories
    physics: np.ndarray
    controls: np.ndarray


def sampled(environment: HalfCheetah | Ant, tasks: int, streams: int) -> Sampled:
    """Rollouts of a policy of its own for each task."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    engine = PolicyEngine(GaussianMLP(environment.observation_size, environment.action_size))
    theta = {
        name: p + 0.01 * torch.randn(p.shape, generator=generator)
        for name, p in engine.initial(tasks).items()
    }
    batch = RLTasks(low=[0.0], high=[2.0]).samplers["train"](0, tasks)
    model, policies = environment._simulator.model, engine.policies(theta)
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    noted: list[np.ndarray] = []
    paths = sample(
        environment, policies, batch, streams, look=lambda _, state: noted.append(state[:, :size])
    )
    # Where the next episode begins in a stream, what was noted is the end of that before.
    known = (paths.valid & (paths.age > 0)).flatten(0, 1).numpy()
    actions = paths.actions.flatten(0, 1).double().numpy()
    return Sampled(
        environment,
        lambda: sample(environment, policies, batch, streams),
        policies,
        paths,
        np.stack(noted[:-1], axis=1)[known],
        actions[known][:, None].clip(-1, 1),
    )


def physics(models: int | None) -> Callable[[Sampled], Run]:
    """All steps of so many of the environment's models (None: of all), a call for each."""

    def make(these: Sampled) -> Run:
        robot = these.environment
        simulators = [robot._simulator, *([robot._sensing] if isinstance(robot, Ant) else [])]
        threads, steps = simulators[0].threads, len(these.physics)
        pool = Rollout(nthread=threads if threads > 1 else 0)
        models_used = [simulator.model for simulator in simulators[:models]]
        data = [[mujoco.MjData(model) for _ in range(threads)] for model in models_used]
        after = np.empty((steps, 1, these.physics.shape[1]))

        def run() -> int:
            for model, scratch in zip(models_used, data, strict=True):
                pool.rollout(model, scratch, these.physics, these.controls, state=after)
            return steps

        return run

    return make


def closed_loop(these: Sampled) -> Run:
    """Step by step."""
    environment, actions = these.environment, these.paths.actions[:, :, : these.environment.horizon]
    rows = actions.flatten(0, 1).transpose(0, 1).contiguous().numpy()
    noise = np.random.default_rng(1).standard_normal((rows.shape[1], environment.start_size))
    goals = np.ones((rows.shape[1], 1))

    def run() -> int:
        state, _ = environment.start(goals, noise)
        for action in rows:
            state, *_ = environment.step(state, action, goals)
        return rows.shape[0] * rows.shape[1]

    return run


def outputs(these: Sampled) -> Run:
    """Of the policies, as often as `sample` asks for them."""
    seen = these.paths.observations

    def run() -> int:
        for t in range(seen.shape[2]):
            these.policy(seen[:, :, t])
        return these.paths.steps

    return run


def training(these: Sampled) -> Run:
    """The whole."""
    return lambda: these.sample().steps


KINDS = {
    "bare": physics(None),
    "first model": physics(1),
    "step": closed_loop,
    "policy": outputs,
    "sample": training,
}


def measured(run: Run) -> tuple[float, float]:
    """Steps per second, and CPU seconds per step."""
    start, cpu = time.perf_counter(), time.process_time()
    steps = run()
    return steps / (time.perf_counter() - start), (time.process_time() - cpu) / steps


def measure(name: str, options: argparse.Namespace) -> dict[str, object]:
    """All kinds in turns: what of each turn, and medians and quartiles over turns."""
    environment = ROBOTS[name]("velocity", threads=options.threads)
    these = sampled(environment, options.tasks, options.streams)
    runs = {kind: make(these) for kind, make in KINDS.items()}
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
