"""Each task's policy with parameters of its own, for all tasks at once, outside of autograd."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lightning_maml.inner_loop import Params
from lightning_maml.models.mlp import MLP
from lightning_maml.rl.policy import GaussianMLP

Batched = Callable[[Tensor], Tensor]


class TaskPolicies:
    """``[tasks, n, observation_size] -> [tasks, n, 2A]``, for observations on the CPU.

    Its parts may be called at the same time, from threads of their own.

    Args:
        policy: any module that gives mean and log-std (policy.py).
        theta: parameters by name that each task has of its own: ``[tasks, ...]`` each.
        rest: the others, and the buffers.
    """

    def __init__(
        self, policy: nn.Module, theta: Params, rest: Params, lock: Lock | None = None
    ) -> None:
        self.policy, self.theta, self.rest = policy, theta, rest
        self.like = next(iter(theta.values()))
        # A functional call puts its tensors into the module for as long as it runs.
        self._lock = lock or Lock()
        self._act: Batched = self._any_module
        if isinstance(policy, GaussianMLP) and is_plain(policy) and not rest:
            self._act = gaussian_mlps(policy, theta)

    def __call__(self, observations: Tensor) -> Tensor:
        """Outputs on the CPU, of the parameters' dtype; also under autocast: what sampled must
        be known exactly, and autocast is a thread's own.
        """
        with torch.autocast(self.like.device.type, enabled=False):
            return self._act(observations.to(self.like)).cpu()

    def part(self, tasks: slice) -> TaskPolicies:
        """The policies of some tasks."""
        theta = {name: values[tasks] for name, values in self.theta.items()}
        return TaskPolicies(self.policy, theta, self.rest, self._lock)

    def _any_module(self, x: Tensor) -> Tensor:
        def one(theta: Params, x: Tensor) -> Tensor:
            return functional_call(self.policy, {**theta, **self.rest}, (x,))

        with self._lock:
            return vmap(one)(self.theta, x)


def is_plain(policy: nn.Module) -> bool:
    """Whether it does what these classes say and no more: not a subclass, and without hooks."""
    known = (GaussianMLP, MLP, nn.ModuleList, nn.Linear)
    return all(
        type(module) in known and not (module._forward_hooks or module._forward_pre_hooks)
        for module in policy.modules()
    )


def gaussian_mlps(policy: GaussianMLP, theta: Params) -> Batched:
    """What `vmap` over `GaussianMLP` does, operation by operation, at half the time: acting takes
    hundreds of small calls.
    """
    names = [*(f"mean.layers.{i}" for i in range(len(policy.mean.layers))), "mean.head"]
    layers = [(theta[f"{n}.weight"].mT, theta[f"{n}.bias"][:, None]) for n in names]
    log_std = theta["log_std"].clamp(min=policy.min_log_std)[:, None]

    def act(x: Tensor) -> Tensor:
        for weight, bias in layers[:-1]:
            x = torch.bmm(x, weight).add_(bias).relu_()
        weight, bias = layers[-1]
        mean = torch.bmm(x, weight).add_(bias)
        return torch.cat([mean, log_std.expand_as(mean)], dim=-1)

    return act
