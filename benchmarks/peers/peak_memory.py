"""Peak memory of one meta-gradient above what was held before it.

On CUDA the peak is the allocator's, on a CPU that of a process of its own, as Linux keeps it. A
first meta-gradient is not counted: it compiles, and loads what is loaded once.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from peers.contestants import contestants
from peers.ours import first_order, precisions
from peers.workloads import Run, from_config

SCRIPTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """What a process measures.

    Attributes:
        workload: name of its config.
        contestant: by name.
        tasks: in the batch; None: the config's.
        inner_steps: likewise.
        learn2learn: its source.
    """

    workload: str
    contestant: str
    tasks: int | None = None
    inner_steps: int | None = None
    device: str = "cpu"
    seed: int = 0
    threads: int | None = None
    learn2learn: str | None = None

    def run(self) -> Run:
        """The contestant, made."""
        workload = from_config(self.workload)
        workload = replace(
            workload,
            tasks=self.tasks or workload.tasks,
            inner_steps=self.inner_steps or workload.inner_steps,
        )
        source = None if self.learn2learn is None else Path(self.learn2learn)
        makes = contestants(workload, source) | first_order(workload)
        make = (makes | precisions(workload, self.device))[self.contestant]
        return make(workload.problem(self.seed, device=self.device))

    def peak_bytes(self) -> int:
        """`peak_bytes` in a fresh process.

        Raises:
            OSError: if that process failed, say because there is not so much memory.
        """
        path = os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))
        # glibc returns large blocks at once only below this fixed threshold; else the peak of the
        # process is that of its fragmented heap.
        more = {"PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
        command = [sys.executable, "-m", "peers.peak_memory", json.dumps(asdict(self))]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more})
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise OSError(f"exit status {done.returncode}: {last}")
        return int(done.stdout.splitlines()[-1])


def peak_bytes(run: Run, device: str) -> int:
    """Of one call, in this process."""
    run()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - base
    ctypes.CDLL(None).malloc_trim(0)  # what is free, but small, goes back as well
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from here on
    base = _resident("VmRSS")
    run()
    return _resident("VmHWM") - base


def _resident(which: str) -> int:
    """Bytes: of the process now ("VmRSS") or at its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(which))
    return 1024 * int(found.split()[1])


def main() -> None:
    """Print the peak of the case given."""
    case = Case(**json.loads(sys.argv[1]))
    if case.threads:
        torch.set_num_threads(case.threads)
    print(peak_bytes(case.run(), case.device))


if __name__ == "__main__":
    main()
