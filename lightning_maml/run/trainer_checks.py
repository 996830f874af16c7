"""Trainer settings that do not work with meta-learning, refused by name before a run starts."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

SHARDING = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
POLICY_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def check_trainer(trainer: Trainer) -> None:
    """Refuse what would be ignored, or would give wrong gradients.

    Raises:
        ValueError: naming the Trainer's argument and what to use instead.
    """
    _check_updates(
        trainer,
        accumulation="use `MetaLearner(accumulate_batches)`",
        clipping="use `MetaLearner(clip_meta_grad_value)` or `MetaLearner(clip_meta_grad_norm)`",
    )
    if isinstance(trainer.strategy, SHARDING):
        raise ValueError(
            "`Trainer(strategy)` must keep whole parameters on each device, got "
            f"{type(trainer.strategy).__name__}: the inner loop makes new weights for each task, "
            'which sharding cannot follow. Use "ddp".'
        )
    if trainer.precision == "16-mixed":
        raise ValueError(
            '`Trainer(precision)` must not be "16-mixed": the gradient scaler never sees the inner '
            'gradients, which underflow in float16. Use "bf16-mixed" or "32-true".'
        )


def check_outputs(trainer: Trainer | None, outputs: int) -> None:
    """Refuse a run on tasks that may have more classes than the model has outputs.

    The labels would show it only when such a task comes; a datamodule with `shots` knows before.

    Raises:
        ValueError: naming `n_way`, or `eval_n_way`.
    """
    shots = getattr(getattr(trainer, "datamodule", None), "shots", None)
    if trainer is None or shots is None:
        return
    fn = trainer.state.fn
    for split in ("train", "val") if fn == "fit" else ("test",) if fn == "test" else ("val",):
        most = shots.bounds(split)[1].n_way
        if most > outputs:
            raise ValueError(
                f"`{shots.setting(split, 'n_way')}` must be at most {outputs}, the outputs of the "
                f"model, got {most}. More outputs than classes are fine."
            )


def check_policy_trainer(trainer: Trainer) -> None:
    """The same for `MetaPolicy`, where other settings help; before `check_trainer`.

    Raises:
        ValueError: naming the Trainer's argument, or `predict`, and what to use instead.
    """
    if trainer.predicting:
        raise ValueError(
            "`predict` must be given a model that predicts, got MetaPolicy, which acts; use `test` "
            "for its returns, or in Python `MetaPolicy.evaluate` (returns of each task) or "
            "`MetaPolicy.watch` (trajectories)."
        )
    _check_updates(
        trainer,
        accumulation="use more tasks a batch, `RLTasks(meta_batch_size)`",
        clipping="`MetaPolicy(max_kl)` bounds the step",
    )
    if trainer.precision not in POLICY_PRECISIONS:
        raise ValueError(
            f"`Trainer(precision)` must be one of {list(POLICY_PRECISIONS)}, got "
            f"{trainer.precision!r}: conjugate gradient needs weights of 32 bits, and TRPO has no "
            "loss that a gradient scaler could scale."
        )


def _check_updates(trainer: Trainer, accumulation: str, clipping: str) -> None:
    """Refuse what manual optimization would ignore; the texts say what to use instead."""
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "`Trainer(accumulate_grad_batches)` must be 1, got "
            f"{trainer.accumulate_grad_batches}; {accumulation}."
        )
    if trainer.gradient_clip_val:
        raise ValueError(
            f"`Trainer(gradient_clip_val)` must be None, got {trainer.gradient_clip_val}; "
            f"{clipping}."
        )
