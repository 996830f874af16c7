"""Seconds of a policy's meta-iteration, part by part, beside what its arithmetic must take.

    OMP_NUM_THREADS=2 python benchmarks/rl_iteration.py
    python benchmarks/rl_iteration.py --only point --tasks-at-once 1 2 4 --compile

Sampling is both rollouts; the gradient is computed together with all that the products share; a
product is J^T F J times a vector, ten for each iteration. Its bound is the time of the 16 products
with the 100 x 100 layer that it has for each sample (6 for each of two products with the inner
loss's Hessian, 4 for F) at the rate that `torch.mm` reaches here: they are nine tenths of its
arithmetic, and it has activations to read and write besides.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.rl.envs import HalfCheetah, Point

HIDDEN, PRODUCTS, CG_ITERATIONS, STREAMS = 100, 16, 10, 20
CASES: dict[str, tuple[Callable[[], Point | HalfCheetah], RLTasks, int]] = {
    "point": (Point, RLTasks(low=[-0.5, -0.5], high=[0.5, 0.5]), 20),
    "half_cheetah": (lambda: HalfCheetah("direction"), RLTasks(choices=[[-1.0], [1.0]]), 40),
}
COLUMNS = ("sampling, inner step", "gradient", "product", "loss, KL", "iteration")


def median(run: Callable[[], object], turns: int) -> float:
    """Seconds, after a warm-up that is not counted."""
    run()
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matrix_rate(rows: int, turns: int) -> float:
    """Operations per second of ``[rows, 100] @ [100, 100]``."""
    x, weight = torch.randn(rows, HIDDEN), torch.randn(HIDDEN, HIDDEN)
    return 2 * HIDDEN**2 * rows / median(lambda: torch.mm(x, weight), 20 * turns)


@torch.no_grad()
def parts(name: str, at_once: int, compile: bool, turns: int) -> tuple[list[float], float]:
    """Seconds of each of `COLUMNS`, and the product's bound."""
    make, data, tasks = CASES[name]
    environment = make()
    torch.manual_seed(0)
    policy = GaussianMLP(environment.observation_size, environment.action_size)
    learner = MetaPolicy(
        policy, environment, inner_lr=0.1, trajectories=STREAMS, tasks_at_once=at_once,
        compile=compile,
    )  # fmt: skip
    batch = data.samplers["train"](0, tasks)

    def act() -> list:
        acted = learner._act(batch, 1, STREAMS, pooled=False)
        return [one.samples.episode for one in acted]

    rollouts = act()
    problem = learner.engine.problem(learner.inner_loop, rollouts, lambda vector: vector)

    direction, _ = problem.gradient()
    timed = [
        median(run, turns)
        for run in (
            act,
            problem.gradient,
            lambda: problem.fisher_product(direction),
            problem.loss_and_kl,
        )
    ]
    acting, gradient, product, looking = timed
    whole = acting + gradient + CG_ITERATIONS * product + looking
    samples = tasks * rollouts[-1].query_x.shape[1]
    rate = matrix_rate(samples * at_once // tasks, turns)
    return [*timed, whole], PRODUCTS * 2 * HIDDEN**2 * samples / rate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, help="both if not given")
    parser.add_argument("--tasks-at-once", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--compile", action="store_true", help="measure compiled products, too")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {date.today()}: seconds, "
        f"medians of {options.turns}.\n"
    )
    head = ("case", "tasks at once", "compiled", *COLUMNS, "a product's bound")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in [options.only] if options.only else CASES:
        for at_once in options.tasks_at_once:
            for compile in (False, True) if options.compile else (False,):
                times, bound = parts(name, at_once, compile, options.turns)
                cells = [f"{value:.3f}" for value in (*times, bound)]
                print(f"| {name} | {at_once} | {compile} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
