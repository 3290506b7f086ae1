"""Real films: tiny videos made here, cut, encoded and learnt from as those of the miniature world."""

import json

import numpy as np
import pytest
import torch
from training_run import CHANNELS

from shotstream_lite.cli import main
from shotstream_lite.codec import Codec
from shotstream_lite.convert import CheckpointError
from shotstream_lite.film import FilmError, FilmWriter
from shotstream_lite.story import StoryError
from shotstream_lite.toybox.dataset import key_frames, next_shot_batch
from shotstream_lite.training.codec import build_codec
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.videos import Video, encode_videos, find_cuts, find_videos, load_videos, read_shots

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
    assert find_cuts(film) == list(CUTS)
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
    codec, folder, keys = Codec(build_codec(CHANNELS).eval()), tmp_path / "films", key_frames(17, (6,))
    encode_videos(codec, find_videos(film.parent), folder, 17, (32, 48), keys)
    films = load_videos(folder)
    assert (len(films), films.shots(0), films.frames, films.channels) == (1, 2, 17, CHANNELS)
    batch = next_shot_batch(films, 20, Draws(0, 0, range(20)).each, drop_context=0.0)
    assert batch.target.shape == (20, CHANNELS, 5, 4, 6) and batch.context.shape == (20, CHANNELS, 6, 4, 6)
    told = {captions[-1] or captions[0] for captions in batch.captions}
    assert told == {"Bars.shot0:a red one", "Bars.shot1:a green one"}
    first = next(iter(read_shots(Video(film, CUTS[:1]), 17, 32, 48)))
    pixels = torch.from_numpy(first).permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert torch.allclose(films.clip(0, 0), codec.encode_clip(pixels)[0], atol=0.01)
    with pytest.raises(CheckpointError, match="--budget"):
        films.still(0, 0, 15)

    before = (folder / "video-film.safetensors").stat().st_mtime_ns
    encode_videos(codec, find_videos(film.parent), folder, 17, (32, 48), keys)
    assert (folder / "video-film.safetensors").stat().st_mtime_ns == before


def test_the_released_table_names_films_captions_and_cuts(film):
    table = film.parent / "table.csv"
    table.write_text('json_path,frame_number,video_path\nfilm.json,"[[0, 20], [20, 45]]",film.mp4\n', encoding="utf-8")
    assert find_videos(table) == [Video(film, CUTS[:2], find_videos(table)[0].story)]
    table.write_text("json_path,frame_number,video_path\nfilm.json,all,film.mp4\n", encoding="utf-8")
    with pytest.raises(StoryError, match="frame_number"):
        find_videos(table)


def test_what_cannot_be_read_is_named(film, tmp_path, capsys):
    with pytest.raises(FilmError, match="ends before frame 99"):
        list(read_shots(Video(film, ((0, 20), (20, 100))), 5, 32, 32))
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(FilmError, match="broken.mp4"):
        list(read_shots(Video(tmp_path / "broken.mp4", ((0, 20),)), 5, 32, 32))
    run = tmp_path / "run"
    build_codec(CHANNELS).save_pretrained(run / "vae")
    assert main(["train", "films", "--out", str(run), "--videos", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: is not there" in capsys.readouterr().err
