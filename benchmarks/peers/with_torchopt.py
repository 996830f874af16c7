"""TorchOpt (Ren et al., JMLR 2023; github.com/metaopt/torchopt), in the two ways of its examples.

Functional, tasks batched by `vmap` (examples/FuncTorch/maml_omniglot_vmap.py), and with its
differentiable optimizer `MetaSGD`, task by task (examples/few-shot/maml_omniglot.py).
"""

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from peers.workloads import Gradient, Problem, Run, taken


def batched(problem: Problem) -> Run:
    """Functional; all tasks at once."""
    import torchopt

    workload, model = problem.workload, problem.model
    parameters: Gradient = dict(model.named_parameters())
    optimizer = torchopt.sgd(lr=workload.inner_lr)

    def loss(adapted: Gradient, x: Tensor, y: Tensor) -> Tensor:
        return problem.loss(functional_call(model, parameters | adapted, (x,)), y)

    def query_loss(
        support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> Tensor:
        adapted = {name: parameters[name] for name in problem.adapted}
        state = optimizer.init(adapted)
        for _ in range(workload.inner_steps):
            grads = grad(loss)(adapted, support_x, support_y)
            updates, state = optimizer.update(grads, state, inplace=False)
            adapted = torchopt.apply_updates(adapted, updates, inplace=False)
        return loss(adapted, query_x, query_y)

    def run() -> Gradient:
        losses: Tensor = vmap(query_loss)(*problem.episode)
        losses.mean().backward()
        return taken(model)

    return run


def task_by_task(problem: Problem) -> Run:
    """`MetaSGD`. The backward pass is each task's own, which takes less memory than its example."""
    import torchopt

    workload, model = problem.workload, problem.model
    optimizer = torchopt.MetaSGD(_adapted_part(problem), lr=workload.inner_lr)

    def run() -> Gradient:
        start = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
        fresh = torchopt.extract_state_dict(optimizer, by="reference")
        for support_x, support_y, query_x, query_y in zip(*problem.episode, strict=True):
            for _ in range(workload.inner_steps):
                optimizer.step(problem.loss(model(support_x), support_y))
            (problem.loss(model(query_x), query_y) / workload.tasks).backward()
            torchopt.recover_state_dict(model, start)
            torchopt.recover_state_dict(optimizer, fresh)
        return taken(model)

    return run


def _adapted_part(problem: Problem) -> nn.Module:
    """The layers whose parameters the inner loop changes: `MetaSGD` takes whole modules."""
    adapted = {id(problem.model.get_parameter(name)) for name in problem.adapted}
    layers = [
        module
        for module in problem.model.modules()
        if adapted & {id(parameter) for parameter in module.parameters(recurse=False)}
    ]
    return nn.ModuleList(layers)
