"""Meta-learner LSTM (Ravi and Larochelle, 2017): an LSTM whose cell state are a network's weights.

Each gradient step is c_t = f_t c_{t-1} - i_t grad_t (Sec. 3.2), the gates f and i computed for
each weight alone, by one small network that all weights share.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from lightning_maml.argument_types import check_types
from lightning_maml.baselines.embedded_sets import (
    at_least_float32,
    class_count,
    negative_log_likelihood,
)
from lightning_maml.episode import Episode
from lightning_maml.functional_model import call_without_trace, module_tensors
from lightning_maml.inner_loop import Params
from lightning_maml.losses import cross_entropy
from lightning_maml.models.batch_norm import with_episode_statistics

P = 10.0  # of the preprocessing

# W weights of the network, H hidden units of the first LSTM


def preprocessed(x: Tensor) -> Tensor:
    """Size and sign of numbers of any size (Sec. 3.2, Eq. for preprocessing).

    (log|x| / p, sign x) where |x| >= e^-p, (-1, e^p x) elsewhere; p = 10. Shapes:
    ``[...] -> [..., 2]``.
    """
    large = x.abs() >= math.exp(-P)
    size = x.abs().clamp(min=math.exp(-P)).log() / P
    return torch.stack([size, torch.where(large, x.sign(), math.exp(P) * x)], dim=-1)


class State(NamedTuple):
    """Between two steps: weights, gates before the sigmoid, and the first LSTM's state.

    Shapes: ``weights [W]``, ``forget [W]``, ``put [W]``, ``hidden [W, H]``, ``cell [W, H]``.
    """

    weights: Tensor
    forget: Tensor
    put: Tensor
    hidden: Tensor
    cell: Tensor

    @classmethod
    def first(cls, weights: Tensor, hidden: int) -> Self:
        """Everything but the weights zero."""
        zero, wide = torch.zeros_like(weights), weights.new_zeros(len(weights), hidden)
        return cls(weights, zero, zero, wide, wide)


class Rule(nn.Module):
    """The learned update of a weight from its gradient and the loss.

    A gate sees its last value before the sigmoid, as in the original's published code; in its
    equations (Sec. 3.2) it is that after the sigmoid.

    Args:
        hidden: units of the first LSTM.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(4, hidden)
        self.forget, self.put = nn.Linear(hidden + 2, 1), nn.Linear(hidden + 2, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)
        nn.init.uniform_(self.forget.bias, 4, 5)  # f near 1 and i near 0: small gradient steps
        nn.init.uniform_(self.put.bias, -5, -4)

    def forward(self, state: State, gradient: Tensor, loss: Tensor) -> State:
        """One step; ``gradient [W]`` and the scalar ``loss`` are constants."""
        seen = torch.cat([preprocessed(loss.expand_as(gradient)), preprocessed(gradient)], dim=1)
        hidden, cell = self.lstm(seen, (state.hidden, state.cell))

        def gate(layer: nn.Linear, before: Tensor) -> Tensor:
            columns = [hidden, state.weights[:, None], before[:, None]]
            return layer(torch.cat(columns, dim=1)).squeeze(1)

        forget, put = gate(self.forget, state.forget), gate(self.put, state.put)
        weights = forget.sigmoid() * state.weights - put.sigmoid() * gradient
        return State(weights, forget, put, hidden, cell)


def named(weights: Tensor, like: Params) -> Params:
    """Weights ``[W]`` as tensors of the names, shapes and dtypes of `like`."""
    parts = weights.split([p.numel() for p in like.values()])
    pairs = zip(like.items(), parts, strict=True)
    return {name: part.view_as(parameter).to(parameter.dtype) for (name, parameter), part in pairs}


class MetaLSTM(nn.Module):
    """Adapts a network by the learned rule, and learns its initial weights as well.

    Gradient and loss of the support set are constants in training (Sec. 3.3): no second
    derivatives. Batch norm is that of the episode, see `MetaLearner`.

    Half precision is for the network alone; gates and cell state have 32 bits. f is near 1, where
    bfloat16 goes in steps of 0.004, and errors would add up over the gradient steps.

    Args:
        model: the network; its trainable weights are the initial ones, c_0. Frozen ones are
            constants.
        steps: gradient steps, each on the whole support set.
        hidden: units of the first LSTM.

    Raises:
        ValueError: if `steps` or `hidden` is below 1, or if `model` has no trainable parameters, or
            too few outputs for a task.
    """

    def __init__(self, model: nn.Module, steps: int, hidden: int = 20) -> None:
        check_types(MetaLSTM.__init__, locals())
        super().__init__()
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"`model` must have trainable parameters, got {type(model).__name__}.")
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {steps}.")
        if hidden < 1:
            raise ValueError(f"`hidden` must be at least 1, got {hidden}.")
        self.model, self.steps, self.hidden = with_episode_statistics(model), steps, hidden
        self.rule = Rule(hidden)

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log-probabilities of the classes, ``[T, Q, N]``; one task after another."""
        tasks = zip(support_x, support_y, query_x, strict=True)
        return torch.stack([self._solve(*task) for task in tasks])

    def training_loss(self, episode: Episode) -> Tensor:
        """Negative log-probability of the right class, mean over query examples."""
        return negative_log_likelihood(self(*episode[:3]), episode.query_y)

    def adapted(self, support_x: Tensor, support_y: Tensor) -> Params:
        """All parameters of the network by name after the steps on one task, frozen ones as well.

        Shapes: ``support_x [S, ...]``, ``support_y [S]``.

        Raises:
            ValueError: if `model` has too few outputs for the task, or is all frozen by now.
        """
        classes, start = class_count(support_y), module_tensors(self.model, ["*"]).adapted

        def support_loss(weights: Tensor) -> Tensor:
            output = call_without_trace(self.model, support_x, named(weights, start))
            if output.shape[1] < classes:
                raise ValueError(
                    f"`model` must have an output for each of the {classes} classes of a task, got "
                    f"{output.shape[1]} (its `n_way`)."
                )
            return cross_entropy(output, support_y)

        gradient_of = grad_and_value(support_loss)
        initial = torch.cat([p.flatten() for p in start.values()])
        state, rule = State.first(at_least_float32(initial), self.hidden), self._exact_rule()
        for _ in range(self.steps):
            gradient, loss = gradient_of(state.weights.detach())
            state = rule(state, gradient.detach(), loss.detach())
        return dict(self.model.named_parameters()) | named(state.weights, start)

    def _exact_rule(self) -> Callable[[State, Tensor, Tensor], State]:
        """The rule in float32 at least, whatever the precision of its parameters or of autocast."""
        # Raised once for all steps: their gradients are summed before they are rounded.
        exact = {name: at_least_float32(p) for name, p in self.rule.named_parameters()}

        def rule(state: State, gradient: Tensor, loss: Tensor) -> State:
            seen = (state, gradient, at_least_float32(loss))
            with torch.autocast(gradient.device.type, enabled=False):
                after: State = functional_call(self.rule, exact, seen)
            return after

        return rule

    def _solve(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        weights = self.adapted(support_x, support_y)
        logits = call_without_trace(self.model, query_x, weights)
        return logits.log_softmax(dim=-1)
