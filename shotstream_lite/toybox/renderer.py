"""Draws the miniature world: signed distances, anti-aliased by one pixel, painted back to front."""

import numpy as np

from shotstream_lite.toybox.world import HEIGHT, SHOT_FRAMES, WIDTH, Character, Place, Take, ToyStory

RGB = {
    "red": (215, 45, 45),
    "orange": (245, 135, 25),
    "yellow": (250, 220, 60),
    "green": (45, 165, 75),
    "blue": (45, 105, 220),
    "purple": (150, 70, 190),
}
# sky, ground, landmark leaves or walls, landmark trunk, sun or moon
SCENERY = {
    "meadow": ((150, 205, 245), (125, 190, 95), (40, 125, 60), (115, 80, 45), (255, 240, 150)),
    "desert": ((250, 205, 150), (225, 180, 110), (70, 140, 90), (70, 140, 90), (255, 250, 220)),
    "snow": ((200, 215, 230), (245, 248, 252), (30, 90, 90), (80, 60, 50), (255, 255, 245)),
    "city": ((35, 40, 80), (85, 85, 100), (70, 65, 120), (70, 65, 120), (235, 235, 200)),
    "seaside": ((110, 195, 225), (240, 220, 165), (50, 150, 70), (150, 110, 65), (255, 235, 120)),
}
TINT = {"neutral": (1.0, 1.0, 1.0), "warm": (1.06, 0.97, 0.84), "cool": (0.84, 0.95, 1.1)}
ZOOM = {"wide": 0.85, "medium": 1.15, "close": 1.45, "pan": 1.0}
HORIZON, FEET = 0.62, 0.88
RADIUS = 0.16  # of a body, in the units a character is drawn in
SIZE = 1.35  # of those units on the stage
INK = (35, 30, 40)
WHITE = (250, 250, 250)


class Canvas:
    """Frames being painted, [frames, height, width, 3], and the stage point (u right, v down) under each pixel."""

    def __init__(self, centre_u: np.ndarray, centre_v: float, zoom: float):
        rows = (np.arange(HEIGHT, dtype=np.float32) + 0.5) / HEIGHT - 0.5
        cols = ((np.arange(WIDTH, dtype=np.float32) + 0.5) - WIDTH / 2) / HEIGHT
        self.pixel = 1 / (HEIGHT * zoom)
        self.u = centre_u.astype(np.float32)[:, None, None] + cols[None, None, :] / zoom
        self.v = (np.float32(centre_v) + rows[None, :, None] / zoom) * np.ones((1, 1, 1), np.float32)
        self.image = np.zeros((len(centre_u), HEIGHT, WIDTH, 3), np.float32)

    def paint(self, distance: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Paints where the signed `distance` (stage units) is negative, with an edge one pixel soft."""
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)
        if not cover.any():
            return
        rows = np.flatnonzero(cover.any(axis=(0, 2)))
        cols = np.flatnonzero(cover.any(axis=(0, 1)))
        window = np.s_[:, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        cover = np.broadcast_to(cover, self.image.shape[:3])[window][..., None]
        self.image[window] += cover * (np.asarray(colour, np.float32) - self.image[window])


def render(story: ToyStory, take: Take, frames: int = SHOT_FRAMES) -> np.ndarray:
    """Draws one shot.

    Returns:
        uint8 [frames, 64, 96, 3].
    """
    time = np.arange(frames, dtype=np.float32)
    zoom = ZOOM[take.camera]
    positions = _paths(take, time, zoom)
    centre_u = np.full(frames, 0.75, np.float32) if take.camera == "wide" else np.full(frames, take.x, np.float32)
    if take.camera == "pan":
        centre_u = take.x + 0.35 * (time / (SHOT_FRAMES - 1) * 2 - 1)
    centre_v = 0.56 if take.camera in ("medium", "close") else 0.5
    still = take.camera != "pan"
    backdrop = Canvas(centre_u[:1] if still else centre_u, centre_v, zoom)
    _paint_place(backdrop, take.place)
    canvas = Canvas(centre_u, centre_v, zoom)
    canvas.image[:] = backdrop.image
    for index, where in zip(take.subjects, positions, strict=True):
        _paint_character(canvas, story.cast[index], take, where, time)
    tinted = canvas.image * np.asarray(TINT[story.tint], np.float32)
    return np.clip(tinted + 0.5, 0, 255).astype(np.uint8)


def _paths(take: Take, time: np.ndarray, zoom: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each subject its place across, its height above the ground and its turn away from us (radians), by frame."""
    zero = np.zeros_like(time)
    run = time / (SHOT_FRAMES - 1) * 2 - 1  # -1 .. 1 over a shot of the usual length
    if take.action == "meet":
        walk = np.clip(0.6 - 0.02 * time, 0.2, None)
        hop = 0.03 * np.abs(np.sin(time * 0.5))
        return [(0.75 - walk, hop, zero), (0.75 + walk, hop, zero)]
    reach = 0.36 / zoom
    if take.action == "walk_left":
        return [(take.x - reach * run, 0.025 * np.abs(np.sin(time * 0.6)), zero)]
    if take.action == "walk_right":
        return [(take.x + reach * run, 0.025 * np.abs(np.sin(time * 0.6)), zero)]
    if take.action == "jump":
        return [(take.x + zero, 0.18 / zoom * np.abs(np.sin(np.pi * (time / 16 + take.beat))), zero)]
    if take.action == "spin":
        return [(take.x + zero, zero, 2 * np.pi * (time / 24 + take.beat))]
    return [(take.x + zero, zero, zero)]


def _paint_place(canvas: Canvas, place: Place) -> None:
    sky, ground, leaves, trunk, sun = SCENERY[place.setting]
    u, v = canvas.u, canvas.v
    canvas.image[:] = sky
    canvas.paint(_circle(u, v, 0.25 if place.sun == "left" else 1.25, 0.14, 0.085), sun)
    if place.setting == "seaside":
        canvas.paint(_box(u, v, 0.75, HORIZON, 50, 0.06), (40, 120, 190))
    for slot in place.landmarks:
        _paint_landmark(canvas, place.setting, slot * 0.5, leaves, trunk)
    canvas.paint(HORIZON - v + 0 * u, ground)


def _paint_landmark(canvas: Canvas, setting: str, x: float, leaves: tuple, trunk: tuple) -> None:
    u, v = canvas.u, canvas.v
    if setting == "city":
        canvas.paint(_box(u, v, x, 0.4, 0.13, 0.24), leaves)
        for row in (0.24, 0.36, 0.48):
            canvas.paint(_box(u, v, x - 0.055, row, 0.025, 0.03), (245, 220, 120))
            canvas.paint(_box(u, v, x + 0.055, row, 0.025, 0.03), (245, 220, 120))
        return
    canvas.paint(_box(u, v, x, 0.5, 0.03, 0.14), trunk)
    if setting == "meadow":
        canvas.paint(_circle(u, v, x, 0.33, 0.14), leaves)
    elif setting == "snow":
        canvas.paint(_triangle(u, v, x, 0.36, 0.14, 0.2), leaves)
    elif setting == "desert":
        canvas.paint(_box(u, v, x, 0.42, 0.045, 0.2), leaves)
        canvas.paint(_box(u, v, x, 0.42, 0.13, 0.03), leaves)
        canvas.paint(_box(u, v, x - 0.11, 0.37, 0.028, 0.075), leaves)
        canvas.paint(_box(u, v, x + 0.11, 0.35, 0.028, 0.095), leaves)
    else:
        canvas.paint(np.minimum(_box(u, v, x, 0.33, 0.16, 0.028), _box(u, v, x, 0.3, 0.1, 0.055)), leaves)


def _paint_character(canvas: Canvas, who: Character, take: Take, path: tuple, time: np.ndarray) -> None:
    x, lift, turn = (p[:, None, None] for p in path)
    centre = FEET - (0.03 + RADIUS) * SIZE - lift
    # The character's own frame: a right, b down, origin in the middle of the body. Bodies and hats are round seen from
    # above, so a turn shows in what sticks out of them and in the face.
    a, b = (canvas.u - x) / SIZE, (canvas.v - centre) / SIZE
    t = time[:, None, None]
    colour = RGB[who.colour]
    dark = tuple(int(c * 0.6) for c in colour)
    walking = take.action in ("walk_left", "walk_right", "meet")
    step = 0.03 * np.sin(t * 0.9) if walking else 0 * t
    for side in (-1, 1):
        out = side * np.cos(turn)
        canvas.paint(_box(a, b, 0.07 * out, RADIUS + 0.01 + side * step * 0.6, 0.045, 0.025), dark)
        raised = take.action == "wave" and side == 1
        swing = 0.09 * np.sin(2 * np.pi * (t / 8 + take.beat))
        hand_a = 0.265 * out + (swing if raised else 0 * t)
        canvas.paint(_capsule(a, b, 0.13 * out, 0.03, hand_a, -0.16 if raised else 0.09, 0.028), dark)
    # Silhouettes that tell apart at a distance: the box is the broad one, the cone the pointed one.
    body = {"ball": _circle(a, b, 0, 0, RADIUS), "box": _box(a, b, 0, 0, 0.205, 0.15)}.get(who.shape)
    if body is None:
        body = _triangle(a, b, 0, 0, 0.185, RADIUS)
    canvas.paint(body, colour)
    stripe = {"high": -0.115, "middle": 0.035, "low": 0.105}[who.stripe]
    if who.shape == "cone" and who.stripe == "high":
        stripe = -0.1
    canvas.paint(np.maximum(body, np.abs(b - stripe) - 0.026), WHITE)
    look = {"walk_left": -1, "walk_right": 1}.get(take.action, 0) + (np.sign(0.75 - x) if take.action == "meet" else 0)
    reach = {"ball": 0.15, "box": 0.2, "cone": 0.075}[who.shape]  # of the eyes, around the body
    for side in (-1, 1):
        around = turn + side * np.arcsin(0.052 / reach)
        eye = reach * np.sin(around) + 0.018 * look
        shown = np.maximum(body - 0.02, np.where(np.cos(around) > 0, -1, 1))
        canvas.paint(np.maximum(shown, _circle(a, b, eye, -0.04, 0.034)), WHITE)
        canvas.paint(np.maximum(shown, _circle(a, b, eye + 0.01 * look, -0.04, 0.018)), INK)
    _paint_hat(canvas, who.hat, a, b + RADIUS - (0.02 if who.shape == "cone" else 0.0))


def _paint_hat(canvas: Canvas, hat: str, a: np.ndarray, b: np.ndarray) -> None:
    """`b` is 0 at the top of the body."""
    if hat == "top hat":
        canvas.paint(np.minimum(_box(a, b, 0, -0.01, 0.115, 0.018), _box(a, b, 0, -0.075, 0.07, 0.07)), INK)
    elif hat == "party hat":
        canvas.paint(_triangle(a, b, 0, -0.07, 0.085, 0.09), (240, 110, 200))
    elif hat == "crown":
        spikes = np.minimum(_triangle(a, b, -0.06, -0.07, 0.03, 0.05), _triangle(a, b, 0.06, -0.07, 0.03, 0.05))
        spikes = np.minimum(spikes, _triangle(a, b, 0, -0.075, 0.03, 0.055))
        canvas.paint(np.minimum(_box(a, b, 0, -0.015, 0.09, 0.03), spikes), (255, 200, 0))
    else:
        dome = np.maximum(_circle(a, b, 0, 0.0, 0.1), b - 0.01)
        canvas.paint(np.minimum(dome, _circle(a, b, 0, -0.11, 0.03)), (0, 175, 175))


def _circle(u, v, x, y, radius):
    return np.hypot(u - x, v - y) - radius


def _box(u, v, x, y, half_width, half_height):
    return np.maximum(np.abs(u - x) - half_width, np.abs(v - y) - half_height)


def _triangle(u, v, x, y, half_width, half_height):
    """Point up, centred on (x, y)."""
    slope = half_width / (2 * half_height)
    side = (np.abs(u - x) - slope * (v - y + half_height)) / np.hypot(1, slope)
    return np.maximum(side, v - y - half_height)


def _capsule(u, v, x0, y0, x1, y1, radius):
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(u - x0 - along * dx, v - y0 - along * dy) - radius
