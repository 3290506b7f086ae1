"""Reads a shot back: which character, where, filmed how, doing what, and everything captions never say.

A small convolutional classifier over nine frames of a shot. It is the oracle of all toybox measurements, so its own
accuracy on real film is measured and printed beside every figure it gives (`accuracy`).
"""

from dataclasses import dataclass
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
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    HATS,
    SETTINGS,
    SHAPES,
    STRIPES,
    SUNS,
    TINTS,
    Take,
    ToyStory,
)

# What a caption says, and what only memory can know. "landmarks" are the two slots taken of four.
CAPTIONED = {"shape": SHAPES, "colour": COLOURS, "setting": SETTINGS, "camera": CAMERAS, "action": ACTIONS}
UNCAPTIONED = {
    "hat": HATS,
    "stripe": STRIPES,
    "tint": TINTS,
    "sun": SUNS,
    "landmarks": ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)),
}
READS = CAPTIONED | UNCAPTIONED
FRAMES = 9  # every fourth of 33
PROBE_FILE = Path(__file__).parent.parent / "weights" / "toybox" / "probe" / "model.safetensors"


HIDDEN = -1  # the answer is out of the picture


def truth(story: ToyStory, take: Take) -> dict[str, int]:
    """The right answer to every question, as an index into READS. Of two characters the left one counts.

    Near cameras do not show the whole place, so there the sun and the landmarks are HIDDEN.
    """
    who, place = story.cast[take.subjects[0]], take.place
    values = {
        "shape": who.shape,
        "colour": who.colour,
        "setting": place.setting,
        "camera": take.camera,
        "action": take.action,
        "hat": who.hat,
        "stripe": who.stripe,
        "tint": story.tint,
        "sun": place.sun,
        "landmarks": place.landmarks,
    }
    answers = {name: READS[name].index(value) for name, value in values.items()}
    return answers if take.camera in ("wide", "pan") else answers | {"sun": HIDDEN, "landmarks": HIDDEN}


def probe_frames(shot: np.ndarray) -> np.ndarray:
    """The nine frames the probe looks at, evenly spread. Shape: uint8 [frames, H, W, 3] to [9, H, W, 3]."""
    return shot[np.linspace(0, len(shot) - 1, FRAMES).round().astype(int)]


class Probe(nn.Module):
    """Frames one by one through strided convolutions, time by two more, and a linear head a question."""

    def __init__(self) -> None:
        super().__init__()
        # (in, out, stride); the map that is read is 4x6 cells
        layers = ((3, 24, 2), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 128, 2))
        self.frame = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=stride, padding=1), nn.GroupNorm(8, b), nn.GELU())
                for a, b, stride in layers
            )
        )
        self.places = nn.Conv2d(128, 16, 1)  # what is where: landmarks, sun, walking
        self.time = nn.Sequential(
            nn.Conv1d(2 * 128 + 16 * 24, 192, 3, padding=1), nn.GELU(), nn.Conv1d(192, 192, 3, padding=1), nn.GELU()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(384, len(values)) for name, values in READS.items()})

    def features(self, shots: Tensor) -> Tensor:
        """What all heads read. Shape: uint8 [batch, 9, H, W, 3] to [batch, 384]."""
        pixels = shots.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        cells = self.frame(pixels)
        pooled = torch.cat([cells.mean((2, 3)), cells.amax((2, 3)), self.places(cells).flatten(1)], dim=1)
        steps = self.time(pooled.unflatten(0, shots.shape[:2]).transpose(1, 2))
        return torch.cat([steps.mean(2), steps.amax(2)], dim=1)

    def forward(self, shots: Tensor) -> dict[str, Tensor]:
        """Logits by question. Shape: uint8 [batch, 9, H, W, 3] to [batch, choices] each."""
        features = self.features(shots)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, shot: np.ndarray) -> dict[str, int]:
        """The answers for one shot, uint8 [frames, H, W, 3], as indices into READS."""
        logits = self(torch.from_numpy(probe_frames(shot))[None])
        return {name: int(values.argmax()) for name, values in logits.items()}


def load_probe(path: Path = PROBE_FILE) -> Probe:
    """The shipped probe. Raises CheckpointError."""
    probe = Probe()
    state = read_checkpoint(path)
    check_fit(probe, {name: (name, tensor) for name, tensor in state.items()})
    probe.load_state_dict(state)
    return probe.eval().requires_grad_(False)


@dataclass(frozen=True)
class RealFilm:
    """Rendered shots with their answers: frames uint8 [n, 9, H, W, 3], answers by question [n]."""

    frames: Tensor
    answers: dict[str, Tensor]


def real_film(shots: int, seed: int) -> RealFilm:
    """Shots of stories from `seed` on, four a story."""
    frames, answers = [], []
    while len(frames) < shots:
        story = story_of(seed, shots=4)
        seed += 1
        for take in story.takes:
            frames.append(probe_frames(render(story, take)))
            answers.append(truth(story, take))
    columns = {name: torch.tensor([a[name] for a in answers]) for name in READS}
    return RealFilm(torch.from_numpy(np.stack(frames)), columns)


@torch.no_grad()
def accuracy(probe: Probe, film: RealFilm, batch: int = 50) -> dict[str, float]:
    """Share of right answers, question by question, where the answer is to be seen."""
    right = dict.fromkeys(READS, 0)
    for start in range(0, len(film.frames), batch):
        window = slice(start, start + batch)
        for name, logits in probe(film.frames[window]).items():
            right[name] += int((logits.argmax(1) == film.answers[name][window]).sum())
    return {name: count / int((film.answers[name] != HIDDEN).sum()) for name, count in right.items()}


def held_out(shots: int = 400) -> RealFilm:
    """Film no stage was trained on."""
    return real_film(shots, HELD_OUT_SEED)


def blemish(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Softens and roughens frames about as much as codec and model do, so that the probe reads through it.

    Shape: uint8 [batch, 9, H, W, 3], same out.
    """
    pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    kernel = pixels.new_tensor([0.25, 0.5, 0.25])
    plain = {"dtype": torch.float32, "device": "cpu"}
    if torch.rand(1, generator=generator, **plain) < 0.5:
        pixels = F.conv2d(pixels, kernel.view(1, 1, 1, 3).expand(3, 1, 1, 3), padding=(0, 1), groups=3)
        pixels = F.conv2d(pixels, kernel.view(1, 1, 3, 1).expand(3, 1, 3, 1), padding=(1, 0), groups=3)
    pixels = pixels + 8 * torch.rand(1, generator=generator, dtype=torch.float32, device="cpu") * torch.randn(
        pixels.shape, generator=generator, dtype=torch.float32, device="cpu"
    )
    return pixels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])


def save_probe(probe: Probe, path: Path) -> None:
    """Writes the weights as safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, CheckpointError) as part:
        save_model(probe, str(part))
