"""Which settings of a learner a checkpoint can hold as plain data."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters


def by_command_line() -> bool:
    """Whether the command line is making the learner: it describes all settings in plain data."""
    return _given_hyperparameters.get() is not None


def not_plain(settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings to leave out of a checkpoint: of the `locals()` those that are objects.

    Modules and functions, that is; a checkpoint of numbers and strings opens everywhere.
    """
    if by_command_line():
        return []
    return [name for name, value in settings.items() if callable(value)]
