"""Real films: tiny videos made here, cut, encoded and learnt from as those of the miniature world."""

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from training_run import CHANNELS, tiny_codec

from shotstream_lite.cli import main
from shotstream_lite.codec import Codec
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.film import FilmError, FilmWriter
from shotstream_lite.kept import keep
from shotstream_lite.toybox.dataset import key_frames
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.batches import next_shot_batch
from shotstream_lite.training.codec import build_codec
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.films import FilmsConfig, encode_films
from shotstream_lite.training.videos import (
    Video,
    encode_videos,
    find_videos,
    frame_times,
    load_videos,
    read_shots,
    sampled,
    shots_of,
)

CUTS = ((0, 20), (20, 45), (45, 60))  # the last is too short for a shot of 17 frames


@pytest.fixture
def film(tmp_path):
    """Three shots in three colours, each with a bar that moves, and a story beside."""
    with FilmWriter(tmp_path / "film.mp4", scale=1) as writer:
        for shot, (start, end) in enumerate(CUTS):
            for frame in range(end - start):
                picture = np.full((1, 64, 96, 3), 40, np.uint8)
                picture[..., shot] = 220
                picture[:, 20:40, 2 * frame : 2 * frame + 12] = 128
                writer.write(picture)
    story = {"global_caption": "Bars.", "shot1": "a red one", "shot2": "a green one", "shot3": "a blue one"}
    (tmp_path / "film.json").write_text(json.dumps(story), encoding="utf-8")
    return tmp_path / "film.mp4"


def test_cuts_are_found_where_they_are(film):
    assert shots_of(film) == list(CUTS)
    video = find_videos(film.parent)[0]
    assert video.ranges == CUTS and video.captions[1] == "Bars.shot1:a green one"
    film.with_suffix(".json").unlink()
    assert find_videos(film.parent)[0].captions == find_videos(film)[0].captions == ["", "", ""]


def test_a_shot_is_read_from_its_first_to_its_last_frame_and_fills_the_picture(film):
    shots = list(read_shots(Video(film, CUTS[:2]), 5, 32, 32))
    assert [shot.shape for shot in shots] == [(5, 32, 32, 3)] * 2
    for channel, shot in enumerate(shots):
        background = shot[:, :6].reshape(5, -1, 3).mean(1)
        assert (np.abs(background - np.where(np.arange(3) == channel, 220, 40)) < 20).all()
    bar = np.abs(shots[1][:, 14].astype(float) - 128).sum(-1).argmin(-1)
    assert (np.diff(bar[:4]) >= 0).all() and bar[-1] != bar[0]


def test_real_films_become_batches(film, tmp_path):
    torch.manual_seed(0)
    codec, folder, keys = Codec(tiny_codec().eval()), tmp_path / "films", key_frames(17, (6,))
    encode_videos(codec, find_videos(film.parent), folder, 17, (32, 48), keys)
    films = load_videos(folder)
    assert (len(films), films.lengths(0), films.questions()) == (1, [17, 17], {})
    batch = next_shot_batch(films, 20, Draws(0, 0, range(20)).each, drop_context=0.0)
    assert batch.target.shape == (20, CHANNELS, 5, 4, 6) and batch.context.shape == (20, CHANNELS, 6, 4, 6)
    told = {captions[-1] or captions[0] for captions in batch.captions}
    assert told == {"Bars.shot0:a red one", "Bars.shot1:a green one"}
    first = next(iter(read_shots(Video(film, CUTS[:1]), 17, 32, 48)))
    pixels = torch.from_numpy(first).permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert torch.allclose(films.clip(0, 0), codec.encode_clip(pixels)[0], atol=0.01)
    with pytest.raises(CheckpointError, match="--budget"):
        films.still(0, 0, 15)


SIZE, KEYS = (16, 16), key_frames(9, (6,))


def colour_film(path, lengths=(20,), colour=0, steps=None):
    """Shots of one colour each; `steps`: ticks of 1/3000 s that each frame of a shot is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base, time = Fraction(1, 3000), 0
        for shot, (length, step) in enumerate(zip(lengths, steps or [100] * len(lengths), strict=True)):
            for frame in range(length):
                picture = np.full((48, 64, 3), 20, np.uint8)
                picture[..., (colour + shot) % 3] = 220
                picture[30:36, 2 * frame % 50 : 2 * frame % 50 + 10] = 128
                picture = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
                picture.pts, picture.time_base = time, Fraction(1, 3000)
                container.mux(stream.encode(picture))
                time += step
        container.mux(stream.encode())
    return path


def table_of(folder, rows):
    """A released table with a story file for each row (video, ranges, captions)."""
    lines = ["json_path,video_path,frame_number"]
    for number, (video, ranges, *captions) in enumerate(rows):
        told = {f"shot{i}": caption for i, caption in enumerate(captions, 1)}
        (folder / f"{number}.json").write_text(json.dumps({"global_caption": "G."} | told), encoding="utf-8")
        lines.append(f'{number}.json,{video},"{ranges}"')
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return Codec(tiny_codec().eval())


def test_a_table_is_read_from_where_it_lies(tmp_path, monkeypatch):
    """Wherever the program runs, whatever else is called so there."""
    for folder, length in (("work", 3), ("data", 20)):
        colour_film(tmp_path / folder / "film.mp4", (length,))
    table = table_of(tmp_path / "data", [("film.mp4", [[0, 20]], "a")])
    monkeypatch.chdir(tmp_path / "work")
    assert find_videos(table)[0].path == tmp_path / "data" / "film.mp4"
    monkeypatch.chdir(tmp_path / "data")
    assert find_videos(Path("table.csv"))[0].path.samefile(tmp_path / "data" / "film.mp4")


def test_cuts_of_a_variable_frame_rate_are_those_of_the_decoded_frames(tmp_path):
    """And a shot is sampled evenly in time, although the middle one's second half is shown at a third of the rate."""
    film = colour_film(tmp_path / "vfr.mp4", (40, 20, 20, 30), steps=(100, 300, 100, 100))
    assert shots_of(film) == [(0, 40), (40, 60), (60, 80), (80, 110)]
    times = frame_times(film)
    assert len(times) == 110 and sampled(0, 40, 5, times) == np.linspace(0, 39, 5).round().tolist()
    assert sampled(40, 80, 3, times) == [40, 53, 79] and sampled(40, 80, 3, []) == [40, 60, 79]


def test_shots_may_overlap(tmp_path):
    film = colour_film(tmp_path / "film.mp4", (20, 20))
    ranges = ((0, 30), (10, 20), (25, 40))
    together = list(read_shots(Video(film, ranges), 5, *SIZE))
    alone = [next(read_shots(Video(film, (only,)), 5, *SIZE)) for only in ranges]
    assert all(np.array_equal(*pair) for pair in zip(together, alone, strict=True))


def test_encoded_films_stay_on_disk_until_a_shot_is_drawn(tmp_path):
    """Files are mapped: of two of 32 MiB, memory holds the shots that were asked for, and no loader has to wait."""
    for number in range(2):
        tensors = {"clips": torch.ones(8, 16, 4, 128, 256).half(), "stills": torch.zeros(8, 1, 4, 1, 1).half()}
        tensors["key_frames"] = torch.tensor([0])
        keep(tmp_path / f"video-{number}.safetensors", tensors, "", captions=["a"] * 8)
    del tensors
    before = psutil.Process().memory_info().rss
    films = load_videos(tmp_path)
    assert films.clip(1, 7).sum() == 16 * 4 * 128 * 256
    assert len(films) == 2 and psutil.Process().memory_info().rss - before < 2**25


def test_films_are_encoded_in_half_precision_if_asked(film, tmp_path, codec):
    codec.vae.save_pretrained(tmp_path / "codec" / "vae")
    clips = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state()  # a process has one precision; here each run has its own
        place = {"out": tmp_path / precision, "after": (tmp_path / "codec",), "precision": precision}
        encode_films(FilmsConfig(**place, videos=film, frames=9, height=32, width=32))
        clips.append(load_videos(tmp_path / precision / "films").clip(0, 0))
    AcceleratorState._reset_state()
    whole, half = clips
    assert 0 < (whole - half).abs().mean() < 0.02 * whole.std()


def test_films_are_kept_for_what_they_were_made_of(tmp_path, codec):
    """Films of one name, or one film told twice, do not hide each other; what changed is encoded again."""
    for number, name in enumerate("ab"):
        colour_film(tmp_path / name / "0001.mp4", colour=number)
    rows = [("a/0001.mp4", [[0, 20]], "red"), ("b/0001.mp4", [[0, 20]], "green"), ("a/0001.mp4", [[5, 20]], "again")]
    folder = tmp_path / "films"

    def encode(rows, frames=9, size=SIZE, codec=codec):
        encode_videos(codec, find_videos(table_of(tmp_path, rows)), folder, frames, size, KEYS)
        return {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    first = encode(rows)
    films = load_videos(folder)
    assert sorted(line[0] for line in films.lines) == ["G.shot0:again", "G.shot0:green", "G.shot0:red"]
    assert not torch.equal(films.clip(0, 0), films.clip(1, 0))
    assert encode(rows) == first
    rows[0] = ("a/0001.mp4", [[0, 20]], "a red one")
    second = encode(rows)
    assert set(second) == set(first) and sum(second[path] != first[path] for path in first) == 1
    assert ["G.shot0:a red one"] in load_videos(folder).lines

    colour_film(tmp_path / "a" / "0001.mp4", colour=2)  # another film under the old name
    third = encode(rows)
    assert sum(third[path] != second[path] for path in second) == 2
    torch.manual_seed(1)
    other = Codec(tiny_codec().eval())
    fourth = encode(rows, codec=other)
    assert not set(fourth.items()) & set(third.items()) and set(fourth) == set(third)
    encode(rows[:1], size=(16, 24), codec=other)
    with pytest.raises(CheckpointError, match="of different codecs, sizes"):
        load_videos(folder)
    next(iter(folder.iterdir())).write_bytes(b"half")
    with pytest.raises(CheckpointError, match="video-0001.*cannot be read"):
        load_videos(folder)


def test_the_base_model_learns_from_real_films(tmp_path, codec):
    folder = tmp_path / "films"
    encode_videos(codec, [Video(colour_film(tmp_path / "film.mp4"), ((0, 20),))], folder, 9, SIZE, KEYS)
    quick = {"steps": 2, "image_steps": 1, "image_batch": 1, "batch": 1, "sample_every": 0}
    with pytest.raises(CheckpointError, match="`train base --text`"):
        train_base(BaseConfig(tmp_path, **quick), load_videos(folder))
    train_base(BaseConfig(tmp_path, **quick, text=True), load_videos(folder))
    assert (tmp_path / "base" / "config.json").exists()


def test_the_released_table_names_films_captions_and_cuts(film):
    table = film.parent / "table.csv"
    table.write_text('json_path,frame_number,video_path\nfilm.json,"[[0, 20], [20, 45]]",film.mp4\n', encoding="utf-8")
    assert find_videos(table) == [Video(film, CUTS[:2], find_videos(table)[0].story)]
    table.write_text("json_path,frame_number,video_path\nfilm.json,all,film.mp4\n", encoding="utf-8")
    with pytest.raises(StoryError, match="frame_number"):
        find_videos(table)


def lfs(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut_short(path):
    path.write_bytes(colour_film(path.with_name("whole.mp4")).read_bytes()[:2000])


@pytest.mark.parametrize("make", [lambda path: path.touch(), lfs, audio, cut_short, lambda path: os.mkfifo(path)])
def test_what_is_no_video_is_named(tmp_path, make):
    make(tmp_path / "no.mp4")
    with pytest.raises((FilmError, StoryError), match=r"no\.mp4.*(not a video that can be read|holds no videos)"):
        find_videos(tmp_path / "no.mp4")


def test_what_can_be_used_of_a_folder(tmp_path):
    colour_film(tmp_path / "ok.mp4")
    (tmp_path / "._ok.mp4").write_bytes(b"macOS")
    (tmp_path / "folder.mp4").mkdir()
    assert [video.path.name for video in find_videos(tmp_path)] == ["ok.mp4"]


@pytest.mark.parametrize("ranges", ["", "[]", "[[30, 10]]", "[[0, 1e999]]", "[[-3, 9]]", "[[0]]", "[[0, 9], [9, 12]]"])
def test_ranges_that_are_none(tmp_path, ranges):
    colour_film(tmp_path / "film.mp4")
    with pytest.raises(StoryError, match="table.csv: line 2: frame_number"):
        find_videos(table_of(tmp_path, [("film.mp4", ranges, "a")]))
    with pytest.raises(StoryError, match="table.csv: no stories"):
        find_videos(table_of(tmp_path, []))


def test_what_is_left_out_is_said(tmp_path, codec, capsys):
    film = colour_film(tmp_path / "film.mp4", (20, 10))
    with pytest.raises(StoryError, match="--frames 33: no shot is so long, the longest has 20"):
        encode_videos(codec, [Video(film, ((0, 20), (20, 30)))], tmp_path / "films", 33, SIZE, KEYS)
    encode_videos(codec, [Video(film, ((0, 20), (20, 30)))], tmp_path / "films", 17, SIZE, KEYS)
    assert "1 of 2 shots have less than 17 frames" in capsys.readouterr().out


def test_a_size_that_the_codec_does_not_have_is_named(film, tmp_path, capsys):
    build_codec(CHANNELS, base_dim=4, patch_size=8).save_pretrained(tmp_path / "run" / "vae")  # 32 pixels to a cell
    size = ["--height", "48", "--width", "64"]
    assert main(["train", "films", "--out", str(tmp_path / "run"), "--videos", str(film), *size]) == 2
    assert "height is 48, which does not divide by 32: take 32 or 64" in capsys.readouterr().err


def test_what_cannot_be_read_is_named(film, tmp_path, capsys):
    with pytest.raises(FilmError, match="ends before frame 99"):
        list(read_shots(Video(film, ((0, 20), (20, 100))), 5, 32, 32))
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(FilmError, match="broken.mp4"):
        list(read_shots(Video(tmp_path / "broken.mp4", ((0, 20),)), 5, 32, 32))
    run = tmp_path / "run"
    tiny_codec().save_pretrained(run / "vae")
    assert main(["train", "films", "--out", str(run), "--videos", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: is not there" in capsys.readouterr().err
