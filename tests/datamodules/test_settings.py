"""Wrong settings are refused at construction, by name."""

from typing import Any

import pytest

from datamodules import Glyphs, ImageFolder, MiniImagenet, Omniglot, Sinusoid, TorchvisionClasses

COMMON = {
    "k_shot": (0, -1, 1.5, True),
    "query_shot": (0, -3),
    "meta_batch_size": (0, -1),
    "eval_batch_size": (0,),
    "train_batches_per_epoch": (0,),
    "val_tasks": (0,),
    "test_tasks": (-600,),
    "num_workers": (-1,),
    "seed": (-1, 2**64),
    "eval_query_shot": (0, -1),
}
CASES = [
    (module, name, value)
    for module, settings in (
        (Sinusoid, COMMON),
        (Omniglot, COMMON | {"n_way": (1, 0, -5)}),
        (MiniImagenet, COMMON | {"n_way": (1,)}),
        (ImageFolder, COMMON | {"n_way": (1,)}),
        (Glyphs, COMMON | {"n_way": (1,)}),
        (TorchvisionClasses, COMMON | {"n_way": (1,)}),
    )
    for name, values in settings.items()
    for value in values
]


@pytest.mark.parametrize(("module", "name", "value"), CASES)
def test_wrong_setting_is_refused_by_name(module: type, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be .*got {value!r}"):
        module(**{name: value})


@pytest.mark.parametrize("characters", [(0, 1, 1), (1100, 523)])
def test_wrong_character_counts_are_refused(characters: Any) -> None:
    with pytest.raises(ValueError, match="`characters` must be"):
        Omniglot(characters=characters)


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (0.0, float("nan")), (1.0,)])
def test_wrong_range_is_refused(bounds: Any) -> None:
    with pytest.raises(ValueError, match="`amplitude_range` must be two finite numbers"):
        Sinusoid(amplitude_range=bounds)


@pytest.mark.parametrize(
    "module", [Sinusoid, Omniglot, MiniImagenet, ImageFolder, Glyphs, TorchvisionClasses]
)
def test_settings_are_plain_hyperparameters(module: type) -> None:
    made = module(seed=7, k_shot=3)
    assert made.hparams["seed"] == 7
    assert module(**made.hparams).hparams == made.hparams


@pytest.mark.parametrize("module", [Omniglot, MiniImagenet, ImageFolder, TorchvisionClasses])
def test_nothing_is_read_at_construction(module: type) -> None:
    module(root="/there/is/no/such/folder")
