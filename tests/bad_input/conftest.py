"""Fixtures of the tests of commands and of data."""

from tests.datamodules.conftest import write_classes  # noqa: F401
from tests.run.conftest import config, refused  # noqa: F401
