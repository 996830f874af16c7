"""A module and tensors of one's own in a plain PyTorch loop, no Trainer, no datamodule.

    python examples/own_module.py

Thermometers: each reads an own gain and offset off a curve that all share. From five readings with
known temperatures a new one is calibrated. Prints the error (degrees) before and after.
"""

import torch
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner


class Calibration(nn.Module):
    """The shared curve, and the two numbers of one thermometer, which alone adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.curve = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, reading: Tensor) -> Tensor:
        """``[N, 1] -> [N, 1]``."""
        gain, offset = self.own
        return self.curve(gain * reading + offset)


def thermometers(tasks: int, readings: int = 15) -> Episode:
    """Readings and temperatures (in 10 degrees), the first five of each for calibration."""
    gain, offset = 1 + 0.2 * torch.randn(tasks, 1, 1), 0.3 * torch.randn(tasks, 1, 1)
    x = 2 * torch.rand(tasks, readings, 1) - 1
    u = gain * x + offset
    y = 2 * u + u**3
    return Episode(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])


def main() -> None:
    """Meta-train for 500 meta-updates; the step sizes are learned, too."""
    torch.manual_seed(0)
    learner = MetaLearner(
        Calibration(), loss="mse", inner_lr=0.05, inner_steps=5, adapts=["own"],
        learn_inner_lr="per_tensor_and_step",
    )  # fmt: skip
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.005)
    for _ in range(500):
        optimizer.zero_grad()
        learner.meta_loss(thermometers(tasks=16)).backward()
        optimizer.step()

    loss = learner.evaluate(thermometers(tasks=200)).loss.mean(dim=1)
    before, *_, after = (10 * loss.sqrt()).tolist()
    print(f"before: {before:.2f}, after 5 steps: {after:.2f}")


if __name__ == "__main__":
    main()
