"""Reads a film back: who is on screen, where, filmed how, doing what, and everything captions never say.

A small convolutional network reads single frames; three more convolutions over nine of them, a quarter of a second
apart, tell what moves. It is the oracle of all measurements in the miniature world, so its own accuracy on real film
is measured and printed beside every figure it gives (`accuracy`).
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from shotstream_lite.convert import check_fit, read_checkpoint
from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import whole_file
from shotstream_lite.toybox2.renderer import FAR_X, FLAGPOLE, paths_of, shapes_of
from shotstream_lite.toybox2.world import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    EMBLEMS,
    EVENT_FRAMES,
    EVENT_START,
    FAR,
    FLAGS,
    HATS,
    HEIGHT,
    LANDMARKS,
    SETTINGS,
    SHAPES,
    STRIPES,
    SUNS,
    TINTS,
    WIDTH,
    Take,
    ToyStory,
)

# What one frame shows, and what only several do. Of two characters "other" is the right one; alone there is none.
IN_FRAME = {
    "shape": SHAPES,
    "colour": COLOURS,
    "other shape": (*SHAPES, "nobody"),
    "other colour": (*COLOURS, "nobody"),
    "setting": SETTINGS,
    "hat": HATS,
    "stripe": STRIPES,
    "other hat": HATS,
    "other stripe": STRIPES,
    "emblem": EMBLEMS,
    "tint": TINTS,
    "sun": SUNS,
    "landmarks": LANDMARKS,
    "far": FAR,
    "flag": FLAGS,
}
IN_MOTION = {"camera": CAMERAS, "action": ACTIONS}
FRAMES, STRIDE = 9, 4  # that motion is read from
HIDDEN = -1  # the answer is out of the picture, or just changing


def truth(story: ToyStory, take: Take, time: np.ndarray) -> dict[str, np.ndarray]:
    """The right answer to every question at each frame of `time`, int [frames], as an index or HIDDEN."""
    _, camera, _ = shapes_of(story, take, int(time.max()) + 1)
    centre, half = camera[time, 0], WIDTH / HEIGHT / 2 / camera[time, 2]
    far_view = take.camera in ("wide", "pan")
    lost = (take.event == "wind") & (time >= EVENT_START)
    changing = (take.event != "none") & (time >= EVENT_START) & (time <= EVENT_START + EVENT_FRAMES)
    whole = np.ones(len(time), bool)

    def index(options: tuple, value: object, shown: np.ndarray | bool = True) -> np.ndarray:
        return np.where(whole & shown, options.index(value), HIDDEN)

    def in_view(left: float, right: float) -> np.ndarray:
        return far_view & (centre - half < left) & (centre + half > right)

    answers = {"setting": index(SETTINGS, take.place.setting), "tint": index(TINTS, story.tint)}
    for who, (x, _, turn), prefix in zip(take.cast, paths_of(take, time), ("", "other "), strict=False):
        seen = np.abs(x - centre) < half - 0.05
        hat = np.where(lost & (prefix == ""), HATS.index("none"), HATS.index(who.hat))
        answers |= {
            f"{prefix}shape": index(SHAPES, who.shape, seen),
            f"{prefix}colour": index(COLOURS, who.colour, seen),
            f"{prefix}hat": np.where(seen & ~(changing & (take.event == "wind") & (prefix == "")), hat, HIDDEN),
            f"{prefix}stripe": index(STRIPES, who.stripe, seen),
        }
        if prefix == "":
            answers["emblem"] = index(EMBLEMS, who.emblem, seen & (np.cos(turn) < -0.6))
    if len(take.cast) == 1:
        answers["other shape"] = index(IN_FRAME["other shape"], "nobody")
        answers["other colour"] = index(IN_FRAME["other colour"], "nobody")
        answers["other hat"] = answers["other stripe"] = np.full(len(time), HIDDEN)
    sun_x = 0.22 if take.place.sun == "left" else 1.38
    flag = np.where((take.event == "bell") & (time >= EVENT_START), FLAGS.index("up"), FLAGS.index(take.place.flag))
    return answers | {
        "sun": index(SUNS, take.place.sun, in_view(sun_x - 0.05, sun_x + 0.05)),
        "landmarks": index(LANDMARKS, take.place.landmarks, take.camera == "wide"),
        "far": index(FAR, take.place.far, in_view(FAR_X - 0.1, FAR_X + 0.1)),
        "flag": np.where(in_view(FLAGPOLE, FLAGPOLE + 0.12) & ~(changing & (take.event == "bell")), flag, HIDDEN),
        "camera": index(CAMERAS, take.camera),
        "action": index(ACTIONS, take.action),
    }


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
