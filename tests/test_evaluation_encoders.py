"""Full-size films under real encoders, which here are tiny and random but of transformers' own classes."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    XCLIPConfig,
    XCLIPModel,
)

from shotstream_lite.cli import main
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.evaluation.folder import (
    KEYFRAMES,
    SCA,
    SEMANTIC,
    SUBJECT,
    TEXT,
    ImageEncoder,
    VideoTextEncoder,
    find_films,
    shot_lengths,
)
from shotstream_lite.film import FilmWriter
from shotstream_lite.story import Shot, Story
from shotstream_lite.story_files import save_story
from shotstream_lite.toybox.language import build_tokenizer

SIZE = {"shortest_edge": 16}
CROP = {"height": 16, "width": 16}
LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a DINOv2, a CLIP and an X-CLIP."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = build_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token=tokenizer.pad_token,
        eos_token=tokenizer.eos_token,
        model_max_length=12,
    )
    end = tokenizer.eos_token_id
    text = LAYERS | {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": end}
    vision = LAYERS | {"image_size": 16, "patch_size": 8}
    Dinov2Model(Dinov2Config(**LAYERS, image_size=16, patch_size=8)).save_pretrained(folder / "dino")
    BitImageProcessorPil(size=SIZE, crop_size=CROP).save_pretrained(folder / "dino")
    clip = CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    over_time = {"hidden_size": 10, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    moving = vision | {"num_frames": 4} | {f"mit_{name}": size for name, size in over_time.items()}
    xclip = XCLIPConfig(text_config=text, vision_config=moving, projection_dim=10, prompt_num_attention_heads=2)
    for name, model in (("clip", CLIPModel(clip)), ("xclip", XCLIPModel(xclip))):
        model.save_pretrained(folder / name)
        CLIPImageProcessorPil(size=SIZE, crop_size=CROP).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def shot():
    return np.random.default_rng(0).integers(0, 255, (9, 24, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["dino", "clip"])
def test_frames_are_encoded_one_by_one(models, shot, name):
    encoder = ImageEncoder(models / name)
    features = encoder.frames(shot)
    assert features.shape == (9, {"dino": 16, "clip": 10}[name])
    np.testing.assert_allclose(features[4:5], encoder.frames(shot[4:5]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(features[0], features[1])


@pytest.mark.parametrize("name", ["clip", "xclip"])
def test_shots_and_captions_meet_in_one_space(models, shot, name):
    encoder = VideoTextEncoder(models / name)
    seen, said = encoder.shot(shot), encoder.text("the red ball jumps " * 20)
    assert seen.shape == said.shape == (10,)
    assert np.linalg.norm(seen) == pytest.approx(1) == pytest.approx(np.linalg.norm(said))
    assert not np.allclose(said, encoder.text("the blue box waves"))


def test_clip_sees_a_shot_as_the_mean_of_its_frames(models, shot):
    still = shot[:1].repeat(9, axis=0)
    frame = ImageEncoder(models / "clip").frames(shot[:1])[0]
    np.testing.assert_allclose(VideoTextEncoder(models / "clip").shot(still), frame / np.linalg.norm(frame), atol=1e-5)


def test_what_is_no_encoder_is_refused(models, tmp_path):
    with pytest.raises(CheckpointError, match="no encoder can be loaded"):
        ImageEncoder(tmp_path)
    with pytest.raises(CheckpointError, match="does not read text"):
        VideoTextEncoder(models / "dino")


@pytest.fixture
def films(tmp_path):
    """Two films of two shots: in the first both shots are the same picture, and its story says their lengths."""
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name, scenes, frames in (("a", [0, 0], 17), ("b", [0, 1], None)):
        pictures = rng.integers(0, 255, (2, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        with FilmWriter(folder / f"{name}.mp4", scale=1) as film:
            for scene in scenes:
                film.write(pictures[scene][None].repeat(17, axis=0))
        shots = (Shot("the red ball jumps", frames), Shot("the blue box waves", frames))
        save_story(Story("a red ball and a blue box", shots), folder / f"{name}.json")
    return folder


def test_a_folder_of_films_is_measured(models, films, tmp_path, capsys):
    report = tmp_path / "report.json"
    encoders = ["--dino", str(models / "dino"), "--clip", str(models / "clip")]
    assert main(["evaluate", "--films", str(films), *encoders, "--json", str(report)]) == 0
    figures = json.loads(report.read_text())["films"]
    assert set(figures) >= {SUBJECT, KEYFRAMES, SEMANTIC, SCA, TEXT}
    assert figures[SUBJECT]["all"]["mean"] == pytest.approx(1, abs=1e-3)  # every shot stands still
    assert figures[KEYFRAMES]["shots"][0]["mean"] is None
    # The cut between equal pictures cannot be seen: exp(-1/2); the other can.
    assert figures[SCA]["all"]["mean"] == pytest.approx((np.exp(-0.5) + 1) / 2, abs=1e-6)
    assert TEXT in capsys.readouterr().out


def test_a_video_model_alone_and_no_model_at_all(models, films, capsys):
    assert main(["evaluate", "--films", str(films), "--clip", str(models / "xclip")]) == 0
    out = capsys.readouterr().out
    assert SEMANTIC in out and SUBJECT not in out
    assert main(["evaluate", "--films", str(films)]) == 0
    assert SCA in capsys.readouterr().out


def test_films_need_their_stories(films):
    (films / "b.json").unlink()
    with pytest.raises(StoryError, match="b.json is missing"):
        find_films(films)


def test_shots_are_as_long_as_the_story_says_or_equal():
    said = Story("x", (Shot("a", 9), Shot("b", 17)))
    assert shot_lengths(said, 26) == [9, 17]
    assert shot_lengths(Story("x", (Shot("a"), Shot("b"))), 26) == [13, 13]
    with pytest.raises(StoryError, match="26"):
        shot_lengths(said, 30)
