"""Where the files of a run go."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger


def run_folder(trainer: Trainer) -> Path:
    """The folder of the first logger's run, in which Lightning keeps the checkpoints, too.

    Without a logger it is the trainer's `default_root_dir`. Each process must ask, and gets the
    first one's answer.
    """
    logger = trainer.logger
    folder: str | Path = trainer.default_root_dir
    if isinstance(logger, CSVLogger | TensorBoardLogger):
        folder = logger.log_dir
    elif isinstance(logger, WandbLogger):
        folder = Path(logger.save_dir or ".", str(logger.name), str(logger.version))
    elif logger is not None:
        folder = logger.log_dir or logger.save_dir or folder
    return Path(trainer.strategy.broadcast(str(folder)))
