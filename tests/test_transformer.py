"""The three ways through the transformer agree with stock Wan, with each other, and from batch to batch."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import build_transformer, close
from diffusers import WanTransformer3DModel

from shotstream_lite.rollout import begin_shot
from shotstream_lite.transformer import ShotStreamTransformer, adopt, causal_mask, compile_blocks, with_context

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_zero_phase_is_stock_wan(transformer, shots):
    with torch.no_grad():
        ours = transformer.joint(shots.target, torch.tensor([0.0, 640.0]), shots.captions[:, :1], phase=0.0)
        stock = transformer(shots.target, torch.tensor([0.0, 640.0]), shots.captions[:, 0]).sample
    close(ours[:1], stock[:1], 1e-6)
    close(ours, stock, 2e-5)  # diffusers computes the time sinusoid in float32


def test_nothing_is_added_and_adopting_copies_nothing(tmp_path):
    plain = WanTransformer3DModel.from_config(build_transformer().config)
    parameters = {name: p.data_ptr() for name, p in plain.named_parameters()}
    ours = adopt(plain)
    assert ours is plain and isinstance(ours, ShotStreamTransformer) and adopt(ours) is ours
    assert {name: p.data_ptr() for name, p in ours.named_parameters()} == parameters
    ours.save_pretrained(tmp_path)
    again = WanTransformer3DModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


def test_patches_over_several_latents_are_refused():
    with pytest.raises(ValueError, match="patches of 2 latent frames"):
        adopt(build_transformer(patch_size=(2, 2, 2)))


@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
@pytest.mark.parametrize("history", [True, False])
def test_chunks_with_caches_are_one_masked_joint_pass(transformer, shots, chunk, history):
    shots = shots if history else shots.without_context()
    context_frames = shots.context.shape[2]
    levels = torch.rand(2, 6 // chunk) * 1000
    timestep = torch.cat((torch.zeros(2, context_frames), levels.repeat_interleave(chunk, 1)), dim=1)
    with torch.no_grad():
        whole = transformer.joint(
            with_context(shots.context, shots.target),
            timestep,
            shots.captions,
            shots.shot_ids,
            mask=causal_mask(context_frames, 6, chunk),
            positions=torch.cat((torch.arange(context_frames), 6 + torch.arange(6))),
        )
        cache = begin_shot(transformer, shots.cond)
        parts = [
            transformer.chunk(cache, shots.target[:, :, start : start + chunk], levels[:, start // chunk], start)
            for start in range(0, 6, chunk)
        ]
    close(torch.cat(parts, dim=2), whole[:, :, context_frames:])


def test_with_gradient_a_chunk_is_the_same(transformer, shots):
    cache = begin_shot(transformer, shots.cond)
    flow = transformer.chunk(cache, shots.target[:, :, :3], 500.0, 0)
    assert flow.requires_grad
    with torch.no_grad():
        close(flow.detach(), transformer.chunk(cache, shots.target[:, :, :3], 500.0, 0), 1e-6)


def test_a_batch_of_two_is_two_singles(transformer, shots):
    timestep = torch.tensor([300.0, 800.0])
    with torch.no_grad():
        seen = with_context(shots.context, shots.target)
        joint = transformer.joint(seen, timestep, shots.captions, shots.shot_ids)
        cache = begin_shot(transformer, shots.cond)
        chunk = transformer.chunk(cache, shots.target, timestep, 0)
        for i in range(2):
            one = shots.sample(i)
            single = transformer.joint(seen[i : i + 1], timestep[i], one.captions, one.shot_ids)
            close(joint[i : i + 1], single)
            cache = begin_shot(transformer, replace(one.cond, shot_ids=one.shot_ids[0]))
            close(chunk[i : i + 1], transformer.chunk(cache, one.target, timestep[i], 0))


def test_a_timestep_per_frame_may_say_the_same_for_all(transformer, shots):
    with torch.no_grad():
        one = transformer.joint(shots.target, 640.0, shots.captions[:, :1])
        for timestep in (torch.tensor(640.0), torch.full((2,), 640.0), torch.full((2, 6), 640.0)):
            close(transformer.joint(shots.target, timestep, shots.captions[:, :1]), one, 1e-6)


def test_captions_kept_once_are_captions_gathered_per_frame(transformer, shots):
    """Reading caption shot_id from n cached ones = giving every frame its own copy of the text."""
    ids = torch.tensor([[0, 0, 3, 1, 2, 2], [1, 1, 1, 2, 0, 3]])
    with torch.no_grad():
        gathered = transformer.joint(shots.target, 500.0, shots.captions, caption_ids=ids)
        copies = shots.captions[torch.arange(2)[:, None], ids]
        own = transformer.joint(shots.target, 500.0, copies, caption_ids=torch.arange(6))
        close(gathered, own, 1e-6)
        cached = transformer.joint(shots.target, 500.0, transformer.caption_keys(shots.captions), caption_ids=ids)
        assert torch.equal(cached, gathered)


def test_one_caption_for_all_frames_takes_the_short_way(transformer, shots):
    with torch.no_grad():
        alone = transformer.joint(shots.target, 500.0, shots.captions[:, 2:3])
        for ids in (torch.tensor([[2], [2]]), torch.full((6,), 2)):
            close(transformer.joint(shots.target, 500.0, shots.captions, caption_ids=ids), alone, 1e-6)


def test_shot_ids_matter_by_their_differences(transformer, shots):
    ids, captions = torch.tensor([0, 0, 1, 1, 2, 2]), shots.captions[:, :1]
    with torch.no_grad():
        flow = transformer.joint(shots.target, 500.0, captions, ids)
        close(transformer.joint(shots.target, 500.0, captions, ids + 5), flow)
        assert (transformer.joint(shots.target, 500.0, captions) - flow).abs().max() > 1e-3


def test_recorded_masks(golden):
    recorded = json.loads((golden / "causal_mask.json").read_text())
    for frames in (6, 9):
        assert causal_mask(6, frames, 3).int().tolist() == recorded[f"mask_ctx6_target{frames}_chunk3"]
    assert causal_mask(0, 5, 2).int().sum(dim=1).tolist() == [2, 2, 4, 4, 5]


@pytest.mark.parametrize("cached", [False, True])
def test_gradient_checkpointing_changes_nothing(shots, cached):
    gradients = []
    for checkpointing in (False, True):
        transformer = build_transformer()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        if cached:
            cache = begin_shot(transformer, shots.cond)
            flow = transformer.chunk(cache, shots.target, 500.0, 0)
        else:
            flow = transformer.joint(shots.target, 500.0, shots.captions, shots.shot_ids[:, 6:])
        flow.square().mean().backward()
        gradients.append([p.grad for p in transformer.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        close(checkpointed, plain)


def test_lora_learns_through_every_way(transformer, shots):
    peft = pytest.importorskip("peft")
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    transformer.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    trained = [name for name, p in transformer.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 10 and all("lora" in name for name in trained)
    for way in (
        lambda: transformer.joint(shots.target, 500.0, shots.captions, shots.shot_ids[:, 6:]),
        lambda: transformer.chunk(begin_shot(transformer, shots.cond), shots.target, 500.0, 0),
    ):
        transformer.zero_grad()
        way().square().mean().backward()
        parameters = dict(transformer.named_parameters())
        assert all(parameters[name].grad.any() for name in trained)


def test_bfloat16(shots):
    half = build_transformer().to(torch.bfloat16)
    with torch.no_grad():
        reference = build_transformer().joint(shots.target, 500.0, shots.captions, shots.shot_ids[:, 6:])
        flow = half.joint(shots.target, 500.0, shots.captions, shots.shot_ids[:, 6:])
        assert flow.dtype == torch.bfloat16
        close(flow.float(), reference, 0.05)
        chunk = half.chunk(begin_shot(half, shots.cond), shots.target, 500.0, 0)
        full = build_transformer()
        close(chunk.float(), full.chunk(begin_shot(full, shots.cond), shots.target, 500.0, 0), 0.05)


@torch.no_grad()
def test_who_listens_hears_joint_alone_and_gives_back_what_is_attended(transformer, shots):
    inputs, heard = (shots.target, 500.0, shots.captions[:, :1]), []

    def listen(keys, values, query):
        heard.append((query, keys))
        return keys, values * louder

    usual, transformer.listen, louder = transformer.joint(*inputs), {1: listen}, 1.0
    assert torch.equal(transformer.joint(*inputs), usual)
    (query, keys), tokens = heard.pop(), shots.target.shape[2] * 2 * 3
    assert query.shape == keys.shape == (2, 2, tokens, 12) and not torch.equal(query, keys)
    louder = 2.0
    assert not torch.allclose(transformer.joint(*inputs), usual, atol=1e-3)
    heard.clear()
    transformer.chunk(begin_shot(transformer, shots.cond), shots.target[:, :, :3], 500.0, 0)
    assert not heard


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_compiled_or_not_captions_are_read_alike(dtype):
    """However many there are."""
    plain, quick = build_transformer(0).to(dtype), build_transformer(0).to(dtype)
    compile_blocks(quick, backend="aot_eager")
    for count in (1, 2, 5):
        captions = torch.randn(2, count, 5, 10, generator=torch.Generator().manual_seed(count)).to(dtype)
        one, two = (model.caption_keys(captions) for model in (plain, quick))
        for ours, theirs in zip((*one.keys, *one.values), (*two.keys, *two.values), strict=True):
            torch.testing.assert_close(ours, theirs)
