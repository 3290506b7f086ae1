"""`shotstream info`: what a report of a fault has to say of the machine it happened on."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from shotstream_lite import __version__

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "av", "gradio", "accelerate", "peft", "flash-attn")


@dataclass
class Info:
    """Print versions, devices, attention backend and memory, for the report of a fault."""

    def run(self) -> int:
        """Prints it, a fact a line."""
        for name, value in facts():
            print(f"{name + ':':<13} {value}")
        return 0


def facts() -> Iterator[tuple[str, str]]:
    """Names and values, none of them private: no paths, no names of users or machines."""
    import torch

    from shotstream_lite.attention import chosen, fast_backend
    from shotstream_lite.models.folder import default_dtype
    from shotstream_lite.models.memory import GIB, host_memory
    from shotstream_lite.report import cpu_name

    yield "shotstream", __version__
    yield "python", f"{platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"
    free, there = host_memory()
    yield "cpu", f"{cpu_name()}, {torch.get_num_threads()} threads, {free / GIB:.1f} of {there / GIB:.1f} GiB free"
    cards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for card in cards:
        free, there = torch.cuda.mem_get_info(card)
        major, minor = torch.cuda.get_device_capability(card)
        yield (
            str(card),
            (
                f"{torch.cuda.get_device_name(card)}, capability {major}.{minor}, CUDA {torch.version.cuda}, "
                f"{free / GIB:.1f} of {there / GIB:.1f} GiB free"
            ),
        )
    for device in cards or [torch.device("cpu")]:  # of the full model's shape
        yield "attention", chosen(fast_backend(device), 12, 128, device, default_dtype(device))
