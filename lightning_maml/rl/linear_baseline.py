"""The linear feature baseline (App. A.2; Duan et al. 2016): fitted anew for each task."""

import torch
from torch import Tensor

RIDGE, TRIES = 1e-5, 6


def features(observation: Tensor, age: Tensor) -> Tensor:
    """[clip(o, +-10), o^2, t/100, its square and cube, 1], with o clipped in both.

    Shapes: ``[..., size], [...] -> [..., 2 * size + 4]``; `age` counts steps from the start.
    """
    o, t = observation.clamp(-10, 10), age[..., None] / 100
    return torch.cat([o, o**2, t, t**2, t**3, torch.ones_like(t)], dim=-1)


def fit(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Ridge regression of y on x, each task by itself; the ridge grows until all is finite.

    Shapes: ``x [tasks, N, features]``, ``y, weight [tasks, N] -> [tasks, features]``.
    """
    weighted = x * weight[..., None]
    gram, moment = weighted.mT @ x, (weighted.mT @ y[..., None])
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    ridge, coefficients = RIDGE, torch.full_like(moment, torch.nan)
    for _ in range(TRIES):
        missing = ~torch.isfinite(coefficients).all(dim=1, keepdim=True)
        if not missing.any():
            break
        # Not `solve`: batched LU of 160 rows and more is wrong on several threads (torch 2.14).
        factor, info = torch.linalg.cholesky_ex(gram + ridge * eye)
        solved = torch.cholesky_solve(moment, factor).where((info == 0)[:, None, None], torch.nan)
        coefficients = torch.where(missing, solved, coefficients)
        ridge *= 10
    return torch.nan_to_num(coefficients)[..., 0]


def predict(coefficients: Tensor, x: Tensor) -> Tensor:
    """``[tasks, features], [tasks, N, features] -> [tasks, N]``."""
    return (x @ coefficients[..., None])[..., 0]
