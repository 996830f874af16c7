"""The command line: LightningCLI that takes model and data from a checkpoint as well.

With `--ckpt_path` the settings in the checkpoint come first, then config files, then flags. What
the result says of the model must be what the checkpoint says, but for a few free settings
(from_checkpoint.py). Lightning alone lets the checkpoint win, silently.
"""

import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_maml.run.answers import AnswerFile, Asks, check_question
from lightning_maml.run.config_files import with_found_configs
from lightning_maml.run.console import debugging, fail, readable_output, without_boilerplate
from lightning_maml.run.files import unused_stem
from lightning_maml.run.folder import run_folder
from lightning_maml.run.foreign_classes import check_imports
from lightning_maml.run.from_checkpoint import (
    NAMES,
    RUNS,
    check_model,
    data_of,
    find_checkpoint,
    read_checkpoint,
    settings_from_python,
    settings_of,
    task_settings,
)
from lightning_maml.run.predictions import PredictionFile
from lightning_maml.run.progress import MetaProgressBar
from lightning_maml.run.suggestions import option_names, with_suggestion
from lightning_maml.run.wandb_logging import finish, wandb_logger

log = logging.getLogger(__name__)

DESCRIPTION = """Meta-learning: fit, validate, test, predict. With --ckpt_path alone, model and data
are those of the checkpoint; `--ckpt_path last` and `best` are looked for in the newest run of the
config, in the folder of its logger (without a config: under runs/). The settings of a model or of
data are listed by `fit --model.help MetaLearner` and `fit --data.help ImageFolder`, those in force
by `--print_config`."""
COMMANDS = {
    "fit": "Meta-train, or with --ckpt_path go on with a run.",
    "validate": "Print the results on the validation tasks.",
    "test": "Print the results on the test tasks and write them to a file in the run's folder.",
    "predict": "Write the outputs for test tasks, or for images of your own, to a file.",
}
USAGE = "{} [-c CONFIG] [--ckpt_path FILE] [--model...] [--data...] [--trainer...]"
CKPT_PATH = """A checkpoint file, or "last" or "best": those of the newest run of the config
(without a config: of any under runs/). Without it, fit starts anew."""


def run(args: list[str] | None = None, configs: Path | None = None) -> None:
    """Run a command, given or that of the shell; errors of users end in one line, exit code 2.

    A user's own classes are found in the working directory, too, as with ``python -m``. A config
    that is no file is looked for in the folder `configs`.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    args = sys.argv[1:] if args is None else args
    with readable_output(["lightning_maml", "datamodules"]):
        try:
            MetaLearningCLI(with_found_configs(args, configs))
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else 1
            finish(code if isinstance(code, int) else 1)
            raise
        finish(0)


class Parser(LightningArgumentParser):
    """A parser for which the model may come from elsewhere, and whose errors are one line."""

    def add_lightning_class_args(self, *args: Any, **kwargs: Any) -> list[str]:
        """As in Lightning, but nothing is required yet."""
        return super().add_lightning_class_args(*args, **{**kwargs, "required": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say it without the list of all options, which --help has."""
        if debugging() or not self.exit_on_error:
            super().error(message, ex)
        fail(with_suggestion(without_boilerplate(message), option_names(self)))


class SaveConfig(SaveConfigCallback):
    """Leaves the whole config in the run's folder, and with W&B."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """As in Lightning, which would have it in the parent of all folders of W&B runs.

        A resumed run whose only logger is W&B's goes on in its folder: it gets ``config_2.yaml``.
        """
        folder = run_folder(trainer)
        if self.already_saved or not trainer.is_global_zero:
            return
        self.already_saved = True
        folder.mkdir(parents=True, exist_ok=True)
        name = unused_stem(folder, Path(self.config_filename).stem, [".yaml"])
        self.parser.save(self.config, folder / f"{name}.yaml", skip_none=False)
        if (logger := wandb_logger(trainer)) is not None:
            logger.log_hyperparams({"config": _plain(self.parser, self.config)})


class MetaLearningCLI(LightningCLI):
    """LightningCLI whose model and data come from a config's `class_path`, or a checkpoint."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            args=args,
            parser_class=Parser,
            parser_kwargs={"description": DESCRIPTION},
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,
            seed_everything_default=0,
        )

    def setup_parser(self, *args: Any) -> None:
        """Our defaults for what the Trainer's methods take."""
        super().setup_parser(*args)
        # Of evaluations there is a table of ours, in result_file.py.
        ours = {"weights_only": True, "return_predictions": False, "verbose": False}
        subcommands = self.parser._subcommands_action
        assert subcommands is not None
        for listed in subcommands._choices_actions:  # Lightning cuts its own
            listed.help = COMMANDS[listed.dest]
        for name, parser in self._subcommand_parsers.items():
            parser.description = COMMANDS[name]
            parser.usage = f"{self.parser.prog} {USAGE.format(name)}"
            known = self._subcommand_method_arguments[name]
            parser.set_defaults({key: value for key, value in ours.items() if key in known})
            (action,) = (action for action in parser._actions if action.dest == "ckpt_path")
            action.help = CKPT_PATH

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args`, on top of the settings in the checkpoint if they name one."""
        command = parser.parse_args(_without_flags_of(("model", "data", "print_config"), args))
        name = command.subcommand
        given = command[name]
        if given.get("ckpt_path") is None:
            self.config = parser.parse_args(args)
            if self.config[name].model is None:
                raise ValueError(f"`{name}` needs --config FILE, --model or --ckpt_path FILE.")
            return
        path = find_checkpoint(
            str(given.ckpt_path), given.trainer.logger, _own_runs(name, given, args)
        )
        if str(given.ckpt_path) in NAMES:
            log.info("--ckpt_path %s: %s", given.ckpt_path, path)
        checkpoint = read_checkpoint(path)
        model = settings_of(checkpoint, "model")
        plain = _plain(parser, command)[name]
        if model is None:
            model = settings_from_python(checkpoint, path, plain.get("model"))
        base = {"model": model}
        data = settings_of(checkpoint, "data")
        if data is not None and given.get("data") is None:
            base["data"] = task_settings(data) if _class_of_data(args) else data
        of_config = str([plain.get(part) for part in ("model", "data", "trainer")])
        check_imports(base, [of_config, *_values(("model", "data"), args)], path)
        first = ["--config", json.dumps({name: base})]
        self.config = parser.parse_args([*first, *args, f"--ckpt_path={path}"])
        chosen = (self.config[name].get("data") or {}).get("init_args") or {}
        if "trained_on" in chosen:
            chosen["trained_on"] = data_of(checkpoint)
        saved = parser.parse_args([*first, name])
        check_model(
            _plain(parser, saved)[name]["model"], _plain(parser, self.config)[name]["model"], path
        )

    def _set_seed(self) -> None:
        """As in Lightning, whose own refusal does not say what is wrong.

        Raises:
            ValueError: if the seed is not one of numpy's.
        """
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise ValueError(
                f"`seed_everything` must be an integer from 0 to 2**32 - 1, got {seed}."
            )
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Done in `parse_arguments`: Lightning's would let the checkpoint win over flags."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """As in Lightning; by default logs go to `runs/`, and the progress bar is ours."""
        given = self._get(self.config_init, "trainer")
        if given.logger in (None, True) and not given.barebones:
            kwargs["logger"] = CSVLogger(RUNS, name=self._run_name())
        if given.logger is False:
            self.save_config_callback = None  # it would write into the working directory
        callbacks = given.callbacks or []
        bars = [c for c in callbacks if isinstance(c, ProgressBar)]
        if given.enable_progress_bar is False or given.barebones:
            kwargs["callbacks"] = [c for c in callbacks if c not in bars]
        elif not bars:
            kwargs["callbacks"] = [*callbacks, MetaProgressBar()]
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """Refuse to write into the folder of another run; say where this one's is."""
        if self.subcommand != "fit":  # evaluation needs no callbacks of the training
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
        checkpoint, logger = self._get(self.config, "ckpt_path"), self.trainer.logger
        to_continue = wandb_logger(self.trainer)
        if self.subcommand == "fit" and checkpoint and to_continue:
            to_continue.continue_from(checkpoint)
        if isinstance(logger, CSVLogger | TensorBoardLogger) and self.trainer.is_global_zero:
            folder = Path(logger.log_dir)
            if (folder / "config.yaml").exists():
                raise ValueError(
                    f"`trainer.logger` must lead to a new folder, got {folder}, which holds "
                    "another run. Without `version` it is the next free one."
                )
            log.info("Run folder: %s", folder)

    def before_predict(self) -> None:
        """Have the predictions written to a file."""
        asks = isinstance(self.datamodule, Asks)
        if asks:
            check_question(self.model, self.datamodule)
        file = AnswerFile() if asks else PredictionFile()
        self.trainer.callbacks.append(file)  # type: ignore[attr-defined]

    def _run_name(self) -> str:
        """The run that the checkpoint is from, where its path says so; else that of the data."""
        checkpoint = self._get(self.config, "ckpt_path")
        parents = Path(checkpoint).absolute().parents if checkpoint else []
        if len(parents) > 2 and parents[0].name == "checkpoints":
            return parents[2].name
        return type(self.datamodule or self.model).__name__.lower()


def _own_runs(command: str, given: Namespace, args: list[str]) -> Path | None:
    """Where runs of the config in `given` go if it has no logger; None without a config.

    Of `fit` a flag says more than the config of what a run trains on.
    """
    if given.get("model") is None:
        return None
    if given.trainer.logger is False:  # as Lightning has it
        return Path(given.trainer.default_root_dir or "") / "checkpoints"
    named = _class_of_data(args) if command == "fit" or given.get("data") is None else None
    chosen = named or (given.get("data") or given.model).class_path
    return RUNS / chosen.rpartition(".")[2].lower()


def _without_flags_of(parts: tuple[str, ...], args: list[str]) -> list[str]:
    """`args` without `--model...` and the like: what they mean depends on the checkpoint."""
    kept, keep = [], True
    for arg in args:
        if arg.startswith("--") or arg == "-c":
            keep = arg.removeprefix("--").partition("=")[0].partition(".")[0] not in parts
        if keep:
            kept.append(arg)
    return kept


def _values(parts: tuple[str, ...], args: list[str]) -> list[str]:
    """What is given to the flags that `_without_flags_of` leaves out."""
    kept = _without_flags_of(parts, args)
    return [
        arg.partition("=")[2] if arg.startswith("--") else arg for arg in args if arg not in kept
    ]


def _class_of_data(args: list[str]) -> str | None:
    """The datamodule that flags choose, rather than a setting of one; by name, file or JSON."""
    chosen = None
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag in ("--data", "--data.class_path"):
            chosen = value if equals else following
    if chosen is None or (re.fullmatch(r"[\w.]+", chosen) and not Path(chosen).is_file()):
        return chosen
    path = Path(chosen)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8") if path.is_file() else chosen)
    except yaml.YAMLError:  # which the parser will say
        return chosen
    return settings.get("class_path") if isinstance(settings, dict) else None


def _plain(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
    return yaml.safe_load(parser.dump(config))
