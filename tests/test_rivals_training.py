"""Rivals trained and measured, rehearsed with tiny models: every stage, every setting, every way to tell a story."""

import dataclasses
import json

import pytest
import torch
from conftest import close
from training_run import of_one_length, tiny_films, tiny_run, tiny_transformer

from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.evaluation.films import held_out_stories, written
from shotstream_lite.flow import add_noise, to_clean
from shotstream_lite.pipeline import load_pipeline
from shotstream_lite.rivals.film import MARKS
from shotstream_lite.rivals.joint import KINDS, replay
from shotstream_lite.rivals.streams import STREAMS, CausVid
from shotstream_lite.rivals.telling import RivalPipeline, offer_rivals, tell_from_keyframes, tell_jointly
from shotstream_lite.session import StorySession
from shotstream_lite.training.ablations import compare, rivals, tables
from shotstream_lite.training.ablations.rows import ROWS
from shotstream_lite.training.draws import Draws
from shotstream_lite.transformer import causal_mask

TINY = {"steps": 2, "batch": 2, "sample_every": 0, "warmup": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def films():
    """Stories of 8 shots of 3 latents, read as a longer film of 9 where that matters."""
    return tiny_films()


def weights(folder, stage):
    return torch.cat(
        [
            p.flatten()
            for p in rivals.initial_model(rivals.RivalInitConfig(folder, start=folder), stage, stage).parameters()
        ]
    )


def test_a_batch_is_the_end_of_a_film_as_teacher_and_rival_see_it(films):
    config = rivals.RivalInitConfig("out", shots=3, batch=4)
    batch = rivals.film_batch(films, Draws(0, 0, range(4)), config)
    assert batch.past.shape == (4, 2, 4, 3, 4, 6) and batch.target.shape == (4, 4, 3, 4, 6)
    assert batch.whole.shape[2] == 9 and batch.context.shape[2] == 6 and batch.context.abs().sum() > 0
    for sample in range(4):
        story, shot = next(
            (s, k) for s in range(3) for k in range(8) if torch.equal(films.clip(s, k), batch.target[sample])
        )
        assert all(torch.equal(batch.past[sample, k], films.clip(story, shot - 2 + k)) for k in range(2))
        assert [f"shot{shot - 2 + k}:" in line for k, line in enumerate(batch.lines[sample])] == [True] * 3
        assert batch.captions[sample][batch.caption_ids[sample, -1]] == batch.lines[sample][-1]
    alone = rivals.film_batch(films, Draws(0, 0, range(2)), dataclasses.replace(config, shots=1), remembers=False)
    assert alone.past.shape[1] == 0 and not alone.context.any() and all(len(lines) == 1 for lines in alone.lines)
    assert [part.past.shape[0] for part in batch.split(2)] == [2, 2]
    with pytest.raises(CheckpointError, match="smaller --shots"):
        rivals.film_batch(films, Draws(0, 0, [0]), dataclasses.replace(config, shots=9))


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_rival_learns_from_depends_on_its_past_and_on_nothing_later(films, name):
    """A chunk's prediction moves with what came before it, and not with what follows."""
    model, rival = tiny_transformer(0), rivals.in_training(name)
    with torch.no_grad():
        for block in model.blocks:
            block.attn1.norm_q.weight.mul_(8)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    texts, past, target = draw(1, 2, 5, 64), draw(1, 1, 4, 6, 4, 6), draw(1, 4, 6, 4, 6)
    noise, sigma = draw(1, 4, 6, 4, 6), torch.tensor([[0.6] * 3 + [0.9] * 3])
    way = rivals.noised_data if isinstance(rival, CausVid) else rivals.with_clean_past

    def predict(past, target):
        batch = rivals.FilmBatch(target, target, target, target, [], past=past, lines=[["a", "b"]])
        return way(model, rival, batch, texts, noise, sigma)

    with torch.no_grad():
        usual = predict(past, target)
        later, earlier = target.clone(), past.clone()
        later[:, :, 3:] += 1
        earlier[:, :, :, -1] += 1
        close(predict(past, later)[:, :, :3], usual[:, :, :3])
        assert not torch.allclose(predict(earlier, target)[:, :, :3], usual[:, :, :3], atol=1e-4)
        begun = target.clone()
        begun[:, :, :3] += 1
        assert not torch.allclose(predict(past, begun)[:, :, 3:], usual[:, :, 3:], atol=1e-4)


def test_a_chunk_is_learnt_from_a_past_that_is_clean(films):
    """As one packed pass has it; CausVid's past is as noisy as the chunks are."""
    model, generator = tiny_transformer(0), torch.Generator().manual_seed(0)
    texts, target, noise = (
        torch.randn(shape, generator=generator) for shape in ((1, 1, 5, 64), *[(1, 4, 6, 4, 6)] * 2)
    )
    sigma, reads = torch.tensor([[0.6] * 3 + [0.9] * 3]), torch.zeros(6).long()
    batch = rivals.FilmBatch(target, target, target, target, [], past=target[:, None, :, :0][:, :0], lines=[["a"]])
    noisy = add_noise(target, noise, sigma)
    with torch.no_grad():
        flow = replay(model, target, noisy, sigma * 1000, texts, 3, caption_ids=reads)
        dirty = model.joint(noisy, sigma * 1000, texts, mask=causal_mask(0, 6, 3), phase=0.0)
        given = (batch, texts, noise, sigma)
        close(rivals.with_clean_past(model, STREAMS["self-forcing"], *given), to_clean(noisy, flow, sigma))
        close(rivals.noised_data(model, STREAMS["causvid"], *given), to_clean(noisy, dirty, sigma))


STREAMED = {
    "self-forcing": {},
    "causvid": {"shots": 2},
    "longlive": {"shots": 3, "history": "own", "remembers": False},
    "rolling-forcing": {"shots": 2},
    "causalcine": {"shots": 2, "accumulate": 2},
}


@pytest.mark.parametrize("name, settings", STREAMED.items(), ids=STREAMED)
def test_streaming_rivals_begin_as_the_teacher_and_are_distilled(run, films, tmp_path, name, settings):
    common = TINY | {"rival": name, "shots": settings.get("shots", 1), "accumulate": settings.get("accumulate", 1)}
    init = rivals.RivalInitConfig(tmp_path, after=(run,), **common)
    rivals.train_rival_init(init, films)
    distil = common | {"critic_updates": 1} | settings
    rivals.train_rival_distil(rivals.RivalDistilConfig(tmp_path, after=(run,), **distil), films)
    teacher, begun, done = weights(run, "teacher"), weights(tmp_path, "rival-init"), weights(tmp_path, "rival-distil")
    assert not torch.equal(teacher, begun) and not torch.equal(begun, done)


def test_settings_of_distillation_act(run, films, tmp_path):
    """Every setting leads to other weights than the plain run."""
    rivals.train_rival_init(rivals.RivalInitConfig(tmp_path, after=(run,), shots=2, **TINY), films)
    results = []
    for n, change in enumerate(
        ({}, {"history": "own"}, {"remembers": False}, {"shots": 1}, {"rival": "infinity-rope"})
    ):
        folder = tmp_path / str(n)
        config = TINY | {"steps": 2, "critic_updates": 1, "rival": "self-forcing", "shots": 3} | change
        rivals.train_rival_distil(rivals.RivalDistilConfig(folder, after=(tmp_path, run), **config), films)
        results.append(weights(folder, "rival-distil"))
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_joint_rivals_and_marks_learn_and_each_is_its_own(run, films, tmp_path):
    results = []
    ways = [{"rival": name, "shots": 2} for name in KINDS] + [{"mark": m} for m in (*MARKS, rivals.EMBEDDING)]
    for way in ways:
        folder = tmp_path / "-".join(map(str, way.values()))
        rivals.train_rival_flow(rivals.RivalFlowConfig(folder, after=(run,), **TINY | {"steps": 1} | way), films)
        results.append(weights(folder, "rival-flow"))
    sizes = {len(r) for r in results}
    assert len(sizes) == 2  # the embedding is a weight
    assert all(a.shape != b.shape or not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_only_long_context_tuning_draws_a_level_for_each_shot(run, films, tmp_path, monkeypatch):
    drawn, loss = {}, rivals.film_loss

    def hear(model, clean, noise, rows, *others):
        drawn[type(model).__name__] = rows
        return loss(model, clean, noise, rows, *others)

    monkeypatch.setattr(rivals, "film_loss", hear)
    for name in ("full", "lct"):
        settings = TINY | {"steps": 1, "shots": 3, "rival": name}
        rivals.train_rival_flow(rivals.RivalFlowConfig(tmp_path / name, after=(run,), **settings), films)
    same = {name: (rows == rows[:, :1]).all().item() for name, rows in drawn.items()}
    assert same == {"Joint": True, "LongContext": False}


@pytest.mark.parametrize(
    "config, names",
    [(rivals.RivalInitConfig, "longlive"), (rivals.RivalDistilConfig, "causvid"), (rivals.RivalFlowConfig, "holocine")],
)
def test_unknown_rivals_are_named_with_those_there_are(tmp_path, config, names):
    with pytest.raises(StoryError, match=f"--rival is 'dreamer': choose one of .*{names}"):
        config(tmp_path, rival="dreamer").check()


def test_all_that_stream_share_one_budget(tmp_path):
    """As many steps of each sort as the method, in batches as large, each stage from the method's seed."""
    config, spent, seeds = tables.TablesConfig(tmp_path), {}, {}
    for row in ROWS:
        if row.table == "rivals" and len(row.stages) > 1:
            chain = tables.row_configs(config, row)
            sorts = {
                "rival-init": "causal-init",
                "intra-shot": "distil",
                "inter-shot": "distil",
                "rival-distil": "distil",
            }
            spent[row.name] = {}
            for stage, each in zip(row.stages, chain, strict=True):
                sort = sorts.get(stage, stage), each.batch
                spent[row.name][sort] = spent[row.name].get(sort, 0) + each.steps
            seeds[row.name] = {
                tables.AS.get(s, s): each.seed for s, each in zip(row.stages, chain, strict=True)
            }.items()
    assert spent["shotstream"] == {("teacher", 8): 800, ("causal-init", 8): 300, ("distil", 8): 960}
    assert len(spent) > 10 and all(other == spent["shotstream"] for other in spent.values())
    joint = [tables.row_configs(config, row)[0] for row in ROWS if row.stages == ("rival-flow",)]
    assert {each.steps for each in joint} == {sum(spent["shotstream"].values())}  # all in one stage
    assert all(other <= seeds["shotstream"] for other in seeds.values())


# Telling stories


def story(shots=3):
    return written(held_out_stories(1, shots)[0], seed=5)


def by_rival(pipeline, name, endless=False):
    told = RivalPipeline(pipeline.transformer, pipeline.codec, pipeline.text, pipeline.settings)
    told.settings = told.settings.changed({"shot_frames": 9, "steps": [1000, 500]})
    told.rival, told.endless = STREAMS[name], endless
    return told


def told_frames(pipeline, story):
    session = StorySession.of(pipeline, story)
    list(session.tell())
    return session


@pytest.mark.parametrize("name, endless", [("self-forcing", True), ("longlive", False), ("infinity-rope", False)])
def test_a_streaming_rival_tells_in_a_session_and_tells_again_the_same(pipeline, name, endless, calls):
    teller, encoded = by_rival(pipeline, name, endless), calls(pipeline.codec, "encode_clip")
    session = told_frames(teller, story())
    film = session.film()
    assert len(film) == 27 and film.std() > 1 and not encoded  # it goes on with what it made
    session.retake(2, seed=session.shots[1].shot.seed)  # not asked for a frame: it never was
    again = session.retake(3, seed=session.shots[2].shot.seed)
    assert (torch.from_numpy(session.film()) == torch.from_numpy(film)).all()
    assert (torch.cat([torch.from_numpy(f) for f in again]) == torch.from_numpy(film[18:])).all()


@pytest.mark.parametrize("name", STREAMS)
def test_a_shot_of_a_story_may_be_told_by_a_rival(pipeline, name):
    """Named in the shot's settings as other weights are; the story is saved and told again so. A chunk is never made
    anew: a change that comes in time for the method to do that is for the next chunk. HiAR has begun all of them."""
    pipeline.settings = pipeline.settings.changed({"shot_frames": 21})
    offer_rivals(pipeline)
    assert f"as {name}" in pipeline.streaming_weights and pipeline.with_weights(f"as {name}").codec is pipeline.codec
    session = StorySession(pipeline, "A story about a red ball.", seed=0)
    session.directed = True
    list(session.next_shot("The red ball jumps."))
    making = session.next_shot("The red ball waves.", settings={"weights": f"as {name}"})
    making.measuring = True
    shown = next(making)
    first = making.turn("The red ball spins.", seen=0)
    frames = [shown, *making]
    assert (
        first == (None if name == "hiar" else 9)
        and sum(map(len, frames)) == 21
        and making.shares is None
        and not making.standard
    )
    assert session.story.shots[1].settings == {"weights": f"as {name}"}
    again = StorySession.of(pipeline, session.story)
    list(again.tell())
    assert (torch.from_numpy(again.film()) == torch.from_numpy(session.film())).all()
    usual = session.retake(2, seed=session.shots[1].shot.seed, settings={})
    assert (torch.cat([torch.from_numpy(f) for f in usual]) != torch.from_numpy(again.film()[21:])).any()


def test_models_of_whole_shots_offer_no_rivals(model_folder, tmp_path):
    for part in model_folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "teacher").symlink_to(model_folder / "transformer")
    pipeline = load_pipeline(tmp_path, "teacher")
    offer_rivals(pipeline)
    assert pipeline.streaming_weights == ["student"]


def test_a_past_that_others_made_is_watched(pipeline):
    """Of the very frames, encoded anew, a rival makes nearly what it makes of its own."""
    session = told_frames(pipeline, story(1))
    teller = by_rival(pipeline, "longlive")
    past = [told.footage for told in session.shots]
    ask = dict(seed=1, frames=9)
    one = torch.cat([torch.from_numpy(f) for f in teller.shot(["a meadow", "a city"], past, **ask)])
    other = torch.cat([torch.from_numpy(f) for f in teller.shot(["a city"], [], **ask)])
    assert one.shape == other.shape == (9, 32, 48, 3) and not torch.equal(one, other)


def test_joint_rivals_and_keyframes_make_a_story_in_one_piece(pipeline):
    pipeline.settings = pipeline.settings.changed({"shot_frames": 9, "steps": [1000, 500]})
    films = []
    for kind, answers in KINDS.values():
        films.append(tell_jointly(pipeline, story(), kind.of(pipeline.transformer, **answers), steps=2))
    films.append(tell_from_keyframes(pipeline, story(), pipeline.transformer, steps=2))
    assert all(len(film) == 3 and all(shot.shape == (9, 32, 48, 3) for shot in film) for film in films)
    pairs = [(a, b) for i, a in enumerate(films) for b in films[:i]]
    assert all(any((x != y).any() for x, y in zip(a, b, strict=True)) for a, b in pairs)


def test_rows_of_rivals_are_trained_and_measured_by_one_command(run, tmp_path, monkeypatch, capsys):
    """One row of each way to tell, with the tables' own plan; measured by a stand-in that hears the stories."""
    monkeypatch.setattr(tables, "films_of", lambda config: tiny_films(budgets=(2, 6, 12)))
    of_one_length(monkeypatch)
    for part in run.iterdir():
        (tmp_path / part.name).symlink_to(part)
    heard = []

    def measure(pipeline, stories, shots, out, tells):
        film = tells(pipeline, held_out_stories(1, shots)[0], 0)
        heard.append((type(pipeline).__name__, len(film.shots)))
        figures = {}
        for dimension, name in tables.SHOWN.values():
            figures.setdefault(dimension, {})[name] = {"mean": 0.5, "low": 0.4, "high": 0.6}
        return {"figures": figures}

    monkeypatch.setattr(tables, "measure", measure)
    config = tables.TablesConfig(
        tmp_path, teacher_steps=1, init_steps=1, distil_steps=1, batch=2, sampling_steps=1, shots=2
    )
    names = (
        "infinity-rope, as published",
        "self-forcing, as published",
        "longlive, our films",
        "holocine",
        "keyframes",
        "offset-4",
    )
    tables.make_tables(dataclasses.replace(config, only=names))
    assert sorted(heard) == sorted(
        [("RivalPipeline", 2)] * 3 + [("TeacherPipeline", 2)] * 2 + [("ShotStreamPipeline", 2)]
    )
    rows = {row["name"]: row for row in tables.json.loads((tmp_path / "tables.json").read_text())["rows"]}
    pairs = {name.partition(",")[0]: row.get("frame pairs a shot") for name, row in rows.items()}  # of one training
    assert pairs["infinity-rope"] == pairs["self-forcing"] == (45 + 90) / 2  # shots of three latents, five passes
    assert (
        rows["keyframes"]["frame pairs a shot"] == 1 + 5 * 3 * 4 + 2 * 2
    )  # from its own picture; all pictures together
    assert rows["holocine"]["frame pairs a shot"] == 2 * 3 * 5
    assert all(row["seconds a shot"] > 0 for row in rows.values() if row["table"] == "rivals")
    assert {row.name for row in ROWS if row.table == "rivals"} > set(names[:3])
    # `compare` finds them in the run, by the budget that it keeps
    names = (*names[:5], "lct", "causvid, as published")
    tellers, untrained = compare.chosen(compare.Comparison(tmp_path, tmp_path, only=names, shots=6))
    assert [(teller.name, teller.sort, teller.shots) for teller in tellers] == [
        (name, "trained", 4 if name == "holocine" else 6) for name in names[:5]
    ]
    assert [row["name"] for row in untrained] == ["lct", "causvid, as published"]
    assert f"--out {tmp_path} --only 'lct'" in untrained[0]["train"]
    keys = [teller.key(tmp_path / "probe.safetensors", 0, 6) for teller in tellers]
    assert len(set(keys)) == 5  # of one training: told by another rule, it is another film
    film, cost = tellers[3].film(held_out_stories(1, 4)[0], 0)
    assert len(film.shots) == 4 and (cost["cost/seconds"].sum() == pytest.approx(cost["cost/first frame"].item()))
    film, cost = tellers[0].film(held_out_stories(1, 2)[0], 0)
    assert cost["cost/seconds"].shape == (1, 2) and 0 < cost["cost/first frame"] < cost["cost/seconds"][0, 0]
    budget = json.loads((tmp_path / tables.BUDGET).read_text())
    (tmp_path / tables.BUDGET).write_text(json.dumps(budget | {"teacher_steps": 2}))
    assert not compare.chosen(compare.Comparison(tmp_path, tmp_path, only=names))[0]
