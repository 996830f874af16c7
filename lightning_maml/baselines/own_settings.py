"""The settings that a learner derived from `MetaLearner` leaves in its checkpoints."""

import inspect

from lightning_maml.meta_learner import MetaLearner


def forget_settings_of_the_base(learner: MetaLearner) -> None:
    """Lightning keeps the arguments of both constructors; a checkpoint must hold its own."""
    base, own = (inspect.signature(c.__init__).parameters for c in (MetaLearner, type(learner)))
    for name in base.keys() - own.keys():
        for kept in (learner.hparams, learner.hparams_initial):
            kept.pop(name, None)
