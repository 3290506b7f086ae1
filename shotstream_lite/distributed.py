"""Several processes: what each works on, how they part, and models split over GPUs (FSDP2).

`accelerate launch --multi_gpu -m shotstream_lite.cli evaluate ...` starts a process a GPU; accelerate starts several on
CPUs only through MPI, so without it `torchrun --nproc-per-node 4 -m shotstream_lite.cli evaluate ...` does.

A split model is one unit: its weights are whole while it computes and split otherwise, which at 1.3 billion parameters
is what a GPU has room for. FSDP works by hooks on a model's entrances, and ours are `joint`, `context`, `chunk` and
`caption_keys` and not `forward`.
"""

import atexit
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # torchrun and accelerate, Intel's MPI and MPICH, Open MPI
ENTRANCES = ("joint", "context", "chunk", "caption_keys")


class Share:
    """This process among those that a launcher started; alone, and on the CPU, if none did."""

    def __init__(self) -> None:
        self.rank, self.size, self.device = 0, 1, "cpu"
        if any(int(os.environ.get(name, "1")) > 1 for name in COUNTS):
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


def part_at_exit() -> None:
    """Leaves the others, if there are any, before the interpreter is taken down.

    A thread of gloo's that is still there then may abort its process, and the launcher stops all others for that, even
    the first one while it writes what all have measured.
    """

    def part() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(part)


def shard_model(model: nn.Module, device: torch.device, processes: int) -> None:
    """Splits a transformer over all processes, in place; make its optimizer after that."""
    # What leaves an entrance is a view of other memory; FSDP warns of in-place changes, and we make none.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    fully_shard(model, mesh=init_device_mesh(device.type, (processes,)))
    for name in ENTRANCES:
        register_fsdp_forward_method(model, name)


def unsharded_class(model: nn.Module) -> type[nn.Module]:
    """The class a model had before `shard_model`."""
    return next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def gathered(state: Any, keep: bool = True) -> Any:
    """A state dict with all split tensors made whole, on the CPU. All processes call it; who does not `keep` gets None
    for a tensor."""
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(state, dict):
        return {key: gathered(value, keep) for key, value in state.items()}
    return state


def alike(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The split and the whole ones apart: torch's functions for many tensors at once take no mixture."""
    groups: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(isinstance(parameter, DTensor), []).append(parameter)
    return list(groups.values())


def clip_gradients(parameters: Iterable[nn.Parameter], clip: float) -> float:
    """`torch.nn.utils.clip_grad_norm_` for parameters of which some may be split; the norm before."""
    groups = alike(p for p in parameters if p.grad is not None)
    norms = [nn.utils.get_total_norm([p.grad for p in group]) for group in groups]
    norm = torch.linalg.vector_norm(torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]))
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, clip, norm)
    return float(norm)


def load_module(module: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors into a module that may be split."""
    own = module.state_dict()
    module.load_state_dict({name: _split_like(value, own.get(name)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors into the optimizer of parameters that may be split."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {name: _split_like(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})


def _split_like(value: Any, own: Any) -> Any:
    """A tensor split as `own` is, if `own` is split and of its shape (step counters are not)."""
    if isinstance(own, DTensor) and isinstance(value, Tensor) and value.shape == own.shape:
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    return value
