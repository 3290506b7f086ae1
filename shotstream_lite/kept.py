"""What is kept between runs says what it was made from: a file is used again for the same key and for nothing else."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_file


def key_of(**parts: Any) -> str:
    """A name for everything that something depends on; parts are whatever JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(state: Mapping[str, Tensor], prefixes: tuple[str, ...] = ("",)) -> str:
    """A name for weights: those whose names begin with one of the prefixes."""
    found = hashlib.sha256()
    for name in sorted(name for name in state if name.startswith(prefixes)):
        found.update(name.encode())
        found.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def encoder_fingerprint(vae: torch.nn.Module) -> str:
    """Of a codec, what latents depend on; its decoder may go on learning."""
    scale = {name: list(getattr(vae.config, name)) for name in ("latents_mean", "latents_std")}
    return key_of(weights=fingerprint(vae.state_dict(), ("encoder.", "quant_conv.")), **scale)


def keep(path: Path, tensors: Mapping[str, Tensor], key: str, **said: Any) -> None:
    """Writes tensors whole or not at all, with their key and with what else shall be known about them."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path, CheckpointError) as part:
        save_file(contiguous, part, {"kept": json.dumps({"key": key} | said)})  # one entry: several have no order


def notes(path: Path) -> dict[str, Any]:
    """What `keep` was told about a file, and its "key". Raises CheckpointError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("kept", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): remove it, it is made again") from None


def is_kept(path: Path, key: str) -> bool:
    """Whether a whole file with this key is there."""
    try:
        return path.exists() and notes(path).get("key") == key
    except CheckpointError:
        return False
