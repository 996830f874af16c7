"""Weights & Biases for runs that may have no login, and may be stopped and resumed.

W&B's own step is the number of meta-updates. A resumed run goes on under its old id, and the rows
of both parts together are those of a run that was never stopped: what W&B lost when the run was
killed is logged again from the checkpoint, and what it has already is not logged twice.
"""

import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_maml.run.from_checkpoint import read_checkpoint
from lightning_maml.run.provenance import surroundings
from lightning_maml.run.wandb_file import history

AT_RISK = 60.0  # seconds; W&B writes to disk every 15 or less, a killed run loses what came since
STATE = "WandbState"


class WandbLogger(LightningWandbLogger):
    """Lightning's `WandbLogger`, which also works without a login, and across a resume.

    Without a login, or with ``WANDB_MODE=offline``, it logs to disk and says how to upload that.

    Args:
        name: name of the run in the dashboards.
        project: W&B project.
        save_dir: W&B's files go to ``<save_dir>/wandb/``.
        id: of the run; ``None`` = a new one.
        offline: log to disk even with a login.
        entity, group, job_type, tags, notes: as in `wandb.init`.
        log_model: upload checkpoints as artifacts, see Lightning; not offline.
    """

    def __init__(
        self,
        name: str | None = None,
        project: str = "lightning_maml",
        save_dir: str | Path = "runs",
        id: str | None = None,
        offline: bool = False,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        log_model: Literal["all"] | bool = False,
    ) -> None:
        import wandb  # half a second, and only for runs that log with it

        super().__init__(
            name=name, project=project, save_dir=save_dir, id=id, log_model=log_model,
            entity=entity, group=group, job_type=job_type, tags=tags, notes=notes,
        )  # fmt: skip
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, even of None
        self._open: dict[str, Any] = {}  # the newest row, which W&B gets when it is complete
        self._rows: deque[tuple[float, dict[str, Any]]] = deque()  # at risk, with their time
        self._last = -1  # meta-update of the last row
        self._on_record = -1  # W&B has the rows up to this meta-update from before a resume
        self._folders: list[Path] = []  # of all parts of an offline run
        self._settings = wandb.Settings(x_transaction_log_flush_interval=1.0)
        self._wandb_init["settings"] = self._settings
        if offline or not _has_login():
            self._go_offline()

    def continue_from(self, checkpoint: str | Path) -> None:
        """Go on with the run of `checkpoint`, which is given to `Trainer.fit` as well.

        The command line does so for ``fit --ckpt_path``. From a checkpoint that is not the newest
        of its run another branch starts: a run of its own, and it says so.

        Raises:
            ValueError: if `checkpoint` is none.
        """
        path = Path(checkpoint)
        content = read_checkpoint(path)
        state = _state_in(content)
        if state is None:
            return
        chosen = self._id or os.environ.get("WANDB_RUN_ID")
        if chosen not in (None, state["id"]):
            rank_zero_info(f"W&B: run {chosen}, as it was set, and not {state['id']} from {path}.")
            return
        newer = _newer_checkpoint(path, content["global_step"], state["id"])
        if newer is not None:
            rank_zero_info(f"W&B: a new run, since {newer} of the old one is newer.")
            return
        self._id = self._wandb_init["id"] = state["id"]
        self._rows.extend((time.monotonic(), row) for row in state["rows"])
        if state["offline"]:  # a part that went up before this one would be in its way
            self._go_offline()
            place = Path(state["folder"]).parent
            self._folders = sorted(place.glob(f"offline-run-*-{state['id']}"))

    @property
    def experiment(self) -> Any:
        """The `wandb` run, started when first asked for."""
        starts = self._experiment is None and rank_zero_only.rank == 0  # type: ignore[attr-defined]
        if starts:
            Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
        run = super().experiment
        if starts:
            self._begin(run)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log `metrics` after meta-update `step`, unless W&B has that row from before a resume."""
        _ = self.experiment  # which finds out what W&B has already
        step = self._last if step is None else max(step, self._last)
        if step <= self._on_record:
            return
        row = {"_step": step, **metrics, "trainer/global_step": step}
        self._log(row)
        plain = {name: value for name, value in row.items() if isinstance(value, int | float)}
        if self._rows and step == self._last:
            plain = self._rows.pop()[1] | plain
        self._rows.append((time.monotonic(), plain))
        self._last = step
        # A row is handed over when the next begins, and W&B writes it when that one is.
        while len(self._rows) > 2 and self._rows[2][0] < time.monotonic() - AT_RISK:
            self._rows.popleft()

    def finalize(self, status: str) -> None:
        """Say where the run is, if it is not with W&B yet."""
        self._flush()
        super().finalize(status)
        if self._experiment is not None and self._folders:
            rank_zero_info(f"W&B: logged offline; to upload: {self._upload()}")

    def forget_row(self, step: int) -> None:
        """Drop the row of that meta-update, if it is the newest: it is not complete."""
        if self._open.get("_step") == step:
            self._open = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs for the run to go on."""
        return {
            "id": self.version,
            "offline": bool(self._folders),
            "folder": os.path.abspath(getattr(self._experiment, "sync_dir", "")),
            "rows": [row for _, row in self._rows],
        }

    def _go_offline(self) -> None:
        self._wandb_init["mode"] = "offline"
        # W&B's own lines would not name the folder of the part before a resume.
        self._settings.silent = True

    def _begin(self, run: Any) -> None:
        """Find out what W&B has of the run, and log what it has not."""
        offline = getattr(run, "offline", False)  # wandb.init may also give a disabled run
        self._on_record = run.starting_step - 1
        if offline:
            rows = [row for folder in self._folders for row in history(folder)]
            self._on_record = max((row["_step"] for row in rows), default=-1)
            self._folders.append(Path(run.sync_dir).absolute())
            rank_zero_info(f"W&B: logging offline; to upload later: {self._upload()}")
        for _, row in self._rows:
            self._last = row["_step"]
            if self._last > self._on_record:
                self._log(row)

    def _upload(self) -> str:
        return shlex.join(["wandb", "sync", *map(os.path.relpath, self._folders)])

    def _log(self, row: Mapping[str, Any]) -> None:
        if self._open and self._open["_step"] < row["_step"]:
            self._flush()
        self._open |= row

    def _flush(self) -> None:
        row, self._open = self._open, {}
        if row:
            step = row.pop("_step")
            self.experiment.log(row, step=step)


class WandbState(Callback):
    """Keeps in each checkpoint what the W&B run needs to go on from there."""

    logger: WandbLogger | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the logger, and tell it where the run comes from."""
        self.logger = wandb_logger(trainer)
        if self.logger is not None:
            self.logger.log_hyperparams(surroundings(trainer))

    @property
    def state_key(self) -> str:
        """Its name in the checkpoint."""
        return STATE

    def state_dict(self) -> dict[str, Any]:
        """Of the first process: the others have no run."""
        return {} if self.logger is None else self.logger.state()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Where a validation broke off there is half a row; it comes again when the run goes on."""
        if self.logger is not None and trainer.validating:
            self.logger.forget_row(trainer.global_step)


def wandb_logger(trainer: Trainer) -> WandbLogger | None:
    """The trainer's `WandbLogger`, if it has one."""
    return next((one for one in trainer.loggers if isinstance(one, WandbLogger)), None)


def _state_in(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `WandbState` left in a checkpoint."""
    return checkpoint.get("callbacks", {}).get(STATE) or None


def _newer_checkpoint(path: Path, updates: int, run_id: str) -> Path | None:
    """A checkpoint of the same W&B run, perhaps of a part of it, that goes further than `path`."""
    folder = path.absolute().parent
    in_run = folder.name == "checkpoints" and len(folder.parents) > 1
    others = folder.parents[1].rglob("*.ckpt") if in_run else folder.glob("*.ckpt")
    for other in sorted(others):
        try:
            newer = other.stat().st_mtime_ns > path.stat().st_mtime_ns
            content = read_checkpoint(other) if newer else {}
        except (OSError, ValueError):  # gone by now, or something else under such a name
            continue
        same = (_state_in(content) or {}).get("id") == run_id
        if same and content.get("global_step", 0) > updates:
            return other
    return None


def finish(exit_code: int) -> None:
    """End the W&B run of this process, if there is one, so that all of it is written."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code)


def _has_login() -> bool:
    """Whether W&B would neither ask for a key nor fail; `wandb.login` might wait for the server."""
    if os.environ.get("WANDB_MODE", "online") not in ("online", "shared", "run"):
        return os.environ["WANDB_MODE"] == "disabled"
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb
    from wandb.sdk.lib.wbauth.wbnetrc import read_netrc_auth
    from wandb.sdk.wandb_setup import singleton

    try:
        return read_netrc_auth(host=singleton().settings.base_url) is not None
    except wandb.errors.AuthenticationError:  # what is there is no key
        return False
