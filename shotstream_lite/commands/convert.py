"""`shotstream convert`: released weights in diffusers' format."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Convert:
    """Write released weights as a folder that this library and stock diffusers read."""

    source: tyro.conf.Positional[str]
    """A preset (wan-1.3b): the whole model; or a checkpoint's file (.pt, .safetensors, ...): its transformer."""
    target: tyro.conf.Positional[Path]
    """Folder to write; it must be new."""
    weights: tuple[str, ...] = ("student",)
    """Which transformers of a preset: student, intra-shot, causal-init, teacher, base."""
    lora: Path | None = None
    """A checkpoint of the inter-shot stage (generator_lora), to be merged into the student."""
    config: Path | None = None
    """config.json of a checkpoint's transformer, in diffusers' names or Wan's; by default that of wan-1.3b."""

    def run(self) -> int:
        """Writes the folder and says where it is."""
        from shotstream_lite.commands.common import check_unused
        from shotstream_lite.errors import CheckpointError
        from shotstream_lite.files import check_new
        from shotstream_lite.models.configs import read_config
        from shotstream_lite.models.convert import convert_transformer
        from shotstream_lite.models.folder import PRESETS, find_folder
        from shotstream_lite.models.released import read_release

        check_new(self.target, CheckpointError)
        source = Path(self.source).expanduser()
        if self.source in PRESETS or source.is_dir() or not (source.suffix or source.exists()):
            folder = find_folder(self.source)
            release = read_release(folder)
            if release is None:
                raise CheckpointError(f"preset {self.source}: is in diffusers' format already: use {folder}")
            if self.config:
                raise CheckpointError(f"--config {self.config}: a preset has its own, leave the option out")
            release.write(self.target, self.weights, folder / "stream.json", self.lora)
        else:
            check_unused(self, "for a file", "weights")
            config = self.config or PRESETS["wan-1.3b"] / "transformer" / "config.json"
            convert_transformer(source, self.target, read_config(config, "transformer", "check --config"), self.lora)
        print(self.target)
        return 0
