"""A function split into what can be computed before its last argument is known, and the rest.

Conjugate gradient multiplies the same matrix with ten vectors: everything that does not depend on
the vector, such as the activations of all samples, is computed once. `torch.func.linearize` does
the same for one function at one place; here the split is found once, and used at every place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

Program = Callable[..., Any]

aten = torch.ops.aten
ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}
PRODUCTS = {aten.mul.Tensor, aten.mm.default, aten.bmm.default}  # zero where any factor is
MOVES = {  # zero where what they take is
    aten.alias.default,
    aten.expand.default,
    aten.neg.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten._unsafe_view.default,
}


class Prepared(NamedTuple):
    """What is known without the last argument: what `apply` needs, and the value of `aside`."""

    needed: list[Tensor]
    aside: Any


def _nothing(fixed: Any) -> tuple[()]:
    return ()


class Split:
    """``function(fixed, moving)`` as ``apply(prepare(fixed), moving)``.

    `function` must be made of tensor operations alone, without random numbers and without control
    flow that depends on values. Arguments and results are pytrees of tensors, always of the same
    structure, shapes and dtypes.

    Args:
        function: of two pytrees.
        fixed: an example of the first.
        moving: an example of the second.
        compile: run both halves through `torch.compile`.
        aside: a function of `fixed` alone, made like the other, that is wanted too; what it has in
            common with `function` is computed once.
    """

    def __init__(
        self,
        function: Program,
        fixed: Any,
        moving: Any,
        compile: bool = False,
        aside: Program = _nothing,
    ) -> None:
        fixed_leaves, fixed_spec = tree_flatten(fixed)
        moving_leaves, moving_spec = tree_flatten(moving)
        # A tensor that is also in `fixed` would be taken for that one.
        moving_leaves = [leaf.clone() for leaf in moving_leaves]
        count = len(fixed_leaves)

        def flat(*leaves: Tensor) -> list[Tensor]:
            fixed = tree_unflatten(leaves[:count], fixed_spec)
            result = function(fixed, tree_unflatten(leaves[count:], moving_spec))
            values, self._result_spec = tree_flatten(result)
            beside, self._aside_spec = tree_flatten(aside(fixed))
            return values + beside

        whole = make_fx(functionalize(flat))(*fixed_leaves, *moving_leaves)
        _drop_zeros(whole.graph)
        whole.graph.eliminate_dead_code()
        _share(whole.graph)
        halves = _halves(whole, count, self._result_spec.num_leaves)
        self._prepare, self._apply = (torch.compile(h, dynamic=False) if compile else h
                                      for h in halves)  # fmt: skip

    def prepare(self, fixed: Any) -> Prepared:
        """Everything about `fixed` that `apply` needs, and `aside`."""
        needed, beside = self._prepare(*tree_flatten(fixed)[0])
        return Prepared(list(needed), tree_unflatten(list(beside), self._aside_spec))

    def apply(self, prepared: Prepared, moving: Any) -> Any:
        """The function's value."""
        values = self._apply(*prepared.needed, *tree_flatten(moving)[0])
        return tree_unflatten(list(values), self._result_spec)


def _drop_zeros(graph: fx.Graph) -> None:
    """Add nothing that is zero whatever comes in, such as the tangents of what stands still."""
    zero: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        among = [operand in zero for operand in node.all_input_nodes]
        if (
            node.target in ZEROS
            or (node.target in MOVES and all(among))
            or (node.target in PRODUCTS and any(among))
        ):
            zero.add(node)
        elif node.target is aten.add.Tensor and any(among) and not node.kwargs:
            one, other = node.args
            kept = other if one in zero else one
            if isinstance(kept, fx.Node) and _dtype(kept) == _dtype(node):
                with graph.inserting_before(node):
                    same = graph.call_function(aten.expand.default, (kept, list(_shape(node))))
                    same.meta = node.meta
                node.replace_all_uses_with(same)
                graph.erase_node(node)
                if kept in zero:
                    zero.add(same)


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _dtype(node: fx.Node) -> torch.dtype:
    return node.meta["tensor_meta"].dtype


def _share(graph: fx.Graph) -> None:
    """Let equal operations on equal operands be one."""
    known: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        key = (node.target, repr(node.args), repr(sorted(node.kwargs.items(), key=str)))
        if (same := known.setdefault(key, node)) is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)


def _halves(whole: fx.GraphModule, fixed: int, moved: int) -> tuple[nn.Module, nn.Module]:
    """The part of the graph without and the part with the placeholders after the first `fixed`.

    Of the graph's values, the first `moved` are the second part's.
    """
    inputs = whole.graph.find_nodes(op="placeholder")
    moving = dict.fromkeys(inputs[fixed:])
    before, after = fx.Graph(), fx.Graph()
    early: dict[fx.Node, fx.Node] = {}
    late: dict[fx.Node, fx.Node] = {}
    handed_over: list[fx.Node] = []
    rest = []
    for node in whole.graph.nodes:
        if node.op == "output":
            results, beside = node.args[0][:moved], node.args[0][moved:]
            handed_over += [n for n in results if n in early and n not in handed_over]
        elif node in moving or any(n in moving for n in node.all_input_nodes):
            moving[node] = None
            rest.append(node)
            handed_over += [n for n in node.all_input_nodes if n in early and n not in handed_over]
        else:
            early[node] = before.node_copy(node, early.__getitem__)
    for node in handed_over:
        late[node] = after.placeholder(node.name)
    for node in rest:
        late[node] = after.node_copy(node, late.__getitem__)
    before.output(([early[node] for node in handed_over], [early[node] for node in beside]))
    after.output([late[node] for node in results])
    return fx.GraphModule(whole, before), fx.GraphModule(whole, after)
