"""Every setting of a stage reaches the update it is meant for, and no other."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import build_transformer, close
from safetensors.torch import load_file
from training_run import tiny_films, tiny_run, tiny_transformer

from shotstream_lite.codec import Codec
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.dmd import fake_score_loss, generator_loss, score_level
from shotstream_lite.flow import SigmaTable
from shotstream_lite.footage import Reel
from shotstream_lite.models.configs import read_config
from shotstream_lite.models.folder import PRESETS, load_codec
from shotstream_lite.models.memory import LiveBytes, outline_codec
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import TeacherPipeline
from shotstream_lite.rollout import begin_shot, sample_joint
from shotstream_lite.training import base, codec, decoders, memory, ode_pairs, probe, recipe, text
from shotstream_lite.training.batches import drop_captions, next_shot_batch
from shotstream_lite.training.causal_init import causal_init_loss
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.loop import Run
from shotstream_lite.training.memory import count_training, what_it_takes
from shotstream_lite.training.muon import Muon
from shotstream_lite.training.recipe import STAGES, configs
from shotstream_lite.training.teacher import teacher_loss
from shotstream_lite.transformer import ShotStreamTransformer, causal_mask

# What is no part of the updates. `channels` are chosen when the codec is stored.
ASIDE = {"out", "after", "start", "compile", "shard", "resume", "save_every", "sample_every", "tensorboard", "channels"}
ASIDE |= {"dry_run", "heads", "layers"}  # the model is built before the first of them
TINY = 1e-9  # a clip so small that Adam's epsilon stops nearly all motion
STEPS = {"steps": 4, "warmup": 0, "sample_every": 0}
SHOT = {"batch": 2, "drop_context": 0.0}
IN_TURN = STEPS | SHOT | {"critic_updates": 1, "critic_lr": 1e-3, "lr": 1e-3, "lr_floor": 0.1}
BY_ADAM = STEPS | {"optimizer": "adamw", "lr": 1e-3}
NARROW = BY_ADAM | {"shots": 100, "base_dim": 4, "wide_channels": 16, "channels": 12}
FROM = {  # what the changes below are changes of
    "text": BY_ADAM | {"batch": 1},
    "base": STEPS | {"batch": 2, "image_batch": 2, "image_steps": 1},
    "base aligned": STEPS | {"batch": 2, "image_steps": 0, "align": 1.0},
    "teacher": STEPS | SHOT | {"image_batch": 2},
    "teacher aligned": STEPS | SHOT | {"align": 1.0},
    "ode-pairs": SHOT | {"pairs": 2, "student_steps": (1000, 500), "sampling_steps": 4},
    "causal-init": STEPS | SHOT | {"student_steps": (1000, 500), "seed": 5},
    "intra-shot": IN_TURN,
    "inter-shot": IN_TURN | {"shots": 3, "lora_rank": 2, "lora_alpha": 2.0},
    "codec": NARROW | {"frame_steps": 3},
    "codec clips": NARROW | {"frame_steps": 0, "clip_lr": 1e-3},
    "decoder": BY_ADAM | {"shots": 4},
    "probe": BY_ADAM | {"batch": 2},
}

# Of each setting another value, and the update (from 1) after which each part differs for it; 0: it begins differently;
# None: it would take more than two.
# A first update by Adam is the sign of the gradient, so some are seen in the second.
ADAM = {"lr": (3e-3, 1), "warmup": (3, 1), "steps": (50, 2), "lr_floor": (0.9, 2), "betas": ((0.5, 0.6), 2)}
ADAM |= {"weight_decay": (20.0, 1), "clip": (TINY, 1), "optimizer": ("muon", 1), "seed": (77, 1)}
ADAM |= {"precision": ("bf16", 1)}
MEMORY = {"budget": (3, 1), "policy": ("first", 1), "captions": ("target", 1), "phase": (0.0, 1), "shift": (8.0, 1)}
MEMORY |= {"drop_context": (1.0, 1), "lengths": ((2,), 1), "text_tokens": (40, 1), "batch": (4, 1)}
THE_SAME = {"accumulate": (2, {}), "checkpointing": (True, {})}  # in less memory
STUDENT = {"chunk": (1, 1), "student_steps": ((1000, 250), 1), "indicator": ("embedding", 0)}
CHANGES = {
    "text": ADAM | {"batch": (2, 1), "seed": (77, 0)},
    "base": ADAM
    | {"image_steps": (2, 2), "image_batch": (4, 1), "batch": (4, 2), "shift": (8.0, 1), "drop_caption": (1.0, 1)}
    | {"lengths": ((2,), 2), "text_tokens": (40, 1), "text": (True, {"text_encoder": 0, "transformer": 1})}
    | {"align": (1.0, {"align": 0, "transformer": 1})},
    "base aligned": {"align_steps": (1, {"align": 2, "transformer": 2})},
    "teacher": ADAM
    | MEMORY
    | THE_SAME
    | {"image_batch": (4, 1), "looks": (1, 1), "drop_caption": (1.0, 1), "bell": (True, 1), "trained": ("all", 1)}
    | {"text": (True, {"text_encoder": 0, "transformer": 2}), "injection": ("channel", 0)}
    | {"align": (1.0, {"align": 0, "transformer": 1})},
    "teacher aligned": {"align_steps": (1, {"align": 2, "transformer": 2})},
    "ode-pairs": MEMORY
    | {"seed": (77, 1), "precision": ("bf16", 1), "pairs": (3, 0), "sampling_steps": (8, 1), "guidance": (8.0, 1)}
    | {"student_steps": ((1000, 250), 1), "batch": (1, {}), "lengths": ((2,), 0)},
    "causal-init": ADAM | MEMORY | STUDENT | THE_SAME | {"trajectories": ("teacher", 1), "policy": ("first", 2)},
    # The critic moves in the first update, the student in the second, from what the critic has become.
    "intra-shot": ADAM
    | MEMORY
    | THE_SAME
    | STUDENT
    | {
        name: (value, {"student": 2})
        for name, (value, _) in ADAM.items()
        if name in ("lr", "clip", "steps", "lr_floor")
    }
    | {
        "betas": ((0.5, 0.6), None),
        "critic_lr": (1e-2, 1),
        "critic_clip": (TINY, 1),
        "critic_updates": (3, {"fake": 2, "student": 2}),
    }
    | {"guidance": (8.0, 2), "memory_guidance": (8.0, 2), "negative_caption": ("a red cat", 2)}
    | {"indicator": ("embedding", {"student": 0})},
    "codec": ADAM
    | {"kl": (100.0, 1), "frame_steps": (1, 2), "shots": (120, 1), "seed": (77, 0), "steps": (50, {})}
    | {"lr_floor": (0.9, {}), "base_dim": (8, 0), "patch_size": (1, 0), "wide_channels": (14, 0)},
    "codec clips": {"clip_lr": (3e-3, 1), "steps": (50, 2), "lr_floor": (0.9, 2), "clip": (TINY, 1), "warmup": (3, 1)},
    "decoder": ADAM | {"noise": (1.0, 1), "shots": (8, 1)},
    "probe": ADAM | {"batch": (4, 1), "seed": (77, 0)},
}
CHANGES["inter-shot"] = CHANGES["intra-shot"] | {  # its first shot has no history
    "policy": ("first", 2),
    "captions": ("target", 2),
    "drop_context": (1.0, 2),
    "indicator": ("embedding", 0),
    "seed": (77, 0),
    "shots": (1, {"student": 2}),
    "lora_rank": (4, 0),
    "lora_alpha": (4.0, {"student": 2}),
    "lora_dropout": (0.5, 1),
    "begin": ("causal-init", {"fake": 1, "student": 0}),
}
PARTS = {"text": ("text_encoder", "reader"), "ode-pairs": ("trajectory",), "codec": ("vae",), "codec clips": ("vae",)}
PARTS |= {"decoder": ("vae",), "probe": ("probe",)}


def expected(stage: str, when) -> dict[str, int]:
    """The update after which each part differs."""
    if isinstance(when, dict):
        return when
    if stage in ("intra-shot", "inter-shot"):
        return {"student": 2} | ({"fake": when} if when < 2 else {}) | ({"student": 0} if when == 0 else {})
    return dict.fromkeys(PARTS.get(stage, ("transformer",)), when)


class Updates:
    """Two updates of a stage, nothing stored: the weights of each of its modules before, between and after them."""

    def __init__(self, monkeypatch, folder, trained) -> None:
        self.folder, self.trained, self.films = folder, trained, tiny_films(budgets=(3, 6))
        monkeypatch.setattr(Run, "steps", lambda run, *args, **parts: self._two(run, *args, **parts))
        monkeypatch.setattr(base, "build_transformer", lambda *_: tiny_transformer(0))
        for module in (codec, decoders):
            monkeypatch.setattr(module, "film_pool", self._pool)
        monkeypatch.setattr(codec, "BATCHES", {1: 2, 5: 1})
        monkeypatch.setattr(probe, "accuracy", lambda *_: {})
        monkeypatch.setattr(text, "HELD_OUT", 1)

    def __call__(self, stage: str, **changes) -> list[dict[str, torch.Tensor]]:
        AcceleratorState._reset_state()  # a process has one precision; here each run has its own
        self.seen: list[dict[str, torch.Tensor]] = []
        out = self.folder / f"{len(list(self.folder.iterdir()))}"
        after = () if stage in ("text", "codec", "codec clips") else (self.trained,)
        config = STAGES[stage.split()[0]](out, after=after, **FROM[stage] | changes)
        if type(config) in recipe.ON_FILMS:
            recipe.ON_FILMS[type(config)](config, self.films)
        else:
            recipe.OTHERS[type(config)](config)
        if stage == "ode-pairs":
            pairs = [load_file(file)["trajectory"].flatten() for file in sorted((out / "ode-pairs").iterdir())]
            self.seen = [{"trajectory": torch.zeros(len(pairs) * len(pairs[0]))}, {"trajectory": torch.cat(pairs)}]
        return self.seen

    def _two(self, run, train_step, save, sample=None, **parts):
        modules = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        for step in range(-1, 2):
            if step >= 0:
                with run.accelerator.autocast():
                    train_step(step)
            self.seen.append({k: torch.cat([p.detach().flatten() for p in m.parameters()]) for k, m in modules.items()})

    @staticmethod
    def _pool(shots: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (shots, 9, 16, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tiny_run(tmp_path_factory.mktemp("trained"))
    config = ode_pairs.OdePairsConfig(folder, **FROM["ode-pairs"])
    ode_pairs.generate(config, tiny_films(budgets=(3, 6)))
    return folder


@pytest.fixture
def updates(monkeypatch, tmp_path, trained):
    yield Updates(monkeypatch, tmp_path, trained)
    AcceleratorState._reset_state()


def apart(usual, changed) -> dict[str, int]:
    """The update after which each part differs from the usual by a part of its motion, not by rounding."""
    found = {}
    for when, (one, other) in enumerate(zip(usual, changed, strict=True)):
        for part in one.keys() | other.keys():
            a, b = one.get(part, torch.zeros(0)), other.get(part, torch.zeros(0))
            courses = (
                [later[part] - earlier[part] for earlier, later in zip(usual, usual[1:], strict=False)]
                if part in one
                else []
            )
            moved = min((m for m in (course.abs().mean() for course in courses) if m), default=0.0)
            if a.shape != b.shape or (a - b).abs().mean() > 1e-4 * moved:
                found.setdefault(part, when)
    return found


@pytest.mark.parametrize("stage", CHANGES)
def test_a_setting_changes_what_it_should_and_when(updates, stage):
    settings = {field.name for field in dataclasses.fields(STAGES[stage.split()[0]])} - ASIDE
    lines = set().union(*(CHANGES[key] for key in CHANGES if key.split()[0] == stage.split()[0]))
    assert settings == lines, "a setting without a line above"
    usual = updates(stage)
    again = apart(usual, updates(stage))
    wrong = {"nothing at all": again} if again else {}
    for name, (value, when) in CHANGES[stage].items():
        found = apart(usual, updates(stage, **{name: value}))
        if when is not None and found != expected(stage, when):
            wrong[name] = f"seen {found}, meant {expected(stage, when)}"
    assert not wrong


def test_rates_are_shares_of_what_is_dropped(trained, tmp_path):
    """Of captions, and of memories: first shots, one of eight, have none to drop."""
    draws = Draws(0, 0, range(1000))
    kept = drop_captions(torch.ones(1000, 1, 1, 1), 0.1, draws).flatten()
    assert 0.85 < kept.mean() < 0.95
    for rate, share in ((0.0, 1 / 8), (0.1, 0.21), (1.0, 1.0)):
        batch = next_shot_batch(tiny_films(), 400, Draws(0, 1, range(400)).each, drop_context=rate)
        blank = (batch.context == 0).flatten(1).all(1)
        assert blank.float().mean() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("stage", ["base", "teacher"])
def test_a_dropped_caption_says_nothing(updates, stage, monkeypatch):
    """What reaches the model of 32 samples at the usual rate: some captions are zero, most are not."""
    seen, joint = [], ShotStreamTransformer.joint

    def watch(model, latents, timestep, captions, *ids, **options):
        seen.append(captions.detach().abs().sum((1, 2, 3)) > 0)
        return joint(model, latents, timestep, captions, *ids, **options)

    monkeypatch.setattr(ShotStreamTransformer, "joint", watch)
    updates(stage, batch=32, **({"image_batch": 32} if stage == "base" else {}))
    assert 0.75 < torch.cat(seen).float().mean() < 1


def test_the_teacher_reads_each_frames_caption(trained, monkeypatch):
    """As a storyteller: an earlier shot is read with the caption it was made from."""
    pipeline = TeacherPipeline(
        tiny_transformer(0), Codec(load_codec(trained)), None, StreamSettings(height=32, width=48, shot_frames=9)
    )
    pipeline.sampling_steps, reel = 1, Reel()
    pipeline.text = lambda texts: torch.stack([torch.full((5, 64), float(len(text))) for text in texts])
    past = [reel.append(np.zeros((9, 32, 48, 3), np.uint8)) for _ in range(2)]
    joint = ShotStreamTransformer.joint
    read = []

    def watch(model, latents, timestep, captions, shot_ids, *, caption_ids=None, **options):
        read.append(None if caption_ids is None else caption_ids.flatten().tolist())
        return joint(model, latents, timestep, captions, shot_ids, caption_ids=caption_ids, **options)

    monkeypatch.setattr(ShotStreamTransformer, "joint", watch)
    next(pipeline.latents(["a", "bb", "ccc"], past, 0, 3, pipeline.settings))
    assert read[0] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_every_loss_reads_each_frames_caption(transformer, shots):
    """Captions in another order, with ids to match, say the same; all of one caption says something else."""
    noise, rows, table, levels = torch.randn_like(shots.target), torch.tensor([9, 500]), SigmaTable(), torch.ones(2, 6)
    path = torch.stack((noise, shots.target), dim=1)
    critic = build_transformer(1)
    losses = {
        "teacher": lambda cond: teacher_loss(transformer, shots.target, noise, rows, cond, table),
        "causal init": lambda cond: causal_init_loss(
            transformer, path, 1 - levels.long(), torch.tensor([0.9, 0.0]), cond, table
        ),
        "generator": lambda cond: generator_loss(
            shots.target, transformer, critic, noise, rows, cond, cond.unconditional(), table=table
        ),
        "critic": lambda cond: fake_score_loss(shots.target, critic, noise, rows, cond, table),
        "paths": lambda cond: sample_joint(transformer, noise, cond, torch.tensor([1.0, 0.0])),
    }
    told, ids = shots.captions[:, :2], torch.tensor([0] * 6 + [1] * 6).expand(2, -1)
    for name, loss in losses.items():
        usual, turned, deaf = (
            loss(dataclasses.replace(shots.cond, captions=captions, caption_ids=reads))
            for captions, reads in ((told, ids), (told.flip(1), 1 - ids), (told, torch.zeros_like(ids)))
        )
        assert torch.allclose(usual, turned, rtol=1e-4, atol=1e-5), name
        assert not torch.allclose(usual, deaf, rtol=1e-4, atol=1e-5), name


def test_scores_look_neither_at_pure_noise_nor_at_clean_films():
    timestep, sigma = score_level(torch.tensor([0, 500, 999]), SigmaTable(1.0))
    assert timestep.tolist() == [980, 500, 20] and sigma.tolist() == pytest.approx([0.98, 0.5, 0.02])


def test_muon_remembers_earlier_gradients():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 16, 16, generator=generator)

    def moved_last(first):
        layer = torch.nn.Linear(16, 16, bias=False)
        optimizer = Muon(layer)
        for gradient in (first, gradients[2]):
            before = layer.weight.detach().clone()
            layer.weight.grad = gradient.clone()
            optimizer.step()
        return layer.weight.detach() - before

    assert (moved_last(gradients[0]) - moved_last(gradients[1])).abs().max() > 1e-3


def test_a_shot_starts_behind_the_budget_however_little_is_remembered(transformer, shots):
    """Two remembered frames of a budget of six: the same as one masked pass with the shot from position six on."""
    context = shots.context[:, :, :2]
    ids = torch.cat((shots.context_ids[:, :2], shots.shot_id[:, None].expand(-1, 3)), dim=1)
    cache = begin_shot(transformer, Conditioning(shots.captions, ids, context=context), budget=6)
    with torch.no_grad():
        ours = transformer.chunk(cache, shots.target[:, :, :3], 500.0, 0)
        reference = transformer.joint(
            torch.cat((context, shots.target[:, :, :3]), dim=2),
            torch.tensor([0.0] * 2 + [500.0] * 3)[None],
            shots.captions,
            ids,
            mask=causal_mask(2, 3, 3),
            positions=torch.tensor([0, 1, 6, 7, 8]),
        )
    close(ours, reference[:, :, 2:])


@pytest.mark.parametrize("stage", ["teacher", "ode-pairs", "causal-init", "intra-shot", "inter-shot"])
def test_memory_is_counted_before_a_stage_starts(trained, tmp_path, monkeypatch, capsys, stage):
    """Checkpointing and accumulation reach the model, sharding divides what learns, and a dry run leaves nothing."""
    films = tiny_films()
    monkeypatch.setattr(memory, "_decoding", lambda config, films: 0)  # most of what shots so small take
    config = STAGES[stage](tmp_path, after=(trained,), batch=4, dry_run=True)

    def need(processes=1, **changes):
        return count_training(dataclasses.replace(config, **changes), films, processes)

    usual = need()
    if stage == "ode-pairs":
        assert need(batch=1).update < 0.5 * usual.update and usual.learning == 0
    else:
        assert need(checkpointing=True).update < 0.9 * usual.update
        assert need(accumulate=4).update < 0.5 * usual.update
        assert need(accumulate=8) == need(batch=1)  # one by one is the least
        assert need(2, shard=True).learning == usual.learning // 2 and need(2, shard=False).learning == usual.learning
    monkeypatch.setattr(recipe, "films_of", lambda config: films)
    recipe.train(config)
    said = capsys.readouterr().out
    assert f"{stage} needs about" in said and "fits a GPU of 80 GB" in said and not list(tmp_path.iterdir())
    what = what_it_takes(config, films, card=int((usual.weights + usual.learning + 0.6 * usual.update) / 0.95))
    assert re.search("with --batch [123] about" if stage == "ode-pairs" else "with --accumulate [24] about", what)
    if stage == "ode-pairs":
        assert "accelerate launch" in what_it_takes(config, films, card=1)


class FullFilms:
    """Films of the full model's size, without content."""

    def __len__(self):
        return 1

    def lengths(self, story):
        return [81] * 5

    def clip(self, story, shot):
        return torch.empty(16, 21, 60, 104, device="meta")


def test_the_papers_recipe_fits_eight_gpus_of_80_gb_and_one(tmp_path, monkeypatch):
    """With the preset's own settings, a sample at a time; with more at once the first stage that does not is told how
    many parts do."""
    counted: dict[tuple, int] = {}  # an update's bytes do not depend on who else is at work

    count = memory._updates

    def once(model, config, films, samples):
        key = (type(config), model.transformer.config.num_layers, samples)
        if key not in counted:
            counted[key] = count(model, config, films, samples)
        return counted[key]

    monkeypatch.setattr(memory, "_updates", once)
    for name in ("teacher", "ode-pairs", "causal-init", "intra-shot", "inter-shot"):
        config = dataclasses.replace(configs("wan-1.3b")[name], out=tmp_path, start=PRESETS["wan-1.3b"])
        for processes in (1, 8):
            split = {} if name == "ode-pairs" else {"shard": processes > 1}
            what = what_it_takes(dataclasses.replace(config, **split), FullFilms(), processes)
            assert what.endswith("fits a GPU of 80 GB"), (name, processes, what)
        if name == "teacher":
            what = what_it_takes(dataclasses.replace(config, accumulate=1), FullFilms(), 1)
            assert "more than a GPU of 80 GB has: with --accumulate 16 about" in what
    codec = outline_codec({"vae": read_config(PRESETS["wan-1.3b"] / "vae" / "config.json", "vae")}, torch.float32)
    with LiveBytes() as bytes_:  # `films`
        Codec(codec).encode_clip(torch.empty(1, 3, 81, 480, 832, device="meta"))
    assert bytes_.peak < memory.CARD / 2


def test_weights_first_used_without_gradient_get_theirs(tmp_path):
    """Torch before 2.11 remembers a weight's cast that was made without gradient, and then drops what it should get."""
    AcceleratorState._reset_state()
    run = Run("a", STAGES["teacher"](tmp_path, precision="bf16"))
    layer = run.trained(torch.nn.Linear(4, 4))
    with run.accelerator.autocast():
        assert not torch.is_autocast_cache_enabled()
        with torch.no_grad():
            layer(torch.ones(1, 4))
        layer(torch.ones(1, 4)).sum().backward()
    AcceleratorState._reset_state()
    assert layer.weight.grad.abs().sum() > 0


def test_memory_is_not_spent_twice(tmp_path):
    """What is only asked is kept as it computes, but for the codec; gradients are gone when they have been followed."""
    AcceleratorState._reset_state()
    run = Run("a", STAGES["teacher"](tmp_path, precision="bf16"))
    vae = load_codec(PRESETS["toybox"])
    assert run.frozen(build_transformer()).dtype == torch.bfloat16 and run.frozen(vae).dtype == torch.float32
    layer = run.trained(torch.nn.Linear(4, 4))
    before = layer.weight.detach().clone()
    run.descend(run.optimizer(layer), layer(torch.ones(1, 4)).sum(), 0)
    AcceleratorState._reset_state()
    assert layer.weight.dtype == torch.float32 and (layer.weight != before).any() and layer.weight.grad is None


@pytest.mark.parametrize("stage", ["teacher", "intra-shot"])
def test_looking_on_changes_nothing(trained, tmp_path, stage):
    """Strips of samples, more checkpoints and more logs leave the same weights."""
    kept = []
    for watched in ({}, {"sample_every": 1, "save_every": 1, "tensorboard": True}):
        out = tmp_path / str(len(kept))
        config = STAGES[stage](out, after=(trained,), **FROM[stage] | {"steps": 2} | watched)
        recipe.ON_FILMS[type(config)](config, tiny_films())
        kept.append(load_file(out / stage / "diffusion_pytorch_model.safetensors"))
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
