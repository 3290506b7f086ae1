"""Several processes take the step one would have taken and measure what one does; a killed run goes on."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_run import tiny_films, tiny_run

from shotstream_lite.errors import CheckpointError
from shotstream_lite.evaluation.run import Evaluation, evaluate, model_specs
from shotstream_lite.toybox.probe import Probe, save_probe
from shotstream_lite.training.causal_init import CausalInitConfig, train_causal_init
from shotstream_lite.training.config import StageConfig
from shotstream_lite.training.draws import Draws
from shotstream_lite.training.inter_shot import InterShotConfig, train_inter_shot
from shotstream_lite.training.loop import Run, learning_rate
from shotstream_lite.training.teacher import TeacherConfig, train_teacher

STEPS = 2
USUAL = {"batch": 2, "warmup": 0, "lr": 1e-3, "lr_floor": 1.0, "betas": (0.9, 0.9), "sample_every": 0}


MODES = {"replicated": False, "FSDP2": True}
NAME = "diffusion_pytorch_model.safetensors"


def train_everything(folder: Path, shard: bool) -> None:
    """A teacher moved by Muon, one whose text encoder, which is never split, learns along, a stage whose loss
    counts frames, and one with two optimizers, LoRA and a history."""
    films = tiny_films()
    train_teacher(TeacherConfig(folder, steps=STEPS, shard=shard, optimizer="muon", **USUAL), films)
    learning = {"after": (folder,), "text": True, "checkpointing": shard}
    train_teacher(TeacherConfig(folder / "text", steps=STEPS, shard=shard, **learning, **USUAL), films)
    train_causal_init(CausalInitConfig(folder, steps=STEPS, shard=shard, **USUAL), films)
    train_inter_shot(InterShotConfig(folder, steps=7, lora_rank=4, shard=shard, **USUAL | {"betas": (0.0, 0.9)}), films)


def evaluate_here(folder: Path, model: Path, name: str) -> None:
    """Three stories of two shots, by whoever is there: the first process writes what all have measured."""
    specs = model_specs(["student@height=128,width=224,shot_frames=5"], model)  # in the size the probe reads
    if measured := evaluate(Evaluation(specs, stories=3, shots=2, probe=folder / "probe.safetensors")):
        (folder / f"{name}.json").write_text(json.dumps(measured[0]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_folder) -> Path:
    """The same training and the same evaluation by two processes, training in both modes, and by one."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    save_probe(Probe(), folder / "probe.safetensors")
    for name in (*MODES, "one", "before"):
        tiny_run(folder / name)
    processes = _launch(folder, model_folder)
    train_everything(folder / "one", shard=False)
    evaluate_here(folder, model_folder, "alone")
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    return folder


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", ["text/teacher", "teacher", "causal-init", "inter-shot"])
def test_two_processes_step_as_one_with_twice_the_batch(runs, mode, stage):
    one, two = (load_file(runs / name / stage / NAME) for name in ("one", mode))
    begun = {
        "text/teacher": "before/base",
        "teacher": "before/base",
        "causal-init": "one/teacher",
        "inter-shot": "before/intra-shot",
    }
    before = load_file(runs / begun[stage] / NAME)
    assert one.keys() == two.keys() == before.keys()
    moved = max((one[k] - before[k]).abs().max() for k in one)
    apart = max((one[k] - two[k]).abs().max() for k in one)
    assert apart < 0.02 * moved, f"{apart:.1e} apart after moving {moved:.1e}"
    norms = [json.loads((runs / name / f"{stage}.jsonl").read_text().splitlines()[-1]) for name in ("one", mode)]
    assert norms[0]["grad_norm"] == pytest.approx(norms[1]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_text_encoder_learns_along_on_two_processes(runs, mode):
    folders = (runs / "before", runs / "one" / "text", runs / mode / "text")
    before, one, two = (load_file(folder / "text_encoder" / "model.safetensors") for folder in folders)
    moved = max((one[k] - before[k]).abs().max() for k in one)
    assert moved > 0 and max((one[k] - two[k]).abs().max() for k in one) < 0.02 * moved


def test_two_processes_measure_what_one_does(runs):
    alone, together = (json.loads((runs / f"{name}.json").read_text()) for name in ("alone", "together"))
    assert words(together) == words(alone)
    assert numbers(together) == pytest.approx(numbers(alone), rel=1e-6, abs=1e-9)


def numbers(figures) -> list[float]:
    """All numbers of a JSON tree, in their order."""
    if isinstance(figures, dict):
        figures = figures.values()
    elif not isinstance(figures, list):
        return [figures] if isinstance(figures, int | float) else []
    return [number for part in figures for number in numbers(part)]


def words(figures):
    """A JSON tree without its numbers: its keys, its text, what was not measured."""
    if isinstance(figures, dict):
        return {key: words(part) for key, part in figures.items()}
    if isinstance(figures, list):
        return [words(part) for part in figures]
    return type(figures) if isinstance(figures, int | float) else figures


def test_processes_part_before_they_end(tmp_path):
    """What is registered first is called last, when the group has to be gone."""
    script = tmp_path / "part.py"
    script.write_text(
        "import atexit, torch.distributed as d; from shotstream_lite.distributed import part_at_exit; "
        "atexit.register(lambda: print('still there:', d.is_initialized())); part_at_exit(); "
        f"d.init_process_group('gloo', init_method='file://{tmp_path}/meet', rank=0, world_size=1); "
        "print('there:', d.is_initialized())"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["there: True", "still there: False"], done.stderr


def _launch(*folders: Path) -> list[subprocess.Popen]:
    """What `accelerate launch` does for two processes on a CPU: the environment of `torch.distributed`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    usual["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    return [
        subprocess.Popen(
            [sys.executable, __file__, *map(str, folders)],
            env=os.environ | usual | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def test_a_batch_is_drawn_the_same_however_it_is_parted():
    whole, parts = Draws(3, 5, range(4)), [Draws(3, 5, range(2)), Draws(3, 5, range(2, 4))]
    assert torch.equal(whole.normal(2, 3), torch.cat([part.normal(2, 3) for part in parts]))
    assert torch.equal(whole.index(1000), torch.cat([part.index(1000) for part in parts]))
    assert {whole.shared_index(1000)} == {part.shared_index(1000) for part in parts}


def test_seeds_steps_and_samples_draw_different_numbers():
    firsts = [Draws(seed, step, range(3)).normal() for seed in (0, 1) for step in (0, 1)]
    assert len(torch.cat(firsts).unique()) == 12


def test_a_batch_that_does_not_part_evenly_is_refused(tmp_path):
    run = Run("a", StageConfig(tmp_path))
    run.processes = 3
    with pytest.raises(CheckpointError, match="multiple of 3"):
        run.draws(0, 16)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 1000, 1e-3) for step in range(1000)]
    assert rates[0] < 2e-5 and max(rates) == pytest.approx(1e-3, rel=1e-3) and rates[-1] < 3e-5
    assert learning_rate(0, 10, 1e-3, warmup=0, floor=1.0) == learning_rate(9, 10, 1e-3, warmup=0, floor=1.0) == 1e-3


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["step", "save", "checkpoint"])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(tmp_path, monkeypatch, where):
    def train(folder, stop=False):
        torch.manual_seed(0)
        run = Run("a", StageConfig(folder, steps=70, save_every=10, lr=0.01))
        model = run.trained(torch.nn.Linear(4, 4))
        optimizer = run.optimizer(model)
        done = []

        def kill(place):
            if stop and where == place and len(done) == 60 - (place == "step"):
                raise Killed

        def train_step(step):
            kill("step")
            x = run.draws(step, 8).normal(4)
            loss = (model(x) - x.flip(1)).square().mean()
            done.append(step)
            value, norm = run.descend(optimizer, loss, step)
            return {"loss": value, "norm": norm}

        def save():
            kill("save")
            torch.save(model.state_dict(), folder / "left.pt")

        replace = os.replace

        def replaced(source, target):
            if target.suffix == ".pt":
                kill("checkpoint")
            replace(source, target)

        monkeypatch.setattr(os, "replace", replaced)
        try:
            run.steps(train_step, save, model=model, optimizer=optimizer)
        finally:
            monkeypatch.setattr(os, "replace", replace)
        log = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
        return torch.load(folder / "left.pt", weights_only=True)["weight"], [line | {"seconds": 0} for line in log]

    whole, log = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "parts", stop=True)
    resumed, resumed_log = train(tmp_path / "parts")
    assert torch.equal(resumed, whole)
    assert resumed_log == log and [line["step"] for line in log] == [20, 40, 60, 70]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    def train(size, **options):
        run = Run("a", StageConfig(tmp_path, steps=1, **options))
        model = run.trained(torch.nn.Linear(4, size))
        optimizer = run.optimizer(model)
        loss = lambda step: {"norm": run.descend(optimizer, model(torch.ones(4)).sum(), step)[1]}  # noqa: E731
        run.steps(loss, lambda: None, model=model, optimizer=optimizer)

    train(3)
    with pytest.raises(CheckpointError, match="--no-resume"):
        train(5)
    train(5, resume=False)


if __name__ == "__main__":
    folder, model = map(Path, sys.argv[1:])
    evaluate_here(folder, model, "together")
    for mode, shard in MODES.items():
        train_everything(folder / mode, shard)
