"""``python -m lightning_maml.weights CHECKPOINT RESULT... --config NAME``: adds weights."""

import argparse
from pathlib import Path

from lightning_maml.weights import FOLDER
from lightning_maml.weights.export import export


def main() -> None:
    """Read the arguments, write the weights."""
    parser = argparse.ArgumentParser(prog="python -m lightning_maml.weights", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("results", type=Path, nargs="+", help="what `test` wrote for it")
    parser.add_argument("--config", required=True, help="name of the config it was trained with")
    parser.add_argument("--name", help="of the weights; that of the config by default")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    try:
        name = given.name or given.config
        print(export(given.checkpoint, given.results, given.config, name, given.out))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
