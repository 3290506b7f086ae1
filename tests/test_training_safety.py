"""What training writes is whole, a stage that is killed goes on, and everyday mistakes end in one line."""

import os
import shutil

import pytest
import torch
from training_run import tiny_films, tiny_run

from shotstream_lite.convert import read_checkpoint
from shotstream_lite.presets import load_text
from shotstream_lite.training.base import BaseConfig, train_base
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.inter_shot import InterShotConfig, train_inter_shot
from shotstream_lite.training.intra_shot import IntraShotConfig, train_intra_shot
from shotstream_lite.training.ode_pairs import OdePairsConfig, generate
from shotstream_lite.training.teacher import TeacherConfig, train_teacher

QUICK = {"steps": 2, "save_every": 1, "batch": 1, "sample_every": 0, "warmup": 0, "lr": 1e-2}
PAIRS = {"pairs": 3, "batch": 1, "student_steps": (1000, 500), "sampling_steps": 2}
STAGES = {
    "base": (train_base, BaseConfig, QUICK | {"image_steps": 1, "image_batch": 1}),
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


@pytest.mark.parametrize("where", ["after", "start"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_again_and_again_goes_on(trained, tmp_path, killer, stage, where):
    """In a folder of its own, whose predecessors lie elsewhere: it becomes the run it would have been, and complete."""
    if (stage, where) == ("base", "after"):
        pytest.skip("the base model has no predecessors")
    train, kind, options = STAGES[stage]
    films, options = tiny_films(), options | {where: (trained,) if where == "after" else trained}
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
