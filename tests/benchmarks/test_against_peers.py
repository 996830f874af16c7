"""The comparison with other libraries: who is admitted, what is measured, what is printed."""

import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import against_peers
import peers.bound
from lightning_maml.losses import cross_entropy_n_way, mse
from lightning_maml.models import MLP, Conv4
from peers import turns
from peers.agreement import admit, relative_error
from peers.bound import Bound, Traffic, bound
from peers.contestants import chosen, contestants
from peers.naive import naive
from peers.ours import ours, reference, sizes
from peers.peak_memory import peak_bytes
from peers.report import result, section
from peers.turns import median_interval, take_turns
from peers.workloads import CONFIGS, Workload, from_config
from tests.naive_maml import naive_meta_gradient

LEARN2LEARN = os.environ.get("LEARN2LEARN")  # folder of its source
WORKLOADS = {
    "mlp": Workload(
        "mlp", lambda: MLP(hidden=[5]), mse, inner_lr=0.05, inner_steps=2, adapts=("*",),
        tasks=4, example=(1,), n_way=0, support=3, query=4,
    ),
    "conv4": Workload(
        "conv4", lambda: Conv4(3, 1, 4, 16, "max_pool", "flatten"), cross_entropy_n_way,
        inner_lr=0.1, inner_steps=2, adapts=("*.conv.*", "head.*"), tasks=3, example=(1, 16, 16),
        n_way=3, support=3, query=6, tasks_at_once=2,
    ),
}  # fmt: skip
MLP_WORKLOAD = WORKLOADS["mlp"]
SOURCE = None if LEARN2LEARN is None else Path(LEARN2LEARN)
EAGER = {
    name: {who: m for who, m in contestants(w, SOURCE).items() if not who.endswith("compiled")}
    for name, w in WORKLOADS.items()
}


@pytest.fixture(autouse=True)
def small_machine(monkeypatch) -> None:
    """Its rates in no time."""
    monkeypatch.setattr(peers.bound, "SIZE", 64)
    monkeypatch.setattr(peers.bound, "NUMBERS", 1024)


def mlp_problem(dtype, number=0):
    return MLP_WORKLOAD.problem(number, dtype)


def admitted(**makes):
    return admit(makes, EAGER["mlp"][reference(MLP_WORKLOAD)], mlp_problem)


@pytest.mark.parametrize(
    ("workload", "contestant"), [(name, who) for name, makes in EAGER.items() for who in makes]
)
def test_contestants_agree_with_the_algorithm(workload, contestant) -> None:
    """Twice: nothing is left of the first meta-gradient in the second."""
    settings = WORKLOADS[workload]
    try:
        run = EAGER[workload][contestant](settings.problem(0, torch.float64))
    except ImportError as error:
        pytest.skip(str(error))
    problem = settings.problem(0, torch.float64)
    _, expected = naive_meta_gradient(
        problem.model, settings.loss, problem.episode, settings.inner_lr, settings.inner_steps,
        adapts=problem.adapted,
    )  # fmt: skip
    for _ in range(2):
        assert relative_error(run(), expected) < 1e-12


def test_who_differs_is_refused_by_name() -> None:
    def hasty(problem):
        return ours(problem, first_order=True)

    with pytest.raises(ValueError, match=r"`hasty` is not ours in float64: .*more than 1.0e-09"):
        admitted(naive=naive, hasty=hasty)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda gradient: {name: 1.02 * g for name, g in gradient.items()},
        lambda gradient: {name: g * math.nan for name, g in gradient.items()},
        lambda gradient: dict(list(gradient.items())[1:]),
    ],
    ids=["two percent more", "not a number", "one parameter less"],
)
def test_who_differs_in_float32_alone_is_refused_as_well(spoil) -> None:
    def rough(problem):
        run = naive(problem)
        exact = problem.episode.query_x.dtype == torch.float64
        return run if exact else lambda: spoil(run())

    with pytest.raises(ValueError, match="`rough` is not ours in float32"):
        admitted(rough=rough)


@pytest.mark.parametrize("kinks", [2, 3])
def test_who_differs_on_few_problems_only_is_admitted(kinks) -> None:
    """As from a kink that it alone met; on all three it is refused."""

    def unlucky(problem):
        run, x = naive(problem), problem.episode.query_x
        met = {float(mlp_problem(x.dtype, n).episode.query_x[0, 0]) for n in range(kinks)}
        if x.dtype == torch.float64 or float(x[0, 0]) not in met:
            return run
        return lambda: {name: 1.5 * g for name, g in run().items()}

    if kinks == 3:
        with pytest.raises(ValueError, match="`unlucky` is not ours in float32"):
            admitted(unlucky=unlucky)
    else:
        assert admitted(unlucky=unlucky)[0]["unlucky"].error32 < 1e-4


def test_a_failure_of_ours_is_not_blamed_on_others() -> None:
    def broken(problem):
        raise RuntimeError("ours is broken")

    with pytest.raises(RuntimeError, match="ours is broken"):
        admit({"naive": naive}, broken, mlp_problem)


def test_who_does_not_run_is_named_with_the_reason() -> None:
    def missing(problem):
        import no_such_library  # noqa: F401

    def broken(problem):
        def run():
            raise RuntimeError("of another age\nand more")

        return run

    there, absent = admitted(missing=missing, naive=naive, broken=broken)
    assert list(there) == ["naive"]
    assert there["naive"].error64 < 1e-12 < there["naive"].error32 < 1e-4
    assert absent == {"missing": "`no_such_library` is not installed", "broken": "of another age"}


@pytest.mark.parametrize(
    ("name", "tasks", "support", "query", "steps", "example"),
    [
        ("sinusoid", 25, 10, 10, 1, (1,)),
        ("omniglot_5way_1shot", 32, 5, 5, 1, (1, 28, 28)),
        ("omniglot_20way_1shot", 16, 20, 20, 5, (1, 28, 28)),
        ("mini_1shot", 4, 5, 75, 5, (3, 84, 84)),
        ("mini_5shot", 2, 25, 75, 5, (3, 84, 84)),
    ],
)
def test_workloads_are_those_of_the_configs(name, tasks, support, query, steps, example) -> None:
    assert name in CONFIGS
    workload = from_config(name)
    assert workload.inner_steps == steps
    episode = workload.problem(0).episode
    assert episode.support_x.shape == (tasks, support, *example)
    assert episode.query_y.shape[:2] == (tasks, query)
    assert workload.problem(0).model(episode.query_x[0]).shape == (query, workload.n_way or 1)


def test_a_problem_has_the_same_numbers_in_every_precision() -> None:
    single, double = (mlp_problem(dtype) for dtype in (torch.float32, torch.float64))
    for a, b in zip(single.episode, double.episode, strict=True):
        assert torch.equal(a.double(), b)
    for a, b in zip(single.model.parameters(), double.model.parameters(), strict=True):
        assert torch.equal(a.double(), b)


@pytest.mark.parametrize(
    ("tasks", "configured", "expected"),
    [(25, None, [1, 5, 25]), (32, None, [1, 8, 32]), (16, 2, [1, 2, 4, 16]), (2, 1, [1, 2])],
)
def test_sizes_of_chunks(tasks, configured, expected) -> None:
    workload = replace(MLP_WORKLOAD, tasks=tasks, tasks_at_once=configured)
    assert sizes(workload) == expected


def test_contestants_are_chosen_by_pattern() -> None:
    makes = EAGER["mlp"]
    assert list(chosen(makes, ["ours-sweep-?", "naive"])) == [
        "ours-sweep-1", "ours-sweep-2", "ours-sweep-4", "naive",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"must match one of .*'naive'.*, got 'nobody'"):
        chosen(makes, ["naive", "nobody"])


@pytest.mark.parametrize(("n", "rank"), [(5, None), (6, 1), (8, 1), (9, 2), (20, 6), (21, 6)])
def test_interval_of_the_median_has_the_ranks_of_the_tables(n, rank) -> None:
    """Say 20 values: 21700 of the 2^20 sequences of tosses have 5 heads or fewer, 60460 have 6."""
    values = [(7 * i) % n + 1 for i in range(n)] if n % 7 else list(range(n, 0, -1))
    assert sorted(values) == list(range(1, n + 1))
    assert median_interval(values) == (None if rank is None else (rank, n + 1 - rank))


def test_everyone_runs_once_a_turn_in_an_order_that_the_seed_gives(monkeypatch) -> None:
    monkeypatch.setattr(turns, "AT_LEAST", 0.0)

    def order(seed):
        called = []
        runs = {name: lambda name=name: called.append(name) for name in "abcdef"}
        seconds = take_turns(runs, 3, seed, "cpu")
        assert all(len(times) == 3 and min(times) > 0 for times in seconds.values())
        return [called[i : i + 6] for i in range(0, len(called), 6)]

    warm_up, *counted = order(0)
    assert warm_up == list("abcdef")
    assert all(sorted(turn) == warm_up for turn in counted)
    assert counted[0] != counted[1]
    assert order(0) == [warm_up, *counted] != order(1)


def test_who_is_fast_goes_on_for_a_while(monkeypatch) -> None:
    monkeypatch.setattr(turns, "timed", lambda run, calls, device: run(calls) or 0.2)
    monkeypatch.setattr(turns, "AT_LEAST", 0.5)
    calls = []
    take_turns({"a": calls.append}, 2, 0, "cpu")
    assert calls == [1, 3, 3]


def test_memory_is_kept_by_those_who_do_and_returned_for_the_others(monkeypatch) -> None:
    said = []
    monkeypatch.setattr(turns, "AT_LEAST", 0.0)
    monkeypatch.setattr(turns, "keep_freed_memory", lambda: said.append("keep"))
    monkeypatch.setattr(turns, "return_freed_memory", lambda: said.append("return"))
    runs = {name: lambda name=name: said.append(name) for name in "ab"}
    take_turns(runs, 2, 0, "cpu", keeping={"a"})
    _, _, *said = said  # without the warm-up
    turn = [["keep", "a", "a"], ["return", "b", "b"]]
    assert said.pop() == "return"
    assert sorted([said[:3], said[3:6]]) == sorted([said[6:9], said[9:]]) == turn


def test_ratios_are_those_within_a_turn() -> None:
    there, absent = admitted(naive=naive, ours=EAGER["mlp"]["ours-sweep-4"])
    seconds = {"ours": [1, 2, 4, 1, 2, 4], "naive": [2, 6, 4, 3, 5, 16]}
    found = result("ours", there, seconds, {"ours": 3_000_000}, absent | {"other": "is ill"})
    row = found["contestants"]["naive"]
    assert row["ratio"] == 2.75  # the median of 2, 3, 1, 3, 2.5, 4
    assert row["ratio_ci95"] == (1, 4)
    assert row["quartiles"][1] == 4.5
    table = section("name", "line", found)
    assert "| naive | 4500 | 3250 to 5750 | 2.75 | 1.00 to 4.00 |  |" in table
    assert "| **ours** | 2000 | 1250 to 3500 | 1.00 | 1.00 to 1.00 | 3.0 |" in table
    assert "Not measured: other: is ill." in table


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own count")
def test_peak_memory_is_that_of_the_call() -> None:
    """What is let go of counts; what was there before does not, nor what was and is no more."""
    # Of more than 32 MiB each, which the allocator gives back at once, whatever ran before.
    kept, _ = torch.ones(2**24), torch.ones(2**27).sum()

    def run():
        torch.ones(2**26).sum()
        return torch.ones(2**24) + kept[0]

    assert peak_bytes(run, "cpu") == pytest.approx(2**28, rel=0.05)


def test_the_program_prints_and_writes(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(against_peers, "from_config", lambda name: replace(MLP_WORKLOAD, name=name))
    monkeypatch.setattr(against_peers, "peak", lambda *_: 2_000_000)
    options = ["--workload", "sinusoid", "--contestant", "naive", "learn2learn", "--turns", "6"]
    figures = tmp_path / "figures.json"
    paths = ["--json", str(figures), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["against_peers.py", *options, *paths])
    against_peers.main()
    printed = capsys.readouterr().out
    assert "python against_peers.py --workload sinusoid" in printed
    assert "Not measured: learn2learn: no source given (--learn2learn PATH)." in printed
    found = json.loads(figures.read_text())
    rows = found["results"]["sinusoid"]["contestants"]
    assert list(rows) == ["ours-sweep-4", "naive", "naive, memory kept"]
    assert len(rows["naive"]["seconds"]) == 6
    assert found["results"]["sinusoid"]["bound"]["flop"] > 0
    assert "The plain loop multiplies and adds" in printed
    assert torch.__version__.startswith(found["about"]["versions"]["torch"])
    written = {path.suffix: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written[".json"] == figures.read_text()
    assert written[".md"].strip() == printed.strip()


def test_the_program_stops_at_who_differs(monkeypatch) -> None:
    monkeypatch.setattr(against_peers, "from_config", lambda name: MLP_WORKLOAD)
    monkeypatch.setattr(
        against_peers,
        "contestants",
        lambda *_: EAGER["mlp"] | {"naive": lambda problem: ours(problem, first_order=True)},
    )
    monkeypatch.setattr(
        sys, "argv", ["against_peers.py", "--workload", "sinusoid", "--contestant", "naive"]
    )
    with pytest.raises(SystemExit, match="sinusoid: The meta-gradient of `naive` is not ours"):
        against_peers.main()


def test_arithmetic_is_that_of_the_plain_loop_by_hand() -> None:
    """A linear network, one inner step. Examples times weights, on the support set: forward, the
    gradient of the weights, its derivative by the gradient of the output, that one's by the
    weights; on the query set the first two."""
    tasks, n, m, d = 3, 4, 6, 5
    workload = Workload(
        "line", lambda: torch.nn.Linear(d, d, bias=False), mse, inner_lr=0.1, inner_steps=1,
        adapts=("*",), tasks=tasks, example=(d,), n_way=0, support=n, query=m,
    )  # fmt: skip
    assert bound(workload.problem(0), "cpu").flop == tasks * 2 * d * d * (4 * n + 2 * m)


def test_traffic_is_what_is_read_and_written_and_no_views() -> None:
    numbers = torch.ones(10)
    with Traffic() as traffic:
        numbers.view(2, 5).t() + 1
    assert traffic.bytes == 2 * 10 * 4


def test_seconds_are_at_the_rates_of_the_machine() -> None:
    limits = Bound(flop=6_000_000_000, bytes=1_000_000_000, flop_per_s=2e11, bytes_per_s=4e10)
    assert limits.seconds == {"arithmetic": 0.03, "traffic": 0.025}
    assert "6 GFLOP, 30 ms at this machine's matrix product (200 GFLOP/s)" in str(limits)
    assert "1 GB, 25 ms at its copy (40 GB/s)." in str(limits)


def test_others_have_batch_norm_of_torch_and_ours_stays_as_it_is() -> None:
    problem = from_config("mini_1shot").problem(0, torch.float64)
    others = problem.with_layers_of_torch()
    x = problem.episode.support_x[0]
    ours, theirs = (set(operators_of(one.model(x).sum())) for one in (problem, others))
    assert "_NormaliseBackward" in ours - theirs
    assert "NativeBatchNormBackward0" in theirs - ours
    torch.testing.assert_close(problem.model(x), others.model(x))


def operators_of(output: torch.Tensor) -> Iterator[str]:
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
            yield node.name()
