"""Meta-trained weights that come with the package, a checkpoint and a card (Markdown) each.

`MetaLearner.from_pretrained` loads them; `python -m lightning_maml.weights` adds one.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def available() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.ckpt"))


def weights_file(name: str) -> Path:
    """The checkpoint of that name.

    Raises:
        ValueError: naming those there are.
    """
    if name not in available():
        raise ValueError(f"`name` must be one of {available()}, got {name!r}.")
    return FOLDER / f"{name}.ckpt"
