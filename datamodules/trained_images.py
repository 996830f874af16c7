"""What images a network was trained on, from the data settings in its checkpoint."""

from collections.abc import Mapping
from typing import Any

from datamodules import glyph_drawing, mini_layouts, omniglot
from datamodules.image_reading import ImageSpec
from datamodules.settings import check_at_least

# Settings that the datamodules of these names do not have, as they are always the same. Generated
# characters are no files: whether yours are to be inverted is yours to say.
FIXED: Mapping[str, Mapping[str, Any]] = {
    "Omniglot": {"image_size": omniglot.SPEC.size, "channels": 1, "invert": omniglot.SPEC.invert},
    "MiniImagenet": {"image_size": mini_layouts.SPEC.size, "channels": 3, "invert": False},
    "Glyphs": {"image_size": glyph_drawing.SIZE, "channels": 1},
}


NO_IMAGES = ("Sinusoid", "RLTasks")
MEANING = {
    "image_size": "the height and width of the training images",
    "channels": "1 if they were grey, 3 if in colour",
    "invert": "true if yours are dark on white and they were bright on black, as generated "
    "characters and Omniglot's are; false to leave yours as they are",
}


def spec_of_training(
    trained_on: Mapping[str, Any],
    image_size: int | None = None,
    channels: int | None = None,
    invert: bool | None = None,
) -> ImageSpec:
    """What images must become for a network trained on `trained_on`.

    Args:
        trained_on: ``class_path`` (None if unknown) and ``init_args`` of the training data.
        image_size: as given by the user, so are the other two; None for as in training.
        channels: 1 or 3.
        invert: whether dark ink on white paper becomes bright on black; with 3 channels false if
            training does not say.

    Raises:
        ValueError: naming the setting that differs from training, or that neither gives; or the
            data, if they were no images.
    """
    package, _, name = str(trained_on.get("class_path") or "").rpartition(".")
    fixed = FIXED.get(name, {}) if package.partition(".")[0] == "datamodules" else {}
    if package.partition(".")[0] == "datamodules" and name in NO_IMAGES:
        raise ValueError(
            f"`predict` with images needs a classifier of images, got a checkpoint of {name}, "
            "whose tasks have none; without `--data` it predicts for test tasks of its own."
        )
    known = {**(trained_on.get("init_args") or {}), **fixed}
    if image_size is not None:
        check_at_least("image_size", image_size, 1)
    settings: dict[str, Any] = {}
    given = {"image_size": image_size, "channels": channels, "invert": invert}
    for key, value in given.items():
        trained = known.get(key)
        if None not in (trained, value) and trained != value:
            raise ValueError(f"`{key}` must be {trained}, as in training, got {value}.")
        settings[key] = trained if value is None else value
    if settings["channels"] != 1 and settings["invert"] is None:
        settings["invert"] = False  # photos
    missing = [key for key in settings if settings[key] is None]
    if missing:
        raise ValueError(
            f"`{missing[0]}` must be given ({MEANING[missing[0]]}; on the command line --data."
            f"{missing[0]}): the checkpoint does not say what images it was trained on, if any."
        )
    return ImageSpec(settings["image_size"], settings["channels"], settings["invert"])
