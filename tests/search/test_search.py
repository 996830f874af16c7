"""Whatever a setting is, there is a result, or one line that names it before the first update.

What comes with a large number alone is a promise of less: it can be made, and is not used.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as searching

import datamodules
from lightning_maml import MetaLearner, baselines, inner_rules, models
from tests.search.targets import TARGETS, Target, write_files
from tests.search.values import is_large, settings

EXAMPLES = 300  # for each target
SECONDS = 20  # that one may take at most
COSTLY = ("num_workers", "compile")  # right values start processes and compilers
INPUTS = ("model", "support_x", "support_y", "prediction", "augment.")
NOT_CLASSES = {"EpisodicMethod", "with_episode_statistics"}  # one is a protocol
WITHOUT_SETTINGS = {models.EpisodeBatchNorm}  # a layer, with torch's arguments
EACH = pytest.mark.parametrize(
    "target", TARGETS, ids=[f"{n}-{target.kind.__name__}" for n, target in enumerate(TARGETS)]
)


@pytest.fixture(scope="module", autouse=True)
def _in_a_folder_with_data(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("search"))
        write_files()
        yield


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tried(target: Target, drawn: dict[str, Any]) -> str | None:
    """What is said of these settings; None if they work.

    Every other error goes through.
    """
    given = target.base() | drawn
    try:
        made = target.kind(**given)
        costly = any(drawn.get(name) for name in COSTLY) or any(map(is_large, drawn.values()))
        if not costly:
            target.use(made, given)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


def is_clear(said: str, target: Target, drawn: dict[str, Any]) -> bool:
    """Is it one line that names a setting, an input, or a folder?"""
    names = [f"`{name}" for name in (*target.hints, *INPUTS)]
    return "\n" not in said and any(name in said for name in [*names, "class folder"])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no timer")
@pytest.mark.filterwarnings("ignore")
@EACH
def test_anything_as_a_setting(target) -> None:
    @searching(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(drawn=settings(target.hints, target.large))
    def search(drawn: dict[str, Any]) -> None:
        with _at_most(SECONDS):
            said = tried(target, drawn)
        assert said is None or is_clear(said, target, drawn), said

    search()


@EACH
def test_the_base_works(target) -> None:
    assert tried(target, {}) is None


@EACH
def test_every_setting_is_refused_by_name(target) -> None:
    """Of a kind that no setting can be."""
    for name in target.hints:
        with pytest.raises(ValueError, match=rf"^`{name}` must be .*, got .*\.$"):
            target.kind(**target.base() | {name: object()})


def test_everything_public_is_searched() -> None:
    public = {
        getattr(package, name)
        for package in (datamodules, models, baselines)
        for name in set(package.__all__) - NOT_CLASSES
    }
    rules = {type(rule) for rule in inner_rules.RULES.values() if hasattr(rule, "__dict__")}
    rules -= {inner_rules.Sgd}  # which has none
    searched = {target.kind for target in TARGETS}
    assert public | rules | {MetaLearner} <= searched | WITHOUT_SETTINGS


@pytest.mark.parametrize("said", ["'<' not supported", "`hidden` must be\nmore", "`hiden` is 0"])
def test_what_does_not_name_the_setting_is_not_clear(said) -> None:
    (mlp,) = (target for target in TARGETS if target.kind is models.MLP)
    assert not is_clear(said, mlp, {"hidden": None})
