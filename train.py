"""Fit, validate, test, predict: joins a model and data that a config names, nothing else."""

from lightning_maml.run.cli import MetaLearningCLI


def main() -> None:
    """The command line: `python train.py {fit,validate,test,predict} --config FILE`."""
    MetaLearningCLI()


if __name__ == "__main__":
    main()
