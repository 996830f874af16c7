"""The progress bar: meta-updates of the whole run, what they bring, how long they still take."""

import os
import sys
import time
from typing import Any, Protocol, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

BAR = "{bar}|{n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
BAR_WITHOUT_END = "{n_fmt} {elapsed}{postfix}"
SECONDS_BETWEEN_LINES = 60.0  # where the output is no terminal, but a file


class Watched(Protocol):
    """What a learner must have for its training to be shown."""

    metric_name: str
    watched: dict[str, float]


class MetaProgressBar(ProgressBar):
    """Shows the whole run in meta-updates: time left, loss, metric before and after, tasks/s.

    Fits the terminal, 80 columns if its width is unknown. Where the output is no terminal, a line
    each minute takes the bar's place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm | None = None
        self._inner: tqdm | None = None  # of a validation within training

    def disable(self) -> None:
        """Show nothing; Lightning asks for it on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar."""
        tqdm.write(kwargs.pop("sep", " ").join(map(str, args)), file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at the meta-updates that were done before a resume."""
        self._bar = self._new(updates_in_all(trainer, pl_module), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on."""
        assert self._bar is not None
        if (done := trainer.global_step - self._bar.n) > 0:
            self._bar.set_postfix_str(watched_text(cast(Watched, pl_module)), refresh=False)
            self._bar.update(done)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A bar below that of training."""
        self._begin_inner("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Move on."""
        self._step_inner()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar below."""
        self._end_inner()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A bar over the test batches."""
        self._begin_inner("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        """Move on."""
        self._step_inner()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._end_inner()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A bar over the batches."""
        self._begin_inner("predicting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        """Move on."""
        self._step_inner()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._end_inner()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar of training as it is."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the bars as they are."""
        self._close()

    def _new(self, total: int | None, initial: int = 0, **options: Any) -> tqdm:
        terminal = sys.stderr.isatty()
        settings = {"bar_format": BAR if total else BAR_WITHOUT_END, **options}
        if terminal:
            known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            width = {"dynamic_ncols": True} if known else {"ncols": 80}
            settings |= {**width, "mininterval": 0.1}
        else:
            settings |= {"file": Lines(), "ncols": 80, "mininterval": SECONDS_BETWEEN_LINES}
        return tqdm(
            total=total, initial=initial, disable=not self._enabled, smoothing=0.1, **settings
        )

    def _begin_inner(self, what: str, total: float) -> None:
        if not sys.stderr.isatty():
            return
        count = int(total) if total != float("inf") else None
        bar = f"{what} {{bar}}|{{n_fmt}}/{{total_fmt}} {{elapsed}}<{{remaining}}"
        self._inner = self._new(count, leave=False, bar_format=bar)

    def _step_inner(self) -> None:
        if self._inner is not None:
            self._inner.update()

    def _end_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _close(self) -> None:
        self._end_inner()
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """Standard error for a bar that is not on a terminal: each state of it is a line."""

    def write(self, text: str) -> None:
        """Write what there is to read."""
        if text := text.strip("\r\n "):
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        """Write it now."""
        sys.stderr.flush()


class TaskRate:
    """Tasks per second of training, of all processes, without the time that validations take."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._tasks, self._spent, self._since = 0, 0.0, time.monotonic()

    def add(self, tasks: int) -> None:
        """So many more are done."""
        self._tasks += tasks

    def pause(self) -> None:
        """Stop the clock."""
        self._spent += time.monotonic() - self._since

    def go_on(self) -> None:
        """Start the clock again."""
        self._since = time.monotonic()

    def read(self) -> float:
        """The rate since the last reading."""
        self.pause()
        rate = self._tasks / max(self._spent, 1e-9)
        self.restart()
        return rate


def updates_in_all(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """How many meta-updates the run will have had at its end; None if it has none."""
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    per_epoch = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and per_epoch != float("inf"):
        accumulated = getattr(getattr(pl_module, "meta_update", None), "accumulate_batches", 1)
        limits.append(int(trainer.max_epochs * per_epoch) // accumulated)
    return min(limits, default=None)


def watched_text(learner: Watched) -> str:
    """The last values logged, short.

    >>> from types import SimpleNamespace
    >>> values = {"loss": 0.0712, "accuracy_before": 0.2, "accuracy": 0.9787, "tasks_per_s": 11234}
    >>> watched_text(SimpleNamespace(metric_name="accuracy", watched=values))
    'loss 0.0712, accuracy 0.200>0.979, 11.2k tasks/s'

    A method without inner steps has no value before them.
    """
    values, name = learner.watched, learner.metric_name
    if not values:
        return ""
    metric = ">".join(short(values[key]) for key in (f"{name}_before", name) if key in values)
    rate = values["tasks_per_s"]
    per_second = tqdm.format_sizeof(rate) if rate >= 1000 else f"{rate:.3g}"
    return f"loss {short(values['loss'], 3)}, {name} {metric}, {per_second} tasks/s"


def short(value: float, digits: int = 3) -> str:
    """A number in few characters.

    >>> [short(value) for value in (0.2, 12.3456, 123456.0)]
    ['0.200', '12.3', '1.23e+05']
    """
    return (
        f"{value:.{digits}g}" if abs(value) >= 1 or 0 < abs(value) < 0.1 else f"{value:.{digits}f}"
    )
