"""The state of torch's default generators, so that a computation can be repeated exactly."""

import torch
from torch import Tensor


def random_state(device: torch.device) -> list[Tensor]:
    """State of the CPU's default generator and, on CUDA, of the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
