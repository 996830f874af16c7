"""Few-shot images: meta-train on generated characters, then a classifier for new ones.

    python examples/few_shot_images.py

Prints the accuracy on test tasks, then names for images of five characters that were seen once.
"""

from lightning.pytorch import Trainer, seed_everything

from datamodules import Glyphs
from lightning_maml import MetaLearner
from lightning_maml.models import Conv4

NAMES = ["oak", "elm", "ash", "yew", "fir"]


def main() -> None:
    """Meta-train a small network for 120 meta-updates; adapt it to one image of each class."""
    seed_everything(0)
    network = Conv4(n_way=5, channels=16)
    learner = MetaLearner(
        network, loss="cross_entropy_n_way", inner_lr=0.4, eval_inner_steps=3, meta_lr=0.003
    )
    data = Glyphs(
        query_shot=5, meta_batch_size=8, train_batches_per_epoch=120, test_tasks=40,
        eval_batch_size=40, characters=(300, 20, 60),
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(learner, data)

    (tasks,) = data.test_dataloader()
    tasks = tasks._replace(support_x=tasks.support_x / 255, query_x=tasks.query_x / 255)
    before, *_, after = learner.evaluate(tasks).metric.mean(dim=1).tolist()
    print(f"accuracy before: {before:.2f}, after 3 steps: {after:.2f}")

    model = learner.fast_adapt(tasks.support_x[0], NAMES)
    for image, label in zip(tasks.query_x[0, ::5], tasks.query_y[0, ::5], strict=True):
        print(f"{NAMES[label]} is taken for {model.predict(image[None])[0]}")


if __name__ == "__main__":
    main()
