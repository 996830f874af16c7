"""One clear line for settings of `MetaPolicy` that are out of range or do not fit together."""

import torch
from torch import Tensor, nn

from lightning_maml.functional_model import call_without_trace, eval_mode
from lightning_maml.rl.environment import Environment


def check_parts(policy: nn.Module, environment: Environment, render: bool) -> None:
    """Raise ValueError unless policy, environment and the wish for videos fit together."""
    _check_policy(policy, environment)
    _check_render(render, environment)


def _check_policy(policy: nn.Module, environment: Environment) -> None:
    # Tried without a trace, with its own dtype and on its device.
    size, wanted = environment.observation_size, 2 * environment.action_size
    like = next((p for p in policy.parameters() if p.is_floating_point()), torch.zeros(()))
    observations = torch.zeros(3, size, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad(), eval_mode(policy):
            output = call_without_trace(policy, observations)
    except RuntimeError as error:
        raise ValueError(
            f"`policy` must take observations [N, {size}] of this environment: {error}"
        ) from error
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != [3, wanted]:
        raise ValueError(
            f"`policy` must return [N, {wanted}] (mean and log-std of {environment.action_size} "
            f"numbers) for observations [N, {size}], got {shape} for N = 3."
        )


def _check_render(render: bool, environment: Environment) -> None:
    if render and not callable(getattr(environment, "frame", None)):
        raise ValueError(
            "`render` must be false for an environment without a method `frame` "
            f"(environment.py), as {type(environment).__name__} is, got {render}."
        )
