"""What the tests share: a tiny random model, random shots, the recorded numbers, and a small random model folder."""

import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch counts the cores, which the workers share

import pytest
import torch
from torch import Tensor

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.models.settings import StreamSettings, save_settings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.toybox.language import build_text_encoder, build_tokenizer
from shotstream_lite.training import base, codec
from shotstream_lite.transformer import ShotStreamTransformer

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory) -> None:
    """Tests do not see the folder they are started in; what a user has made there is nobody's business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture
def golden() -> Path:
    """Numbers recorded from the released implementation."""
    return GOLDEN


def build_transformer(seed: int = 0, **config) -> ShotStreamTransformer:
    """Two layers of width 24, every weight random, so that no path is idle."""
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 3,
        "out_channels": 3,
        "text_dim": 10,
        "freq_dim": 16,
        "ffn_dim": 40,
        "num_layers": 2,
    }
    torch.manual_seed(seed)
    return ShotStreamTransformer(**{**sizes, **config}).eval()


@pytest.fixture
def transformer() -> ShotStreamTransformer:
    return build_transformer()


@dataclass
class Shots:
    """A batch of two shots that differ in everything: history, captions, latents."""

    context: Tensor
    context_ids: Tensor
    shot_id: Tensor
    target: Tensor
    captions: Tensor

    @property
    def shot_ids(self) -> Tensor:
        """Over [context | target], [B, m + F]."""
        return torch.cat((self.context_ids, self.shot_id[:, None].expand(-1, self.target.shape[2])), dim=1)

    @property
    def cond(self) -> Conditioning:
        return Conditioning(self.captions, self.shot_ids, context=self.context)

    def sample(self, index: int) -> "Shots":
        """One of the two, as a batch of one."""
        return Shots(**{name: value[index : index + 1] for name, value in vars(self).items()})

    def without_context(self) -> "Shots":
        return Shots(**{**vars(self), "context": self.context[:, :, :0], "context_ids": self.context_ids[:, :0]})


@pytest.fixture
def shots() -> Shots:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Shots(
        context=draw(2, 3, 6, 4, 6),
        context_ids=torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 2, 2, 2]]),
        shot_id=torch.tensor([2, 3]),
        target=draw(2, 3, 6, 4, 6),
        captions=draw(2, 4, 5, 10),
    )


class Draws:
    """Noise seeded for each sample by itself: a batch of two draws what two singles draw."""

    def __init__(self, *seeds: int) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        self.shapes.append(shape)
        return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in self.generators])


def close(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    """Fail unless max|difference| <= tolerance * max|reference|."""
    assert ours.shape == reference.shape
    error = (ours - reference).abs().max() / reference.abs().max()
    assert error <= tolerance, f"relative error {error:.1e}"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A small toybox before any training, in diffusers' Wan format: 32 x 48 pixels, 13 frames a shot."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    build_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    codec.build_codec(8, base_dim=4, patch_size=2).save_pretrained(folder / "vae")
    base.build_transformer(8, heads=2, layers=2).save_pretrained(folder / "transformer")
    save_settings(StreamSettings(height=32, width=48, shot_frames=13), folder)
    return folder


@pytest.fixture(scope="session")
def loaded(model_folder) -> ShotStreamPipeline:
    return ShotStreamPipeline.from_pretrained(model_folder)


@pytest.fixture
def pipeline(loaded) -> ShotStreamPipeline:
    """The random model with nothing remembered."""
    text = type(loaded.text)(loaded.text.text_encoder, loaded.text.tokenizer, loaded.text.length)
    return ShotStreamPipeline(loaded.transformer, loaded.codec, text, loaded.settings)


@pytest.fixture
def calls(monkeypatch):
    """`calls(thing, "method")` is the list of positional arguments that method will have been called with."""

    def watch(thing: object, method: str) -> list[tuple]:
        seen, original = [], getattr(thing, method)

        def watched(*args, **options):
            seen.append(args)
            return original(*args, **options)

        monkeypatch.setattr(thing, method, watched)
        return seen

    return watch
