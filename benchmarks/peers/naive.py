"""MAML as a plain loop over tasks, written from Algorithm 1 in plain autograd."""

import torch
from torch import Tensor
from torch.func import functional_call

from peers.workloads import Gradient, Problem, Run


def naive(problem: Problem) -> Run:
    """One graph a task, let go of before the next."""
    workload, adapted = problem.workload, problem.adapted
    theta = dict(problem.model.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return problem.loss(functional_call(problem.model, weights, (x,)), y)

    def of_task(
        support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, ...]:
        weights: dict[str, Tensor] = dict(theta)
        for _ in range(workload.inner_steps):
            before = [weights[name] for name in adapted]
            grads = torch.autograd.grad(
                loss(weights, support_x, support_y), before, create_graph=True
            )
            for name, weight, grad in zip(adapted, before, grads, strict=True):
                weights[name] = weight - workload.inner_lr * grad
        mean = loss(weights, query_x, query_y) / workload.tasks
        return torch.autograd.grad(mean, list(theta.values()))

    def run() -> Gradient:
        total: tuple[Tensor, ...] = ()
        for task in zip(*problem.episode, strict=True):
            grads = of_task(*task)
            total = tuple(map(torch.add, total, grads)) if total else grads
        return dict(zip(theta, total, strict=True))

    return run
