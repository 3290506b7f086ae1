"""Where the released files of a full-size model are: in a local folder, in the hub's cache, or still on the hub.

A model folder with a `released.json` holds settings and configurations but no weights. Components come from one
repository, in diffusers' format; checkpoints come from another and are converted once, see `convert`.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import MEBIBYTE, read_json, whole_folder
from shotstream_lite.models.configs import AGAIN, PARTS, read_config
from shotstream_lite.models.convert import INDEX, convert_transformer, shard_names

MODELS = "SHOTSTREAM_MODELS"
"""Environment variable: a folder with the repositories, each under its own name. The hub is then never asked."""
CACHE = "SHOTSTREAM_CACHE"
"""Environment variable: where converted checkpoints are kept."""

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "vae": ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    "text_encoder": ("text_encoder/config.json", "text_encoder/model.safetensors"),
    "tokenizer": ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
    "base": ("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"),
    "pipeline": ("model_index.json", "scheduler/scheduler_config.json"),
}
"""The files of each component in its repository. Weights may be in shards, with an index beside them."""


@dataclass(frozen=True)
class Release:
    """Two repositories of the hub, and which checkpoint holds which weights (see `folder.WEIGHTS`)."""

    components: str
    weights: str
    checkpoints: Mapping[str, str]

    def component(self, name: str) -> Path:
        """The folder of one of COMPONENTS, fetched if need be. Raises CheckpointError."""
        root = fetch(self.components, COMPONENTS[name])
        return root / Path(COMPONENTS[name][0]).parent

    def fetch_configs(self) -> Path:
        """The folder that holds the config.json of each of `configs.PARTS`. Raises CheckpointError."""
        return fetch(self.components, [f"{part}/config.json" for part in PARTS])

    def transformer(self, weights: str) -> Path:
        """A folder in diffusers' format with such weights, converted if need be. Raises CheckpointError."""
        self._check(weights)
        if weights not in self.checkpoints:
            return self.component("base")
        file = self.checkpoints[weights]
        return converted(fetch(self.weights, [file]) / file, self.fetch_configs() / "transformer" / "config.json")

    def require(self, weights: str = "student") -> None:
        """Fetches all that telling a story takes, or raises one CheckpointError that names every missing file."""
        self._check(weights)
        parts = ["vae", "text_encoder", "tokenizer"] + ["base"] * (weights not in self.checkpoints)
        wanted = {self.components: [file for part in parts for file in COMPONENTS[part]]}
        if weights in self.checkpoints:
            wanted[self.components].append("transformer/config.json")
            wanted[self.weights] = [self.checkpoints[weights]]
        complaints = []
        for repository, files in wanted.items():
            try:
                fetch(repository, files)
            except CheckpointError as error:
                complaints.append(str(error))
        if complaints:
            raise CheckpointError("; ".join(complaints))

    def _check(self, weights: str) -> None:
        if weights not in (known := [*self.checkpoints, "base"]):
            asked = str(weights)[:40]
            raise CheckpointError(f"weights is {asked!r}, which is not released: choose one of {', '.join(known)}")

    def write(self, target: Path, weights: Sequence[str], stream: Path, lora: Path | None = None) -> None:
        """Writes a whole model folder, which this library and `diffusers.WanPipeline` read, or nothing.

        Args:
            weights: the transformers it shall hold.
            stream: the `stream.json` that goes into it.
            lora: a file of the inter-shot stage, merged into the student.

        Raises CheckpointError.
        """
        for name in weights:
            self.require(name)
        root = fetch(self.components, COMPONENTS["pipeline"])
        with whole_folder(target, CheckpointError) as part:
            for name in ("vae", "text_encoder", "tokenizer"):
                shutil.copytree(self.component(name), part / name)
            shutil.copytree(root / "scheduler", part / "scheduler")
            for file in (root / "model_index.json", stream):
                shutil.copy(file, part)
            for name in weights:
                place = part / ("transformer" if name == "student" else name)
                if name in self.checkpoints:
                    checkpoint = fetch(self.weights, [self.checkpoints[name]]) / self.checkpoints[name]
                    config = read_config(self.fetch_configs() / "transformer" / "config.json", "transformer")
                    convert_transformer(checkpoint, place, config, lora if name == "student" else None)
                else:
                    shutil.copytree(self.component("base"), place)


def read_release(folder: Path) -> Release | None:
    """What `released.json` says; None for a model folder that has its own weights. Raises CheckpointError."""
    path = folder / "released.json"
    if not path.is_file():
        return None
    data = read_json(path, MEBIBYTE, CheckpointError, AGAIN)
    names = [data.get("components"), data.get("weights")]
    files = data.get("checkpoints")
    if set(data) != {"components", "weights", "checkpoints"} or not isinstance(files, dict):
        raise CheckpointError(f"{path}: holds not just components, weights and checkpoints: {AGAIN}")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[0-9a-f]{40})?", name):
            raise CheckpointError(f"{path}: {name!r} is no OWNER/NAME or OWNER/NAME@COMMIT: {AGAIN}")
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{path}: checkpoint {file!r} is no name of a file: {AGAIN}")
    return Release(*names, files)


def fetch(repository: str, files: Sequence[str]) -> Path:
    """The folder that holds `files` of a repository of the hub, OWNER/NAME or OWNER/NAME@COMMIT.

    Looks in $SHOTSTREAM_MODELS if that is set, else in the hub's cache and then on the hub. Raises CheckpointError
    that names the missing files and where to put them.
    """
    repository, _, revision = repository.partition("@")
    if local := os.environ.get(MODELS):
        root = Path(local).expanduser() / repository.split("/")[-1]
        if missing := missing_files(root, files):
            raise CheckpointError(f"{root}: {_lack(missing)}: put {_them(missing)} there: {_command(repository, root)}")
        return root
    from huggingface_hub import snapshot_download

    patterns = [pattern for file in files for pattern in _patterns(file)]
    missing, reason = list(files), ""
    for offline in (True, False):
        try:
            options = {"allow_patterns": patterns, "local_files_only": offline, "revision": revision or None}
            root = Path(snapshot_download(repository, **options))
        except Exception as error:  # not in the cache; no network, no such repository, a full disk, ...
            said = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
            reason = f" and cannot be fetched ({said})"
            continue
        missing, reason = missing_files(root, files), ""
        if not missing:
            return root
    folder = Path("FOLDER") / repository.split("/")[-1]
    fix = f"go online, or put {_them(missing)} into {folder.as_posix()} and set {MODELS}=FOLDER"
    raise CheckpointError(f"{repository}: {_lack(missing)}{reason}: {fix}: {_command(repository, folder)}")


def missing_files(root: Path, files: Sequence[str]) -> list[str]:
    """Which of `files` are not in a folder; weights are there too if their index and all its shards are."""
    missing = []
    for file in map(Path, files):
        index = root / file.with_name(file.name + INDEX)
        names = shard_names(index) if index.is_file() and not (root / file).is_file() else [file.name]
        missing += [file.with_name(name).as_posix() for name in names if not (index.parent / name).is_file()]
    return missing


def converted(checkpoint: Path, config: Path) -> Path:
    """The folder a released checkpoint was converted to, now or earlier; another file, another folder."""
    stat = checkpoint.stat()
    marks = (str(checkpoint.resolve()), stat.st_size, stat.st_mtime_ns, config.read_text(encoding="utf-8"))
    key = hashlib.sha256(repr(marks).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{checkpoint.stem}-{key}"
    if not (folder / "config.json").is_file():
        try:
            convert_transformer(checkpoint, folder, read_config(config, "transformer"))
        except CheckpointError:
            if not (folder / "config.json").is_file():  # unless another process was quicker
                raise
    return folder


def cache_folder() -> Path:
    """Where converted checkpoints are kept."""
    return Path(os.environ.get(CACHE) or "~/.cache/shotstream_lite").expanduser()


def _patterns(file: str) -> list[str]:
    stem, _, kind = file.rpartition(".")
    return [file, file + INDEX, f"{stem}-*-of-*.{kind}"] if kind == "safetensors" else [file]


def _lack(missing: Sequence[str]) -> str:
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


def _them(missing: Sequence[str]) -> str:
    return "it" if len(missing) == 1 else "them"


def _command(repository: str, folder: Path) -> str:
    return f"hf download {repository} --local-dir {folder.as_posix()}"
