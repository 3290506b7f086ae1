"""`shotstream benchmark`: speed and memory while a long story is told. Every figure in our texts comes from here."""

import json
import math
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from tqdm import tqdm
from transformers import UMT5EncoderModel

from shotstream_lite.attention import backend_in_use
from shotstream_lite.codec import latent_frames
from shotstream_lite.models.codec_kernels import compile_norms
from shotstream_lite.models.folder import (
    build_text_encoder,
    cast,
    default_dtype,
    find_folder,
    load_tiny,
    restore_tables,
)
from shotstream_lite.models.placement import Plan, arrange, read_configs
from shotstream_lite.models.settings import load_settings
from shotstream_lite.pipeline import ShotStreamPipeline, load_pipeline
from shotstream_lite.report import machine
from shotstream_lite.session import StorySession
from shotstream_lite.story import captions
from shotstream_lite.transformer import ShotStreamTransformer, compile_halves

GLOBAL_CAPTION = "A story about a red ball and a blue box, in a meadow."
CAMERAS = ("Wide shot", "Medium shot", "Close-up")
CAST = ("the red ball", "the blue box")
ACTIONS = ("walks left", "jumps", "waves", "spins around", "stands still")

_IMPORT = """
import time
start = time.perf_counter()
import shotstream_lite.pipeline
print(time.perf_counter() - start)
"""


def caption(number: int) -> str:
    """What happens in shot `number`, in the toybox's words; any number will do."""
    return f"{CAMERAS[number % 3]}: {CAST[number % 2]} {ACTIONS[number % 5]}."


def time_story(
    preset: str = "toybox",
    shots: int = 50,
    device: str = "cpu",
    plan: Plan | None = None,
    random_weights: bool = False,
    compiled: bool = False,
    weights: str = "student",
    changes: Mapping[str, Any] | None = None,
    tiny_decoder: Path | None = None,
) -> dict[str, Any]:
    """Tells a story of so many shots and measures; raises CheckpointError for a preset that is none.

    A story of two shots warms up first: whatever a process does once is in `cold_first_frame_seconds` and nowhere else.
    Units: seconds; fps in pixel frames a second, from the prompt to uint8 on the host, the median over all shots but
    the first; MiB. `chunk_seconds` are medians over the same shots by the chunk's place in its shot; the
    transformer's hold the clean pass of the chunk before. `last_to_fifth` compares the seconds of the last three shots
    with those of shots 4 to 6, by their medians, and `resident_growth` their memory; `twentieth_to_second` those two
    shots, or the last if there are fewer.
    Memory is what the process has, or the most a GPU had in a shot.

    Args:
        plan: where the model's parts are, see `placement.choose`.
        random_weights: only the configurations of the preset are read, no weights.
        compiled: with blocks and norms compiled, see `transformer.compile_halves` and `codec_kernels.compile_norms`.
        weights: who tells, see `folder.WEIGHTS`.
        changes: settings of the story, such as height and width.
        tiny_decoder: file of one that decodes instead of the exact one (see `tiny`); what it loses is measured, too.
    """
    start = time.perf_counter()
    pipeline = random_pipeline(preset, device, plan) if random_weights else load_pipeline(preset, weights, device, plan)
    loaded = time.perf_counter() - start
    if tiny_decoder:
        pipeline.codec.tiny = load_tiny(tiny_decoder, pipeline.codec)
    if compiled:
        compile_halves(pipeline.transformer)
        compile_norms(pipeline.codec.vae)
    cold = StorySession(pipeline, "Before the story.", seed=0, settings=changes)
    for number in range(2):  # without a past, and with one
        deque(cold.next_shot(caption(number)), maxlen=0)
    _memory_mib(pipeline.device)
    session = StorySession(pipeline, GLOBAL_CAPTION, seed=0, settings=changes)
    memory, chunks = [], []
    for number in tqdm(range(shots), desc="shots", unit="shot", disable=None):
        pieces = timed(session.next_shot(caption(number)))
        chunks.append(by_chunk([seconds for _, seconds in pieces], session.settings.chunk))
        memory.append(_memory_mib(pipeline.device))
    told = session.shots
    seconds = [shot.seconds for shot in told]
    later = told[1:] or told
    fps = median(shot.footage.length / shot.seconds for shot in later)
    fifth, second, twentieth = min(4, shots - 1), min(1, shots - 1), min(19, shots - 1)
    around_fifth = slice(max(0, fifth - 1), fifth + 2)
    resident = median(memory[around_fifth]), median(memory[-3:])
    halves = _halves(pipeline, session)
    return {
        "preset": pipeline.name,
        "weights": weights,
        "random_weights": random_weights,
        "compiled": compiled,
        "shots": shots,
        "frames_per_shot": session.settings.shot_frames,
        "height": session.settings.height,
        "width": session.settings.width,
        "import_seconds": round(_import_seconds(), 2),
        "load_seconds": round(loaded, 2),
        "fps": round(fps, 1),
        "times_real_time": round(fps / session.settings.fps, 2),
        "transformer_fps": round(halves["transformer"][0], 1),
        "codec_fps": round(halves["codec"][0], 1),
        "cold_first_frame_seconds": round(cold.shots[0].first_frame_seconds, 3),
        "first_frame_seconds": round(told[0].first_frame_seconds, 3),
        "later_first_frame_seconds": round(median(shot.first_frame_seconds for shot in later), 3),
        "last_to_fifth": round(median(seconds[-3:]) / median(seconds[around_fifth]), 3),
        "twentieth_to_second": round(seconds[twentieth] / seconds[second], 3),
        "resident_mib_at_fifth": round(resident[0], 1),
        "resident_mib_at_last": round(resident[1], 1),
        "resident_growth": round(resident[1] / resident[0] - 1, 4),
        "peak_mib": round(max(memory), 1),
        "shot_seconds": [round(value, 4) for value in seconds],
        "shot_mib": [round(value, 1) for value in memory],
        "chunk_seconds": _medians(chunks[1:] or chunks),
        "transformer_chunk_seconds": halves["transformer"][1],
        "codec_chunk_seconds": halves["codec"][1],
        "tiny_decoder_psnr": round(halves["psnr"], 2) if "psnr" in halves else None,
        "attention": backend_in_use(pipeline.transformer),
        "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
        "machine": machine(pipeline) | {"device": _device_name(pipeline.device)},
    }


def report_text(figures: dict[str, Any]) -> str:
    """The figures as text."""
    f, m = figures, figures["machine"]
    random = ", random weights" if f["random_weights"] else ""
    rows = {
        "machine": f"{m['cpu']}, {m['device']}, {m['threads']} threads, {m['system']}, torch {m['torch']}",
        "attention": f"{f['attention']}, {f['dtype']}{', compiled' if f['compiled'] else ''}",
        "import and load": f"{f['import_seconds']:.2f} + {f['load_seconds']:.2f} s",
        "frames per second": f"{f['fps']:.1f}, {f['times_real_time']:.2f} times real time",
        "transformer, codec alone": f"{f['transformer_fps']:.1f}, {f['codec_fps']:.1f} frames/s",
        "prompt to first frame": f"{f['first_frame_seconds']:.3f} s, later {f['later_first_frame_seconds']:.3f} s, "
        f"{f['cold_first_frame_seconds']:.3f} s in a process that did nothing before",
        "chunk by chunk": " ".join(f"{value:.3f}" for value in f["chunk_seconds"]) + " s",
        "last shot to fifth": f"{f['last_to_fifth']:.3f} of its time, {100 * f['resident_growth']:+.2f} % memory",
        "memory": f"{f['resident_mib_at_fifth']:.0f} MiB, at the last shot {f['resident_mib_at_last']:.0f}",
    }
    if f["tiny_decoder_psnr"] is not None:
        rows["tiny decoder"] = f"{f['tiny_decoder_psnr']:.1f} dB to the exact one's pictures of the last shot"
    size = f"{f['height']} x {f['width']}"
    title = f"{f['preset']}, {f['weights']}{random}: {f['shots']} shots of {f['frames_per_shot']} frames, {size}"
    return "\n".join([title, *(f"  {name:<26}{value}" for name, value in rows.items())])


def random_pipeline(name: str | Path, device: str = "cpu", plan: Plan | None = None) -> ShotStreamPipeline:
    """A storyteller of a preset's sizes that knows nothing; it reads captions with the toybox's tokenizer."""
    from shotstream_lite.toybox.language import build_tokenizer

    folder, plan, dtype = find_folder(name), plan or Plan(), default_dtype(device)
    configs, settings = read_configs(folder, download=False), load_settings(folder)
    made = (
        (ShotStreamTransformer.from_config, configs["transformer"], plan.home_of_transformer(device)),
        (AutoencoderKLWan.from_config, configs["vae"], device),
        (build_text_encoder, configs["text_encoder"], plan.home_of_text(device)),
    )
    models = (random_model(partial(build, config), home, dtype) for build, config, home in made)
    parts = arrange(*models, build_tokenizer(), settings, device, plan)
    return ShotStreamPipeline(*parts, settings, str(name))


def random_model(build: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """A model made right where it shall be, without a slow initialisation: small random weights, norms that keep."""
    with torch.device("meta"):
        model = cast(build(), dtype)
    model = model.to_empty(device=device)
    if isinstance(model, UMT5EncoderModel):  # one table: `to_empty` has made two of it
        model.encoder.embed_tokens.weight = model.shared.weight
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("gamma"):
            nn.init.constant_(parameter, 1.0 if not name.endswith("bias") else 0.0)
        else:
            nn.init.normal_(parameter, std=0.02)
    restore_tables(model, device)
    return model.eval().requires_grad_(False)


def timed(pieces: Iterable[Any]) -> list[tuple[Any, float]]:
    """Every piece with the seconds it took to come."""
    taken, start = [], time.perf_counter()
    for piece in pieces:
        taken.append((piece, time.perf_counter() - start))
        start = time.perf_counter()
    return taken


def by_chunk(pieces: list[float], chunk: int) -> list[float]:
    """Seconds of each chunk from those of a shot's pieces: the first chunk leaves in two, if it has two latents."""
    return pieces if chunk == 1 else [sum(pieces[:2]), *pieces[2:]]


def _halves(pipeline: ShotStreamPipeline, session: StorySession) -> dict[str, Any]:
    """Frames a second and seconds by chunk of the transformer alone and of the codec alone, making the last shot again.

    Medians of three runs after a first one.
    """
    *before, last = session.shots
    past, lines = [told.footage for told in before], captions(session.story, len(before))
    length, settings = latent_frames(last.footage.length), session.settings

    def denoise() -> list[tuple[Tensor, float]]:
        made = pipeline.latents(lines, past, last.shot.seed, length, settings)
        return timed(chunk.cpu() for chunk in made)

    latents = [chunk.to(pipeline.device) for chunk, _ in denoise()]
    deque(pipeline.decoded(latents), maxlen=0)  # the codec's first run; the transformer had its own
    ways = {"transformer": denoise, "codec": lambda: timed(pipeline.decoded(latents))}
    halves = {}
    for name, way in ways.items():
        runs = [[seconds for _, seconds in way()] for _ in range(3)]
        if name == "codec":
            runs = [by_chunk(run, settings.chunk) for run in runs]
        halves[name] = last.footage.length / median(map(sum, runs)), _medians(runs)
    if pipeline.codec.tiny:
        quick, exact = pipeline.codec.decode(torch.cat(latents, 2)), pipeline.codec.stream(exact=True)
        error = (quick.float() - exact.decode(torch.cat(latents, 2)).float()).square().mean().item()
        halves["psnr"] = -10 * math.log10(max(error, 1e-12) / 4)
    return halves


def _medians(runs: list[list[float]]) -> list[float]:
    return [round(median(values), 4) for values in zip(*runs, strict=True)]


def _import_seconds() -> float:
    """Seconds to import what tells a story, in a fresh process (the files are in the system's cache by now)."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", _IMPORT]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)


def _memory_mib(device: torch.device) -> float:
    """The most a GPU had since it was last asked, or what this process has now."""
    if device.type != "cuda":
        return psutil.Process().memory_info().rss / 2**20
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
