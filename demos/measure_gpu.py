"""What a GPU makes of this project, in one command: ceilings, the full model's speed as it is and compiled, where the
time goes, memory counted against memory taken, the toybox against the CPU's frames, the released code beside ours.

    python demos/measure_gpu.py measured                 # ends by itself after eight minutes
    python demos/measure_gpu.py measured --steps bench fit --released ShotStream
    python demos/measure_gpu.py rehearsed --shrink       # the same at tiny sizes, on a CPU too

Nothing is downloaded: the full model has random weights, which cost the same. Every step is a process of its own with
its own limit, and figures are added to measured/results.json at once: what was measured stays, whatever comes after.
"""

import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from shotstream_lite import benchmark
from shotstream_lite.attention import BACKENDS, in_halves, merged, preferring
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import few_step
from shotstream_lite.models import work
from shotstream_lite.models.folder import PRESETS
from shotstream_lite.models.memory import GIB
from shotstream_lite.models.placement import _ways, choose, read_configs
from shotstream_lite.models.settings import load_settings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.rollout import begin_shot, rollout
from shotstream_lite.session import StorySession

SMALL: dict[str, dict[str, Any]] = {
    "transformer/config.json": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64}
    | {"freq_dim": 32, "text_dim": 16},
    "vae/config.json": {"base_dim": 8, "num_res_blocks": 1},
    "text_encoder/config.json": {"num_layers": 2, "d_model": 16, "d_ff": 32, "vocab_size": 1000, "num_heads": 2}
    | {"d_kv": 8},
    "stream.json": {"height": 32, "width": 48, "text_tokens": 32, "shot_frames": 13},
}
ONE_LAYER = {"text_encoder/config.json": {"num_layers": 1, "vocab_size": 1000}}


@dataclass
class Measurement:
    """Where figures go, and how large things are."""

    out: Path
    shrink: bool = False
    released: Path | None = None
    step: str = ""

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() and not self.shrink else "cpu"

    def put(self, name: str, figures: Any) -> None:
        """Adds figures under the step's name, and prints them."""
        path = self.out / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault(self.step, {})[name] = figures
        path.write_text(json.dumps(results, indent=1, default=str))
        print(f"{self.step}: {name}: {json.dumps(figures, default=str)[:600]}", flush=True)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """What fails is a figure, too."""
        try:
            yield
        except Exception as error:
            self.put(name, f"failed: {type(error).__name__}: {(str(error) or '-').splitlines()[0]}")

    def preset(self, name: str, changes: dict[str, dict[str, Any]] | None = None) -> Path:
        """wan-1.3b with some numbers changed, small ones where it is only rehearsed."""
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PRESETS["wan-1.3b"], folder)
        for file, edits in [*(changes or {}).items(), *(SMALL.items() if self.shrink else ())]:
            (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | edits))
        return folder

    def seconds(self, call: Callable[[], Any]) -> float:
        """Median of five calls on the device, after two."""
        taken = []
        for _ in range(2 if self.shrink else 7):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - start)
        return median(taken[2:] or taken)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def versions(m: Measurement) -> None:
    """What runs here."""
    figures = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if m.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        figures |= {"card": card.name, "gib": card.total_memory / GIB, "cudnn": torch.backends.cudnn.version()}
    m.put("packages", figures)


@torch.inference_mode()
def rates(m: Measurement) -> None:
    """What the card reaches in the shapes of the full model: the assumptions of `shotstream benchmark --count`."""
    dtype, n = (torch.float32, 8) if m.shrink else (torch.bfloat16, 1)

    def rand(*size: int) -> Tensor:
        return torch.randn(size, device=m.device, dtype=dtype)

    def rate(name: str, amount: float, call: Callable[[], Any]) -> None:
        with m.trying(name):
            seconds = m.seconds(call)
            m.put(name, {"ms": seconds * 1e3, "tera": amount / seconds / 1e12})

    block = rand(2**28 // n**6)
    rate("copy, bytes", 2 * block.nbytes, block.clone)
    tokens, dim, ffn = 4680 // n**2, 1536 // n, 8960 // n
    for name, k, j in (("query", dim, dim), ("up", dim, ffn), ("down", ffn, dim)):
        x, w = rand(tokens, k), rand(j, k)
        rate(f"linear {name}", 2 * tokens * k * j, lambda x=x, w=w: F.linear(x, w))
    x, w, bias = rand(tokens, dim), rand(ffn, dim), rand(ffn)
    gelu = lambda: torch._addmm_activation(bias, x, w.t(), use_gelu=True)  # noqa: E731
    rate("linear up with GELU", 2 * tokens * dim * ffn, gelu)
    query = rand(1, tokens, 12, 128).transpose(1, 2)
    keys, values = (rand(1, 12, 42120 // n**2, 128) for _ in range(2))
    for count in (14040 // n**2 // 2 * 2, 42120 // n**2):  # even, for halves
        part = keys[:, :, :count], values[:, :, :count]
        for backend in ("native", *(BACKENDS if m.device == "cuda" else ())):
            if backend != "math":
                with preferring(backend):
                    flop = 4 * 12 * tokens * count * 128
                    attend = lambda part=part: F.scaled_dot_product_attention(query, *part)  # noqa: E731
                    rate(f"attention {backend} {count}", flop, attend)
        rate(f"attention in halves {count}", flop, lambda part=part: merged(*in_halves(query, *part)))
    for width, height, across in ((96, 482, 834), (192, 242, 418), (384, 122, 210)):
        height, across, width = height // n, across // n, width // n
        x, w = rand(1, width, 6, height, across), rand(width, width, 3, 3, 3)
        flop = 2 * width**2 * 27 * 4 * (height - 2) * (across - 2)
        for name, layout in (("planes", torch.contiguous_format), ("channels last", torch.channels_last_3d)):
            x, w = x.contiguous(memory_format=layout), w.contiguous(memory_format=layout)
            for measured in (False, True):
                torch.backends.cudnn.benchmark = measured
                call = lambda x=x, w=w: F.conv3d(x, w)  # noqa: E731
                rate(f"convolution {width} {name}{', benchmark' * measured}", flop, call)
    small, start = rand(64), time.perf_counter()
    for _ in range(1000):
        small = small + 1
    m.put("a launch, us", (time.perf_counter() - start) * 1e3)


def toybox(m: Measurement) -> None:
    """The shipped toybox on the device against the CPU's frames, of 255."""
    films = []
    for device in ("cpu", m.device):
        pipeline = ShotStreamPipeline.from_pretrained("toybox", device=device)
        session = StorySession(pipeline, "A red ball and a blue box in a meadow.", seed=1)
        for number in range(2):
            list(session.next_shot(benchmark.caption(number), frames=5 if m.shrink else None))
        films.append(session.film().astype(np.int16))
    apart = np.abs(films[1] - films[0])
    m.put("apart", {"mean": apart.mean(), "largest": int(apart.max()), "more than 2": (apart > 2).mean()})


def bench(m: Measurement, compiled: bool = False) -> None:
    """The full model, warm, and where its memory goes beyond what is counted."""
    folder = m.preset("model")
    chosen = choose(folder, m.device, download=False)
    figures = benchmark.time_story(str(folder), 2 if m.shrink else 3, m.device, chosen.plan, True, compiled)
    m.put("figures", figures)
    m.put("memory", {"counted_gib": chosen.bytes / GIB, "taken_gib": figures["peak_mib"] / 1024})
    name = figures["machine"]["device"]
    card = next((card for card in work.CARDS if card in name), "H100")
    counted = work.count_shot(read_configs(folder, False), load_settings(folder), card, compiled)
    m.put("counted", {key: counted[key] for key in ("card", "fps", "transformer_fps", "codec_seconds")})


def compiled(m: Measurement) -> None:
    """The same, compiled."""
    bench(m, compiled=True)


@torch.inference_mode()
def profile(m: Measurement) -> None:
    """The kernels that take longest: of a chunk and the clean pass before it, and of decoding it."""
    pipeline = benchmark.random_pipeline(m.preset("model"), m.device)
    transformer, settings = pipeline.transformer, pipeline.settings
    size = pipeline.codec.latent_size(settings.height, settings.width)

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, device=m.device, dtype=transformer.dtype)

    context, captions = noise((1, pipeline.codec.channels, 6, *size)), pipeline.text(["a red ball"])[None]
    cache = begin_shot(transformer, Conditioning(captions, torch.tensor([0] * 6 + [1] * 12), context=context))
    chunks = rollout(transformer, cache, noise, few_step(settings.steps, settings.shift), [3] * 4)
    latents, decoder = [next(chunks) for _ in range(3)], pipeline.codec.stream()
    for part in latents:
        decoder.decode(part)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA][: 1 + (m.device == "cuda")]
    for name, call in (("chunk", lambda: next(chunks)), ("decode", lambda: decoder.decode(latents[-1]))):
        with torch.profiler.profile(activities=kinds) as recorded:
            start = time.perf_counter()
            call()
            m.wait()
            taken = time.perf_counter() - start
        what = "self_device_time_total" if m.device == "cuda" else "self_cpu_time_total"
        rows = sorted(recorded.key_averages(), key=lambda row: -getattr(row, what))
        table = [(row.key[:100], row.count, getattr(row, what) / 1e3) for row in rows[:20]]
        m.put(name, {"seconds": taken, "launches": sum(row.count for row in rows), "longest, ms": table})


def placement(m: Measurement) -> None:
    """Every plan's memory: counted, and taken; with a text encoder of one layer, so that it is quick."""
    folder = m.preset("fit", ONE_LAYER)
    for plan, _, counted in _ways(read_configs(folder, False), load_settings(folder), m.device):
        with m.trying(str(plan)):
            if m.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            pipeline = benchmark.random_pipeline(folder, m.device, plan)
            made = pipeline.shot(["a red ball"], seed=0)  # a whole shot's caches; three pieces show the rest
            frames = sum(len(next(made)) for _ in range(3))
            made.close()
            taken = torch.cuda.max_memory_allocated() / GIB if m.device == "cuda" else None
            m.put(str(plan), {"frames": frames, "counted_gib": counted / GIB, "taken_gib": taken})


def released(m: Measurement) -> None:
    """The authors' code beside ours (see compare_released.py), if a checkout was named."""
    if m.released is None:
        m.put("left out", "name a checkout of the released code with --released")
        return
    import compare_released
    from released_code import check_place, load_released

    check_place(m.released)
    modules = load_released(m.released)
    m.put("figures", compare_released.compare(benchmark.random_pipeline("wan-1.3b", m.device), modules, 3))


STEPS: dict[str, tuple[Callable[[Measurement], None], int]] = {
    "versions": (versions, 40),
    "rates": (rates, 75),
    "toybox": (toybox, 60),
    "bench": (bench, 150),
    "compiled": (compiled, 150),
    "profile": (profile, 60),
    "fit": (placement, 75),
    "released": (released, 150),
}
"""In their order, each with the seconds it may take."""


def main(
    out: tyro.conf.Positional[Path],
    steps: tuple[str, ...] = tuple(STEPS),
    limit: int = 470,
    shrink: bool = False,
    released: Path | None = None,
) -> int:
    """Measures, step by step; exit code 1 if one did not get through.

    Args:
        out: folder for results.json
        steps: which, in order: versions, rates, toybox, bench, compiled, profile, fit, released
        limit: seconds for everything
        shrink: rehearse at tiny sizes on the CPU
        released: checkout of the released code
    """
    if unknown := set(steps) - set(STEPS):
        print(f"--steps {' '.join(unknown)}: write some of {', '.join(STEPS)}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + limit, 0
    for step in steps:
        allowed = min(STEPS[step][1], end - time.monotonic())
        process = get_context("spawn").Process(target=STEPS[step][0], args=(Measurement(out, shrink, released, step),))
        process.start()
        process.join(max(1, allowed))
        process.kill()
        process.join()
        code = process.exitcode
        failed += code != 0
        Measurement(out, step=step).put("exit code", code)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
