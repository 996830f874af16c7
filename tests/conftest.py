"""What all tests share."""

import os
import zipfile
from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# The tensors here are tiny: threads cost more than they bring, and stall on a busy machine.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
# Tests say so where they want W&B; none may ask for a login, or log to anybody's account.
os.environ["WANDB_MODE"] = "disabled"


@pytest.fixture(autouse=True)
def _own_wandb_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that a test starts do not share that of earlier tests, where a run that is killed
    would hold its number.
    """
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data. Only where there is none at all may a test be skipped."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not at hand (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def omniglot_root(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of Omniglot."""
    root = tmp_path_factory.mktemp("omniglot")
    with zipfile.ZipFile(real_data / "omniglot-py.zip") as archive:
        archive.extractall(root)
    return root
