"""What a page may ask for: one visitor's story must not keep the device from the others."""

from shotstream_lite.presets import StreamSettings
from shotstream_lite.story import Story, StoryError
from shotstream_lite.story_files import parse_story

MAX_FILE = 500_000  # characters of a story file
MAX_SHOTS = 100
MAX_SHOT_SECONDS = 15
MAX_QUEUE = 12
MAX_STEPS, MAX_BUDGET, MAX_CHUNK = 16, 24, 8


def read_story(text: str, settings: StreamSettings, name: str = "story") -> Story:
    """A story file's text as a story this page can tell. Raises StoryError, one line."""
    if not isinstance(text, str) or len(text) > MAX_FILE:
        raise StoryError(f"{name}: is no story file of at most {MAX_FILE} characters: choose another")
    story = parse_story(text, name)
    if len(story.shots) > MAX_SHOTS:
        raise StoryError(f"{name}: has {len(story.shots)} shots, this page tells {MAX_SHOTS}: cut the rest")
    picture = {key: story.settings[key] for key in ("height", "width", "fps") if key in story.settings}
    if any(getattr(settings, key) != value for key, value in picture.items()):
        size = f"{settings.height} x {settings.width} pixels at {settings.fps} frames a second"
        raise StoryError(f"{name}: settings: this page shows {size}: use `shotstream tell` for others")
    for number, shot in enumerate(story.shots, start=1):
        check_frames(shot.frames, settings, f"{name}: frames of shot{number}")
    for number, changes in enumerate([story.settings, *(shot.settings for shot in story.shots)]):
        where = f"{name}: settings" + (f" of shot{number}" if number else "")
        changed = settings.changed({key: value for key, value in changes.items() if key != "weights"})
        check_frames(changed.shot_frames, settings, where)
        for what, value, most in (
            ("steps", len(changed.steps), MAX_STEPS),
            ("budget", changed.budget, MAX_BUDGET),
            ("chunk", changed.chunk, MAX_CHUNK),
        ):
            if value > most:
                raise StoryError(f"{where}: {value} {what}, this page allows {most}: write fewer")
    return story


def check_frames(frames: int | None, settings: StreamSettings, name: str) -> None:
    """Raises StoryError for a shot longer than this page shows."""
    if frames is not None and frames > MAX_SHOT_SECONDS * settings.fps + 1:
        most = MAX_SHOT_SECONDS * settings.fps // 4 * 4 + 1
        raise StoryError(f"{name} is {frames}, this page shows {most} at most: make more shots")
