"""Sinusoids (Sec. 5.1) with the Trainer, and a picture of what a few gradient steps do.

    python examples/sinusoid.py

Prints the query loss of test tasks before and after adaptation and writes sinusoid.png.
"""

import torch
from lightning.pytorch import Trainer, seed_everything
from matplotlib.figure import Figure

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP


def main() -> None:
    """Meta-train for 1,500 meta-updates, evaluate, and plot one new sinusoid."""
    seed_everything(0)
    learner = MetaLearner(MLP(), loss="mse", inner_lr=0.01, eval_inner_steps=10)
    data = Sinusoid(k_shot=10, train_batches_per_epoch=1500, test_tasks=100)
    trainer = Trainer(
        max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(learner, data)

    (tasks,) = data.test_dataloader()
    before, *_, after = learner.evaluate(tasks).loss.mean(dim=1).tolist()
    print(f"before: {before:.2f}, after 10 steps: {after:.2f}")

    x, y = tasks.support_x[0], tasks.support_y[0]
    line = torch.linspace(-5, 5, 200)[:, None]
    figure = Figure(figsize=(6, 3.5))
    axes = figure.add_subplot(xlabel="x", ylabel="y")
    order = tasks.query_x[0, :, 0].argsort()
    axes.plot(tasks.query_x[0, order], tasks.query_y[0, order], "k", label="true")
    axes.plot(x, y, "k^", label="given")
    for steps in (0, 1, 10):
        adapted = learner.fast_adapt(x, y, inner_steps=steps)
        axes.plot(line, adapted(line).detach(), "--", label=f"{steps} steps")
    axes.legend()
    figure.savefig("sinusoid.png", bbox_inches="tight")
    print("wrote sinusoid.png")


if __name__ == "__main__":
    main()
