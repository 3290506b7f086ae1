"""What training writes is whole, a stage that is killed goes on, and everyday mistakes end in one line."""

import dataclasses
import functools
import os
import shutil
import stat
import sys
import types

import pytest
import torch
from training_run import tiny_codec, tiny_films, tiny_run, tiny_transformer

from shotstream_lite.cli import main
from shotstream_lite.codec import Codec
from shotstream_lite.commands.train import parse
from shotstream_lite.errors import CheckpointError
from shotstream_lite.kept import keep
from shotstream_lite.models.convert import read_checkpoint
from shotstream_lite.models.folder import load_codec, load_text
from shotstream_lite.toybox import dataset
from shotstream_lite.training import codec as codec_stage
from shotstream_lite.training import decoders, loop, recipe, ship, text, weights
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.decoders import DecoderConfig, train_decoder
from shotstream_lite.training.inter_shot import InterShotConfig, train_inter_shot
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.ode_pairs import OdePairsConfig, generate
from shotstream_lite.training.recipe import configs
from shotstream_lite.training.teacher import TeacherConfig, train_teacher
from shotstream_lite.training.text import TextConfig, train_text
from shotstream_lite.training.weights import earlier, save_whole

QUICK = {"steps": 2, "save_every": 1, "batch": 1, "sample_every": 0, "warmup": 0, "lr": 1e-2}
PAIRS = {"pairs": 3, "batch": 1, "student_steps": (1000, 500), "sampling_steps": 2}
STAGES = {
    "text": (lambda config, films: train_text(config), TextConfig, QUICK),
    "base": (train_base, BaseConfig, QUICK | {"image_steps": 1, "image_batch": 1, "heads": 1, "layers": 1}),
    "teacher": (train_teacher, TeacherConfig, QUICK | {"text": True}),
    "ode-pairs": (generate, OdePairsConfig, PAIRS),
    "causal-init": (train_causal_init, CausalInitConfig, QUICK),
    "intra-shot": (train_intra_shot, IntraShotConfig, QUICK | {"critic_updates": 1}),
    "inter-shot": (train_inter_shot, InterShotConfig, QUICK | {"critic_updates": 0, "shots": 2, "lora_rank": 1}),
}


class Killed(BaseException):
    """As kill -9: nobody expects it."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder in which all stages have been, and nobody writes to."""
    folder = tiny_run(tmp_path_factory.mktemp("trained"))
    shutil.copytree(folder / "intra-shot", folder / "inter-shot")
    return folder


@pytest.fixture
def killer(monkeypatch):
    """`killer(n)` kills at the n-th write from now on; its `count` says how many there were."""
    replace = os.replace

    class Killer:
        count, at = 0, None

        def __call__(self, at=None):
            self.count, self.at = 0, at

    killer = Killer()

    def watched(*args, **options):
        killer.count += 1
        if killer.count == killer.at:
            raise Killed
        replace(*args, **options)

    monkeypatch.setattr(os, "replace", watched)
    return killer


def stored(folder):
    """What a run folder holds for later stages."""
    return {
        str(path.relative_to(folder)): {name: tensor.clone() for name, tensor in read_checkpoint(path).items()}
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.parametrize(
    "stage, where",
    [(stage, where) for stage in STAGES for where in ("after", "start")] + [("teacher", "here")],
)
def test_a_stage_killed_again_and_again_goes_on(trained, tmp_path, killer, monkeypatch, stage, where):
    """Where its predecessors lie, or away from them: it becomes the run it would have been, and complete."""
    monkeypatch.setattr(text, "HELD_OUT", 1)
    train, kind, options = STAGES[stage]
    films = tiny_films()
    if where == "here":
        for name in ("whole", "killed"):
            shutil.copytree(trained, tmp_path / name)
    else:
        options = options | {where: (trained,) if where == "after" else trained}
    train(kind(tmp_path / "whole", **options), films)
    wanted = stored(tmp_path / "whole")
    kills = 0
    for at in (1, 2, 3, 2, 3):  # the log, the first checkpoint, what goes with it; then the first things on going on
        killer(at)
        try:
            train(kind(tmp_path / "killed", **options), films)
            break
        except Killed:
            kills += 1
    killer()
    train(kind(tmp_path / "killed", **options), films)
    found = stored(tmp_path / "killed")
    assert kills > 1 and found.keys() == wanted.keys()
    for name, tensors in wanted.items():
        assert all(torch.equal(tensors[key], found[name][key]) for key in tensors), name
    assert not [path for path in (tmp_path / "killed").iterdir() if path.suffix == ".part" and path.is_dir()]
    if stage == "teacher":
        load_text(tmp_path / "killed")
        train_causal_init(CausalInitConfig(tmp_path / "killed", after=(trained,), **QUICK), films)


def test_all_runs_what_is_left_of_the_recipe(tmp_path, monkeypatch, capsys):
    """In its order, a stage once it has been stopped again, and nothing twice."""
    ran = []

    def quickly(config):
        name = next(name for name, kind in recipe.STAGES.items() if kind is type(config))
        if name == "teacher" and not ran.count("teacher"):
            ran.append(name)
            raise CheckpointError("stopped")
        ran.append(name)
        if isinstance(config, StageConfig):
            (config.out / f"{name}.done").write_text(f"{config.steps}\n")

    monkeypatch.setattr(recipe, "train", quickly)
    command = ["train", "all", "--out", str(tmp_path)]
    assert main(command) == 2
    steps = {name: stage.steps for name, stage in configs("toybox").items() if isinstance(stage, StageConfig)}
    codec, text, base = (f"{name} ({steps[name]} steps)" for name in ("codec", "text", "base"))
    assert capsys.readouterr().out.startswith(f"shotstream: {codec}; then films, {text}, {base}, teacher (")
    assert main(command) == 0
    stages = [
        "codec",
        "films",
        "text",
        "base",
        "teacher",
        "causal-init",
        "intra-shot",
        "inter-shot",
        "decoder",
        "probe",
    ]
    assert ran == stages[:5] + ["films", *stages[4:]]
    assert main(command) == 0 and ran[len(stages) + 2 :] == ["films"]  # which knows itself that nothing is missing
    wan = recipe.stage_configs(parse(["all", "--preset", "wan-1.3b", "--out", "x", "--start", "wan", "--compile"]))
    assert list(wan) == ["films", "teacher", "ode-pairs", "causal-init", "intra-shot", "inter-shot"]
    assert [str(stage.start) for stage in wan.values()] == ["None", "wan", *["None"] * 4]
    assert all(stage.compile and stage.precision == "bf16" for stage in wan.values())
    real = recipe.stage_configs(parse(["all", "--out", "x", "--videos", "mine"]))  # nobody knows what they say and show
    assert list(real) == [name for name in stages if name != "text"] and real["base"].text and not real["base"].align
    assert {stage.lengths for stage in real.values() if hasattr(stage, "lengths")} == {()}


@pytest.mark.parametrize("first", [True, False])
def test_what_was_learnt_is_said_by_one_of_several_processes(tmp_path, monkeypatch, capsys, first):
    monkeypatch.setitem(recipe.OTHERS, TextConfig, lambda config: {"shape": 0.5})
    monkeypatch.setattr(recipe, "processes", lambda: types.SimpleNamespace(is_main_process=first))
    recipe.train(TextConfig(tmp_path))
    assert ("shape" in capsys.readouterr().out) == first


def test_a_stage_says_how_long_it_will_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "ESTIMATE_AFTER", 2)
    run = loop.Run("a", StageConfig(tmp_path, steps=5))
    run.steps(lambda step: {}, lambda: None)
    assert "a: 3 steps to go, about 1 min" in "".join(capsys.readouterr())
    assert loop.steps_finished(run.config, "a") == 5


MISTAKES = {
    "teacher --seed -1": "--seed is -1: write a whole number from 0",
    "teacher --lr nan": "--lr is nan: write a number above 0",
    "teacher --lr inf": "--lr is inf",
    "teacher --lr 0": "--lr is 0",
    "teacher --batch -2": "--batch is -2: write a whole number from 1",
    "teacher --batch 0": "--batch is 0",
    "teacher --save-every 0": "--save-every is 0",
    "teacher --steps -5": "--steps is -5",
    "teacher --betas 2 2": "--betas is 2",
    "teacher --clip 0": "--clip is 0",
    "teacher --drop-context 1.5": "--drop-context is 1.5: write a number from 0 to 1",
    "teacher --budget -1": "--budget is -1: write a whole number from 0 to 64",
    "teacher --text-tokens 0": "--text-tokens is 0",
    "teacher --phase nan": "--phase is nan",
    "teacher --warmup -1": "--warmup is -1",
    "causal-init --chunk 0": "--chunk is 0",
    "causal-init --student-steps": "--student-steps names nothing",
    "intra-shot --student-steps 500 1000": "--student-steps 500 1000: write falling numbers, 1000 first",
    "intra-shot --critic-lr -1": "--critic-lr is -1",
    "inter-shot --lora-rank 0": "--lora-rank is 0",
    "inter-shot --shots 4": "--shots 4 and --critic-updates 3",
    "ode-pairs --pairs 0": "--pairs is 0",
    "ode-pairs --sampling-steps 20": "--sampling-steps 20",
    "codec --channels 0": "--channels is 0",
    "codec --channels 33": "--channels is 33",
    "codec --shots 20": "--shots is 20: the codec needs 96",
    "films --stories -3": "--stories is -3",
    "films --first -3": "--first is -3",
    "films --first 999999": "held out",
    "films --budgets": "--budgets names nothing",
    "films --height 0": "--height is 0: write a whole number from 16",
    "films --width 90": "--width is 90: write a multiple of 16",
    "films --frames 32": "--frames is 32",
    "films --videos nowhere": "nowhere: is not there",
    "tables --stories 0": "--stories is 0",
    "teacher --after nowhere": "--after nowhere: is no folder",
    "teacher --start nowhere": "--start nowhere: is no folder",
    "all --start nowhere": "nowhere: is no folder",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_before_any_work(tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.chdir(tmp_path)
    stage, *options = mistake.split()
    assert main(["train", stage, "--out", "run", *options]) == 2
    said = capsys.readouterr().err
    assert MISTAKES[mistake] in said and said.count("\n") == 1 and said.startswith("shotstream: ")
    assert not any(tmp_path.rglob("*.*")) and not any((tmp_path / "run").glob("*"))


@pytest.mark.parametrize("stage", [*recipe.STAGES, "all"])
def test_out_is_a_folder(tmp_path, capsys, stage):
    (tmp_path / "file").touch()
    for out in ("file", "file/run"):
        assert main(["train", stage, "--out", str(tmp_path / out), *["--shots", "96"] * (stage == "codec")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and str(tmp_path / out) in said


def test_films_of_another_kind_are_refused(trained, tmp_path, monkeypatch, capsys):
    """Another codec, a budget they were not encoded for, a text length that the teacher does not read."""
    for name in ("lengths_of", "story_of", "_shown", "_places"):  # stories of two shots of 9 frames, 32 x 48 pixels
        monkeypatch.setattr(dataset, name, getattr(dataset, name).__wrapped__)
    for function in (dataset.lengths_of, dataset.story_of):
        monkeypatch.setattr(function, "__defaults__", (2,))
    monkeypatch.setattr(dataset, "LENGTHS", (9, 9, 9))
    monkeypatch.setattr(dataset, "render", lambda *scene, real=dataset.render: real(*scene)[:, ::4, :192:4])
    folder, codec = tmp_path / "films", Codec(load_codec(trained))
    encode = functools.partial(dataset.encode_stories, folder=folder, per_file=2, budgets=(2,))
    encode(codec, range(3))
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    encode(codec, range(4))  # the second file was not full
    second = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [name for name in first if first[name] != second[name]] == ["films-0000002.safetensors"]
    teacher = ["train", "teacher", "--out", str(tmp_path), "--after", str(trained), "--steps", "1", "--batch", "1"]
    teacher += ["--image-batch", "0", "--sample-every", "0", "--lengths", "3"]
    assert main(teacher) == 2
    assert "--budget 6" in (said := capsys.readouterr().err) and "train films --budgets 6" in said
    teacher += ["--budget", "2"]
    assert main(teacher) == 0
    capsys.readouterr()
    student = ["train", "causal-init", "--out", str(tmp_path), "--after", str(trained), "--budget", "2"]
    assert main([*student, "--text-tokens", "32"]) == 2
    assert "--text-tokens is 32, but" in (said := capsys.readouterr().err) and "was trained with 64" in said
    torch.manual_seed(9)
    tiny_codec().save_pretrained(tmp_path / "vae")
    assert main(teacher) == 2 and "was encoded by another codec" in capsys.readouterr().err
    encode(Codec(load_codec(tmp_path)), range(4))
    assert main(teacher) == 0
    (folder / "films-0000002.safetensors").write_bytes(b"half a film")
    capsys.readouterr()
    assert main(teacher) == 2
    assert "films-0000002.safetensors: cannot be read" in (said := capsys.readouterr().err) and said.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"half", lambda: {"step": 3}, lambda: [1], lambda: {"step": 3, "transformer": {}, "optimizer": 7}]
)
def test_a_checkpoint_of_something_else_is_named(trained, tmp_path, content):
    if callable(content):
        torch.save(content(), tmp_path / "teacher.pt")
    else:
        (tmp_path / "teacher.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"teacher\.pt: is no checkpoint of this run .*--no-resume"):
        train_teacher(TeacherConfig(tmp_path, after=(trained,), **QUICK), tiny_films())


def test_pairs_of_an_older_teacher_are_made_again(trained, tmp_path):
    for name in ("teacher", "text_encoder", "tokenizer"):
        shutil.copytree(trained / name, tmp_path / name)
    config, films = OdePairsConfig(tmp_path, **PAIRS), tiny_films()
    generate(config, films)
    old = stored(tmp_path / "ode-pairs")
    tiny_transformer(9).save_pretrained(tmp_path / "teacher")
    student = CausalInitConfig(tmp_path, trajectories="teacher", student_steps=(1000, 500), **QUICK)
    with pytest.raises(CheckpointError, match="pairs of another teacher"):
        train_causal_init(student, films)
    generate(config, films)
    new = stored(tmp_path / "ode-pairs")
    assert all(not torch.equal(old[name]["trajectory"], new[name]["trajectory"]) for name in old)
    generate(dataclasses.replace(config, pairs=1, guidance=1.0), films)
    with pytest.raises(CheckpointError, match="different teachers or settings"):
        train_causal_init(student, films)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_full_disk_ends_in_one_line_and_leaves_nothing_half(trained, tmp_path, capsys):
    import resource

    model = earlier(TeacherConfig(trained), "teacher")
    writes = {
        "teacher": lambda: weights.save_model(model, tmp_path / "teacher"),
        "a.pt": lambda: loop.Checkpoint(tmp_path / "a.pt", model=model).save(1),
        "film.safetensors": lambda: keep(tmp_path / "film.safetensors", {"clips": torch.zeros(20_000)}, "key"),
        "mine": lambda: ship.ship(ship.ShipConfig(complete(trained, tmp_path / "run"), tmp_path / "mine")),
    }
    complete(trained, tmp_path / "run")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        for name, write in writes.items():
            with pytest.raises(CheckpointError, match=rf"{name}: cannot be written \(.*\): ") as error:
                write()
            assert "\n" not in str(error.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def complete(trained, folder):
    """A run with all that ships."""
    if not folder.exists():
        folder.mkdir()
        for name in ship.NEEDED:
            (folder / name).symlink_to(trained / ("teacher" if name == "probe" else name))
    return folder


def test_shipping_replaces_nothing_unasked(trained, tmp_path, capsys, monkeypatch):
    run, mine = complete(trained, tmp_path / "run"), tmp_path / "mine"
    (run / "intra-shot.jsonl").write_text('{"step": 1}\n')
    assert main(["train", "ship", "--out", str(run), "--target", str(mine)]) == 0
    assert [path.parent.name for path in mine.rglob(ship.LOG)] == ["transformer"]  # what was measured on the way
    said = capsys.readouterr().out
    assert f"{mine / 'transformer'}: {run / 'intra-shot'}" in said and len(said.splitlines()) == len(ship.NEEDED)
    (mine / "README.md").write_text("mine")
    before = stored(mine)
    assert main(["train", "ship", "--out", str(run), "--target", str(mine)]) == 2
    assert "is there already" in capsys.readouterr().err
    (run / "teacher").unlink()
    (run / "teacher").symlink_to(trained / "base")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ship, "finish", full)
        assert main(["train", "ship", "--out", str(run), "--target", str(mine), "--replace"]) == 2
    assert "mine: cannot be written (No space left on device)" in capsys.readouterr().err
    assert stored(mine).keys() == before.keys() and (mine / "README.md").read_text() == "mine"
    assert main(["train", "ship", "--out", str(run), "--target", str(mine), "--replace"]) == 0
    assert (mine / "README.md").read_text() == "mine"
    name = "teacher/diffusion_pytorch_model.safetensors"
    assert any(not torch.equal(value, before[name][key]) for key, value in stored(mine)[name].items())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    assert main(["train", "ship", "--out", str(run), "--target", str(tmp_path / "photos"), "--replace"]) == 2
    assert "is no model folder" in capsys.readouterr().err and (tmp_path / "photos" / "me.jpg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "photos", "run"]


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_two_writers_of_one_model_do_not_meet(tmp_path):
    """Neither takes the other's unfinished folder for one that a killed writer left, which goes."""
    folder, left = tmp_path / "teacher", tmp_path / "teacher.0123abcd.part"
    left.mkdir()

    class Model:
        def __init__(self, name, meanwhile=lambda: None):
            self.name, self.meanwhile = name, meanwhile

        def save_pretrained(self, part):
            os.makedirs(part, exist_ok=True)
            (part / "config.json").write_text(self.name)
            self.meanwhile()

    save_whole(Model("slow", lambda: save_whole(Model("quick"), folder)), folder)
    assert (folder / "config.json").read_text() == "slow" and os.listdir(tmp_path) == ["teacher"]


def test_what_is_written_can_be_read_by_others(trained, tmp_path):
    keep(tmp_path / "film.safetensors", {"clips": torch.zeros(2)}, "key")
    train_teacher(TeacherConfig(tmp_path, after=(trained,), **QUICK), tiny_films())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert len(written) > 3 and {stat.S_IMODE(path.stat().st_mode) for path in written} == {usual}


@pytest.mark.parametrize(
    "train, kind", [(codec_stage.train_codec, codec_stage.CodecConfig), (train_decoder, DecoderConfig)]
)
def test_the_codec_goes_on_too(tmp_path, monkeypatch, killer, train, kind):
    """Its pictures are tiny here. The decoder is polished in place: what it began with is not to be had again."""
    pool = torch.randint(0, 255, (96, 13, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for module in (codec_stage, decoders):
        monkeypatch.setattr(module, "film_pool", lambda shots, seed: pool.numpy())
    monkeypatch.setattr(codec_stage, "BATCHES", {1: 1, 5: 1})
    monkeypatch.setattr(codec_stage, "compact", lambda vae, pool, channels: vae)
    options = {"steps": 2, "save_every": 1, "lr": 1e-2}
    options |= {"frame_steps": 1, "base_dim": 4} if kind is codec_stage.CodecConfig else {}
    for name in ("whole", "killed"):
        torch.manual_seed(0)
        tiny_codec().save_pretrained(tmp_path / name / "vae")
    train(kind(tmp_path / "whole", **options))
    for at in (2, 3, 3):
        killer(at)
        with pytest.raises(Killed):
            train(kind(tmp_path / "killed", **options))
    killer()
    train(kind(tmp_path / "killed", **options))
    wanted, found = stored(tmp_path / "whole"), stored(tmp_path / "killed")
    for name, tensors in wanted.items():
        assert all(torch.equal(tensors[key], found[name][key]) for key in tensors)
