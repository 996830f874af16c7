"""First against second order: how much the meta-gradients differ, and what they cost.

    python benchmarks/first_order.py lightning_maml/weights/sinusoid.ckpt
    python benchmarks/first_order.py CHECKPOINT --root DATA --batches 20 --device cuda

The paper (Sec. 5.2): first order is nearly as good and about 33% faster, since second derivatives
of networks with ReLU may be close to zero. At the weights of a checkpoint, over batches of
training tasks, this prints the cosine between the two meta-gradients, the norm of their difference
over that of the exact one, and the time of each (median; each goes first in turn).
"""

import argparse
import statistics
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.episodic import EpisodicDataModule
from lightning_maml import Episode, MetaLearner
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.run.from_checkpoint import read_checkpoint, settings_of


def data_of(checkpoint: Path, root: str | None) -> EpisodicDataModule:
    """The datamodule that the checkpoint was trained on."""
    found = settings_of(read_checkpoint(checkpoint), "data")
    if found is None:
        raise SystemExit(f"{checkpoint} does not say what it was trained on.")
    module, _, name = found["class_path"].rpartition(".")
    settings: dict[str, Any] = {**found["init_args"], **({"root": root} if root else {})}
    data: EpisodicDataModule = getattr(import_module(module), name)(**settings)
    data.prepare_data()
    return data


def timed_gradient(learner: MetaLearner, loop: InnerLoop, episode: Episode) -> tuple[Tensor, float]:
    """All of the meta-gradient as one vector, and the seconds it took."""
    if episode.query_x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    grads = learner.engine.meta_gradient(loop, episode, learner._step_sizes()).grads
    if episode.query_x.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    flat = torch.cat([g.flatten() for part in grads for g in part.values()]).double().cpu()
    return flat, seconds


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", help="where the data is, if not where it was in training")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    learner = MetaLearner.load_from_checkpoint(
        options.checkpoint, map_location=options.device, weights_only=True
    )
    loops = [replace(learner.inner_loop, first_order=first) for first in (False, True)]
    data = data_of(options.checkpoint, options.root)
    cosines, differences, seconds = [], [], []
    batches = iter(data.train_dataloader())
    for number in range(options.batches + 1):
        batch = data.on_after_batch_transfer(next(batches), 0)
        episode = Episode(*(part.to(options.device) for part in batch))
        order = slice(None, None, -1 if number % 2 else 1)
        results = [timed_gradient(learner, loop, episode) for loop in loops[order]][order]
        (exact, slow), (first, fast) = results
        if number:  # the first warms up, and compiles
            cosines.append(torch.cosine_similarity(exact, first, dim=0).item())
            differences.append(((exact - first).norm() / exact.norm()).item())
            seconds.append((slow, fast))
    slow, fast = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(f"torch {torch.__version__}, {options.device}, {options.batches} batches")
    print("| cosine | difference / norm | second order | first order | time saved |")
    print("|---|---|---|---|---|")
    cosine, difference = statistics.mean(cosines), statistics.mean(differences)
    print(
        f"| {cosine:.4f} | {difference:.3f} | {1e3 * slow:.1f} ms | {1e3 * fast:.1f} ms | "
        f"{1 - fast / slow:.0%} |"
    )


if __name__ == "__main__":
    main()
