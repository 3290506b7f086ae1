"""The codec: streamed decoding equals whole decoding, streams do not mix, frames are encoded alone, tiles fit."""

import copy
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils._python_dispatch import TorchDispatchMode

from shotstream_lite.codec import (
    OVERLAP,
    Codec,
    CodecError,
    StreamDecoder,
    latent_frames,
    pixel_frames,
    spatial_factor,
    tile_spans,
    to_frames,
    to_pixels,
)
from shotstream_lite.models.codec_kernels import compile_norms, for_cpu, for_gpu
from shotstream_lite.tiny import TinyDecoder, TinyStream


def tiny_vae(patch_size: int | None, is_residual: bool = False) -> AutoencoderKLWan:
    torch.manual_seed(0)
    channels = 3 * (patch_size or 1) ** 2
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 2.0, 1.0],
        patch_size=patch_size,
        is_residual=is_residual,
        in_channels=channels,
        out_channels=channels,
    )
    return vae.eval()


@pytest.fixture(scope="module", params=[(None,), (2,), (2, True)], ids=["wan2.1", "patched", "wan2.2"])
def codec(request) -> Codec:
    return Codec(tiny_vae(*request.param))


def clip(frames: int, batch: int = 1, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_whole_decode_equals_diffusers(codec):
    latents = torch.randn(1, 4, 4, 4, 6)
    mean = torch.tensor(codec.vae.config.latents_mean).view(1, 4, 1, 1, 1)
    deviation = torch.tensor(codec.vae.config.latents_std).view(1, 4, 1, 1, 1)
    with torch.no_grad():
        theirs = codec.vae.decode(latents * deviation + mean).sample
    assert theirs.std() > 0
    assert torch.equal(codec.decode(latents), theirs)


@pytest.mark.parametrize("chunks", [[3, 3, 1], [1, 1, 5], [2, 5]])
def test_streamed_decode_equals_whole_decode(codec, chunks):
    latents = torch.randn(2, 4, 7, 4, 6)
    stream = codec.stream()
    parts = [stream.decode(part) for part in latents.split(chunks, dim=2)]
    assert [part.shape[2] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(chunks)]
    assert torch.equal(torch.cat(parts, 2), codec.decode(latents))


def test_streams_may_be_interleaved_with_each_other_and_with_whole_work(codec):
    first, second = torch.randn(1, 4, 5, 4, 6), torch.randn(1, 4, 5, 4, 6)
    a, b, parts_a, parts_b = codec.stream(), codec.stream(), [], []
    for part_a, part_b in zip(first.split([2, 3], 2), second.split([3, 2], 2), strict=True):
        parts_a.append(a.decode(part_a))
        codec.encode_clip(clip(5))
        parts_b.append(b.decode(part_b))
        codec.vae.decode(part_b)
    assert torch.equal(torch.cat(parts_a, 2), codec.decode(first))
    assert torch.equal(torch.cat(parts_b, 2), codec.decode(second))


@pytest.mark.parametrize("kind", ["whole", "tiled", "tiny"])
def test_a_stream_goes_back_to_a_mark(codec, kind):
    """What was decoded since is forgotten, at a clip's start and in its middle, as often as one likes."""
    size = (12, 18) if kind == "tiled" else (4, 6)
    latents, others = torch.randn(2, 1, 4, 4, *size)
    if kind == "tiny":
        tiny = TinyDecoder(4, (8, 8, 8, 8)).eval()
        here, plain = TinyStream(tiny), TinyStream(tiny)
    else:
        here, plain = (Codec(codec.vae, tiles=1 + (kind == "tiled")).stream() for _ in range(2))
    for part, other in zip(latents.split(2, dim=2), others.split(2, dim=2), strict=True):
        mark = here.mark()
        for _ in range(2):
            here.decode(other)
            here.back(mark)
        assert torch.equal(here.decode(part), plain.decode(part))


def test_frames_are_encoded_alone(codec):
    pixels = clip(5)[0].movedim(1, 0)
    together = codec.encode_frames(pixels)
    alone = torch.cat([codec.encode_frames(frame[None]) for frame in pixels])
    assert together.shape == (5, 4, 32 // codec.spatial_factor, 48 // codec.spatial_factor)
    assert (together - alone).abs().max() < 1e-5
    assert torch.equal(codec.encode_clip(pixels[:1, :, None]).squeeze(2), codec.encode_frames(pixels[:1]))


def test_clip_latents_are_the_normalised_mode(codec):
    pixels = clip(9, batch=2)
    latents = codec.encode_clip(pixels)
    assert latents.shape == (2, 4, 3, 32 // codec.spatial_factor, 48 // codec.spatial_factor)
    with torch.no_grad():
        mode = codec.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(latents[:, 2], (mode[:, 2] - 0.3) / 2.0)
    assert torch.equal(latents, codec.encode_clip(pixels))


def test_sizes():
    patched = Codec(tiny_vae(2))
    assert (Codec(tiny_vae(None)).spatial_factor, patched.spatial_factor) == (4, 8)
    assert patched.latent_size(64, 96) == (8, 12)
    with pytest.raises(CodecError, match="height is 70, which does not divide by 16: take 64 or 80"):
        patched.latent_size(70, 96, patch=2)
    with pytest.raises(CodecError, match="width is 8, which does not divide by 16: take 16"):
        patched.latent_size(64, 8, patch=2)
    with pytest.raises(CodecError, match="width is 44, which does not divide by 8: take 40 or 48"):
        patched.encode_frames(torch.zeros(1, 3, 32, 44))


def test_frame_counts():
    assert [latent_frames(n) for n in (1, 5, 33, 81)] == [1, 2, 9, 21]
    assert [pixel_frames(n) for n in (1, 2, 9, 21)] == [1, 5, 33, 81]
    with pytest.raises(CodecError, match="frames is 32, .* take 29 or 33"):
        latent_frames(32)
    for bad in (0, -3):
        with pytest.raises(CodecError, match="take 1 or more"):
            latent_frames(bad)


def test_frames_and_pixels_are_inverse():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).repeat(2, 3, 1, 3)
    pixels = to_pixels(frames)
    assert pixels.shape == (2, 3, 3, 256) and pixels.min() == -1 and pixels.max() == 1
    assert torch.equal(to_frames(pixels), frames)
    assert to_frames(torch.full((1, 3, 2, 2), 1.5)).max() == 255


@pytest.mark.parametrize(("size", "tiles"), [(60, 2), (104, 2), (60, 3), (9, 2), (6, 3)])
def test_tiles_cover_everything_and_overlap(size, tiles):
    spans = tile_spans(size, tiles)
    assert spans[0][0] == 0 and spans[-1][1] == size and len({stop - start for start, stop in spans}) == 1
    assert all(min(OVERLAP, size) <= a[1] - b[0] for a, b in pairwise(spans))


def test_tiles_are_put_back_in_place_without_seams(monkeypatch):
    """Pictures that are their latents, enlarged: whatever the tiles, the whole comes back."""
    codec = Codec(tiny_vae(None), tiles=3)
    enlarged = lambda _, z: z.repeat_interleave(4, -1).repeat_interleave(4, -2)  # noqa: E731
    monkeypatch.setattr(StreamDecoder, "decode", enlarged)
    latents = torch.randn(1, 4, 2, 20, 26)
    torch.testing.assert_close(codec.stream().decode(latents), enlarged(None, latents))


def test_tiled_streams_equal_tiled_wholes_and_nearly_the_untiled(codec):
    latents = torch.randn(1, 4, 4, 12, 18)
    tiled = Codec(codec.vae, tiles=2)
    stream = tiled.stream()
    parts = torch.cat([stream.decode(part) for part in latents.split([1, 2, 1], dim=2)], 2)
    assert torch.equal(parts, tiled.decode(latents))
    whole = codec.decode(latents)
    assert parts.shape == whole.shape
    assert 0 < (parts - whole).abs().mean() < 0.2 * whole.std()


@pytest.mark.parametrize("ways", [for_gpu, for_cpu])
def test_a_devices_ways_give_the_same_pictures_and_latents(codec, ways, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    latents, pixels = torch.randn(1, 4, 3, 4, 6), clip(9)
    vae = ways(copy.deepcopy(codec.vae))
    stream, near = Codec(vae).stream(), {"atol": 1e-5, "rtol": 1e-4}
    parts = [stream.decode(part) for part in latents.split([1, 2], dim=2)]
    torch.testing.assert_close(torch.cat(parts, 2), codec.decode(latents), **near)
    torch.testing.assert_close(Codec(vae).encode_clip(pixels), codec.encode_clip(pixels), **near)
    convolutions = [m for m in vae.modules() if isinstance(m, torch.nn.Conv3d)]
    laid_out = all(m.weight.is_contiguous(memory_format=torch.channels_last_3d) for m in convolutions)
    assert laid_out == torch.backends.cudnn.benchmark == (ways is for_gpu)


def test_a_cpu_convolves_in_the_plane_only(codec):
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function._overloadpacket is torch.ops.aten.convolution:
                seen.append(args[1].ndim)
            return function(*args, **(kwargs or {}))

    codec = Codec(for_cpu(copy.deepcopy(codec.vae)))
    with Seen(), torch.no_grad():
        codec.decode(codec.encode_clip(clip(5)))
    assert set(seen) == {4}


def test_a_gpu_writes_what_a_convolution_reads_once(codec):
    def written(vae: AutoencoderKLWan) -> int:
        """Bytes made by padding and joining while two latents are decoded."""
        with Written() as counted, torch.no_grad():
            stream = Codec(vae).stream()
            for _ in range(3):
                stream.decode(torch.zeros(1, 4, 1, 4, 6))
        return counted.bytes

    class Written(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if function._overloadpacket in (torch.ops.aten.cat, torch.ops.aten.constant_pad_nd):
                self.bytes += out.nbytes
            return out

    assert written(for_gpu(copy.deepcopy(codec.vae))) < 0.6 * written(codec.vae)


@pytest.mark.parametrize("patch", [None, 2, 4])
def test_nothing_takes_a_latent_for_eight_pixels(patch):
    """A codec of 4, 8 or 16 pixels a latent, from its configuration to a film in tiles."""
    vae = tiny_vae(patch)
    pixels = 4 * (patch or 1)
    assert spatial_factor(vae.config) == spatial_factor(dict(vae.config)) == Codec(vae).spatial_factor == pixels
    codec = Codec(vae, tiles=2)
    latents = codec.encode_clip(clip(5, height=3 * pixels, width=2 * pixels))
    assert latents.shape == (1, 4, 2, 3, 2)
    assert codec.decode(latents).shape == (1, 3, 5, 3 * pixels, 2 * pixels)
    with pytest.raises(CodecError, match=f"height is {pixels + 1}, which does not divide by {pixels}"):
        codec.latent_size(pixels + 1, pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_norms_decode_and_encode_the_same_with_the_same_weights(codec, dtype):
    torch._dynamo.reset()  # graphs of other tests count towards what torch keeps
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    vae = copy.deepcopy(codec.vae).to(dtype)
    latents, weights = torch.randn(1, 4, 3, 4, 6, dtype=dtype), list(vae.state_dict())
    plain = Codec(vae).decode(latents), Codec(vae).encode_clip(clip(5))
    compile_norms(vae, backend=backend)
    stream = Codec(vae).stream()
    decoded = torch.cat([stream.decode(part) for part in latents.split([1, 2], dim=2)], dim=2)
    torch.testing.assert_close((decoded, Codec(vae).encode_clip(clip(5))), plain)
    assert graphs and list(vae.state_dict()) == weights
    assert "silu" in graphs[0].code and any("cat" in graph.code for graph in graphs)
