"""Every rival pinned to something already trusted: the fourteen equalities, and what each costs."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import Draws, build_transformer, close

from shotstream_lite import transformer as model_file
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.errors import StoryError
from shotstream_lite.flow import add_noise, euler_sigmas, few_step, to_clean
from shotstream_lite.rivals import streams
from shotstream_lite.rivals.cost import joint_pairs, own_pairs, stream_pairs
from shotstream_lite.rivals.film import MARKS, Mark, _rotations, begin_film
from shotstream_lite.rivals.joint import (
    Consistent,
    Contexts,
    DiffusionForcing,
    HoloCine,
    Joint,
    LongContext,
    biased,
    pyramid,
    replay,
    sample_film,
    seen_through,
)
from shotstream_lite.rollout import begin_shot, rollout, sample_joint

SIGMAS, WHOLE = few_step(shift=3.0), 10**6
ONE = torch.ones(1)


@pytest.fixture
def transformer():
    """The tiny model with attention that chooses: where a key stands and who sees it matters."""
    model = build_transformer()
    with torch.no_grad():
        for block in model.blocks:
            block.attn1.norm_q.weight.mul_(8)
            block.attn1.to_out[0].weight.mul_(4)
    return model


def captions(model, shots=3):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 3, 5, 10, generator=generator)[:, :shots]


@torch.no_grad()
def tell(model, rival, shots=(6, 6, 6), sigmas=SIGMAS, same_caption=False, seeds=(0, 1)):
    """A film by a streaming rival, [2, 3, frames, 4, 6], and its cache."""
    film, draws, made = begin_film(model, rival, (2, 3, 4, 6)), Draws(*seeds), []
    texts = captions(model)
    for k, frames in enumerate(shots):
        reads = model.caption_keys(texts[:, [0 if same_caption else k]])
        rival.begin(model, film, frames, reads)
        made += list(rival.shot(model, film, draws, sigmas, [rival.chunk] * (frames // rival.chunk)))
    return torch.cat(made, dim=2), film


def differ(a, b):
    return (a - b).abs().max() > 1e-3 * b.abs().max()


@torch.no_grad()
def test_a_film_of_one_shot_is_the_method_without_context(transformer, shots):
    shots = shots.without_context()
    cache = begin_shot(transformer, Conditioning(captions(transformer, 1), torch.zeros(9), context=shots.context))
    known = torch.cat(list(rollout(transformer, cache, Draws(0, 1), SIGMAS, [3, 3, 3])), dim=2)
    close(tell(transformer, streams.SelfForcing(), (9,))[0], known)


# The fourteen equalities of the specification, by their numbers; what must not be equal stands beside them.
SELF = streams.SelfForcing()
EQUAL = {
    "1 LongLive that sees all is Self Forcing": (streams.LongLive(0, WHOLE, recache=False), SELF, SIGMAS),
    "1 recache with the same prompt": (streams.LongLive(3, 9), streams.LongLive(3, 9, recache=False), SIGMAS),
    "2 Infinity-RoPE that sees all": (streams.InfinityRope(1, WHOLE, flush=None, jump=None), SELF, SIGMAS),
    "3 Rolling Forcing in one step": (streams.RollingForcing(window=None, latency=0), SELF, ONE),
    "4 HiAR in one step": (streams.HiAR(), SELF, ONE),
    "8 routes to all frames": (streams.CausalCine(near=6, routed=99), SELF, SIGMAS),
    "9 a sink that never changes": (streams.EmaSink(decay=1.0), streams.LongLive(recache=False), SIGMAS),
    "13 FramePack at full size": (streams.FramePack(packs=((2, 1), (4, 1))), streams.Rival(window=9), SIGMAS),
}
UNEQUAL = {
    "1 a window forgets": (streams.LongLive(recache=False), SELF, SIGMAS),
    "1 recache with another prompt": (streams.LongLive(), streams.LongLive(recache=False), SIGMAS),
    "2 a flush forgets": (streams.InfinityRope(1, WHOLE, jump=None), SELF, SIGMAS),
    "2 a cut jumps": (streams.InfinityRope(1, WHOLE, flush=None), SELF, SIGMAS),
    "3 Rolling Forcing in four steps": (streams.RollingForcing(window=None), SELF, SIGMAS),
    "4 HiAR in four steps": (streams.HiAR(), SELF, SIGMAS),
    "8 routes to one frame": (streams.CausalCine(near=6, routed=1), SELF, SIGMAS),
    "9 a sink that changes": (streams.EmaSink(decay=0.5), streams.LongLive(recache=False), SIGMAS),
    "13 FramePack in coarser patches": (streams.FramePack(packs=((3, 1), (3, 2))), streams.Rival(window=9), SIGMAS),
    "CausVid restarts": (streams.CausVid(), SELF, SIGMAS),
    "LongLive 2.0's mark": (streams.Rival(mark=MARKS["offset-8"]), SELF, SIGMAS),
}


@pytest.mark.parametrize("one, other, sigmas", EQUAL.values(), ids=EQUAL)
def test_streams_that_must_be_equal_are(transformer, one, other, sigmas):
    same = one == streams.LongLive()  # with one prompt; beyond twelve frames recached ones no longer see older ones
    frames = (6, 6) if same else (6, 6, 6)
    close(*(tell(transformer, rival, frames, sigmas, same)[0] for rival in (one, other)), tolerance=2e-5)


@pytest.mark.parametrize("one, other, sigmas", UNEQUAL.values(), ids=UNEQUAL)
def test_streams_that_must_differ_do(transformer, one, other, sigmas):
    assert differ(*(tell(transformer, rival, (6, 6, 6), sigmas)[0] for rival in (one, other)))


def test_recache_beyond_twelve_frames_is_another_memory_and_leaves_the_sink(transformer):
    kept, recached = (tell(transformer, streams.LongLive(recache=r), (9, 6, 3), same_caption=True) for r in (0, 1))
    close(kept[0][:, :, :15], recached[0][:, :, :15])
    assert differ(kept[0][:, :, 15:], recached[0][:, :, 15:])
    sink, moved = (slice(a * 6, b * 6) for a, b in ((0, 3), (3, 6)))
    for before, after in zip(kept[1].keys, recached[1].keys, strict=True):
        assert torch.equal(before[:, :, sink], after[:, :, sink])
    assert differ(kept[1].keys[1][:, :, moved], recached[1].keys[1][:, :, moved])


def test_3_every_chunk_rolls_through_every_level_once(transformer, calls):
    chunks = calls(transformer, "chunk")
    rival = streams.RollingForcing(streams=False)
    tell(transformer, rival, (15,))
    levels = (SIGMAS * 1000).tolist()
    passes = [
        (start, timestep[0, ::3].tolist()) for _, _, timestep, start in chunks if isinstance(timestep, torch.Tensor)
    ]
    assert [start for start, _ in passes] == [0, 0, 0, 0, 3, 6, 9, 12]
    assert passes[4][1] == passes[3][1] == levels[::-1]  # the oldest is the cleanest
    seen = {c: [t[c - start // 3] for start, t in passes if 0 <= c - start // 3 < len(t)] for c in range(5)}
    assert all(steps == levels for steps in seen.values())
    close(tell(transformer, rival, (3,))[0], tell(transformer, SELF, (3,))[0])  # a chunk alone rolls as any other


def test_3_in_training_each_chunk_comes_from_one_window_with_gradient(transformer):
    film = begin_film(transformer, rival := streams.RollingForcing(streams=False), (2, 3, 4, 6))
    with torch.enable_grad():
        rival.begin(transformer, film, 15, transformer.caption_keys(captions(transformer, 1)))
        made = list(rival.shot(transformer, film, Draws(0, 1), SIGMAS, [3] * 5, exit_step=1))
    assert len(made) == 5 and all(part.requires_grad and part.shape[2] == 3 for part in made)
    assert not any(keys.requires_grad for keys in film.keys)


def test_3_chunks_in_flight_belong_to_the_next_shot(transformer):
    whole, _ = tell(transformer, streams.RollingForcing(), (12,), same_caption=True)
    halves, film = tell(transformer, streams.RollingForcing(), (6, 6), same_caption=True)
    close(halves, whole)
    assert len(film.flight) == streams.RollingForcing().latency == len(SIGMAS) - 1
    with pytest.raises(StoryError, match="multiple of 3"):
        tell(transformer, streams.RollingForcing(), (7,))


def shot_batch(transformer, frames=9):
    draws = Draws(3, 4)
    ids = torch.arange(frames) // 3
    return draws((2, 3, frames, 4, 6)), captions(transformer), ids


def by_hand(ids, ways):
    """A mask of Joint by its attribute."""
    return type("ByHand", (Joint,), {"mask": lambda self, shots: ways(shots)})


@torch.no_grad()
def test_5_routes_to_all_are_dense_and_to_none_are_shot_by_shot(transformer):
    latents, texts, ids = shot_batch(transformer)

    def flow(kind, **answers):
        return kind.of(transformer, **answers).joint(latents, 700.0, texts, ids)

    close(flow(Contexts, routed=9, earlier=False), flow(Joint))
    close(flow(Contexts, routed=9), flow(Joint, causal=True))
    close(flow(Contexts, routed=0), flow(by_hand(ids, lambda s: s[:, None] == s)))
    assert differ(flow(Contexts, routed=2), flow(Joint, causal=True))


@torch.no_grad()
def test_5_every_query_of_every_head_takes_its_own_frames():
    """Against a loop, where the routes of two heads and of two queries of one frame are not the same."""
    torch.manual_seed(0)
    query, keys, values = torch.randn(3, 1, 2, 12, 6)
    ids = torch.arange(6) // 2
    route = Contexts.change(type("Two", (), {"routed": 2, "earlier": True})(), ids, 2)
    q, k, v = route(query, keys, values)
    routed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    for head in range(2):
        for token in range(12):
            frame = token // 2
            fits = {f: float(query[0, head, token] @ keys[0, head, 2 * f : 2 * f + 2].mean(0)) for f in range(6)}
            best = sorted((f for f in range(6) if ids[f] < ids[frame]), key=fits.get)[-2:]
            seen = [t for t in range(12) if t // 2 in best or ids[t // 2] == ids[frame]]
            logits = query[0, head, token] @ keys[0, head, seen].T / math.sqrt(6)
            close(routed[0, head, token], logits.softmax(0) @ values[0, head, seen], 1e-4)


@torch.no_grad()
def test_6_summaries_of_all_frames_are_dense_with_ones_own_twice(transformer):
    latents, texts, ids = shot_batch(transformer)
    frames = torch.arange(9)
    own, single = (frames[:, None] == frames).float(), torch.zeros(9).long()

    def twice(query, keys, values):
        rows, columns = (x.repeat_interleave(6, 0) for x in (own * math.log(2), torch.eye(9)))
        return *biased(query, keys, rows, columns), values

    known = seen_through(transformer, twice).joint(latents, 700.0, texts, frames, caption_ids=ids, phase=0.0)
    close(HoloCine.of(transformer).joint(latents, 700.0, texts, frames, caption_ids=ids), known)
    one_shot = [
        kind.of(transformer, double=False).joint(latents, 700.0, texts[:, :1], single) for kind in (HoloCine, Joint)
    ]
    close(*one_shot)
    mask = HoloCine.of(transformer).mask(ids)
    assert mask[4].tolist() == [1, 0, 0, 2, 1, 1, 1, 0, 0]


@torch.no_grad()
def test_7_a_masked_pass_over_shots_is_one_shot_after_another_on_a_cache(transformer):
    latents, texts, ids = shot_batch(transformer)
    rival = streams.Rival(mark=LongContext.mark, chunk=3)
    film = begin_film(transformer, rival, (2, 3, 4, 6))
    for shot in range(2):
        rival.begin(transformer, film, 3, transformer.caption_keys(texts[:, [shot]]))
        rival.watch(transformer, film, latents[:, :, 3 * shot : 3 * shot + 3])
    rival.begin(transformer, film, 3, transformer.caption_keys(texts[:, [2]]))
    times = torch.tensor([[0.0] * 6 + [700.0] * 3]).expand(2, -1)
    masked = LongContext.of(transformer, causal=True).joint(latents, times, texts, ids)
    close(transformer.chunk(film, latents[:, :, 6:], 700.0, 0), masked[:, :, 6:])
    assert differ(LongContext.of(transformer).joint(latents, times, texts, ids)[:, :, 6:], masked[:, :, 6:])


def exit_steps(transformer, texts, clean, noisy, sigma, grad=False):
    """What Self Forcing's exit step sees in every chunk, with a clean past of its own; [2, 3, 9, 4, 6]."""
    film, flows = begin_film(transformer, SELF, (2, 3, 4, 6)), []
    film.begin(9, transformer.caption_keys(texts[:, :1]))
    for start in (0, 3, 6):
        with torch.set_grad_enabled(grad):
            flows.append(transformer.chunk(film, noisy[:, :, start : start + 3], sigma * 1000, start))
        with torch.no_grad():
            transformer.chunk(film, clean[:, :, start : start + 3], 0.0, start)
    return torch.cat(flows, dim=2)


def test_7_and_12_one_packed_pass_is_chunk_after_chunk_with_a_clean_past(transformer):
    """Its value; with the past detached also its gradient, which without is another: memory learns, too."""
    clean, texts, _ = shot_batch(transformer)
    noisy, ids = add_noise(clean, Draws(8, 9)(tuple(clean.shape)), 0.7), torch.zeros(9).long()
    gradients = []
    for detach in (True, False, None):
        transformer.zero_grad()
        if detach is None:
            flow = exit_steps(transformer, texts, clean, noisy, 0.7, grad=True)
        else:
            flow = replay(transformer, clean, noisy, 700.0, texts, 3, caption_ids=ids, detach=detach)
        flow.square().mean().backward()
        gradients.append((flow.detach(), transformer.blocks[0].attn1.to_v.weight.grad.clone()))
    (replayed, cut_off), (free, whole), (stepped, known) = gradients
    close(replayed, stepped)
    close(free, stepped)
    close(cut_off, known, 1e-4)
    assert differ(whole, known)


@torch.no_grad()
def test_12_a_replay_of_a_rollout_gives_what_the_rollout_gave(transformer, calls):
    film, draws, texts = begin_film(transformer, SELF, (2, 3, 4, 6)), Draws(0, 1), captions(transformer, 1)
    film.begin(9, transformer.caption_keys(texts))
    seen = calls(transformer, "chunk")
    made = torch.cat(list(SELF.shot(transformer, film, draws, SIGMAS, [3, 3, 3], exit_step=1)), dim=2)
    noisy = torch.cat([latents for _, latents, t, _ in seen if t == float(SIGMAS[1] * 1000)], dim=2)
    flow = replay(transformer, made, noisy, float(SIGMAS[1] * 1000), texts, 3, caption_ids=torch.zeros(9).long())
    close(to_clean(noisy, flow, SIGMAS[1]), made)


@torch.no_grad()
def test_10_a_pyramid_is_joint_at_one_end_and_chunk_after_chunk_at_the_other(transformer):
    noise, texts, _ = shot_batch(transformer)
    ids, sigmas = torch.zeros(9).long(), euler_sigmas(4, 3.0)
    model = DiffusionForcing.of(transformer)
    options, cond = {"uncond": torch.zeros_like(texts[:, :1]), "guidance": 2.0}, Conditioning(texts, ids)

    def sampled(lag, **more):
        lags = [lag * (f // 3) for f in range(9)]
        return list(sample_film(model, noise, texts, sigmas, ids, pyramid(4, lags), **options, **more))[-1]

    joint = sample_joint(model, noise, cond, sigmas, uncond=cond.unconditional(), guidance=2.0)
    close(sampled(0), joint)
    for history in (0.1, 0.0):
        done = noise[:, :, :0]  # chunk after chunk by hand, all finished before the next begins
        for chunk in noise.split(3, dim=2):
            for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
                past = add_noise(done, noise[:, :, : done.shape[2]], history)
                times = torch.tensor([history * 1000] * done.shape[2] + [sigma * 1000] * 3).expand(2, -1)
                seen = torch.cat((past, chunk), dim=2)
                cond, free = (model.joint(seen, times, t, ids[: seen.shape[2]]) for t in (texts, options["uncond"]))
                chunk = chunk + (following - sigma) * (free + 2.0 * (cond - free))[:, :, -3:]
            done = torch.cat((done, chunk), dim=2)
        close(sampled(4, history=history), done)
    assert differ(sampled(2), done) and differ(sampled(2), joint)
    assert pyramid(2, [0, 1]).tolist() == [[2, 2], [1, 2], [0, 1], [0, 0]]


@torch.no_grad()
def test_11_every_mark_at_zero_is_the_same_function_and_each_is_its_own(transformer, shots):
    latents = torch.cat((shots.context, shots.target), dim=2)
    told = [latents, 700.0, shots.captions, shots.shot_ids]
    plain = transformer.joint(*told, phase=0.0)
    for zero in (Mark(), Mark(phase=0.0), Mark(offset=0.0), Mark(diagonal=0.0), Mark(jump=6.0), Mark(gap=1.0)):
        close(Joint.of(transformer, mark=zero).joint(*told), plain)
    close(Joint.of(transformer, mark=MARKS["phase"]).joint(*told), transformer.joint(*told))
    moved = transformer.joint(*told, phase=0.0, positions=torch.cat((torch.arange(6), 45 + torch.arange(6))))
    close(Joint.of(transformer, mark=MARKS["jump-45"]).joint(*told), moved)
    behind = transformer.joint(
        *told, phase=0.0, positions=torch.cat((6 + 4 * torch.arange(-6, 0), 6 + torch.arange(6)))
    )
    close(Joint.of(transformer, mark=MARKS["negative"]).joint(*told), behind)
    one = shots.sample(0)
    places = torch.arange(12) + 4 * one.shot_ids[0]
    four = transformer.joint(latents[:1], 700.0, one.captions, one.shot_ids, phase=0.0, positions=places)
    close(Joint.of(transformer, mark=MARKS["offset-4"]).joint(latents[:1], 700.0, one.captions, one.shot_ids), four)
    flows = [Joint.of(transformer, mark=mark).joint(*told) for mark in MARKS.values()]
    assert all(differ(a, b) for i, a in enumerate(flows) for b in flows[:i])


@torch.no_grad()
def test_14_keys_are_a_set(transformer):
    @dataclass(frozen=True)
    class Shuffled(streams.Rival):
        def keys(self, film, start, stop):
            frames, ids = super().keys(film, start, stop)
            order = torch.randperm(len(frames)).tolist()
            return [frames[i] for i in order], [ids[i] for i in order]

    torch.manual_seed(0)
    kept = {"window": 9, "sink": 2, "mark": MARKS["phase"]}
    close(tell(transformer, Shuffled(**kept))[0], tell(transformer, streams.Rival(**kept))[0])


def test_a_view_shares_weights_and_leaves_the_model_as_it_was(transformer):
    view = Contexts.of(transformer, routed=1)
    view.joint(*shot_batch(transformer)[:1], 700.0, captions(transformer), torch.arange(9) // 3).sum().backward()
    assert transformer.halves is None and type(transformer).__name__ == "ShotStreamTransformer"
    assert all(a is b for a, b in zip(view.parameters(), transformer.parameters(), strict=True))
    assert transformer.blocks[0].attn1.to_q.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["self-forcing", "infinity-rope"])
def test_training_can_go_on_after_a_film_was_told(transformer, name):
    """Rotations are kept between calls: those a telling left behind carry no gradient and may not forbid it."""
    _rotations.cache_clear()
    with torch.inference_mode():
        tell(transformer, streams.STREAMS[name])
    rival, film = streams.STREAMS[name], begin_film(transformer, streams.STREAMS[name], (2, 3, 4, 6))
    rival.begin(transformer, film, 6, transformer.caption_keys(captions(transformer)[:, [0]]))
    transformer.chunk(film, torch.randn(2, 3, rival.chunk, 4, 6), 700.0, 0).sum().backward()
    assert transformer.blocks[0].attn1.to_q.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_keyframes_look_at_half_of_each_other_once_the_picture_is_laid_out(transformer):
    latents, texts, ids = shot_batch(transformer, 9)
    frames = torch.arange(9)
    told = (texts[:, [0] * 9], frames)

    def flow(t, **answers):
        return Consistent.of(transformer, source=torch.Generator().manual_seed(0), **answers).joint(latents, t, *told)

    alone = by_hand(ids, lambda s: s[:, None] == s).of(transformer).joint(latents, 990.0, *told)
    close(flow(990.0), alone)
    close(flow(500.0, kept=1.0), Joint.of(transformer).joint(latents, 500.0, *told))
    half = flow(500.0)
    assert differ(half, flow(500.0, kept=1.0)) and differ(half, flow(500.0, kept=0.0))


def test_frame_pairs_are_those_of_the_specification(transformer):
    """A shot of nine latents in four steps and a clean pass; by the number of earlier shots, or their mean."""
    steady = {
        "longlive without recache": 540,
        "infinity-rope": 270,
        "causalcine": 765,
        "rolling-forcing": 810,
        "ema-sink": 540,
    }
    assert {name: stream_pairs(streams.STREAMS[name], 3)[2] for name in steady} == steady
    assert stream_pairs(streams.LongLive(), 3)[2] == 540 + 3 * (3 + 6 + 9 + 12)  # recached block by block
    assert stream_pairs(streams.FramePack(), 4)[3] == round(5 * 3 * 3 * (3 + 1 + 2 / 4 + 16 / 16))
    assert stream_pairs(SELF, 4) == [270 + 405 * k for k in range(4)]  # a mean of 877.5 over 4 shots, 4,117.5 over 20
    five = replace(streams.RollingForcing(), window=18, latency=4)  # as published, five steps
    assert stream_pairs(five, 3, steps=5)[2] == 1134
    assert stream_pairs(streams.Rival(sink=3, window=6), 3)[2] == 405  # MotionStream, c3s1w1
    a_step = {Joint: 324, HoloCine: 117, Contexts: 162}
    assert {kind: joint_pairs(kind, 4, routed=9, earlier=False) for kind in a_step} == a_step


@torch.no_grad()
def test_what_is_counted_is_what_attention_computes(transformer, monkeypatch):
    """Every self-attention of a block is heard: queries times keys, in frames of six tokens. Only the last block leaves
    out what nobody reads, whoever tells."""
    heard, attend, heeded = [0], model_file.attend, transformer.blocks[0].attn1

    def hear(attn, query, keys, values, spans=None):
        for a, b, seen in (spans or ((0, query.shape[2], (slice(None),)),)) if attn is heeded else ():
            heard[0] += (b - a) * sum(torch.arange(keys.shape[2])[part].numel() for part in seen) / 36
        return attend(attn, query, keys, values, spans)

    monkeypatch.setattr(model_file, "attend", hear)

    def pairs():
        heard[0], before = 0, heard[0]
        return round(before)

    for rival in (streams.LongLive(), streams.CausalCine(), streams.RollingForcing(), streams.HiAR()):
        pairs()
        _, film = tell(transformer, rival, (6, 6))
        assert pairs() == film.pairs[0] == sum(stream_pairs(rival, 2, frames=6))
    latents, texts, ids = shot_batch(transformer)
    HoloCine.of(transformer).joint(latents, 700.0, texts, ids)
    assert pairs() == 3 * joint_pairs(HoloCine, 3, frames=3)
    ids = torch.tensor([0] * 6 + [1] * 9)
    cache = begin_shot(transformer, Conditioning(texts[:, :2], ids, context=latents[:, :, :6]))
    list(rollout(transformer, cache, Draws(0, 1), SIGMAS, [3, 3, 3]))
    assert pairs() + 3 * 15 == own_pairs() == 576  # the last chunk's clean pass is never asked for
