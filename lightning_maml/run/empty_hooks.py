"""Spares a run the calls of hooks that do nothing.

For each meta-update Lightning calls half a dozen hooks of every callback, most of them empty, each
with the name of the callback built anew for the profiler: for a small network that takes longer
than the meta-gradient. It passes over a hook that is not callable.
"""

from collections.abc import Iterable

from lightning.pytorch import Callback, Trainer

OF_EVERY_UPDATE = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
)


class SkipEmptyHooks(Callback):
    """Has Lightning pass over empty hooks while it trains."""

    def on_train_start(self, trainer: Trainer, *_: object) -> None:
        """Replace them by None."""
        for callback, name in empty_hooks(trainer.callbacks):  # type: ignore[attr-defined]
            setattr(callback, name, None)

    def on_train_end(self, trainer: Trainer, *_: object) -> None:
        """They are what they were."""
        self._restore(trainer)

    def on_exception(self, trainer: Trainer, *_: object) -> None:
        """So, too, after an error."""
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            for name in OF_EVERY_UPDATE:
                if vars(callback).get(name, True) is None:
                    delattr(callback, name)


def empty_hooks(callbacks: Iterable[Callback]) -> list[tuple[Callback, str]]:
    """Those hooks of every update that a callback has as `Callback` has them.

    Of the callbacks of Lightning and of this package: one of a user's may call its own hooks.
    """
    return [
        (callback, name)
        for callback in callbacks
        if type(callback).__module__.partition(".")[0] in ("lightning", "lightning_maml")
        for name in OF_EVERY_UPDATE
        if getattr(type(callback), name) is getattr(Callback, name) and name not in vars(callback)
    ]
