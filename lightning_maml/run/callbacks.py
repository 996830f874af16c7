"""What every run of a learner is given: the callbacks, and checkpoints that are written whole."""

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer

from lightning_maml.run.checkpointing import AtomicCheckpointIO, RunState
from lightning_maml.run.device_count import SkipDeviceCount
from lightning_maml.run.empty_hooks import SkipEmptyHooks
from lightning_maml.run.freed_memory import KeepFreedMemory
from lightning_maml.run.interruption import GracefulStop
from lightning_maml.run.result_file import ResultFile
from lightning_maml.run.sample_tasks import SampleTasks
from lightning_maml.run.trainer_checks import check_trainer
from lightning_maml.run.wandb_logging import WandbState

FOR_EVERY_RUN = (
    ResultFile, RunState, GracefulStop, SampleTasks, WandbState, SkipEmptyHooks, SkipDeviceCount,
    KeepFreedMemory,
)  # fmt: skip


def callbacks_for(trainer: Trainer) -> list[Callback]:
    """The callbacks in `FOR_EVERY_RUN` that the trainer has not got already.

    Raises:
        ValueError: for settings of the trainer that cannot work, see trainer_checks.py.
    """
    check_trainer(trainer)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    present = {type(callback) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    return [kind() for kind in FOR_EVERY_RUN if kind not in present]
