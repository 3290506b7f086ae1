"""A film's captions: a subtitle track, a chapter a shot, and the same pictures; a contact sheet beside it."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from shotstream_lite.cli import main
from shotstream_lite.film import read_film

BALL, WAVE, BOX = (
    "Wide shot: the red ball jumps — café.",
    "The red ball waves.",
    "Close-up: {the} blue\n box \\N waves.",
)
STORY = {"global_caption": "A red ball.", "shot1": BALL, "shot2": BOX, "frames": [25, 5]}
STORY |= {"turns": [[{"frame": 9, "caption": WAVE}], None]}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.json").write_text(json.dumps(STORY), encoding="utf-8")
    return tmp_path


def texts(path: str) -> list[tuple[int, int, str]]:
    """(start, end, text) in milliseconds, as the file holds them."""
    with av.open(path) as film:
        stream = film.streams.subtitles[0]
        packets = [(p.pts * p.time_base, p.duration * p.time_base, bytes(p)) for p in film.demux(stream) if p.size]
    prefix = 0 if path.endswith(".mkv") else 2  # mov_text begins with its length
    cues = [(start, length, data[prefix:].decode()) for start, length, data in packets]
    return [(round(start * 1000), round((start + length) * 1000), text) for start, length, text in cues if text]


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv"])
def test_captions_are_a_track_and_chapters(folder, model_folder, name):
    tell = ["tell", "story.json", "--preset", str(model_folder), "-o"]
    assert main([*tell, name, "--subtitles"]) == 0
    with av.open(name) as film:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in film.chapters()]
    first = 24 / 16 + 1 / 16
    assert [title for *_, title in chapters] == [{"title": f"1. {BALL}"}, {"title": f"2. {BOX}"[:80]}]
    assert [float(start) for start, *_ in chapters] == pytest.approx([0, first], abs=0.002)
    assert float(chapters[1][1]) == pytest.approx(30 / 16, abs=0.002)
    assert texts(name) == [(0, 562, BALL), (562, 1562, WAVE), (1562, 1875, "Close-up: {the} blue box \\N waves.")]
    assert main([*tell, f"plain-{name}"]) == 0
    assert np.array_equal(read_film(name), read_film(f"plain-{name}"))  # pictures are copied
    assert not list(folder.glob("*.part")) and not list(folder.glob("*.png"))


def test_every_film_may_have_a_contact_sheet(folder, model_folder, capsys):
    (folder / "table.csv").write_text("json_path\nstory.json\nstory.json\n", encoding="utf-8")
    tell = ["tell", "table.csv", "--preset", str(model_folder), "-o", "films", "--sheet"]
    assert main(tell) == 0
    sheets = sorted((folder / "films").glob("*.png"))
    assert [sheet.stem for sheet in sheets] == [film.stem for film in sorted((folder / "films").glob("*.mp4"))]
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == ((6 * (48 + 2) - 2) * 4, (2 * (32 + 2) - 2) * 4)  # of 32 x 48 pixels, enlarged
    (folder / "other.png").mkdir()
    capsys.readouterr()
    assert main(["tell", "story.json", "--preset", str(model_folder), "-o", "other.mp4", "--sheet"]) == 2
    assert "other.png is a folder" in capsys.readouterr().err and not (folder / "other.mp4").exists()
