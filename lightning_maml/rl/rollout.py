"""Acting: trajectories of a policy per task, in all tasks at once (Alg. 3, lines 5 and 8)."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise, repeat
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lightning_maml.episode import TaskBatch
from lightning_maml.rl.environment import (
    Environment,
    Flags,
    Floats,
    State,
    Transition,
    finite_rows,
)
from lightning_maml.rl.environment_checks import (
    check_reward,
    check_seen,
    check_start,
    check_step,
)
from lightning_maml.rl.streams import Streams
from lightning_maml.rl.trajectories import Trajectories
from lightning_maml.rl.turn import taken

Policies = Callable[[Tensor], Tensor]
"""Observations of all tasks to outputs: ``[tasks, n, observation_size] -> [tasks, n, 2A]``."""
Look = Callable[[int, State], Any]
"""What is noted of a state, so many steps after the start."""


@runtime_checkable
class DividedPolicies(Protocol):
    """`Policies` that can be had for some of the tasks; the parts may act at the same time."""

    def part(self, tasks: slice) -> Policies:
        """Those of some tasks."""


class _Acted(NamedTuple):
    """What some tasks gave: at each step the columns of `Trajectories`, ``[n, ...]`` each, but for
    the last column.
    """

    steps: list[tuple[Any, ...]]
    broken: np.ndarray


@torch.no_grad()
def sample(
    environment: Environment,
    policies: Policies,
    batch: TaskBatch,
    streams: int,
    inner_step: int = 0,
    look: Look | None = None,
) -> Trajectories:
    """Trajectories of each task's policy in its task.

    `streams` episodes run side by side in each task. Where one ends before the horizon, the next
    begins in its place as long as the stream is shorter than the horizon; each episode that began
    is run to its end. So every task gives at least ``streams * horizon`` steps, and no episode is
    in or out because of its own length. An action that is not finite breaks its episode off; that
    step is not valid, and its reward is NaN.

    Args:
        environment: what to act in. If it is to be had several times (`side_by_side`), and the
            policies in parts (`DividedPolicies`), the tasks are divided among threads: the policy
            acts in one part while another is simulated. The division depends on the number of
            tasks alone, since the last bits of a policy's output may depend on it.
        policies: outputs for observations on this process's CPU; actions have their dtype.
        batch: the tasks; all random numbers follow from their keys.
        streams: episodes side by side in each task.
        inner_step: number of updates behind the policies: rollouts after another number of
            updates take fresh random numbers.
        look: called with the states of all ``tasks * streams`` episodes, tasks first; where one
            ends with its last state, and not with the first of the next in its place.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the environment's own threads have the cores
    try:
        several = environment.side_by_side()[: batch.tasks] if look is None else []
        if len(several) < 2 or not isinstance(policies, DividedPolicies):
            acted = _act(environment, policies, batch, streams, inner_step, look)
            return _joined([acted], batch.tasks)
        bounds = [batch.tasks * i // len(several) for i in range(len(several) + 1)]
        parts = [slice(*pair) for pair in pairwise(bounds)]
        batches = [TaskBatch(*(values[part] for values in batch)) for part in parts]
        divided = [policies.part(part) for part in parts]
        with ThreadPoolExecutor(len(set(map(id, several)))) as pool:

            def each(function: Callable[..., Any], *args: Iterable[Any]) -> Iterable[Any]:
                return pool.map(_as_here(function), *args)

            act = _act_in_turn if all(one.gives_way for one in several) else _act
            all_acted = each(act, several, divided, batches, repeat(streams), repeat(inner_step))
            return _joined(list(all_acted), batch.tasks, each)
    finally:
        torch.set_num_threads(threads)


def _as_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for another thread, in which gradients would be on and inference mode off."""
    inference = torch.is_inference_mode_enabled()

    def there(*args: Any) -> Any:
        with torch.inference_mode(inference), torch.no_grad():
            return function(*args)

    return there


def _act_in_turn(*args: Any) -> _Acted:
    with taken():
        return _act(*args)


def _act(
    environment: Environment,
    policies: Policies,
    batch: TaskBatch,
    streams: int,
    inner_step: int,
    look: Look | None = None,
) -> _Acted:
    run = Streams(environment, batch, streams, inner_step)
    state, observation = environment.start(run.tasks, run.start_noise)
    if look is not None:
        look(0, state)
    check_start(environment, observation, run.n)
    seen = torch.zeros(run.n, observation.shape[1], dtype=torch.float64)
    broken = np.zeros(run.n, np.int64)
    steps: list[tuple[Any, ...]] = []
    for t in count():
        # In torch's memory: products' last bits depend on how aligned it is, numpy's is less so.
        seen = torch.empty_like(seen) if run.all_on else seen.clone()
        seen.numpy()[run.on] = observation
        output = policies(seen.view(batch.tasks, streams, -1)).view(run.n, -1)
        seen = seen.to(output)  # and so are the next
        output, action, lost = _actions(output, run.noise())
        if lost.any():
            check_seen(environment, seen.numpy()[lost & run.alive])
        moved = environment.step(state, action[run.on], run.tasks[run.on])
        if t == 0:
            check_step(environment, moved, run.n)
        state, observation = moved.state, moved.observation
        if look is not None:
            look(t + 1, state)
        reward = _rewards(environment, run, moved, lost)
        ended = run.everywhere(moved.ended, lost)
        failed = (run.everywhere(moved.broken, lost) | lost) & run.alive
        broken += failed
        last = run.alive & (ended | failed | (run.age + 1 >= environment.horizon))
        steps.append((seen, action, output, reward, run.age.copy(), last, run.alive & ~lost))
        run.age += 1
        again = last & (t + 1 < environment.horizon)
        run.alive &= ~last | again
        if not run.alive.any():
            break
        if again.any():
            run.begin(again)
            state, observation = environment.restart(state, again, run.tasks, run.start_noise)
        elif last.any() and look is None:  # which sees all
            state, observation = run.leave_out(environment, state, observation)
    return _Acted(steps, broken.reshape(batch.tasks, streams).sum(axis=1))


def _actions(output: Tensor, noise: Floats) -> tuple[Tensor, Floats, Flags]:
    """Outputs and actions ``[n, ...]``, and which of them are not finite: these become 0."""
    size = noise.shape[1]
    mean, log_std = output.numpy()[:, :size], output.numpy()[:, size:]
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is `lost`
        action = mean + np.exp(log_std) * noise
    lost = ~finite_rows(action)
    if lost.any():
        action[lost] = 0
        output = torch.where(torch.from_numpy(lost)[:, None], torch.zeros(()), output)
    return output, action, lost


def _rewards(environment: Environment, run: Streams, moved: Transition, lost: Flags) -> Floats:
    """Of all streams ``[n]``: NaN where the action was `lost`, else finite, 0 if it had none."""
    reward = run.everywhere(moved.reward, np.zeros(run.n))
    if not np.isfinite(reward).all():
        broken = run.everywhere(moved.broken, lost)
        check_reward(environment, reward[run.alive & ~lost & ~broken])
        reward = np.nan_to_num(reward, nan=0.0, posinf=0.0, neginf=0.0)
    return np.where(lost, np.nan, reward)


def _joined(
    parts: Sequence[_Acted], tasks: int, each: Callable[..., Iterable[Any]] = map
) -> Trajectories:
    """All tasks; `each` is `map`, or that of a pool of threads."""
    longest = max(len(part.steps) for part in parts)
    rows = np.cumsum([0, *(len(part.steps[0][0]) for part in parts)]).tolist()
    first = [torch.as_tensor(value) for value in parts[0].steps[0]]
    columns = [one.new_empty(rows[-1], longest, *one.shape[1:]) for one in first]

    def fill(part: _Acted, begin: int, end: int) -> None:
        for column, values in zip(columns, zip(*part.steps, strict=True), strict=True):
            tensors = [torch.as_tensor(value) for value in values]
            torch.stack(tensors, dim=1, out=column[begin:end, : len(values)])
            column[begin:end, len(values) :] = 0

    list(each(fill, parts, rows[:-1], rows[1:]))
    broken = torch.from_numpy(np.concatenate([part.broken for part in parts]))
    by_task = [column.view(tasks, -1, *column.shape[1:]) for column in columns]
    return Trajectories._make([*by_task, broken])
