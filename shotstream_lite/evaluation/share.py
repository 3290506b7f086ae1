"""Work split over processes: each takes every n-th story, and the first one gathers what all of them measured.

`accelerate launch --multi_gpu -m shotstream_lite.cli evaluate ...` starts a process a GPU; accelerate starts several on
CPUs only through MPI, so without it `torchrun --nproc-per-node 4 -m shotstream_lite.cli evaluate ...` does.
"""

import os
from collections.abc import Sequence
from typing import Any

from shotstream_lite.processes import part_at_exit

COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # torchrun and accelerate, Intel's MPI and MPICH, Open MPI


class Share:
    """This process among those that a launcher started; alone, and on the CPU, if none did."""

    def __init__(self) -> None:
        self.rank, self.size, self.device = 0, 1, "cpu"
        if any(int(os.environ.get(name, "1")) > 1 for name in COUNTS):
            import torch
            from accelerate import PartialState  # one process does without

            state = PartialState(cpu=not torch.cuda.is_available())
            part_at_exit()
            self.rank, self.size, self.device = state.process_index, state.num_processes, str(state.device)

    @property
    def first(self) -> bool:
        """Whether this process reports."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """The numbers of 0..count-1 that this process works on."""
        return range(self.rank, count, self.size)

    def gather(self, parts: Sequence[Any]) -> list[Any]:
        """Everybody's parts, put together in the order of their numbers."""
        if self.size == 1:
            return list(parts)
        from accelerate.utils import gather_object

        by_process = gather_object([list(parts)])
        longest = max(map(len, by_process))
        return [share[i] for i in range(longest) for share in by_process if i < len(share)]
