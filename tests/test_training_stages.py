"""The stages beyond the first: whose history it is, what LoRA leaves, where weights come from, what presets say."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import close
from PIL import Image
from training_run import CHANNELS, of_one_length, tiny_films, tiny_run, tiny_transformer

from shotstream_lite.cli import main
from shotstream_lite.codec import Codec, to_frames
from shotstream_lite.commands.train import parse
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.footage import Reel
from shotstream_lite.models.folder import load_codec, load_transformer
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.rollout import begin_shot, rollout
from shotstream_lite.toybox.probe import Probe, save_probe
from shotstream_lite.training import ode_pairs, recipe
from shotstream_lite.training.ablations import tables
from shotstream_lite.training.ablations.baselines import ChannelConcat, LearntCut
from shotstream_lite.training.ablations.rows import ROWS
from shotstream_lite.training.batches import step_batch
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.inter_shot import InterShotConfig, Telling, train_inter_shot
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.loop import Run
from shotstream_lite.training.ode_pairs import OdePairsConfig, draw_pairs, find_pairs, generate, state_indices
from shotstream_lite.training.presets import RECIPES
from shotstream_lite.training.teacher import TeacherConfig, train_teacher
from shotstream_lite.training.weights import add_lora, earlier, initial_model, merged
from shotstream_lite.transformer import causal_mask


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder that nobody writes to."""
    return tiny_run(tmp_path_factory.mktemp("trained"))


def weights(folder, stage):
    model = recipe_model(folder, stage)
    return torch.cat([p.flatten() for p in model.parameters()])


def recipe_model(folder, stage):
    return earlier(TeacherConfig(folder), stage)


# Across shots


def telling(trained, tmp_path, **options):
    config = InterShotConfig(tmp_path, after=(trained,), batch=2, **options)
    return Telling(Run("inter-shot", config), config, tiny_films(), Codec(load_codec(trained)))


def test_the_history_of_a_story_is_what_the_student_showed(trained, tmp_path):
    """The context of shot 2 is what the pipeline would remember of the same footage at inference."""
    stories = telling(trained, tmp_path, drop_context=0.0)
    shots = torch.randn(2, 2, CHANNELS, 3, 4, 6)
    for step, latents in enumerate(shots):
        stories.next_batch(step, stories.run.draws(step))
        stories.add(latents)
    batch = stories.next_batch(2, stories.run.draws(2))
    assert batch.shot_ids[0].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    settings = StreamSettings(height=32, width=48, shot_frames=9)
    pipeline = ShotStreamPipeline(tiny_transformer(0), stories.codec, None, settings)
    for story in range(2):
        reel = Reel()
        footage = [reel.append(pixels[story].numpy()) for pixels in stories.pixels]
        remembered = pipeline.context(footage, settings)
        decoded = to_frames(stories.codec.decode(shots[1, story][None])[0].movedim(0, 1)).float()
        assert (decoded - stories.pixels[1][story].float()).abs().max() <= 1
        assert torch.allclose(batch.context[story], remembered.latents[0], atol=1e-4)


def test_history_is_chosen_as_in_the_released_trainer(trained, tmp_path, monkeypatch, golden):
    """The recorded stage-2 loop: three shots of 81 frames a clip. Its first shots have target id 1, as ours have."""
    stories = telling(trained, tmp_path, drop_context=0.0, shots=3, critic_updates=4)
    picked = []

    def stills(row, frames):
        picked.append([81 * shot + frame for shot, frame in frames])
        return [torch.zeros(CHANNELS, 4, 6)] * len(frames)

    monkeypatch.setattr(stories, "_stills", stills)
    trace = json.loads((golden / "stage2_trace.json").read_text(encoding="utf-8"))["trace"]
    told = [step for step in trace if step["step"] % 3 == 0 or not step["context_all_zero"]]  # the others were dropped
    assert len(told) > 6
    for step in told:
        shot = step["step"] % 3
        stories.next_batch(0, stories.run.draws(0))  # a new story
        stories.pixels = [torch.zeros(2, 81, 1, 1, 3, dtype=torch.uint8)] * shot
        batch = stories.next_batch(shot, stories.run.draws(shot))
        assert batch.shot_ids[0].tolist() == step["context_shot_ids"] + [step["target_shot_id"]] * 3
        if shot:
            assert picked[-1] == step["history_frame_indices"]


def test_a_story_begins_without_history_and_with_its_own_caption(trained, tmp_path):
    stories = telling(trained, tmp_path, drop_context=0.0)
    stories.add(torch.randn(2, CHANNELS, 3, 4, 6))  # of the stories before
    batch = stories.next_batch(5, stories.run.draws(5))
    assert not batch.context.any() and batch.shot_ids[:, -1].tolist() == [1, 1]
    assert all(len(captions) == 1 and "shot0:" in captions[0] for captions in batch.captions)
    forgetful = telling(trained, tmp_path, drop_context=1.0)
    forgetful.add(torch.randn(2, CHANNELS, 3, 4, 6))
    later = forgetful.next_batch(6, forgetful.run.draws(6))
    assert not later.context.any() and all("shot1:" in captions[0] for captions in later.captions)


def test_inter_shot_stopped_within_a_story_goes_on_with_it(trained, tmp_path):
    films = tiny_films()

    def train(folder, steps):
        # The schedule of the learning rate must not see that a run is cut short.
        options = {"lr_floor": 1.0, "warmup": 0, "lora_rank": 2, "batch": 1, "sample_every": 0, "shots": 5}
        train_inter_shot(InterShotConfig(folder, after=(trained,), steps=steps, lr=1e-2, **options), films)

    train(tmp_path / "whole", 9)
    train(tmp_path / "parts", 8)  # 3 shots into the second story, behind a generator update
    train(tmp_path / "parts", 9)
    before, whole = weights(trained, "intra-shot"), weights(tmp_path / "whole", "inter-shot")
    assert torch.equal(weights(tmp_path / "parts", "inter-shot"), whole)
    assert not torch.equal(before, whole)
    logs = [(tmp_path / name / "inter-shot.jsonl").read_text().splitlines()[-1] for name in ("whole", "parts")]
    assert json.loads(logs[0])["critic"] == json.loads(logs[1])["critic"]  # of step 9, which saw the restored history


def test_merged_lora_is_the_same_model(trained):
    student = recipe_model(trained, "intra-shot")
    torch.manual_seed(0)
    only = add_lora(student, InterShotConfig(trained, lora_rank=3, lora_alpha=6.0))
    for module in only:
        torch.nn.init.normal_(module.default.weight, std=0.1)
    inputs = torch.randn(1, CHANNELS, 3, 4, 6), 500.0, torch.randn(1, 1, 5, 64)
    whole = merged(student)
    plain = recipe_model(trained, "intra-shot")
    with torch.no_grad():
        ours, theirs, before = (model.joint(*inputs) for model in (student, whole, plain))
    assert torch.allclose(ours, theirs, atol=1e-4) and (ours - before).abs().max() > 0.01
    assert list(whole.state_dict()) == list(plain.state_dict())
    linear = [m for m in plain.blocks.modules() if isinstance(m, torch.nn.Linear)]
    assert len(only) == 2 * len(linear) == 2 * 10 * len(plain.blocks)


def test_every_shot_of_a_story_teaches_the_generator(trained, tmp_path):
    with pytest.raises(StoryError, match="--shots 4"):
        train_inter_shot(InterShotConfig(tmp_path, after=(trained,), shots=4), tiny_films())


# The teacher's own paths


def test_paths_are_kept_at_the_students_levels():
    assert state_indices((1000, 740, 500, 260), 50) == [0, 13, 25, 37, 50]
    with pytest.raises(CheckpointError, match="--sampling-steps 20"):
        state_indices((1000, 740, 500, 260), 20)


def test_pairs_can_be_made_in_pieces_and_learnt_from(trained, tmp_path):
    films = tiny_films()
    quick = {"pairs": 3, "batch": 1, "student_steps": (1000, 500), "sampling_steps": 4, "after": (trained,)}
    generate(OdePairsConfig(tmp_path, **quick), films)
    files = sorted((tmp_path / "ode-pairs").iterdir())
    whole = [file.read_bytes() for file in files]
    files[1].unlink()
    generate(OdePairsConfig(tmp_path, **quick), films)
    assert [file.read_bytes() for file in files] == whole and len(set(whole)) == 3

    config = CausalInitConfig(
        tmp_path, after=(trained,), steps=2, batch=2, trajectories="teacher", student_steps=(1000, 500), sample_every=0
    )
    batch, trajectory = draw_pairs(find_pairs(config), Run("a", config).draws(0))
    assert trajectory.shape == (2, 3, CHANNELS, 3, 4, 6) and torch.equal(trajectory[:, -1], batch.target)
    train_causal_init(config, films)
    assert not torch.equal(weights(tmp_path, "causal-init"), weights(trained, "teacher"))
    with pytest.raises(CheckpointError, match="2 student steps"):
        find_pairs(dataclasses.replace(config, student_steps=(1000, 740, 500, 260)))


def test_a_path_is_the_teachers(trained, tmp_path):
    """Its ends are noise and what the teacher makes of that; guidance leads away from what it makes of no caption."""
    config = OdePairsConfig(tmp_path, after=(trained,), student_steps=(1000, 500), sampling_steps=2)
    films, teacher = tiny_films(), recipe_model(trained, "teacher")
    told = torch.randn(2, 8, 5, 64, generator=torch.Generator().manual_seed(0))

    def path(captions, guidance=config.guidance):
        draws = Run("a", config).draws(0, 2)
        batch = step_batch(films, draws, config)
        wanted = dataclasses.replace(config, guidance=guidance)
        return list(ode_pairs.teacher_path(teacher, batch, captions, draws, wanted))

    guided, given, nothing = path(told), path(told, 1.0), path(torch.zeros_like(told))
    assert len(guided) == 3 and not torch.equal(guided[0], guided[2])
    assert abs(guided[0].std() - 1) < 0.1
    assert (given[1] - nothing[1]).abs().max() > 1e-3
    close(guided[1], nothing[1] + config.guidance * (given[1] - nothing[1]))


# Baselines


def conditions(frames=6, captions=2):
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, CHANNELS, 6 + frames, 4, 6, generator=generator)
    return latents, torch.tensor([0] * 6 + [1] * frames), torch.randn(2, captions, 5, 64, generator=generator)


@torch.no_grad()
def test_baselines_begin_as_the_model_they_are_made_of():
    latents, ids, captions = conditions()
    plain = tiny_transformer(0)
    wide = ChannelConcat.of(tiny_transformer(0), 6)
    alone = plain.joint(latents[:, :, 6:], 500.0, captions, ids[6:])
    flow = wide.joint(latents, 500.0, captions, ids)
    assert torch.allclose(flow[:, :, 6:], alone, atol=1e-5) and flow.shape == latents.shape
    torch.nn.init.normal_(wide.patch_embedding.weight)
    forgetful = torch.cat((torch.zeros_like(latents[:, :, :6]), latents[:, :, 6:]), dim=2)
    flows = [wide.joint(seen, 500.0, captions, ids)[:, :, 6:] for seen in (latents, forgetful)]
    assert (flows[0] - flows[1]).abs().max() > 0.1

    config = IntraShotConfig("runs", indicator="embedding")
    marked = LearntCut.of(config, tiny_transformer(0))
    assert torch.allclose(marked.joint(latents, 500.0, captions, ids), plain.joint(latents, 500.0, captions, ids))
    assert LearntCut.of(IntraShotConfig("runs"), plain) is plain


@torch.no_grad()
def test_a_learnt_cut_is_the_same_in_cached_chunks_and_in_one_masked_pass():
    latents, ids, captions = conditions()
    model = LearntCut.of(IntraShotConfig("runs", indicator="embedding"), tiny_transformer(0))
    torch.nn.init.normal_(model.patch_embedding.weight)
    context, shot = latents[:, :, :6], latents[:, :, 6:]
    timestep = torch.tensor([0.0] * 6 + [500.0] * 6).expand(2, -1)
    one_pass = model.joint(latents, timestep, captions, ids, mask=causal_mask(6, 6, 3))
    cache = begin_shot(model, Conditioning(captions, ids, context=context))
    chunks = [model.chunk(cache, shot[:, :, start : start + 3], 500.0, start) for start in (0, 3)]
    assert torch.allclose(torch.cat(chunks, dim=2), one_pass[:, :, 6:], atol=1e-4)
    assert len(list(rollout(model, cache, torch.randn, [1.0, 0.5], [3, 3]))) == 2


# Weights, presets, tables


def test_start_goes_on_from_this_stages_own_weights(trained, tmp_path):
    """Of a run, or of a shipped model, whose student lies in `transformer`; other parts are found there as well."""
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))  # noqa: E731
    for stage, before in (("teacher", "base"), ("causal-init", "teacher"), ("intra-shot", "causal-init")):
        own, previous = recipe_model(trained, stage), recipe_model(trained, before)
        assert same(initial_model(TeacherConfig(tmp_path, start=trained), stage, before), own)
        assert same(initial_model(TeacherConfig(tmp_path, after=(trained,)), stage, before), previous)
    tiny_transformer(7).save_pretrained(tmp_path / "shipped" / "transformer")
    shipped = TeacherConfig(tmp_path, start=tmp_path / "shipped")
    assert same(initial_model(shipped, "intra-shot", "x"), tiny_transformer(7))
    with pytest.raises(CheckpointError, match="--start"):
        initial_model(TeacherConfig(tmp_path, start=tmp_path), "teacher", "base")
    with pytest.raises(CheckpointError, match="shotstream train base"):
        initial_model(TeacherConfig(tmp_path), "teacher", "base")


@pytest.fixture
def anew():
    """A process has one precision; here each test may have its own."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("stage", ["teacher", "causal-init", "intra-shot", "inter-shot"])
def test_the_papers_recipe_runs_on_a_stand_in(trained, tmp_path, stage, anew):
    """Every setting of wan-1.3b but size and length, bf16 included."""
    small = ["--batch", "2", "--text-tokens", "40"]
    wan = ["--preset", "wan-1.3b", "--out", str(tmp_path), "--after", str(trained)]
    config = parse([stage, *wan, "--steps", "2", *small])
    if stage == "causal-init":
        pairs = parse(["ode-pairs", *wan, "--pairs", "2", "--sampling-steps", "50", *small])
        generate(dataclasses.replace(pairs, sampling_steps=4, student_steps=(1000, 500)), tiny_films())
        config = dataclasses.replace(config, student_steps=(1000, 500))
    recipe.ON_FILMS[type(config)](config, tiny_films())
    assert (tmp_path / stage / "config.json").exists()


def test_transformers_are_compiled_where_asked(tmp_path):
    for wish in (False, True):
        run = Run("a", StageConfig(tmp_path, compile=wish))
        for model in (run.trained(tiny_transformer(7)), run.frozen(tiny_transformer(7))):
            assert (model.halves is not None) == wish


def test_the_papers_numbers_are_there_under_their_names():
    wan = recipe.configs("wan-1.3b")
    teacher, init, intra, inter = (wan[s] for s in ("teacher", "causal-init", "intra-shot", "inter-shot"))
    assert (teacher.steps, teacher.lr, teacher.batch, teacher.trained) == (10_000, 1e-5, 64, "self-attention")
    assert (teacher.drop_context, teacher.drop_caption, teacher.clip, teacher.shift) == (0.1, 0.1, 10.0, 8.0)
    assert (init.steps, init.lr, init.batch, wan["ode-pairs"].pairs, wan["ode-pairs"].guidance) == (
        2000,
        1e-6,
        64,
        5000,
        6,
    )
    for config in (intra, inter):
        assert (config.lr, config.critic_lr, config.critic_updates, config.guidance) == (2e-6, 4e-7, 5, 3.0)
        assert (config.betas, config.budget, config.chunk) == ((0.0, 0.999), 6, 3)
        assert config.student_steps == (1000, 740, 500, 260)
    assert (intra.steps, intra.batch, inter.steps, inter.shots) == (500, 32, 1000, 5)
    assert (inter.lora_rank, inter.lora_alpha, inter.lora_dropout) == (256, 256, 0)
    toybox = parse(["teacher", "--out", "runs", "--steps", "7"])
    assert (toybox.steps, toybox.trained, toybox.shift) == (7, "all", 3.0)


def test_strips_of_samples_are_left_on_the_way(trained, tmp_path):
    common = {"after": (trained,), "steps": 1, "batch": 1, "sample_every": 1}
    train_teacher(TeacherConfig(tmp_path, **common), tiny_films())
    train_intra_shot(IntraShotConfig(tmp_path, **common), tiny_films())
    for stage in ("teacher", "intra-shot"):
        strip = np.asarray(Image.open(tmp_path / "samples" / f"{stage}-000001.png"))
        assert strip.shape[0] > 3 * 32 and strip.std() > 1


def test_rows_share_what_they_have_in_common(tmp_path):
    config = tables.TablesConfig(tmp_path)
    plans = {(row.table, row.name): [stage.out.name for stage in tables.row_configs(config, row)] for row in ROWS}
    ours = plans["4", "ours"]
    starts = {row.table: {tables.row_configs(config, r)[0].start for r in ROWS if r.table == row.table} for row in ROWS}
    assert starts == {
        "3": {None},
        "4": {tmp_path},
        "beyond": {tmp_path},
        "drift": {tmp_path},
        "rivals": {tmp_path, None},  # of which joint ones begin as the base
        "marks": {None},
    }
    assert plans["3", "ours"] != ours[:1] and plans["4", "stage 1 only"] == ours[:3]
    assert plans["drift", "stage 2"] == plans["beyond", "no global cache"] == ours
    assert plans["4", "stage 2 only"][:2] == ours[:2] and plans["4", "stage 2 only"][2] != ours[3]
    assert plans["beyond", "8 steps"][0] == ours[0] and plans["beyond", "8 steps"][1] != ours[1]
    same = {"shotstream", "keyframes", "infinity-rope, as published", "infinity-rope, our films"}
    same |= {"longlive without recache, as published", "longlive without recache, our films"}  # measured otherwise only
    assert len({plan[-1] for plan in plans.values()}) == len(ROWS) - 3 - len(same)
    assert all(any(plans["rivals", name] == plan for key, plan in plans.items() if key[1] != name) for name in same)
    for row in ROWS:
        for name, changes in row.changes.items():
            known = {f.name for f in dataclasses.fields(tables.CHAIN["intra-shot" if name == "*" else name][0])}
            assert set(changes) <= known


def test_rows_distil_as_the_preset_does(tmp_path):
    """But the teacher is no beginner, and trains what the paper trains at the pace of a causal init."""
    teacher, _, *stages = tables.row_configs(
        tables.TablesConfig(tmp_path), next(row for row in ROWS if row.table == "4")
    )
    assert teacher.trained == "self-attention" and not teacher.text and teacher.lengths == stages[0].lengths != ()
    pace = {key: RECIPES["toybox"]["causal-init"][key] for key in ("optimizer", "lr", "warmup")}
    joint = next(row for row in ROWS if row.stages == ("rival-flow",))
    for config in (teacher, *tables.row_configs(tables.TablesConfig(tmp_path), joint)):
        assert {key: getattr(config, key) for key in pace} == pace
    for stage, name in zip(stages, ("intra-shot", "inter-shot"), strict=True):
        usual = {key: value for key, value in RECIPES["toybox"][name].items() if key not in ("steps", "batch")}
        assert "lr" in usual and {key: getattr(stage, key) for key in usual} == usual


def test_a_table_is_made_row_by_row(tmp_path, monkeypatch, capsys):
    tiny_run(tmp_path)
    of_one_length(monkeypatch)
    monkeypatch.setattr(tables, "films_of", lambda config: tiny_films(budgets=(2, 6, 12)))
    measured = []

    def measure(pipeline, stories, shots, run, tells):
        measured.append((type(pipeline.transformer).__name__, pipeline.settings.policy, shots))
        scored = {}
        for dimension, name in tables.SHOWN.values():
            scored.setdefault(dimension, {})[name] = {"mean": 0.5, "low": 0.4, "high": 0.6}
        return {"figures": scored}

    monkeypatch.setattr(tables, "measure", measure)
    config = tables.TablesConfig(tmp_path, teacher_steps=1, init_steps=1, distil_steps=1, batch=1)
    tables.make_tables(dataclasses.replace(config, only=("channel concat", "learnt embedding", "no global cache")))
    assert measured == [
        ("ChannelConcat", "dynamic", 5),
        ("LearntCut", "dynamic", 5),
        ("ShotStreamTransformer", "none", 5),
    ]
    assert "channel concat" in capsys.readouterr().out
    trained_once = {path: path.stat().st_mtime_ns for path in (tmp_path / "tables").rglob("*.pt")}
    tables.make_tables(dataclasses.replace(config, only=("no global cache", "stage 1 only")))
    assert measured[3:] == [("ShotStreamTransformer", "dynamic", 5)]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tables").rglob("*.pt")} == trained_once
    rows = json.loads((tmp_path / "tables.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["stage 1 only", "no global cache"]
    with pytest.raises(CheckpointError, match="channel concat"):
        tables.make_tables(dataclasses.replace(config, only=("colour",)))
    next((tmp_path / "tables").glob("row-*.json")).write_text("{")
    with pytest.raises(CheckpointError, match=r"row-\w+\.json: .*remove it, and it is measured again"):
        tables.make_tables(
            dataclasses.replace(config, only=("channel concat", "learnt embedding", "no global cache", "stage 1 only"))
        )


def test_a_row_is_measured_in_all_that_its_table_shows(pipeline, tmp_path):
    """By the real measures, and the run's own probe."""
    save_probe(Probe(), tmp_path / "probe" / "model.safetensors")
    pipeline.settings = pipeline.settings.changed({"steps": [1000], "height": 128, "width": 224, "shot_frames": 9})
    row = tables.measure(pipeline, stories=2, shots=2, run=tmp_path)
    row |= {"table": "4", "name": "noise", "shots": 2, **dict.fromkeys(tables.COSTS, 1)}
    lines = tables.report_text([row], "no training").splitlines()
    assert len(lines[2].split()) == 3 + len(tables.SHOWN) + len(tables.COSTS)
    for name in (*tables.SAID, *tables.CUTS):
        by_story, mean = np.array(row["scores"][name], float), tables.scores(row)[name]["mean"]
        assert len(by_story) == 2 and np.nanmean(by_story) == pytest.approx(mean, abs=1e-3)
    apart = {name: d for name, d in tables.differences(row, row).items() if d["mean"] is not None}
    assert set(apart) >= {*tables.SAID, "by chance"} and all(set(d.values()) == {0} for d in apart.values())
    json.dumps(row)


def test_orders_that_cannot_be_followed_end_in_one_line(tmp_path, capsys):
    assert main(["train", "teacher", "--out", str(tmp_path)]) == 2
    assert "shotstream train films" in capsys.readouterr().err


def test_students_are_read_as_any_other_transformer(trained):
    assert load_transformer(trained, "causal-init").config.in_channels == CHANNELS
