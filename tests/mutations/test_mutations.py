"""The faults that are made on purpose fit the code, and their tests exist; slow: all are seen."""

import re
from pathlib import Path

import pytest

from tests.mutations.run import ROOT, applies, main, mutations

MUTATIONS = mutations()
AREAS = (
    "meta_gradient", "sampling", "checkpoint", "confidence", "episode_loader", "rl/", "baselines/",
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_patch_fits_and_its_test_exists(mutation) -> None:
    file, _, test = mutation.test.partition("::")
    name = re.escape(test.partition("[")[0])
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert applies(mutation, ROOT, "--check")


def test_every_area_has_some() -> None:
    changed = [re.findall(r"^--- a/(.*)", m.patch.read_text(), re.MULTILINE) for m in MUTATIONS]
    assert all(len(files) == 1 and Path(ROOT, files[0]).is_file() for files in changed)
    for area in AREAS:
        assert sum(area in files[0] for files in changed) >= 2, area


@pytest.mark.slow
def test_every_fault_is_noticed() -> None:
    assert main([]) == 0
