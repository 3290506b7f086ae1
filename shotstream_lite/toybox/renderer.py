"""Draws the miniature world with one shape: a trapezoid with rounded corners.

A ball is one without width or height, a box one with equal sides, a cone one with a narrow top, an arm a turned one
without width. So a film is a table of numbers, [frames, shapes, 12], filled in by `shapes_of` on the CPU, and painting
it (`paint`) is a few lines of torch that run on any device and for any number of films at once.
"""

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.toybox.world import (
    EVENT_FRAMES,
    EVENT_START,
    FPS,
    HEIGHT,
    SHOT_FRAMES,
    WIDTH,
    Character,
    Take,
    ToyStory,
)

RGB = {
    "red": (222, 48, 48),
    "orange": (246, 138, 28),
    "yellow": (250, 215, 50),
    "green": (40, 165, 80),
    "blue": (45, 105, 225),
    "purple": (150, 70, 195),
}
# sky, ground, landmark leaves or walls, trunk, sun or moon
SCENERY = {
    "meadow": ((150, 205, 245), (135, 200, 100), (45, 130, 65), (120, 85, 50), (255, 240, 150)),
    "desert": ((250, 210, 160), (228, 184, 116), (75, 145, 95), (75, 145, 95), (255, 252, 225)),
    "snow": ((188, 206, 226), (246, 249, 253), (35, 95, 95), (85, 65, 55), (255, 255, 245)),
    "city": ((74, 80, 138), (112, 112, 128), (96, 92, 160), (96, 92, 160), (240, 238, 205)),
    "seaside": ((120, 200, 230), (242, 223, 170), (55, 155, 75), (155, 115, 70), (255, 235, 120)),
}
TINT = {"neutral": (1.0, 1.0, 1.0), "warm": (1.06, 0.96, 0.8), "cool": (0.82, 0.95, 1.1)}
ZOOM = {"wide": 1.0, "medium": 1.25, "close": 1.5, "pan": 1.0}
CENTRE = {"wide": 0.5, "medium": 0.54, "close": 0.56, "pan": 0.5}  # height of the picture's middle on the stage
HORIZON, FEET, MIDDLE = 0.62, 0.88, 0.8
SLOTS = (0.1, 0.55, 1.05, 1.5)  # of landmarks
FLAGPOLE, FAR_X = 0.32, 1.84
PAN_SECONDS, PAN_START, PAN_END = 3.0, 0.8, 1.14
LEAP, STEP, SWING, TURN = 32, 24, 24, 56  # frames of a jump, two steps, a wave to and fro, a turn: whole latents
WALK, REACH = 0.14, 0.35  # picture heights a second, and how far from the middle a walk begins
RADIUS, SIZE = 0.16, 1.25  # of a body, in the units a character is drawn in; of those units on the stage
INK, WHITE, PINK, GOLD, TEAL = (38, 33, 44), (250, 250, 250), (240, 105, 205), (255, 205, 20), (0, 178, 178)
PLAIN, HOLD, INSIDE = 0, 1, 2  # paint; paint and remember where; paint only within what was remembered last


def render(
    story: ToyStory, take: Take, frames: int = SHOT_FRAMES, start: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Draws one shot, or `frames` frames of it from number `start`. Returns uint8 [frames, 128, 224, 3]."""
    return paint(*(torch.from_numpy(table).to(device) for table in shapes_of(story, take, frames, start)))


def shapes_of(
    story: ToyStory, take: Take, frames: int = SHOT_FRAMES, start: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shot as numbers.

    Returns:
        float32 [frames, shapes, 12]: x, y, cosine and sine of the turn, half width at the top, at the bottom, half
        height, radius, red, green, blue, and how it is painted; [frames, 3] the camera: middle across, middle down,
        zoom; and [frames, 3] the tint.
    """
    time = np.arange(start, start + frames, dtype=np.float32)
    drawing = Drawing(frames)
    drawing.place(take, time)
    for index, (who, path) in enumerate(zip(take.cast, paths_of(take, time), strict=True)):
        drawing.character(who, take, path, time, loses_hat=take.event == "wind" and index == 0)
    tint = np.broadcast_to(np.asarray(TINT[story.tint]), (frames, 3))
    return drawing.table(), camera_of(take, time), tint.astype(np.float32)


def camera_of(take: Take, time: np.ndarray) -> np.ndarray:
    """Where a shot's camera looks: middle across, middle down, zoom. Shape: [frames] to float32 [frames, 3]."""
    x = take.x if take.camera in ("medium", "close") and len(take.cast) == 1 else MIDDLE
    across = np.full(len(time), x)
    if take.camera == "pan":
        across = PAN_START + (PAN_END - PAN_START) * _ease(time / FPS / PAN_SECONDS)
    down, zoom = (np.full(len(time), table[take.camera]) for table in (CENTRE, ZOOM))
    return np.stack([across, down, zoom], axis=1).astype(np.float32)


def paint(shapes: Tensor, camera: Tensor, tint: Tensor, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Paints shapes one over the other, with edges one pixel soft.

    Shape:
        shapes: [frames, shapes, 12], camera, tint: [frames, 3] (see `shapes_of`); frames may be of many films
        returns: uint8 [frames, height, width, 3]
    """
    across, down, zoom = camera[:, :, None, None].unbind(1)
    rows = (torch.arange(height, device=shapes.device) + 0.5) / height - 0.5
    cols = (torch.arange(width, device=shapes.device) + 0.5 - width / 2) / height
    u, v = across + cols / zoom, down + rows[:, None] / zoom  # [frames, 1, width], [frames, height, 1]
    image = shapes.new_zeros(len(shapes), 3, height, width)
    held = shapes.new_zeros(len(shapes), height, width)
    on_cpu = shapes.device.type == "cpu"
    for shape in shapes.unbind(1):
        top, left = _window(shape, camera, height, width) if on_cpu else (slice(None), slice(None))
        if on_cpu and _still(shape, camera):
            shape = shape[:1]
        n = len(shape)
        cover = (0.5 - distance(shape, u[:n, :, left], v[:n, top]) * (height * zoom[:n])).clamp(0, 1)
        mode = shape[:, 11, None, None]
        inside = held[:, top, left]
        cover = torch.where(mode == INSIDE, cover * inside, cover)
        held *= mode != HOLD  # also beyond the window
        held[:, top, left] += torch.where(mode == HOLD, cover, 0.0)
        part = image[:, :, top, left]
        part += cover[:, None] * (shape[:, 8:11, None, None] - part)
    return (image * tint[:, :, None, None] + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def distance(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the rounded trapezoid, negative inside. Shape: [n, 12], points [n, h, w] to [n, h, w]."""
    x, y, cos, sin, top, bottom, half, radius = shape[:, :8, None, None].unbind(1)
    u, v = u - x, v - y
    a, b = (u * cos + v * sin).abs(), v * cos - u * sin  # the shape's own frame, folded along its axis
    flat = (a - torch.where(b < 0, top, bottom)).clamp(min=0), b.abs() - half  # to the nearer of top and bottom
    lean, long = bottom - top, 2 * half
    p, q = a - top, b + half  # from the upper corner of the side
    along = ((p * lean + q * long) / (lean**2 + long**2 + 1e-12)).clamp(0, 1)
    side = p - along * lean, q - along * long
    nearest = torch.minimum(flat[0] ** 2 + flat[1] ** 2, side[0] ** 2 + side[1] ** 2).sqrt()
    within = (p * long < q * lean) & (flat[1] < 0)
    return torch.where(within, -nearest, nearest) - radius


def _window(shape: Tensor, camera: Tensor, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns that a shape touches in any frame; painting less is what makes a CPU fast enough."""
    x, y = shape[:, 0], shape[:, 1]
    reach = torch.hypot(torch.maximum(shape[:, 4], shape[:, 5]), shape[:, 6]) + shape[:, 7]
    turned = shape[:, 3] != 0
    wide = torch.where(turned, reach, torch.maximum(shape[:, 4], shape[:, 5]) + shape[:, 7])
    high = torch.where(turned, reach, shape[:, 6] + shape[:, 7])
    scale = camera[:, 2] * height
    left, right = (x - wide - camera[:, 0]) * scale + width / 2, (x + wide - camera[:, 0]) * scale + width / 2
    top, bottom = (y - high - camera[:, 1]) * scale + height / 2, (y + high - camera[:, 1]) * scale + height / 2
    low, high_ = lambda t: max(0, int(t.min().floor()) - 1), lambda t: max(0, int(t.max().ceil()) + 1)
    return slice(low(top), high_(bottom)), slice(low(left), high_(right))


def _still(shape: Tensor, camera: Tensor) -> bool:
    return bool((shape == shape[:1]).all()) and bool((camera == camera[:1]).all())


class Drawing:
    """Collects a shot's shapes, back to front; every number may be one a frame or one for all."""

    def __init__(self, frames: int) -> None:
        self.frames, self.shapes = frames, []

    def table(self) -> np.ndarray:
        """float32 [frames, shapes, 12]."""
        return np.stack(self.shapes, axis=1).astype(np.float32)

    def add(self, x, y, top, bottom, half, radius, colour, mode=PLAIN, cos=1.0, sin=0.0) -> None:  # noqa: ANN001
        """One shape, centred on (x, y): half widths at top and bottom, half height, all grown by `radius`."""
        numbers = (x, y, cos, sin, top, bottom, half, radius, *colour, mode)
        self.shapes.append(np.stack([np.broadcast_to(n, self.frames) for n in numbers], axis=1))

    def box(self, x, y, half_width, half_height, colour, mode=PLAIN, radius=0.012) -> None:  # noqa: ANN001
        """A box with slightly round corners."""
        self.add(x, y, half_width - radius, half_width - radius, half_height - radius, radius, colour, mode)

    def ball(self, x, y, radius, colour, mode=PLAIN) -> None:  # noqa: ANN001
        """A disc."""
        self.add(x, y, 0, 0, 0, radius, colour, mode)

    def cone(self, x, y, half_width, half_height, colour, mode=PLAIN, radius=0.012) -> None:  # noqa: ANN001
        """A triangle, point up."""
        self.add(x, y, 0, half_width - radius, half_height - radius, radius, colour, mode)

    def stick(self, x0, y0, x1, y1, radius, colour) -> None:  # noqa: ANN001
        """A rounded line from one point to another."""
        dx, dy = x1 - x0, y1 - y0
        long = np.hypot(dx, dy) + 1e-6
        self.add((x0 + x1) / 2, (y0 + y1) / 2, 0, 0, long / 2, radius, colour, cos=dy / long, sin=-dx / long)

    def place(self, take: Take, time: np.ndarray) -> None:
        """Sky, sun, what stands around, ground and flag."""
        place = take.place
        sky, ground, leaves, trunk, sun = SCENERY[place.setting]
        self.box(1, 0, 9, 9, sky)
        self.ball(0.22 if place.sun == "left" else 1.38, 0.15, 0.09, sun)
        if place.setting == "seaside":
            self.box(1, HORIZON - 0.03, 9, 0.07, (50, 130, 195))
        for slot in place.landmarks:
            self.landmark(place.setting, SLOTS[slot], leaves, trunk)
        self.far(place.far)
        self.box(1, HORIZON + 9, 9, 9, ground)
        up = _ease((time - EVENT_START) / EVENT_FRAMES) if take.event == "bell" else float(place.flag == "up")
        self.box(FLAGPOLE, 0.46, 0.014, 0.2, (235, 235, 240))
        self.box(FLAGPOLE + 0.085, 0.58 - 0.26 * up, 0.075, 0.05, (230, 40, 120))

    def landmark(self, setting: str, x: float, leaves: tuple, trunk: tuple) -> None:
        """A tree, cactus, house or palm of the setting, on the horizon."""
        if setting == "city":
            self.box(x, 0.38, 0.13, 0.26, leaves)
            for row in (0.22, 0.34, 0.46):
                self.box(x - 0.055, row, 0.028, 0.034, (248, 226, 130))
                self.box(x + 0.055, row, 0.028, 0.034, (248, 226, 130))
            return
        self.box(x, 0.52, 0.03, 0.14, trunk)
        if setting == "meadow":
            self.ball(x, 0.34, 0.14, leaves)
        elif setting == "snow":
            self.cone(x, 0.34, 0.14, 0.2, leaves)
        elif setting == "desert":
            self.box(x, 0.42, 0.045, 0.22, leaves, radius=0.04)
            self.box(x, 0.45, 0.14, 0.032, leaves, radius=0.03)
            self.box(x - 0.11, 0.38, 0.032, 0.09, leaves, radius=0.03)
            self.box(x + 0.11, 0.36, 0.032, 0.1, leaves, radius=0.03)
        else:
            self.add(x, 0.33, 0.06, 0.16, 0.03, 0.02, leaves)
            self.add(x, 0.28, 0.0, 0.08, 0.03, 0.02, leaves)

    def far(self, kind: str) -> None:
        """What stands beyond a wide shot's right edge."""
        if kind == "house":
            self.box(FAR_X, 0.5, 0.12, 0.14, (235, 225, 210))
            self.cone(FAR_X, 0.3, 0.16, 0.08, (190, 60, 50))
        elif kind == "tent":
            self.cone(FAR_X, 0.45, 0.17, 0.2, (250, 170, 60))
            self.cone(FAR_X, 0.53, 0.06, 0.12, (110, 60, 40))
        else:
            self.box(FAR_X, 0.38, 0.075, 0.26, (120, 120, 150))
            self.add(FAR_X, 0.16, 0.11, 0.07, 0.03, 0.01, (160, 90, 170))

    def character(self, who: Character, take: Take, path: tuple, time: np.ndarray, loses_hat: bool) -> None:
        """Shadow, feet, arms, body, stripe, emblem or face, hat. Bodies are round seen from above: a turn shows in
        what sticks out of them, in the face and in the emblem on the back."""
        x, lift, turn = path
        middle = FEET - (0.03 + RADIUS) * SIZE - lift
        colour = RGB[who.colour]
        dark = tuple(int(c * 0.6) for c in colour)
        ground = tuple(int(c * 0.8) for c in SCENERY[take.place.setting][1])
        s = SIZE
        self.box(x, FEET + 0.012, (0.19 - 0.25 * lift) * s, 0.018 * s, ground, radius=0.018 * s)
        walking = take.action in ("walk_left", "walk_right", "meet")
        step = 0.03 * np.sin(2 * np.pi * time / STEP) if walking else 0 * time
        for side in (-1, 1):
            out = side * np.cos(turn)
            self.box(x + 0.075 * out * s, middle + (RADIUS + 0.012 + 0.6 * side * step) * s, 0.05 * s, 0.03 * s, dark)
            raised = take.action == "wave" and side == 1
            swing = 0.1 * np.sin(2 * np.pi * time / SWING) if raised else 0 * time
            hand = middle + (-0.2 if raised else 0.09) * s
            self.stick(x + 0.13 * out * s, middle + 0.03 * s, x + (0.27 * out + swing) * s, hand, 0.034 * s, dark)
        # Silhouettes that tell apart at a distance: the box is the broad one, the cone the pointed one.
        if who.shape == "ball":
            self.ball(x, middle, RADIUS * s, colour, HOLD)
        elif who.shape == "box":
            self.box(x, middle, 0.205 * s, 0.15 * s, colour, HOLD)
        else:
            self.cone(x, middle, 0.195 * s, RADIUS * s, colour, HOLD)
        _, stripe = parts_of(who, lift)
        self.box(x, stripe, 0.3 * s, 0.026 * s, WHITE, INSIDE, radius=0.002)
        self.back(who, x, middle, turn)
        self.face(who, take, x, middle, turn)
        self.hat(who, x, middle, time if loses_hat else None)

    def back(self, who: Character, x, middle, turn) -> None:  # noqa: ANN001
        """The emblem, seen only from behind."""
        reach = {"ball": 0.15, "box": 0.2, "cone": 0.1}[who.shape]
        shown = np.cos(turn) < -0.2
        at = x - reach * np.sin(turn) * SIZE
        big = np.where(shown, 0.058 * SIZE, -1.0)  # of negative size: nowhere
        if who.emblem == "dot":
            self.ball(at, middle, big, INK, INSIDE)
        elif who.emblem == "square":
            self.add(at, middle, 0.045 * SIZE, 0.045 * SIZE, 0.045 * SIZE, np.where(shown, 0.004, -1.0), INK, INSIDE)
        else:
            self.add(at, middle, 0, 0.06 * SIZE, 0.055 * SIZE, np.where(shown, 0.006, -1.0), INK, INSIDE)

    def face(self, who: Character, take: Take, x, middle, turn) -> None:  # noqa: ANN001
        """Two eyes that look where their owner goes."""
        look = {"walk_left": -1, "walk_right": 1}.get(take.action, 0)
        if take.action == "meet":
            look = np.sign(MIDDLE - x)
        reach = {"ball": 0.15, "box": 0.2, "cone": 0.08}[who.shape]
        for side in (-1, 1):
            around = turn + side * np.arcsin(0.055 / reach)
            eye = x + (reach * np.sin(around) + 0.02 * look) * SIZE
            shown = np.cos(around) > 0
            self.ball(eye, middle - 0.04 * SIZE, np.where(shown, 0.038 * SIZE, -1.0), WHITE, INSIDE)
            pupil = eye + 0.012 * look * SIZE
            self.ball(pupil, middle - 0.04 * SIZE, np.where(shown, 0.02 * SIZE, -1.0), INK, INSIDE)

    def hat(self, who: Character, x, middle, time) -> None:  # noqa: ANN001
        """The hat; with `time` the wind takes it off to the right."""
        if who.hat == "none":
            return
        s = SIZE
        y = _brim(who, middle)
        if time is not None:
            gone = np.clip((time - EVENT_START) / EVENT_FRAMES, 0, None)
            x, y = x + 0.9 * gone**1.5, y - 0.25 * gone
        if who.hat == "top hat":
            self.box(x, y - 0.08 * s, 0.075 * s, 0.085 * s, INK)
            self.box(x, y - 0.035 * s, 0.075 * s, 0.02 * s, (225, 60, 60), radius=0.004)
            self.box(x, y - 0.005 * s, 0.12 * s, 0.018 * s, INK)
        elif who.hat == "party hat":
            self.cone(x, y - 0.075 * s, 0.09 * s, 0.095 * s, PINK)
            self.ball(x, y - 0.165 * s, 0.028 * s, WHITE)
        elif who.hat == "crown":
            for side in (-1, 0, 1):
                self.cone(x + 0.065 * side * s, y - 0.065 * s, 0.04 * s, 0.065 * s, GOLD)
            self.box(x, y - 0.018 * s, 0.1 * s, 0.032 * s, GOLD)
        else:
            self.add(x, y - 0.035 * s, 0.03 * s, 0.06 * s, 0.03 * s, 0.035 * s, TEAL)
            self.ball(x, y - 0.115 * s, 0.034 * s, WHITE)


def paths_of(take: Take, time: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each subject its place across, its height above the ground and its turn away from us (radians), by frame.

    By the clock and not by the shot's length: a shot that goes on only goes on.
    """
    zoom, zero, seconds = ZOOM[take.camera], 0.0 * time, time / FPS
    bounce = 0.02 * _rising(time, STEP)
    lift = 0.16 / zoom * _rising(time, LEAP) if take.action == "jump" else zero
    if take.action == "meet":
        gap = np.clip(0.6 / zoom - WALK * seconds, 0.34, None)
        return [(MIDDLE - gap, bounce, zero), (MIDDLE + gap, bounce, zero)]
    if len(take.cast) == 2:
        return [(MIDDLE - 0.32 + zero, lift, zero), (MIDDLE + 0.32 + zero, lift, zero)]
    if take.action in ("walk_left", "walk_right"):
        along = (WALK * seconds - (0.2 if take.camera == "pan" else REACH)) / zoom
        return [(take.x + (along if take.action == "walk_right" else -along), bounce, zero)]
    turn = 2 * np.pi * time / TURN if take.action == "spin" else zero
    return [(take.x + zero, lift, turn)]


def parts_of(who: Character, lift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far down the stage the middles of a hat and of the stripe are."""
    middle = FEET - (0.03 + RADIUS) * SIZE - lift
    stripe = {"high": -0.08 if who.shape == "cone" else -0.1, "middle": 0.03, "low": 0.11}[who.stripe]
    return _brim(who, middle) - 0.07 * SIZE, middle + stripe * SIZE


def _brim(who: Character, middle: np.ndarray) -> np.ndarray:
    return middle - (RADIUS - (0.03 if who.shape == "cone" else 0.005)) * SIZE


def _rising(time: np.ndarray, frames: int) -> np.ndarray:
    """From 0 to 1 and back every so many frames."""
    return (1 - np.cos(2 * np.pi * time / frames)) / 2


def _ease(progress: np.ndarray) -> np.ndarray:
    """0 before, 1 after, smooth between."""
    t = np.clip(progress, 0, 1)
    return t * t * (3 - 2 * t)
