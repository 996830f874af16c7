"""higher 0.2.1 (Grefenstette et al., 2019; github.com/facebookresearch/higher).

As in its examples/maml-omniglot.py: task by task, a backward pass each.
"""

import torch

from peers.workloads import Gradient, Problem, Run, taken


def higher_loop(problem: Problem) -> Run:
    """`innerloop_ctx`; its optimizer knows the adapted parameters only."""
    import higher

    workload, model = problem.workload, problem.model
    adapted = [model.get_parameter(name) for name in problem.adapted]
    optimizer = torch.optim.SGD(adapted, lr=workload.inner_lr)

    def run() -> Gradient:
        for support_x, support_y, query_x, query_y in zip(*problem.episode, strict=True):
            with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (
                functional,
                differentiable,
            ):
                for _ in range(workload.inner_steps):
                    differentiable.step(problem.loss(functional(support_x), support_y))
                (problem.loss(functional(query_x), query_y) / workload.tasks).backward()
        return taken(model)

    return run
