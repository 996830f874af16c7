"""An inner update of one's own, here a step of fixed length: theta' = theta - alpha g / |g|.

    python examples/own_inner_rule.py

Meta-trains the sinusoid network with it and with gradient descent; prints both curves over inner
steps. The meta-gradient goes through the rule, whatever it computes.
"""

from dataclasses import dataclass

import torch

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.inner_rules import InnerRule, Params, State, StepSize
from lightning_maml.models import MLP


@dataclass(frozen=True)
class FixedLength(InnerRule):
    """A step of length alpha along the gradient of all parameters together."""

    eps: float = 1e-8

    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """theta' and the state, which this rule does not need."""
        norm = (sum(g.square().sum() for g in grads.values()) + self.eps).sqrt()
        return {n: p - step_size(n) * grads[n] / norm for n, p in theta.items()}, state


def main() -> None:
    """300 meta-updates with each rule."""
    data = Sinusoid(train_batches_per_epoch=300, test_tasks=100)
    (tasks,) = data.test_dataloader()
    for name, rule, inner_lr in (("sgd", "sgd", 0.01), ("fixed length", FixedLength(), 0.3)):
        torch.manual_seed(0)
        learner = MetaLearner(MLP(), loss="mse", inner_lr=inner_lr, inner_rule=rule)
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.001)
        for episode in data.train_dataloader():
            optimizer.zero_grad()
            learner.meta_loss(episode).backward()
            optimizer.step()
        curve = learner.evaluate(tasks, inner_steps=3).loss.mean(dim=1).tolist()
        print(f"{name}: " + " ".join(f"{value:.2f}" for value in curve))


if __name__ == "__main__":
    main()
