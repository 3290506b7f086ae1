"""The released implementation and this one tell the same story on the same GPU: frames per second, and the ratio.

    git clone https://github.com/KlingAIResearch/ShotStream
    pip install einops flask ftfy peft regex
    python demos/compare_released.py ShotStream --shots 4 --random-weights --json ratio.json

Both have the same weights, captions, noise and settings, and take turns shot by shot; a story of two shots before warms
both up. The released code is imported from its checkout and runs as it is, but for its best honest form:
torch.backends.cudnn.benchmark is on as for ours, its attention is the kernel that ours uses (flash-attn is not needed,
nor used), and its frames count as out when a shot is decoded, though it returns none before the story ends. Captions
are encoded by one text encoder, as often as each asks for it.

What was run: this code with the released one on a CPU, both tiny and in float32, the sizes fixed in the released
pipeline (480 x 832, 1560 tokens a frame) made smaller; the first chunk's latents differed in the last bits only. The
names and shapes of all weights were compared at full size. Nothing of it was run on a GPU yet.
"""

import io
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import tyro
from released_code import CompareError, SameNoise, build_released, check_place, load_released
from torch import Tensor, nn
from tqdm import tqdm

from shotstream_lite.attention import backend_in_use, preferring
from shotstream_lite.benchmark import GLOBAL_CAPTION, caption, random_pipeline
from shotstream_lite.codec import latent_frames, to_frames
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.making import Making
from shotstream_lite.models.codec_kernels import compile_norms
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.report import check_report_path, machine, write_report
from shotstream_lite.session import StorySession
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.transformer import compile_halves


@dataclass(frozen=True)
class Timing:
    """Seconds of one shot: in all, to its first frame on the host, of the transformer's passes, of decoding it."""

    seconds: float
    first_frame: float
    transformer: float
    codec: float


def main(
    checkout: tyro.conf.Positional[Path],
    shots: int = 4,
    random_weights: bool = False,
    compile: bool = False,
    json: Path | None = None,
) -> int:
    """Measures the released implementation beside this one on a GPU; exit code 2 if that cannot be done here.

    Args:
        checkout: folder of the released repository
        shots: shots of the story, 2 or more
        random_weights: read configurations only, download nothing
        compile: compile what `shotstream benchmark --compile` compiles of ours
        json: file for the figures
    """
    try:
        if shots < 2:
            raise CompareError(f"--shots is {shots}: write 2 or more, the first one is told apart")
        if json:
            check_report_path(json)
        check_place(checkout)
        modules = load_released(checkout)
        load = random_pipeline if random_weights else ShotStreamPipeline.from_pretrained
        ours = load("wan-1.3b", device="cuda")
        if compile:
            compile_halves(ours.transformer)
            compile_norms(ours.codec.vae)
        figures = {"random_weights": random_weights, "compiled": compile} | compare(ours, modules, shots)
        print(report_text(figures))
        if json:
            write_report(figures, json)
    except torch.OutOfMemoryError:
        print("the GPU has too little free memory for both models: free some, or take a larger one", file=sys.stderr)
        return 2
    except (CompareError, CheckpointError, StoryError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class Stopwatch:
    """Seconds since a shot began, when the device is through with them; `aside` are those of captions and stills."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.aside, self._start = 0.0, 0.0
        self._start = self.read()

    def read(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self._start

    def watched(self, owner: Any, method: str) -> Any:
        """A patch under which the seconds in a method count as `aside`."""
        call = getattr(owner, method)

        @wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = self.read()
            result = call(*arguments, **options)
            self.aside += self.read() - start
            return result

        return patch.object(owner, method, timed)


def tell(
    ours: ShotStreamPipeline, theirs: nn.Module, module: Any, shots: int, opening: str = GLOBAL_CAPTION
) -> tuple[list[Timing], list[Timing], Tensor]:
    """Both tell the same story, a shot they, a shot we: our timings, theirs, and their first chunk [1, C, f, h, w].

    module: where the released pipeline finds torch
    """
    story = Story(opening, tuple(Shot(caption(number)) for number in range(shots)))
    session = StorySession(ours, opening, seed=0)
    watch, decode = Stopwatch(ours.device), theirs.vae.decode_to_pixel
    mine, others, chunks = [], [], []
    bar = tqdm(total=shots, unit="shot", disable=None)

    def decode_and_take_turns(latents: Tensor, use_cache: bool = False) -> Tensor:
        """What ends a shot of theirs; ours follows before their next one begins."""
        before = watch.read()
        pixels = decode(latents, use_cache)
        to_frames(pixels[0]).cpu()
        seconds = watch.read()
        others.append(Timing(seconds, seconds, before - watch.aside, seconds - before))
        chunks.append(latents[:, : ours.settings.chunk].transpose(1, 2).clone())
        watch.restart()
        deque(session.next_shot(caption(len(mine)), seed=len(mine)), maxlen=0)
        told = session.shots[-1]
        codec = told.seconds - told.model_seconds
        mine.append(Timing(told.seconds, told.first_frame_seconds, told.model_seconds - watch.aside, codec))
        bar.update()
        watch.restart()
        return pixels

    batch = {
        "global_captions": [[""]],
        "shots_captions": [[[[line]] for line in captions(story, shots - 1)]],
        "shot_flag": list(range(shots)),
    }
    with (
        bar,
        preferring(ours.transformer.backend),
        redirect_stdout(io.StringIO()),
        patch.object(module, "torch", SameNoise(ours.settings.chunk, len(ours.settings.steps))),
        patch.object(theirs.vae, "decode_to_pixel", decode_and_take_turns),
        patch.object(Making, "look_back"),  # what a shot remembers is encoded in its own time, as theirs is
        watch.watched(theirs.vae, "encode_to_latent"),
        watch.watched(ours.codec, "encode_frames"),
        watch.watched(ours.text.text_encoder, "forward"),
    ):
        watch.restart()
        theirs.inference(batch)
    return mine, others, chunks[0]


def compare(ours: ShotStreamPipeline, modules: SimpleNamespace, shots: int) -> dict[str, Any]:
    """Builds the released pipeline, warms both up and measures; the figures of `report_text`."""
    theirs = build_released(modules, ours)
    tell(ours, theirs, modules.ar, 2, "Before the story.")  # other captions, which ours will not remember
    mine, others, chunk = tell(ours, theirs, modules.ar, shots)
    settings = ours.settings
    lines = captions(Story(GLOBAL_CAPTION, (Shot(caption(0)),)), 0)
    first = next(ours.latents(lines, [], 0, latent_frames(settings.shot_frames), settings))
    device = torch.cuda.get_device_name(ours.device) if ours.device.type == "cuda" else str(ours.device)
    return {
        "shots": shots,
        "ours": summary(mine, settings.shot_frames),
        "released": summary(others, settings.shot_frames),
        "latents_differ_by": (first.float() - chunk.float()).abs().max().item(),
        "largest_latent": chunk.float().abs().max().item(),
        "attention": backend_in_use(ours.transformer),
        "machine": machine(ours) | {"device": device},
    }


ROWS = {
    "fps": ("end to end, frames/s", True),
    "transformer_fps": ("transformer alone, frames/s", True),
    "codec_seconds": ("decoding a shot, s", False),
    "first_frame_seconds": ("first frame of shot 1, s", False),
    "later_first_frame_seconds": ("first frame of a later shot, s", False),
}
"""The figures, what they are called, and whether more is better."""


def summary(timings: list[Timing], frames: int) -> dict[str, float]:
    """Figures of one storyteller: medians over all shots but the first, of `frames` pixel frames each."""
    later = timings[1:]
    return {
        "fps": median(frames / t.seconds for t in later),
        "transformer_fps": median(frames / t.transformer for t in later),
        "codec_seconds": median(t.codec for t in later),
        "first_frame_seconds": timings[0].first_frame,
        "later_first_frame_seconds": median(t.first_frame for t in later),
    }


def report_text(figures: Mapping[str, Any]) -> str:
    """The figures as a table; a ratio above 1 is how many times better ours is."""
    ours, theirs, m = figures["ours"], figures["released"], figures["machine"]
    kind = ("random" if figures["random_weights"] else "released") + " weights"
    lines = [
        f"{m['device']}, torch {m['torch']}, {figures['attention']}{', ours compiled' if figures['compiled'] else ''}",
        f"{figures['shots']} shots, {kind}",
        f"{'':<32}{'ours':>10}{'released':>10}{'ratio':>8}",
    ]
    for name, (title, more) in ROWS.items():
        ratio = ours[name] / theirs[name] if more else theirs[name] / ours[name]
        lines.append(f"{title:<32}{ours[name]:>10.3f}{theirs[name]:>10.3f}{ratio:>8.2f}")
    differ, largest = figures["latents_differ_by"], figures["largest_latent"]
    return "\n".join([*lines, f"latents of the first chunk: {differ:.2e} apart at most, the largest is {largest:.2f}"])


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
