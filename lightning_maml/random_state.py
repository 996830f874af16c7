"""The state of torch's default generators, so that a computation can be repeated exactly."""

import torch
from torch import Tensor


def random_state(device: torch.device) -> list[Tensor]:
    """States of the CPU's default generator and, on an accelerator, of the current device's."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])
