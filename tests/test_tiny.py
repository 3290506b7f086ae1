"""The tiny decoder: the files it reads, streams that equal wholes, and that it is trained and used where asked for."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_lite import benchmark
from shotstream_lite.cli import main
from shotstream_lite.errors import CheckpointError
from shotstream_lite.models.folder import load_tiny
from shotstream_lite.tiny import Block, TinyDecoder
from shotstream_lite.training import codec, decoders
from shotstream_lite.training.decoders import TinyDecoderConfig, train_tiny_decoder

CODEC = SimpleNamespace(channels=16, spatial_factor=8, vae=SimpleNamespace(device=torch.device("cpu")))
WIDTHS = (12, 8, 6, 6)


def released_file(
    channels: int = 16, widths: tuple = WIDTHS, patch: int = 1, grown: int = 1
) -> dict[str, torch.Tensor]:
    """Names and shapes of taew2_1.safetensors, narrower; grown: frames that its first growing layer makes."""
    a, b, c, d = WIDTHS
    shapes = {"1.weight": (a, channels, 3, 3), "1.bias": (a,), "8.weight": (b, a, 3, 3), "14.weight": (c, b, 3, 3)}
    shapes |= {"20.weight": (d, c, 3, 3), "22.weight": (3 * patch**2, d, 3, 3), "22.bias": (3 * patch**2,)}
    shapes |= {"7.conv.weight": (a * grown, a, 1, 1), "13.conv.weight": (2 * b, b, 1, 1)}
    shapes |= {"19.conv.weight": (2 * c, c, 1, 1)}
    for places, width in (((3, 4, 5), a), ((9, 10, 11), b), ((15, 16, 17), c)):
        for place in places:
            shapes |= {f"{place}.conv.{i}.weight": (width, width * (2 if i == 0 else 1), 3, 3) for i in (0, 2, 4)}
            shapes |= {f"{place}.conv.{i}.bias": (width,) for i in (0, 2, 4)}
    generator = torch.Generator().manual_seed(0)
    state = {f"decoder.{name}": 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {"encoder.0.weight": torch.zeros(4, 3, 3, 3)}


@pytest.fixture
def tiny(tmp_path) -> TinyDecoder:
    save_file(released_file(), tmp_path / "taew2_1.safetensors")
    return load_tiny(tmp_path / "taew2_1.safetensors", CODEC)


@pytest.mark.parametrize("chunks", [[3, 3, 1], [1, 2, 4], [7]])
def test_streams_equal_the_frame_by_frame_recurrence(tiny, chunks):
    """Against the plain recurrence: one frame at a time, each block given its own last input."""
    latents = torch.randn(2, 16, 7, 3, 4)
    memory: dict[int, torch.Tensor] = {}
    frames = []

    def through(x: torch.Tensor, place: int) -> None:
        if place == len(tiny.decoder):
            frames.append(x.clamp(0, 1) * 2 - 1)
            return
        part = tiny.decoder[place]
        if isinstance(part, Block):
            x, memory[place] = part(x, memory.get(place, torch.zeros_like(x))), x
            through(x, place + 1)
        elif hasattr(part, "conv"):
            for grown in part.conv(x).chunk(part.conv.out_channels // x.shape[1], dim=1):
                through(grown, place + 1)
        else:
            through(part(x), place + 1)

    with torch.no_grad():
        for latent in latents.unbind(2):
            through(latent, 0)
    expected = torch.stack(frames[3:], dim=2)
    parts, state = [], None
    for part in latents.split(chunks, dim=2):
        pixels, state = tiny.decode_chunk(part, state)
        assert pixels.shape[2] == 4 * part.shape[2] - 3 * (not parts)
        parts.append(pixels)
    made = torch.cat(parts, dim=2)
    assert made.shape == (2, 3, 25, 24, 32) and made.std() > 0.05
    torch.testing.assert_close(made, expected)


def test_a_file_that_grows_more_frames_than_wanted_gives_the_last(tmp_path, tiny):
    state, grown = load_file(tmp_path / "taew2_1.safetensors"), released_file(grown=2)
    grown |= {name: tensor for name, tensor in state.items() if name != "decoder.7.conv.weight"}
    grown["decoder.7.conv.weight"][12:] = state["decoder.7.conv.weight"]
    save_file(grown, tmp_path / "grown.safetensors")
    latents = torch.randn(1, 16, 2, 3, 4)
    same = load_tiny(tmp_path / "grown.safetensors", CODEC).decode_chunk(latents)[0]
    assert torch.equal(same, tiny.decode_chunk(latents)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.clear() or state.update(a=torch.zeros(1)), "is no tiny decoder"),
        (lambda state: state.update(released_file(channels=8)), "have 8 channels and 8 pixels, this model's 16 and 8"),
        (lambda state: state.update(released_file(patch=2)), "have 16 channels and 16 pixels, this model's 16 and 8"),
        (lambda state: state.pop("decoder.4.conv.2.bias"), "missing: decoder.4.conv.2.bias"),
    ],
)
def test_other_files_are_named_in_a_line(tmp_path, change, words):
    state = released_file()
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(tmp_path))}.*{words}.*: name ") as caught:
        load_tiny(tmp_path / "other.safetensors", CODEC)
    assert "\n" not in str(caught.value)


def test_it_is_trained_for_the_codec_there_is_and_used_where_asked_for(tmp_path, monkeypatch, model_folder, capsys):
    pool = torch.randint(0, 255, (10, 13, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(decoders, "film_pool", lambda shots, seed: pool.numpy())
    monkeypatch.setattr(codec, "BATCHES", {1: 2, 5: 1})
    monkeypatch.setattr(benchmark, "_import_seconds", lambda: 1.0)
    train_tiny_decoder(TinyDecoderConfig(tmp_path, after=(model_folder,), steps=2, save_every=1, widths=WIDTHS))
    said = capsys.readouterr().out
    assert re.search(r"tiny decoder: [\d.]+ dB to the film where the exact one has [\d.]+, [\d.]+ dB between", said)
    file = tmp_path / "tiny_decoder.safetensors"
    command = ["benchmark", "--preset", str(model_folder), "--shots", "1", "--tiny-decoder", str(file)]
    assert main(command) == 0
    assert re.search(r"tiny decoder +[\d.]+ dB to the exact one's pictures", capsys.readouterr().out)
    assert main([*command[:-1], str(tmp_path / "none")]) == 2


def test_a_story_is_told_with_it(pipeline, monkeypatch):
    """Frames come as before, only painted by another; twice the pixels a latent, twice the picture's side."""
    exact = list(pipeline.shot(["the red ball jumps"], seed=0))
    monkeypatch.setattr(pipeline.codec, "tiny", TinyDecoder(pipeline.codec.channels, WIDTHS).eval())
    quick = list(pipeline.shot(["the red ball jumps"], seed=0))
    assert [piece.shape for piece in quick] == [piece.shape for piece in exact]
    assert not np.array_equal(np.concatenate(quick), np.concatenate(exact))
    stream, latents = pipeline.codec.stream(), torch.randn(1, pipeline.codec.channels, 3, 4, 6)
    stream.decode(latents)
    mark = stream.mark()
    once = stream.decode(latents)
    stream.back(mark)  # a chunk that is made anew
    assert torch.equal(stream.decode(latents), once)
    wide = TinyDecoder(4, WIDTHS, patch=2)
    assert wide.decode_chunk(torch.zeros(1, 4, 2, 3, 4))[0].shape == (1, 3, 5, 48, 64)
