"""How much the full model computes, counted on the meta device: the least that its mathematics asks for."""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from shotstream_lite import codec
from shotstream_lite.codec import Codec
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import few_step
from shotstream_lite.models.codec_kernels import compile_norms
from shotstream_lite.models.convert import outline
from shotstream_lite.models.folder import PRESETS
from shotstream_lite.models.memory import outline_codec
from shotstream_lite.models.placement import read_configs
from shotstream_lite.rollout import begin_shot, clean_pass, rollout
from shotstream_lite.transformer import adopt

FRAME, WIDTH, FFN, LAYERS, TEXT = 30 * 52, 1536, 8960, 30, 512
CONFIGS = read_configs(PRESETS["wan-1.3b"], download=False)


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def first_shot(model, length: int):
    ids = torch.tensor([0] * 6 + [1] * length)
    return begin_shot(model, Conditioning(empty(1, 1, TEXT, 4096), ids, context=empty(1, 16, 6, 60, 104)))


def flops(work) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    return counter.get_total_flops()


def of_blocks(tokens: int, keys: int, layers: int = LAYERS) -> float:
    """Multiplications and additions of blocks: linear layers, self-attention, attention to a caption."""
    linear = 2 * tokens * WIDTH * (4 * WIDTH + 2 * WIDTH + 2 * FFN)
    return layers * (linear + 4 * tokens * keys * WIDTH + 4 * tokens * TEXT * WIDTH)


def test_a_chunk_computes_no_more_than_it_must():
    """Nothing of the past is computed again, and the caption's keys are not: only the chunk's tokens go through."""
    model = adopt(outline(CONFIGS["transformer"])).to(torch.bfloat16)
    cache = []

    def begin():
        cache.append(first_shot(model, 21))

    caption = 2 * TEXT * WIDTH * (4096 + WIDTH + 2 * LAYERS * WIDTH)
    # Of the last block a pass that only remembers needs no more than queries (to be looked at), keys and values.
    kept = of_blocks(6 * FRAME, 6 * FRAME, LAYERS - 1) + 3 * 2 * 6 * FRAME * WIDTH**2
    assert flops(begin) == pytest.approx(kept + caption, rel=1e-3)
    for index in (0, 6):
        tokens, keys, latents = 3 * FRAME, (6 + 3 * (index + 1)) * FRAME, empty(1, 16, 3, 60, 104)
        work = flops(lambda: model.chunk(cache[0], latents, 500.0, 3 * index))  # noqa: B023
        assert work == pytest.approx(of_blocks(tokens, keys), rel=2e-3)
        work = flops(lambda: clean_pass(model, cache[0], empty, latents, 3 * index))  # noqa: B023
        assert work == pytest.approx(of_blocks(tokens, keys, LAYERS - 1) + 3 * 2 * tokens * WIDTH**2, rel=1e-3)


def test_decoding_costs_the_same_for_every_latent_and_less_for_the_first():
    decoder = Codec(outline_codec(CONFIGS, torch.bfloat16)).stream()
    first, second, third = (flops(lambda: decoder.decode(empty(1, 16, 1, 60, 104))) for _ in range(3))
    assert second == third and 2.5 < second / first < 4  # four frames instead of one


def test_the_whole_codec_is_compiled_to_fewer_graphs_than_torch_keeps():
    """Beyond its limit torch goes back to uncompiled code without a word, first for the largest pictures."""
    torch._dynamo.reset()
    graphs, vae = [], outline_codec(CONFIGS, torch.bfloat16)
    compile_norms(vae, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    decoder = Codec(vae).stream()
    for latents in (1, 2, 3):
        decoder.decode(empty(1, 16, latents, 60, 104))
    Codec(vae).encode_frames(empty(1, 3, 480, 832))
    assert 0 < len(graphs) <= torch._dynamo.config.recompile_limit // 2


class FromHost(TorchFunctionMode):
    """Collects what brings data from the host to the meta device; on a GPU each would wait for all work before it.

    A CPU tensor without dimensions is no data: it goes to a kernel as a number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.is_meta:
            written = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
            moving = func in (torch.as_tensor, Tensor.to, Tensor.type_as, Tensor.copy_)
            hosts = [a for a in args if isinstance(a, Tensor) and a.is_cpu and (a.ndim or moving)]
            self.seen += [func.__name__] if written or hosts else []
        return made


def test_chunks_and_their_decoding_bring_nothing_from_the_host():
    """From the second latent on; what the first brings, the codec's normalisation, shows that the counter counts."""
    model = adopt(outline(CONFIGS["transformer"])).to(torch.bfloat16)
    decoder = Codec(outline_codec(CONFIGS, torch.bfloat16)).stream()
    codec._on_device.cache_clear()
    with torch.inference_mode():
        cache = first_shot(model, 9)
        with FromHost() as first:
            torch.as_tensor(500.0, device="meta")
            decoder.decode(empty(1, 16, 1, 60, 104))
        assert first.seen == ["as_tensor", "tensor", "tensor"]
        with FromHost() as rest:
            for latents in rollout(model, cache, lambda shape: empty(*shape), few_step(), [3, 3, 3]):
                decoder.decode(latents)
        assert rest.seen == []
