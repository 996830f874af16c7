"""MAML in a plain PyTorch loop, no Lightning: sinusoid regression (Sec. 5.1) in ten lines.

    python examples/plain_pytorch.py

Prints the query loss of fresh tasks after one inner step, before and after 500 meta-updates.
"""

import torch

from datamodules import Sinusoid
from lightning_maml import Episode, maml_loss
from lightning_maml.models import MLP


def meta_loss(model: torch.nn.Module, episode: Episode) -> torch.Tensor:
    """Mean query loss after one gradient step on each task's support set."""
    return maml_loss(model, torch.nn.functional.mse_loss, episode, inner_lr=0.01)


def main() -> None:
    """Meta-train a small network; any module and any source of episodes will do."""
    torch.manual_seed(0)
    model = MLP()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = Sinusoid(k_shot=10, train_batches_per_epoch=500)
    (fresh, *_) = data.test_dataloader()

    print(f"before: {meta_loss(model, fresh).item():.2f}")
    for episode in data.train_dataloader():
        optimizer.zero_grad()
        meta_loss(model, episode).backward()
        optimizer.step()
    print(f"after:  {meta_loss(model, fresh).item():.2f}")


if __name__ == "__main__":
    main()
