"""demos/compare_released.py without the released code: names, noise, attention, taking turns, the table, complaints."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file
from torch import nn

from shotstream_lite.codec import pixel_frames
from shotstream_lite.models.configs import from_wan
from shotstream_lite.models.convert import convert_checkpoint

DEMOS = Path(__file__).resolve().parent.parent / "demos"


@pytest.fixture
def released(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMOS))
    return importlib.import_module("released_code")


@pytest.fixture
def compare(released):
    return importlib.import_module("compare_released")


@pytest.fixture
def checkout(released, tmp_path, monkeypatch) -> Path:
    """A folder with the files of the released code and nothing in them."""
    for name in released.MODULES.values():
        file = tmp_path / (name.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for name in [*released.MODULES.values(), "pipeline", "model", "utils", "wan", "wan.modules"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in ("pipeline", "model", "utils", "wan")]:
        del sys.modules[name]


def test_our_weights_get_their_released_names_back(released, golden):
    theirs = load_file(golden / "weights.safetensors")
    config = json.loads((golden / "config.json").read_text())
    model = WanTransformer3DModel(**from_wan(config))
    model.load_state_dict(convert_checkpoint(theirs, model))
    bare = {name.removeprefix("model."): tensor for name, tensor in theirs.items()}
    named = released.released_names(bare, model.state_dict(), convert_wan_transformer_to_diffusers)
    assert named.keys() == bare.keys()
    assert all(torch.equal(named[name], bare[name]) for name in bare)


def test_the_released_arguments_are_those_of_the_recorded_model(released, golden):
    config = json.loads((golden / "config.json").read_text())
    made = released.released_config(WanTransformer3DModel(**from_wan(config)).config, config["text_len"])
    assert made == {name: tuple(config[name]) if name == "patch_size" else config[name] for name in made}


def test_parts_of_the_codec_get_their_released_names(released):
    state = AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=2).state_dict()
    places = {
        "conv1.weight": "quant_conv.weight",
        "decoder.head.2.bias": "decoder.conv_out.bias",
        "encoder.downsamples.0.residual.2.weight": "encoder.down_blocks.0.conv1.weight",
        "decoder.upsamples.0.residual.6.weight": "decoder.up_blocks.0.resnets.0.conv2.weight",
    }
    some = {place: state[place] for place in places.values()}
    named = released.released_names(places, some, convert_wan_vae_to_diffusers)
    assert all(named[name] is state[place] for name, place in places.items())


def test_models_of_two_kinds_are_refused(released):
    same = {"head.head.weight": torch.zeros(1)}
    ours = {"proj_out.weight": torch.zeros(1)}
    assert released.released_names(same, ours, convert_wan_transformer_to_diffusers).keys() == same.keys()
    with pytest.raises(released.CompareError, match="proj_out.bias"):
        released.released_names(same, ours | {"proj_out.bias": same}, convert_wan_transformer_to_diffusers)


def test_the_shim_is_attention_in_the_released_layout(released):
    q, k, v = (torch.randn(2, tokens, 3, 8) for tokens in (5, 7, 7))
    shares = torch.einsum("bqhd,bkhd->bhqk", q, k).div(8**0.5).softmax(-1)
    out = released.plain_attention(q, k, v)
    torch.testing.assert_close(out, torch.einsum("bhqk,bkhd->bqhd", shares, v))
    with pytest.raises(released.CompareError, match="masks keys"):
        released.plain_attention(q, k, v, k_lens=torch.tensor([7, 7]))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_released_code_draws_what_ours_draws(released, pipeline, seeds):
    settings, frames = pipeline.settings, 5  # a whole chunk and a shorter one
    noise = released.SameNoise(settings.chunk, len(settings.steps))
    assert noise.float32 is torch.float32
    for seed in range(seeds):
        drawn, make = [], pipeline.noise

        def watched(generator, drawn=drawn, make=make):
            draw = make(generator)
            return lambda shape: drawn.append(draw(shape)) or drawn[-1]

        pipeline.noise = watched
        list(pipeline.latents(["the red ball jumps"], [], seed, frames, settings))
        pipeline.noise = make
        start = noise.randn([1, frames, *drawn[0].shape[1:2], *drawn[0].shape[3:]])
        starts, later = drawn[:: len(settings.steps)], [d for i, d in enumerate(drawn) if i % len(settings.steps)]
        assert torch.equal(start, torch.cat(starts, 2).transpose(1, 2))
        for expected in later:
            flat = expected.transpose(1, 2).flatten(0, 1)
            assert torch.equal(noise.randn_like(torch.empty_like(flat)), flat)
        assert not noise.later


class Codec(nn.Module):
    """The released codec's two methods, for what they are called with."""

    def __init__(self, ours) -> None:
        super().__init__()
        self._ours = (ours,)

    def encode_to_latent(self, pixel):
        return self._ours[0].codec.encode_clip(pixel).transpose(1, 2)

    def decode_to_pixel(self, latent, use_cache=False):
        return self._ours[0].codec.decode(latent.transpose(1, 2)).transpose(1, 2)


class Theirs(nn.Module):
    """Calls what the released pipeline calls, in its order, and makes a shot of its noise."""

    def __init__(self, released, ours, module) -> None:
        super().__init__()
        self.ours, self.module = ours, module
        self.vae, self.text_encoder = Codec(ours), released.SharedText(ours.text)
        self.prompts, self.noise = [], []

    def inference(self, batch):
        codec, settings = self.ours.codec, self.ours.settings
        size = codec.latent_size(settings.height, settings.width)
        for shot in batch["shot_flag"]:
            told = [batch["global_captions"][0][0] + batch["shots_captions"][0][i][0][0] for i in range(shot + 1)]
            self.prompts.append(told)
            assert len(self.text_encoder(text_prompts=told)["prompt_embeds"]) == shot + 1
            self.vae.encode_to_latent(torch.zeros(1, 3, 1, settings.height, settings.width))
            noise = self.module.torch.randn([1, 4, codec.channels, *size])
            self.module.torch.randn_like(noise[0, : settings.chunk])
            self.noise.append(noise)
            assert self.vae.decode_to_pixel(noise).shape[1] == pixel_frames(4)


def test_both_tell_the_same_story_in_turns(compare, released, pipeline, capsys):
    module = SimpleNamespace(torch=torch)
    theirs = Theirs(released, pipeline, module)
    mine, others, chunk = compare.tell(pipeline, theirs, module, 3)
    assert len(mine) == len(others) == 3 and module.torch is torch
    assert torch.equal(chunk, theirs.noise[0][:, :3].transpose(1, 2))
    assert not torch.equal(theirs.noise[0], theirs.noise[1])
    assert [len(told) for told in theirs.prompts] == [1, 2, 3]
    assert theirs.prompts[2][1] == f"{compare.GLOBAL_CAPTION}shot1:{compare.caption(1)}"
    for timing in (*mine, *others):
        assert 0 < timing.transformer < timing.seconds and 0 < timing.codec < timing.seconds
        assert timing.transformer + timing.codec < timing.seconds  # what came aside is in neither
    assert all(timing.first_frame == timing.seconds for timing in others)
    assert all(timing.first_frame < timing.seconds for timing in mine)
    assert compare.tell(pipeline, theirs, module, 1)[2].equal(chunk)  # nothing stayed patched, noise began anew


def test_the_warm_up_tells_nothing_of_the_story(compare, released, pipeline, monkeypatch):
    module = SimpleNamespace(torch=torch)
    theirs = Theirs(released, pipeline, module)
    monkeypatch.setattr(compare, "build_released", lambda modules, ours: theirs)
    figures = compare.compare(pipeline, SimpleNamespace(ar=module), 2)
    warm, told = theirs.prompts[1], theirs.prompts[3]
    assert len(theirs.prompts) == 4 and not set(warm) & set(told)
    settings = pipeline.settings
    first = next(pipeline.latents(told[:1], [], 0, 4, settings))
    differ = first - theirs.noise[2][:, : settings.chunk].transpose(1, 2)
    assert figures["latents_differ_by"] == differ.abs().max().item() > 0
    assert "latents of the first chunk" in compare.report_text(figures | {"random_weights": True, "compiled": True})


def test_the_table_leaves_the_first_shot_out_and_says_how_many_times_better(compare):
    slow, fast = compare.Timing(9, 9, 9, 9), compare.Timing(4, 4, 2, 2)
    others = compare.summary([slow, fast, compare.Timing(4, 4, 2, 1), slow], 8)
    assert others == {
        "fps": 2,
        "transformer_fps": 4,
        "codec_seconds": 2,
        "first_frame_seconds": 9,
        "later_first_frame_seconds": 4,
    }
    mine = compare.summary([compare.Timing(1, 0.5, 1, 1), compare.Timing(2, 0.5, 1, 0.5)], 8)
    figures = {"ours": mine, "released": others, "random_weights": True, "compiled": False, "shots": 4}
    figures |= {"attention": "native", "latents_differ_by": 0.01, "largest_latent": 3.0}
    table = compare.report_text(figures | {"machine": {"device": "a GPU", "torch": "2"}}).splitlines()
    ratios = [float(line.split()[-1]) for line in table[3:8]]
    assert ratios == [2.0, 2.0, 4.0, 18.0, 8.0]
    assert table[8] == "latents of the first chunk: 1.00e-02 apart at most, the largest is 3.00"


def test_complaints_are_one_line_and_exit_code_2(compare, checkout, tmp_path, monkeypatch, capsys):
    def complaint(folder: Path, **options) -> str:
        assert compare.main(folder, **options) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--shots is 1" in complaint(checkout, shots=1)
    assert "--json" in complaint(checkout, json=tmp_path / "none" / "figures.json")
    assert "no CUDA GPU" in complaint(checkout)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (checkout / "wan" / "modules" / "model.py").write_text("import no_such_package")
    said = complaint(checkout)
    assert "no_such_package" in said and "pip install einops flask ftfy peft regex" in said
    (checkout / "model" / "base.py").unlink()
    said = complaint(checkout)
    assert str(checkout) in said and "model/base.py is not there: git clone" in said
