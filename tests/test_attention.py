"""Attention backends and compiled blocks: faster ways of the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from conftest import build_transformer, close
from torch._inductor.decomposition import decompositions
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotstream_lite import attention
from shotstream_lite.attention import (
    attend,
    backend_in_use,
    busy,
    fast_backend,
    halves_pay,
    in_halves,
    merged,
    preferring,
    spans,
    use_backend,
)
from shotstream_lite.errors import CheckpointError
from shotstream_lite.rollout import begin_shot, rollout
from shotstream_lite.transformer import causal_mask, compile_blocks, compile_halves, for_gpu


def told(model, shots) -> torch.Tensor:
    """The latents of a shot of two chunks after a context."""
    shots = shots.sample(0)
    with torch.no_grad():
        cache = begin_shot(model, shots.cond)
        noise = torch.Generator().manual_seed(0)
        chunks = rollout(model, cache, lambda shape: torch.randn(shape, generator=noise), [1.0, 0.7], [3, 3])
        return torch.cat(list(chunks), dim=2)


GROUPS = ((0, 2, (slice(3),)), (2, 5, (slice(11),)), (5, 8, (slice(2), slice(9, 11))))
DENSE = torch.arange(11) < torch.tensor([3, 3, 11, 11, 11, 2, 2, 2])[:, None]
DENSE[5:, 9:] = True


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs_own(transformer, masked):
    attn = transformer.blocks[0].attn1
    query, keys, values = torch.randn(2, 2, 8, 12), torch.randn(2, 2, 11, 12), torch.randn(2, 2, 11, 12)
    dense, groups = (DENSE, GROUPS) if masked else (None, None)
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=dense).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(attn, query, keys, values, groups), attn.to_out[0](expected))


@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_on_a_cpu_is_the_same_attention(transformer, masked):
    attn, dtypes = transformer.blocks[0].attn1, (torch.float32, torch.bfloat16)
    inputs = [torch.randn(2, 2, n, 12).bfloat16() for n in (8, 11, 11)]
    groups = GROUPS if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        exact, half = (attend(attn, *(x.to(dtype) for x in inputs), groups) for dtype in dtypes)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, exact, atol=0.02, rtol=0.02)


def test_a_mask_over_frames_is_the_dense_one_over_tokens():
    twice = torch.tensor([[2, 1, 0], [0, 1, 1], [1, 0, 1]])
    for mask in (causal_mask(6, 7, 3), causal_mask(0, 5, 2), causal_mask(3, 3, 3), torch.eye(3).bool(), twice):
        dense = torch.zeros(2 * [4 * len(mask)], dtype=torch.long)
        for start, stop, seen in spans(mask, 4):
            keys = torch.cat([torch.arange(4 * len(mask))[part] for part in seen])
            dense[start:stop] += keys.bincount(minlength=4 * len(mask))
        assert torch.equal(dense, torch.kron(mask.long(), torch.ones(4, 4, dtype=torch.long)))
    assert all(len(seen) == 1 for *_, seen in spans(causal_mask(6, 7, 3), 4))  # nothing is copied
    with pytest.raises(ValueError, match="attend to none"):
        spans(torch.tensor([[True, False], [False, False]]), 4)


def test_nothing_of_tokens_by_tokens_is_made(transformer):
    """Masked training at full size has 42,120 tokens: their square alone would be 1.8 GB in every layer."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
            return out

    latents, mask = torch.randn(1, 3, 27, 12, 16), causal_mask(6, 21, 3)
    with torch.no_grad(), Largest() as largest:
        transformer.joint(latents, 500.0, torch.randn(1, 1, 5, 10), torch.tensor([0] * 6 + [1] * 21), mask=mask)
    assert largest.size < (27 * 48) ** 2 / 4


def test_another_backend_is_used_named_and_gives_the_same(shots):
    model, other = build_transformer(), build_transformer()
    use_backend(other, "math")
    assert backend_in_use(other) == "math"
    assert backend_in_use(model).startswith("native: ")  # each model has its own
    close(told(other, shots), told(model, shots))
    with pytest.raises(CheckpointError, match="^attention backend magic: write one of native, cudnn, flash"):
        use_backend(other, "magic")


def test_a_backend_is_tried_first_and_excludes_no_other():
    before = torch._C._get_sdp_priority_order()
    with preferring("math"):
        order = torch._C._get_sdp_priority_order()
        assert order[0] == SDPBackend.MATH.value and sorted(order) == sorted(before)
    assert torch._C._get_sdp_priority_order() == before


def test_attention_takes_keys_and_values_as_they_lie_in_the_cache(shots, monkeypatch):
    """No copy: what the kernel gets is a slice of the cache itself."""
    model, sample, seen = build_transformer(), shots.sample(0), []
    with torch.no_grad():
        cache = begin_shot(model, sample.cond)
        kernel = F.scaled_dot_product_attention
        watched = lambda q, k, v, **options: seen.append((k.data_ptr(), v.data_ptr())) or kernel(q, k, v, **options)  # noqa: E731
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        model.chunk(cache, torch.zeros_like(sample.target[:, :, :3]), 500.0, 0)
    for layer in range(2):  # a block attends to the cache and then to its caption
        assert seen[2 * layer] == (cache.keys[layer].data_ptr(), cache.values[layer].data_ptr())
        assert seen[2 * layer + 1] == (
            cache.captions.keys[layer].data_ptr(),
            cache.captions.values[layer].data_ptr(),
        )


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_two_halves_of_the_keys_are_one_attention(dtype, near):
    """Keys and values lie in a larger cache, and one half draws nearly all attention of some queries."""
    query, (keys, values) = torch.randn(1, 9, 3, 16).transpose(1, 2), torch.randn(2, 1, 3, 40, 16)
    keys[:, :, :10] *= 6
    query, keys, values = (x.to(dtype) for x in (query, keys, values))
    keys, values = keys[:, :, :26], values[:, :, :26]
    found, logs = in_halves(query, keys, values)
    assert (found.shape, logs.shape) == ((2, 3, 9, 16), (2, 3, 9))
    expected = F.scaled_dot_product_attention(query.float(), keys.float(), values.float())
    torch.testing.assert_close(merged(found, logs).float(), expected, atol=near, rtol=near)


def test_keys_are_halved_where_that_keeps_more_of_a_gpu_busy():
    """A chunk of the full model is 444 blocks: 3.4 waves on an H100, and 6.7 in halves."""

    def pays(tokens=4680, keys=14040, batch=1, processors=132):
        sizes = (batch, 12, tokens, 128), (batch, 12, keys, 128)
        return halves_pay(*(torch.empty(size, device="meta") for size in sizes), processors)

    chunk = torch.empty(1, 12, 4680, 128, device="meta")
    assert (busy(chunk, 132), busy(chunk, 132, 2)) == pytest.approx((444 / 528, 888 / 924))
    with torch.no_grad():
        assert pays() and pays(keys=42120) and pays(processors=108)
        assert not (pays(tokens=9360) or pays(keys=9361) or pays(keys=512) or pays(batch=2) or pays(processors=0))
    assert not pays()  # with gradient


def test_halved_keys_tell_the_same_shot(shots, monkeypatch):
    model, calls = build_transformer(), []
    expected = told(model, shots)
    monkeypatch.setattr(attention, "LONG", 0)
    monkeypatch.setattr(attention, "in_halves", lambda *tensors: calls.append(1) or in_halves(*tensors))
    for name, halved in (("math", 0), ("cudnn", 2 * 2 * 2 + 2)):  # layers, chunks, steps; layers but one, once more
        use_backend(model, name, processors=7)
        calls.clear()
        close(told(model, shots), expected)
        assert len(calls) == halved, name


def test_a_gpus_feed_forward_net_is_the_same_with_one_kernel_less():
    """On a CPU torch's fused product takes the exact GELU, on CUDA the tanh form that the model has."""
    model, other = build_transformer(), for_gpu(build_transformer())
    x = torch.randn(1, 2, 3, model.config.num_attention_heads * model.config.attention_head_dim)
    for ours, plain in zip(other.blocks, model.blocks, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(ours.ffn(x), plain.ffn(x), atol=1e-3, rtol=1e-3)
        assert torch.equal(ours.ffn(x), plain.ffn(x))  # with gradient
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function._overloadpacket)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Seen():
        other.blocks[0].ffn(x)
    fused = torch.ops.aten._addmm_activation
    assert fused in seen and torch.ops.aten.gelu not in seen
    assert fused.default not in decompositions  # torch's compiler leaves it one kernel


def test_the_fast_backend_is_cudnn_from_hopper_on():
    cuda = torch.device("cuda")
    assert [fast_backend(cuda, which) for which in ((8, 9), (9, 0), (10, 0))] == ["native", "cudnn", "cudnn"]
    assert fast_backend(torch.device("cpu")) == "native"


@pytest.fixture
def graphs():
    """What was compiled, by a compiler that changes nothing: `backend=graphs.compiler`."""

    class Graphs(list):
        def compiler(self, graph, inputs):
            self.append(graph)
            return graph.forward

    return Graphs()


def test_compiled_halves_give_the_same_from_few_graphs(shots, graphs):
    model = build_transformer(num_layers=3)
    expected = told(model, shots)
    compile_halves(model, backend=graphs.compiler)
    close(told(model, shots), expected)
    assert 2 <= len(graphs) <= 6  # two halves, for the context and for chunks at work and clean; not by layer or place


def test_compiled_blocks_give_the_same_from_one_graph_a_kind(graphs):
    """All layers of a joint pass, with its gradient; passes with caches go on in halves."""
    results = []
    for compiled in (False, True):
        model = build_transformer(num_layers=3).requires_grad_(True)
        if compiled:
            compile_blocks(model, backend=graphs.compiler)
        torch.manual_seed(0)
        latents, captions = (
            torch.randn(2, model.config.in_channels, 5, 4, 6),
            torch.randn(2, 2, 8, model.config.text_dim),
        )
        flow = model.joint(latents, torch.tensor([300.0, 700.0]), captions, torch.tensor([0, 0, 1, 1, 1]))
        flow.square().mean().backward()
        results.append((flow, model.blocks[0].attn1.to_q.weight.grad))
    assert len(graphs) == 2  # the captions' keys, and a block for all layers
    for ours, expected in zip(*reversed(results), strict=True):
        close(ours, expected)
