"""Films on disk: the same frames come back, Ctrl-C saves, errors leave everything as it was."""

import ast
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from shotstream_lite import film as film_module
from shotstream_lite.film import (
    FilmError,
    FilmWriter,
    check_film_path,
    default_scale,
    film_strip,
    read_film,
    write_strip,
)

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (250, 150, 20), (40, 90, 160)]


def flat(colour, frames: int = 1, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((frames, height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_come_back_in_order_size_and_colour(tmp_path, suffix):
    path = tmp_path / f"film{suffix}"
    with FilmWriter(path, fps=16) as film:
        for colour in COLOURS:
            film.write(flat(colour, frames=3))
    assert film.frames_written == 21
    frames = read_film(path)
    assert frames.shape == (21, 512, 768, 3) and frames.dtype == np.uint8
    for colour, frame in zip(COLOURS, frames[1::3], strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 6  # the wrong YUV matrix is off by 20 and more
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 16
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_pixels_are_enlarged_without_blur(tmp_path):
    board = np.indices((16, 16)).sum(0) % 2 * 255
    with FilmWriter(tmp_path / "board.mp4", scale=8) as film:
        film.write(np.repeat(board[None, :, :, None], 3, axis=3).astype(np.uint8).repeat(4, axis=0))
    frames = read_film(tmp_path / "board.mp4")
    assert frames.shape == (4, 128, 128, 3)
    assert np.abs(frames[-1, 4::8, 4::8, 0].astype(int) - board).max() < 16


def test_default_scale():
    assert [default_scale(*size) for size in ((64, 96), (480, 832), (200, 200), (33, 57), (243, 400))] == [
        8,
        1,
        1,
        16,
        2,
    ]


def test_ctrl_c_saves_what_is_finished(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), FilmWriter(path) as film:
        film.write(flat(COLOURS[0], frames=5))
        assert path.read_bytes() == b"old" and (tmp_path / "film.mp4.part").exists()
        raise KeyboardInterrupt
    assert len(read_film(path)) == 5
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_without_a_frame_nothing_changes(tmp_path, error):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    try:
        with FilmWriter(path):
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_an_error_leaves_the_old_film(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), FilmWriter(path) as film:
        film.write(flat(COLOURS[0], frames=5))
        raise RuntimeError
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_bad_places_are_refused_before_work(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name, words in {
        "film.gif": "must end in .mp4, .mov, .mkv",
        "film": "must end in",
        "folder.mp4": "is a folder",
        "absent/film.mp4": "make it first",
        "file/film.mp4": "make it first",
    }.items():
        with pytest.raises(FilmError) as complaint:
            check_film_path(tmp_path / name)
        message = str(complaint.value)
        assert words in message and str(tmp_path / name) in message and "\n" not in message


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # a mode would not stop an administrator
    with pytest.raises(FilmError, match="Permission denied.*choose another"):
        FilmWriter(tmp_path / "film.mp4")


def test_bad_frames_are_refused(tmp_path):
    with pytest.raises(FilmError, match="uint8"), FilmWriter(tmp_path / "a.mp4") as film:
        film.write(np.zeros((1, 64, 96, 3), np.float32))
    with pytest.raises(FilmError, match="all frames must be 64 x 96"), FilmWriter(tmp_path / "b.mp4") as film:
        film.write(flat(COLOURS[0]))
        film.write(flat(COLOURS[0], height=32))
    with pytest.raises(FilmError, match="even"), FilmWriter(tmp_path / "c.mp4", scale=1) as film:
        film.write(flat(COLOURS[0], height=63))
    assert not list(tmp_path.iterdir())
    (tmp_path / "no.mp4").write_bytes(b"no film")
    for name in ("no.mp4", "absent.mp4"):
        with pytest.raises(FilmError, match="not a film"):
            read_film(tmp_path / name)


def test_strip_has_a_row_a_shot_and_time_from_left_to_right(tmp_path):
    rising = np.repeat(np.arange(33, dtype=np.uint8)[:, None, None, None], 3, axis=3).repeat(4, 1).repeat(6, 2)
    strip = film_strip([rising, rising[::-1][:9]], columns=3, gap=2)
    assert strip.shape == (4 + 2 + 4, 6 * 3 + 2 * 2, 3)
    assert strip[0, ::8, 0].tolist() == [0, 16, 32]
    assert strip[6, ::8, 0].tolist() == [32, 28, 24]
    assert strip[0, 6, 0] == 255 and strip[4, 0, 0] == 255
    write_strip([rising], tmp_path / "strip.png", scale=2)
    assert (tmp_path / "strip.png").stat().st_size > 0
    with pytest.raises(FilmError, match="cannot be written"):
        write_strip([rising], tmp_path / "absent" / "strip.png")


def test_films_alone_need_pyav(tmp_path, monkeypatch):
    """GPU machines often lack it: nothing imports it before a film is written or read, and then says what to do."""
    package = Path(film_module.__file__).parent
    importing = [
        file.name
        for file in package.rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node).split()[1].split(".")[0] == "av"
    ]
    assert importing == []
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FilmError, match="pip install av"), FilmWriter(tmp_path / "film.mp4") as film:
        film.write(flat(COLOURS[0]))
    assert list(tmp_path.iterdir()) == []
