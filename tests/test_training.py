"""Stages at a size of seconds: they learn, they survive being stopped, and their shortcuts change nothing."""

import json

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from training_run import CHANNELS, tiny_codec, tiny_films, tiny_run

from shotstream_lite.cli import main
from shotstream_lite.codec import Codec
from shotstream_lite.models.folder import load_codec, load_text, load_transformer
from shotstream_lite.models.settings import StreamSettings, load_settings, save_settings
from shotstream_lite.text import encode_captions
from shotstream_lite.toybox.dataset import HELD_OUT_SEED, film_pool, story_of, to_pixels
from shotstream_lite.toybox.truth import TOLD
from shotstream_lite.training import ship, text
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.codec import (
    LATENT_CHANNELS,
    build_codec,
    channel_scales,
    compact,
    decode_unclamped,
    frame_convolutions,
    start_clips,
)
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.teacher import TeacherConfig, train_teacher
from shotstream_lite.training.text import TextConfig, train_text

SMALL = {"heads": 2, "layers": 2}


def test_single_frames_as_flat_convolutions_change_nothing():
    torch.manual_seed(0)
    vae, pixels = build_codec(base_dim=8), to_pixels(film_pool(2, seed=0, frames=1))
    with torch.no_grad():
        slow = vae.encode(pixels).latent_dist.mean
        with frame_convolutions(vae):
            fast = vae.quant_conv(vae.encoder(patchify(pixels, 4))).chunk(2, 1)[0]
        again = vae.encode(pixels).latent_dist.mean
    assert torch.allclose(slow, fast, atol=1e-5) and torch.equal(slow, again)
    assert slow.std() > 1e-3


def test_clips_start_from_what_single_frames_taught():
    """Before any clip is seen, a clip of one picture decodes to that picture, whatever the weights."""
    torch.manual_seed(0)
    vae = build_codec(base_dim=8)
    start_clips(vae)
    pixels = to_pixels(film_pool(1, seed=1, frames=1))
    with torch.no_grad():
        single = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        still = pixels.repeat(1, 1, 9, 1, 1)
        clip = vae.decode(vae.encode(still).latent_dist.mode()).sample
    assert torch.allclose(clip, single.expand_as(clip), atol=1e-4)
    assert single.std() > 1e-3


@pytest.mark.parametrize("channels", [LATENT_CHANNELS, 24])
def test_compact_latents_are_uncorrelated_and_keep_the_picture(channels):
    """What shows more is louder; all channels kept, the picture does not change."""
    torch.manual_seed(0)
    vae, pool = build_codec(base_dim=4), film_pool(8, seed=1, frames=5)
    vae.quant_conv.weight.data *= torch.linspace(0.2, 3, 2 * LATENT_CHANNELS)[:, None, None, None, None]
    small = compact(vae, pool, channels, shots=8)
    pixels = to_pixels(pool)
    with torch.no_grad():
        latents = small.encode(pixels).latent_dist.mode()
        cells = latents.transpose(0, 1).flatten(1)
        error = (small.decode(latents).sample - vae.decode(vae.encode(pixels).latent_dist.mode()).sample).abs()
    assert torch.allclose(torch.corrcoef(cells), torch.eye(channels), atol=0.02)
    assert cells.mean(1).abs().max() < 0.01
    deviations, rest = cells.std(1), channel_scales(small, pixels[:4], nudge=0.01)  # half of the difference is levelled
    torch.testing.assert_close(rest.square() / rest.square().mean(), deviations / deviations.mean(), atol=0, rtol=0.2)
    assert channels < LATENT_CHANNELS or error.max() < 1e-3


def test_training_decodes_as_the_codec_does():
    torch.manual_seed(0)
    vae, latents = build_codec(base_dim=4), torch.randn(1, LATENT_CHANNELS, 3, 4, 6)
    with torch.no_grad():
        assert torch.equal(decode_unclamped(vae, latents).clamp(-1, 1), vae.decode(latents).sample)


def test_all_stages_run_in_their_order_and_leave_a_model(tmp_path):
    """The whole recipe after the codec, three steps a stage, each moving what it should and nothing else."""
    films = tiny_films()
    tiny_codec().save_pretrained(tmp_path / "vae")
    base = BaseConfig(tmp_path, steps=3, image_steps=1, image_batch=2, batch=2, text=True, **SMALL)
    train_base(base, films)
    train_teacher(TeacherConfig(tmp_path, steps=3, batch=2), films)
    train_causal_init(CausalInitConfig(tmp_path, steps=3, batch=2), films)
    train_intra_shot(IntraShotConfig(tmp_path, steps=6, batch=1), films)

    base, teacher, init = (load_transformer(tmp_path, name) for name in ("base", "teacher", "causal-init"))
    moved = _moved(base, teacher)
    assert moved and all(".attn1." in name for name in moved)
    assert any(".ffn." in name for name in _moved(teacher, init))
    save_settings(StreamSettings(), tmp_path)
    assert Codec(load_codec(tmp_path)).channels == CHANNELS
    assert (tmp_path / "intra-shot" / "config.json").exists()


def test_the_text_encoder_learns_where_it_is_told_to(tmp_path):
    films = tiny_films()
    tiny_codec().save_pretrained(tmp_path / "vae")
    train_text(TextConfig(tmp_path, steps=2, batch=1))
    learning, known = dict(steps=2, batch=2, image_batch=2), [load_text(tmp_path)[0]]
    for train, config in (
        (train_base, BaseConfig(tmp_path, image_steps=1, **learning, **SMALL)),
        (train_teacher, TeacherConfig(tmp_path, **learning)),
        (train_base, BaseConfig(tmp_path, start=tmp_path, resume=False, text=True, **learning)),
        (train_teacher, TeacherConfig(tmp_path, resume=False, text=True, **learning)),
    ):
        train(config, films)
        known.append(load_text(tmp_path)[0])
    assert [bool(_moved(a, b)) for a, b in zip(known, known[1:], strict=False)] == [False, False, True, True]


def test_the_text_encoder_learns_to_read(tmp_path, monkeypatch):
    """Captions of a few stories, again and again; the others are told apart from them by their numbers."""
    monkeypatch.setattr(text, "HELD_OUT", 1)
    drawn = []
    monkeypatch.setattr(text, "story_of", lambda number: drawn.append(number) or story_of(number % 2))
    said = train_text(TextConfig(tmp_path, steps=40, batch=1, warmup=5))
    assert set(said) == set(TOLD) and all(0 <= share <= 1 for share in said.values())
    assert max(drawn[:-1]) < HELD_OUT_SEED <= drawn[-1] and len(set(drawn)) == 41
    lines = [json.loads(line) for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert lines[-1]["shape"] < lines[0]["shape"] and lines[-1]["camera"] < lines[0]["camera"]
    encoder, tokenizer = load_text(tmp_path)
    words, reader = ["a red ball.shot0:the ball jumps", "a red ball.shot1:a cone"], text.Reader(64)
    alone = [
        reader(encode_captions(encoder, tokenizer, [line], length))
        for line, length in zip(words, (20, 64), strict=True)
    ]
    together = reader(encode_captions(encoder, tokenizer, words, 64))
    for name, logits in together.items():  # what stands behind a caption is nothing to it
        torch.testing.assert_close(logits, torch.cat([one[name] for one in alone]))


def test_a_stage_learns(tmp_path):
    """The base model's loss falls while it sees the shots of one story, here of one colour each, again and again."""
    films = tiny_films(stories=1)
    films.clips[0][:] = [clip.mean((-3, -2, -1), keepdim=True).sign().expand_as(clip) for clip in films.clips[0]]
    train_base(BaseConfig(tmp_path, steps=100, image_steps=0, batch=4, lr=3e-3, text=True, **SMALL), films)
    lines = [json.loads(line)["loss"] for line in (tmp_path / "base.jsonl").read_text().splitlines()]
    assert lines[-1] < 0.8 * lines[0]


def test_the_log_says_nothing_of_what_is_learnt_no_more(tmp_path):
    """The base learns single frames first: later lines do not repeat that loss."""
    train_base(BaseConfig(tmp_path, steps=60, image_steps=20, batch=1, image_batch=2, text=True, **SMALL), tiny_films())
    lines = [set(json.loads(line)) for line in (tmp_path / "base.jsonl").read_text().splitlines()]
    assert ["loss_image" in line for line in lines] == [True, False, False]
    assert ["loss" in line for line in lines] == [False, True, True]


def test_shipping_halves_and_keeps(tmp_path):
    run, target = tmp_path / "run", tmp_path / "model"
    tiny_run(run)
    for name in ("inter-shot", "probe"):
        load_transformer(run, "base").save_pretrained(run / name)
    config = run / "inter-shot" / "config.json"  # a merged LoRA says where it came from
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": str(run)}, indent=2))
    ship.ship(ship.ShipConfig(run, target))
    assert not any(str(run) in path.read_text() for path in target.rglob("*.json"))
    assert load_settings(target) == StreamSettings(longest=81)
    ours, theirs = load_transformer(run, "base"), load_transformer(target, "student")
    stock = WanPipeline.from_pretrained(target)
    assert type(stock.transformer) is WanTransformer3DModel and stock.scheduler.config.shift == StreamSettings().shift
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.half().float(), b)


def _moved(before, after) -> list[str]:
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return [name for (name, a), b in pairs if not torch.equal(a, b)]


def test_stages_out_of_order_are_told_what_comes_first(tmp_path, capsys):
    assert main(["train", "base", "--out", str(tmp_path)]) == 2
    assert "shotstream train films" in capsys.readouterr().err
    assert main(["train", "ship", "--out", str(tmp_path), "--target", str(tmp_path / "model")]) == 2
    assert "teacher" in capsys.readouterr().err and not (tmp_path / "model").exists()
