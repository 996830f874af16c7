"""Fit, validate, test, predict: joins a model and data that a config names, nothing else.

python train.py fit --config configs/sinusoid.yaml
python train.py fit --config configs/sinusoid.yaml --ckpt_path last   # go on where it stopped
python train.py test --ckpt_path runs/sinusoid/version_0/checkpoints/last.ckpt
python train.py test --ckpt_path ... --data.k_shot 5 --model.eval_inner_steps 20
python train.py predict --ckpt_path ...

Installed, `lightning-maml` is the same program; the configs are found by their names from anywhere.
"""

from pathlib import Path

import datamodules  # noqa: F401  # so that `--data Sinusoid` is known by its short name
from lightning_maml.run.cli import run

CONFIGS = Path(__file__).parent / "configs"  # beside this file when installed, too


def main(args: list[str] | None = None) -> None:
    """Run `args`, by default those of the shell: {fit,validate,test,predict} --config FILE ..."""
    run(args, configs=CONFIGS)


if __name__ == "__main__":
    main()
