"""How several processes that a launcher started part: in order, and not by dying."""

import atexit


def part_at_exit() -> None:
    """Leaves the others, if there are any, before the interpreter is taken down.

    A thread of gloo's that is still there then may abort its process, and the launcher stops all others for that, even
    the first one while it writes what all have measured.
    """
    atexit.register(_part)


def _part() -> None:
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
