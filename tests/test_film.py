"""Films on disk: the same frames come back, Ctrl-C saves, what is finished stays whatever happens."""

import ast
import sys
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from shotstream_lite import film as film_module
from shotstream_lite.errors import CheckpointError, FilmError
from shotstream_lite.film import FilmWriter, check_film_path, default_scale, read_film
from shotstream_lite.stills import film_strip, write_strip

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (250, 150, 20), (40, 90, 160)]


def flat(colour, frames: int = 1, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((frames, height, width, 3), colour, np.uint8)


def noise(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 240, 320, 3), dtype=np.uint8)


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
    assert [default_scale(*size) for size in ((128, 224), (480, 832), (200, 200), (33, 57), (243, 400))] == [
        4,
        1,
        1,
        16,
        2,
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, CheckpointError])
def test_what_is_finished_stays_a_film(tmp_path, error, suffix):
    path = tmp_path / f"film{suffix}"
    with pytest.raises(error) as raised, FilmWriter(path) as film:
        film.write(flat(COLOURS[0], frames=5))
        raise error("what")
    assert film.path == path and len(read_film(path)) == 5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if error is CheckpointError:
        assert str(raised.value) == f"what; {path} holds what is finished"


def test_what_is_unfinished_replaces_no_film(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), FilmWriter(path) as film:
        film.write(flat(COLOURS[0], frames=5))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and film.path == tmp_path / "film-stopped.mp4" and len(read_film(film.path)) == 5
    with pytest.raises(KeyboardInterrupt), FilmWriter(path, stopped=tmp_path / "x.mp4") as film:
        film.write(flat(COLOURS[0]))
        raise KeyboardInterrupt
    assert sorted(file.name for file in tmp_path.iterdir()) == ["film-stopped.mp4", "film.mp4", "x.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_film_plays_while_it_grows(tmp_path, suffix):
    film = FilmWriter(tmp_path / f"film{suffix}", fps=16)
    film.write(noise(40))
    (part,) = tmp_path.iterdir()  # what kill -9 would leave
    with av.open(str(part)) as container, suppress(av.FFmpegError):
        for number, _ in enumerate(container.decode(video=0)):  # noqa: B007
            pass
    assert number >= 15
    film.write(noise(1))
    film.close()
    with av.open(str(film.path)) as container:  # an ordinary film, with an index
        assert suffix == ".mkv" or container.streams.video[0].frames == 41


@pytest.mark.parametrize("kept", [0, 32])
def test_a_full_disk_is_one_line_and_what_is_finished_stays(tmp_path, monkeypatch, kept):
    resource = pytest.importorskip("resource")  # the system refuses what is longer, as a full disk does
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    film = FilmWriter(tmp_path / "film.mp4", fps=16)
    monkeypatch.setattr(film_module, "_X264", {})
    try:
        with pytest.raises(FilmError) as complaint, film:
            film.write(noise(kept))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**21 * (kept > 0), before[1]))
            for _ in range(10):
                film.write(noise(16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(complaint.value)
    assert message.startswith(f"{film.path}: cannot be written (File too large): make room there")
    if kept:
        assert message.endswith("film.mp4 holds what is finished") and film.frames_written >= kept
        assert len(read_film(film.path)) == film.frames_written
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"] * (kept > 0)


def test_two_writers_of_one_film_do_not_meet(tmp_path):
    path = tmp_path / "film.mp4"
    with FilmWriter(path) as first:
        first.write(flat(COLOURS[0], frames=3))
        with FilmWriter(path) as second:
            second.write(flat(COLOURS[1], frames=5))
        assert len(read_film(path)) == 5
    assert len(read_film(path)) == 3 and [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_an_ffmpeg_without_x264(tmp_path, monkeypatch):
    monkeypatch.delitem(film_module._ENCODERS, "libx264")
    with pytest.raises(FilmError, match="no H.264 encoder: pip install"):
        check_film_path(tmp_path / "film.mp4")
    monkeypatch.setitem(film_module._ENCODERS, "libx264rgb", {})  # another one will do
    assert check_film_path(tmp_path / "film.mp4")


def test_a_frame_written_as_ctrl_c_came_counts(tmp_path):
    class Late:
        def __init__(self, container):
            self.container = container

        def mux(self, packets):
            self.container.mux(packets)
            film._container = self.container
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), FilmWriter(tmp_path / "film.mp4") as film:
        film.write(flat(COLOURS[0], frames=3))
        film._container = Late(film._container)
        film.write(flat(COLOURS[1]))
    assert film.frames_written == len(read_film(film.path)) == 4


def test_ctrl_c_while_a_film_is_opened_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), FilmWriter(tmp_path / "film.mp4") as film:
        monkeypatch.setattr("av.container.OutputContainer.add_stream", interrupted, raising=False)
        film.write(flat(COLOURS[0]))
    assert not list(tmp_path.iterdir())


def test_a_name_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:film.mp4", "concat:a|b.mp4", "film %03d.mp4"):
        with FilmWriter(name) as film:
            film.write(flat(COLOURS[0]))
        assert len(read_film(name)) == 1


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
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # a mode would not stop an administrator
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
    assert [file.name for file in tmp_path.iterdir()] == ["b.mp4"]  # its first frame
    (tmp_path / "no.mp4").write_bytes(b"no film")
    for name in ("no.mp4", "absent.mp4"):
        with pytest.raises(FilmError, match="not a film|cannot be read"):
            read_film(tmp_path / name)


def test_strip_has_a_row_a_shot_and_time_from_left_to_right(tmp_path, monkeypatch):
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

    def break_off(self, path, kind):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = (tmp_path / "strip.png").read_bytes()
    monkeypatch.setattr("PIL.Image.Image.save", break_off)
    with pytest.raises(FilmError, match="No space left"):
        write_strip([rising], tmp_path / "strip.png")
    assert (tmp_path / "strip.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


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
