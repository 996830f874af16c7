"""A fingerprint of evaluation tasks: who reports the same one tested on the same tasks."""

import hashlib

import torch
from torch import Tensor

from lightning_maml.episode import Episode, TaskBatch


def task_digests(episode: Episode | TaskBatch) -> Tensor:
    """A 64-bit hash of each task's shapes, dtypes and values. Shape: ``[tasks]``, int64."""
    # float32 whatever the precision of the run.
    tensors = [
        (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for tensor in episode
    ]
    digests = []
    for task in range(episode.tasks):
        digest = hashlib.blake2b(digest_size=8)
        for tensor in tensors:
            digest.update(f"{tensor.dtype}{list(tensor.shape[1:])}".encode())
            digest.update(tensor[task].reshape(-1).view(torch.uint8).numpy().data)
        digests.append(int.from_bytes(digest.digest(), "big", signed=True))
    return torch.tensor(digests, dtype=torch.int64, device=episode[0].device)


def fingerprint(digests: Tensor) -> str:
    """One hash of the tasks' hashes, whatever order or batches they came in."""
    in_order = digests.cpu().sort().values
    return hashlib.blake2b(in_order.numpy().tobytes(), digest_size=8).hexdigest()
