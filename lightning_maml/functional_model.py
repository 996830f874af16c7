"""A module as a pure function of its tensors, and what torch.func needs around it."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_maml.inner_loop import Params, TaskLoss
from lightning_maml.losses import Loss
from lightning_maml.start import makes_tensors


@dataclass(frozen=True)
class ModuleTensors:
    """All tensors of a module, by name and by what happens to them.

    Attributes:
        adapted: trainable parameters that the inner loop changes.
        held: trainable parameters that it leaves alone.
        frozen: parameters with `requires_grad=False`.
        buffers: the module's buffers, but for those that tasks make anew.
        made: those of the buffers that each task makes anew (start.py) which are adapted.
    """

    adapted: Params
    held: Params
    frozen: Params
    buffers: Params
    made: Params

    @property
    def stepped(self) -> Params:
        """All that is adapted; of what is made one row, which its classes share."""
        rows = {name: t.new_zeros(1, *t.shape[1:]) for name, t in self.made.items()}
        return self.adapted | rows


def module_tensors(
    model: nn.Module, adapts: Sequence[str], also_trainable: Collection[str] = ()
) -> ModuleTensors:
    """Sort a module's tensors; names are those that `model.named_parameters()` gives.

    A trainable parameter is adapted if one of the patterns `adapts` (`fnmatch`) matches its name,
    or another name of it where two layers share it. Those named in `also_trainable` count as
    trainable whatever `requires_grad` says. Buffers that tasks make anew are matched likewise.

    Raises:
        ValueError: if a pattern matches no trainable parameter, the message lists them; if there
            are no patterns; or if a part of the model, not the whole, makes tensors of each task.
    """
    aliases: dict[int, list[str]] = {}
    parameters: Params = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in aliases:
            parameters[name] = parameter
        aliases.setdefault(id(parameter), []).append(name)
    buffers = dict(model.named_buffers())
    _check_whole(model)
    made = {name: buffers.pop(name) for name in model.made} if makes_tensors(model) else {}
    trainable = {n: p for n, p in parameters.items() if p.requires_grad or n in also_trainable}
    known = {name: aliases[id(p)] for name, p in trainable.items()} | {n: [n] for n in made}
    matched = {
        pattern: {
            name
            for name, names in known.items()
            if any(fnmatchcase(alias, pattern) for alias in names)
        }
        for pattern in adapts
    }
    if not known:
        raise ValueError(f"`model` must have trainable parameters, got {type(model).__name__}.")
    for pattern, names in matched.items():
        if not names:
            raise ValueError(
                f"`adapts` must be patterns that match trainable parameters of the model, got "
                f"{pattern!r}, which matches none of {list(known)}."
            )
    if not matched:
        raise ValueError("`adapts` must name at least one pattern, got none.")
    adapted = set().union(*matched.values())
    return ModuleTensors(
        adapted={n: p for n, p in trainable.items() if n in adapted},
        held={n: p for n, p in trainable.items() if n not in adapted},
        frozen={n: p for n, p in parameters.items() if n not in trainable},
        buffers=buffers,
        made={n: t for n, t in made.items() if n in adapted},
    )


def _check_whole(model: nn.Module) -> None:
    for name, part in model.named_modules():
        if name and makes_tensors(part):
            raise ValueError(
                f"`model` must not have {type(part).__name__} as a part, got one as `{name}`: it "
                "must be the whole model, with all else in its body."
            )


def call_without_trace(model: nn.Module, x: Tensor, weights: Params | None = None) -> Tensor:
    """``model(x)``, but what `forward` writes to a buffer does not outlive the call.

    With `weights` in the place of the parameters of these names.
    """
    scratch = {name: buffer.clone() for name, buffer in model.named_buffers()}
    output: Tensor = functional_call(model, {**(weights or {}), **scratch}, (x,))
    return output


def task_loss(model: nn.Module, loss: Loss, frozen: Params, buffers: Params) -> TaskLoss:
    """The loss of one task as a function of the adapted and held parameters.

    What `forward` writes to a buffer does not outlive the call: an episode leaves no trace.
    """

    def call(adapted: Params, held: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scratch = {name: buffer.clone() for name, buffer in buffers.items()}
        output = functional_call(model, {**adapted, **held, **frozen, **scratch}, (x,))
        if not isinstance(output, Tensor):
            raise ValueError(f"`model` must return one tensor, got {type(output).__name__}.")
        return loss(output, y), output

    return call


@contextmanager
def second_derivatives(model: nn.Module) -> Iterator[None]:
    """No autograd graph around, and only kernels that can be differentiated twice.

    The fused kernels of attention have no second derivative, and a CPU's fused LSTM has none in
    forward mode; eval mode's fused transformer layer has neither, nor a `vmap` rule.
    """
    fused, fast = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mkldnn.enabled = fused
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()`, and every submodule's own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


NOT_BATCHED = ("vmap", "Batching rule", "doesn't match the broadcast shape")
NO_FORWARD_MODE = ("forward AD", "forward-mode", "jvp")


@contextmanager
def errors_explained(tasks_at_once: int, derivation: str) -> Iterator[None]:
    """Turn torch's errors about operators into ones that say what a user can do about them."""
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        if derivation == "sweep" and any(words in said for words in NO_FORWARD_MODE):
            advice = "has an operator without forward-mode derivative; set `derivation` to "
            advice += f'"unrolled" (got "{derivation}")'
        elif tasks_at_once > 1 and any(words in said for words in NOT_BATCHED):
            advice = "cannot be batched over tasks; set `tasks_at_once` to 1 to run the tasks one "
            advice += f"by one (got {tasks_at_once})"
        else:
            raise
        raise RuntimeError(f"The model or the loss {advice}. torch said: {said}") from error
