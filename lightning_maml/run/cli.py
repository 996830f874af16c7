"""The command line."""

from lightning.pytorch.cli import LightningCLI


class MetaLearningCLI(LightningCLI):
    """LightningCLI whose model and data come from the config's `class_path`."""

    def __init__(self) -> None:
        super().__init__(
            save_config_kwargs={"overwrite": False},
            auto_configure_optimizers=False,
            seed_everything_default=0,
        )
