"""Reads a film back: who is on screen, where, filmed how, doing what, and everything captions never say.

A small convolutional network reads single frames; three more convolutions over nine of them, a quarter of a second
apart, tell what moves. It is the oracle of all measurements in the miniature world, so its own accuracy on real film
is measured and printed beside every figure it gives (`accuracy`).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor, nn

from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_file
from shotstream_lite.models.convert import check_fit, read_checkpoint
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, story_of
from shotstream_lite.toybox.renderer import paint, shapes_of
from shotstream_lite.toybox.truth import HIDDEN, IN_FRAME, IN_MOTION, truth
from shotstream_lite.toybox.world import LONGEST, Take, ToyStory

FRAMES, STRIDE = 9, 4  # that motion is read from
PROBE_FILE = Path(__file__).parent.parent / "weights" / "toybox" / "probe" / "model.safetensors"


class Probe(nn.Module):
    """Frames one by one through strided convolutions, time by two more, and a linear head for every question."""

    def __init__(self) -> None:
        super().__init__()
        # (in, out, kernel, stride): 128x224 pixels to 8x14 cells
        layers = ((3, 32, 4, 4), (32, 64, 3, 2), (64, 64, 3, 1), (64, 96, 3, 2), (96, 96, 3, 1))
        self.frame = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, k, stride=s, padding=k % 2), nn.GroupNorm(8, b), nn.GELU())
                for a, b, k, s in layers
            )
        )
        self.places = nn.Conv2d(96, 16, 1)  # what is where
        self.mix = nn.Sequential(nn.Linear(2 * 96 + 16 * 8 * 14, 256), nn.GELU())
        self.time = nn.Sequential(nn.Conv1d(256, 128, 3), nn.GELU(), nn.Conv1d(128, 128, 3), nn.GELU())
        self.still_heads = nn.ModuleDict({name: nn.Linear(256, len(v)) for name, v in IN_FRAME.items()})
        self.motion_heads = nn.ModuleDict(
            {name: nn.Linear(128 * (FRAMES - 4), len(v)) for name, v in IN_MOTION.items()}
        )

    def features(self, frames: Tensor) -> Tensor:
        """What the heads of single frames read. Shape: uint8 [n, H, W, 3] to [n, 256]."""
        cells = self.frame(frames.permute(0, 3, 1, 2).float() / 127.5 - 1)
        places = self.places(cells).flatten(1)
        return self.mix(torch.cat([cells.mean((2, 3)), cells.amax((2, 3)), places], dim=1))

    def stills(self, features: Tensor) -> dict[str, Tensor]:
        """Logits by question. Shape: [n, 256] to [n, choices] each."""
        return {name: head(features) for name, head in self.still_heads.items()}

    def motion(self, features: Tensor) -> dict[str, Tensor]:
        """Logits by question. Shape: [n, 9, 256], frames `STRIDE` apart, to [n, choices] each."""
        steps = self.time(features.transpose(1, 2)).flatten(1)
        return {name: head(steps) for name, head in self.motion_heads.items()}

    @torch.no_grad()
    def read(self, shot: Tensor) -> dict[str, Tensor]:
        """Every frame of a shot: uint8 [frames, H, W, 3] to log-probabilities [frames, choices]; and of what moves,
        [windows, choices], a window of nine frames beginning at every fourth."""
        features = torch.cat([self.features(part) for part in shot.split(32)])
        steps = features[::STRIDE]
        if len(steps) < FRAMES:  # a short shot stands still at its end
            steps = torch.cat([steps, steps[-1:].expand(FRAMES - len(steps), -1)])
        windows = steps.unfold(0, FRAMES, 1).transpose(1, 2)
        return {name: v.log_softmax(1) for name, v in (self.stills(features) | self.motion(windows)).items()}


def window(story: ToyStory, take: Take, start: int) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Nine frames of real film from number `start` on, uint8 [9, H, W, 3], and the answers at each, int [9]."""
    tables = shapes_of(story, take, STRIDE * (FRAMES - 1) + 1, start)
    frames = paint(*(torch.from_numpy(table[::STRIDE].copy()) for table in tables))
    return frames, truth(story, take, start + STRIDE * np.arange(FRAMES))


def draw_window(generator: torch.Generator, first: int = 0, stories: int = HELD_OUT_SEED) -> tuple:
    """A `window` of any shot of stories number `first` and after, from anywhere in it."""

    def number(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator, device="cpu"))

    story = story_of(first + number(stories))
    return window(story, story.takes[number(len(story.takes))], number(LONGEST - STRIDE * (FRAMES - 1)))


def questions(probe: Probe, frames: Tensor, answers: list[dict[str, np.ndarray]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits and right answers by question, of windows uint8 [n, 9, H, W, 3]: of single frames, [9 n, choices] and
    [9 n], and of what moves, [n, choices] and [n]."""
    features = probe.features(frames.flatten(0, 1))
    logits = probe.stills(features) | probe.motion(features.unflatten(0, (-1, FRAMES)))
    right = {name: torch.from_numpy(np.stack([a[name] for a in answers])).to(frames.device) for name in logits}
    return {name: (v, right[name][:, 0] if name in IN_MOTION else right[name].flatten()) for name, v in logits.items()}


@torch.no_grad()
def accuracy(probe: Probe, windows: int = 300, batch: int = 20) -> dict[str, float]:
    """Share of right answers on held-out film, question by question, where the answer is to be seen."""
    generator = torch.Generator("cpu").manual_seed(0)
    right, asked = dict.fromkeys(IN_FRAME | IN_MOTION, 0), dict.fromkeys(IN_FRAME | IN_MOTION, 0)
    for _ in range(windows // batch):
        drawn = [draw_window(generator, HELD_OUT_SEED, 10_000) for _ in range(batch)]
        answered = questions(probe, torch.stack([frames for frames, _ in drawn]), [answers for _, answers in drawn])
        for name, (logits, answer) in answered.items():
            right[name] += int((logits.argmax(1) == answer).sum())
            asked[name] += int((answer != HIDDEN).sum())
    return {name: right[name] / max(1, asked[name]) for name in right}


def blemish(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Softens and roughens frames about as much as codec and model do, so that the probe reads through it.

    Shape: uint8 [frames, H, W, 3], same out.
    """

    def chance() -> float:
        return float(torch.rand(1, generator=generator, dtype=torch.float32, device="cpu"))

    pixels = frames.permute(0, 3, 1, 2).float()
    softer = pixels.new_tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).expand(3, 1, 3, 3)
    for _ in range(int(3 * chance())):
        pixels = F.conv2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), softer, groups=3)
    grain = torch.randn(pixels.shape, generator=generator, dtype=torch.float32, device="cpu")
    return (pixels + 8 * chance() * grain).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def load_probe(path: Path) -> Probe:
    """A probe from its file. Raises CheckpointError."""
    probe = Probe()
    state = read_checkpoint(path)
    check_fit(probe, {name: (name, tensor) for name, tensor in state.items()})
    probe.load_state_dict(state)
    return probe.eval().requires_grad_(False)


def save_probe(probe: Probe, path: Path) -> None:
    """Writes the weights as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, CheckpointError) as part:
        save_model(probe, str(part))
