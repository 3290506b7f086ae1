"""Parity with the released implementation: it holds, a mistake breaks it, and nothing is skipped."""

import json
import shutil
from dataclasses import replace

import parity
import pytest
import torch
from conftest import GOLDEN
from parity.__main__ import main
from parity.record import is_result
from recorded_folder import record_folder
from safetensors.torch import load_file, save_file

from shotstream_lite import dmd, rollout, transformer
from shotstream_lite.rope import rope_table
from shotstream_lite.training import intra_shot
from shotstream_lite.transformer import ShotStreamTransformer


@pytest.fixture
def copy(tmp_path):
    """A copy of the recorded folder to spoil."""
    return shutil.copytree(GOLDEN, tmp_path / "golden")


def change(folder, name, edit):
    """Rewrite one safetensors file of a folder."""
    tensors = load_file(folder / name)
    edit(tensors)
    save_file(tensors, folder / name)


def failures(folder=GOLDEN):
    return {row.item: row for row in parity.run(folder) if not row.passed}


def test_every_recorded_number_is_met():
    rows = parity.run(GOLDEN)
    assert not [row for row in rows if not row.passed]
    compared = sum(int(row.detail.split()[0]) for row in rows)
    results = [key for path in GOLDEN.glob("*.safetensors") for key in load_file(path) if is_result(key)]
    assert compared > len(results) > 300
    text = parity.report_text(rows)
    assert text.count("\n") == len(rows) and text.endswith("items met (relative error up to 1e-05)")


def test_another_folder_with_other_sizes(tmp_path, monkeypatch):
    """3 heads of 20 channels, 3 layers, 4 context frames, chunks of 2, 3 steps, shift 5, 4 shots."""
    record_folder(tmp_path, monkeypatch)
    rows = parity.run(tmp_path)
    assert not [row for row in rows if not row.passed]
    assert any(row.item.startswith("student shot3") for row in rows)
    change(tmp_path, "student_shot3.safetensors", lambda t: t["in.noise"].mul_(1.01))
    assert {item.split(":")[0] for item in failures(tmp_path)} == {"student shot3"}


def no_phase(monkeypatch):
    monkeypatch.setattr(transformer, "rope_table", lambda *a: rope_table(*a[:5], 0.0))
    monkeypatch.setattr(rollout, "rope_table", lambda *a: rope_table(*a[:5], 0.0))


def phase_as_position_shift(monkeypatch):
    def shifted(positions, shot_ids, *size):
        assert torch.atleast_2d(shot_ids).shape[0] == 1
        return rope_table(positions + torch.atleast_2d(shot_ids)[0] / 6, shot_ids, *size[:3], 0.0)

    monkeypatch.setattr(transformer, "rope_table", shifted)
    monkeypatch.setattr(rollout, "rope_table", shifted)


def target_restarting_at_zero(monkeypatch):
    begin_shot = rollout.begin_shot

    def restarted(model, cond, budget):
        cache, ids = begin_shot(model, cond, budget), cond.shot_ids[cond.remembered :]
        size = *model.token_grid(*cond.context.shape[3:]), model.config.attention_head_dim
        cache.table[:, cache.tokens(0, cache.shot_frames)] = rope_table(torch.arange(len(ids)), ids, *size)
        return cache

    monkeypatch.setattr(rollout, "begin_shot", restarted)


def wrong_caption(monkeypatch):
    joint, begin_shot = ShotStreamTransformer.joint, rollout.begin_shot
    monkeypatch.setattr(
        ShotStreamTransformer,
        "joint",
        lambda self, latents, timestep, captions, *a, **o: joint(
            self, latents, timestep, captions, *a, **{**o, "caption_ids": torch.tensor([[0]])}
        ),
    )
    first = torch.tensor([[0]])
    monkeypatch.setattr(
        rollout, "begin_shot", lambda model, cond, budget: begin_shot(model, replace(cond, caption_ids=first), budget)
    )


def teacher_context_at_zero(monkeypatch):
    """Wrong for the teacher, whose context carries the target's timestep."""
    joint = ShotStreamTransformer.joint

    def at_zero(self, latents, timestep, *arguments, **options):
        if options.get("mask") is None:
            timestep = torch.as_tensor(timestep).reshape(1, -1).expand(1, latents.shape[2]).clone()
            timestep[:, :6] = 0
        return joint(self, latents, timestep, *arguments, **options)

    monkeypatch.setattr(ShotStreamTransformer, "joint", at_zero)


def no_clean_pass(monkeypatch):
    """The local cache keeps what the last noisy step wrote."""

    @torch.no_grad()
    def shadow(model, cache, noise, latents, start, sigma=0.0):
        if sigma > 0:
            noise(latents.shape)
        kept = [layer.clone() for layer in (*cache.keys, *cache.values)]
        model.chunk(cache, latents, 0.0, start)
        for layer, before in zip((*cache.keys, *cache.values), kept, strict=True):
            layer.copy_(before)

    monkeypatch.setattr(rollout, "clean_pass", shadow)


def no_noise_on_the_training_clean_pass(monkeypatch):
    monkeypatch.setattr(intra_shot, "rollout", lambda *a, **o: rollout.rollout(*a, **{**o, "clean_sigma": 1e-30}))


def usual_guidance(monkeypatch):
    monkeypatch.setattr(dmd.guided, "__code__", (lambda c, u, scale: u + scale * (c - u)).__code__)


def norm_per_head(monkeypatch):
    def forward(self, x):
        heads = x.unflatten(-1, (4, -1))
        return torch.nn.functional.rms_norm(heads, heads.shape[-1:], eps=self.eps).flatten(-2) * self.weight

    monkeypatch.setattr(torch.nn.RMSNorm, "forward", forward)


MISTAKES = {
    no_phase: {"teacher: multi_caption", "student shot1: steps", "ode regression f9: prediction"},
    phase_as_position_shift: {"teacher: multi_caption", "student shot1: steps", "teacher loss: gradients"},
    target_restarting_at_zero: {"student shot0: steps", "dmd generator e2e: rollout"},
    wrong_caption: {"teacher: multi_caption", "student shot2: steps", "ode sampling: final latents"},
    teacher_context_at_zero: {"teacher loss: loss", "ode sampling: final latents", "dmd critic e2e: score"},
    no_clean_pass: {"student shot0: steps", "student shot2: final latents"},
    no_noise_on_the_training_clean_pass: {"dmd generator e2e: rollout", "dmd critic e2e: loss"},
    usual_guidance: {"dmd formula: gradient", "dmd generator e2e: loss"},
    norm_per_head: {"teacher: no_shot_ids_last_caption", "student shot0: caches"},
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found(mistake, monkeypatch):
    mistake(monkeypatch)
    failed = failures()
    assert failed.keys() >= MISTAKES[mistake]
    assert max(row.error for row in failed.values()) > 1e-3


def test_a_changed_weight_is_found(copy):
    change(copy, "weights.safetensors", lambda t: t["model.blocks.0.ffn.0.bias"].add_(1e-3))
    assert {"teacher: multi_caption", "student shot0: caches"} <= failures(copy).keys()


def test_a_result_nobody_checks_fails(copy):
    change(copy, "teacher.safetensors", lambda t: t.update({"out.new_variant.flow_bfchw": torch.zeros(3)}))
    save_file({"out.something": torch.zeros(1)}, copy / "more.safetensors")
    failed = failures(copy)
    assert failed.keys() == {"teacher: unchecked", "more"}
    assert "out.new_variant.flow_bfchw" in failed["teacher: unchecked"].detail
    assert "more.safetensors" in failed["more"].detail


def test_not_a_number_fails(copy):
    change(copy, "ode_sampling.safetensors", lambda t: t["out.final_x0"].fill_(float("nan")))
    assert failures(copy).keys() == {"ode sampling: final latents"}
    assert "FAIL" in parity.report_text(parity.run(copy)) and "1 of" in parity.report_text(parity.run(copy))


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name
        for path in GOLDEN.iterdir()
        # There are as many student shots as there are; the other two hold nothing to compare.
        if path.name not in {"student_shot2.safetensors", "summary.json", "stage2_trace.json"}
    ),
)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(parity.ParityError, match=f"{name}: cannot be read .No such file"):
        parity.run(copy)


def test_damage_is_named(copy):
    (copy / "rope.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(parity.ParityError, match="rope.safetensors: cannot be read"):
        parity.run(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(parity.ParityError, match="config.json: not JSON"):
        parity.run(copy)


def test_what_does_not_belong_together_is_named(copy):
    change(copy, "teacher_loss.safetensors", lambda t: t.update({"in.noise": torch.zeros(1, 2, 4, 4, 6)}))
    with pytest.raises(parity.ParityError, match="teacher_loss.safetensors: does not fit"):
        parity.run(copy)
    change(copy, "rope.safetensors", lambda t: t.pop("q"))
    with pytest.raises(parity.ParityError, match="rope.safetensors: there is no 'q'"):
        parity.run(copy)
    config = json.loads((copy / "config.json").read_text())
    del config["_golden"]["timestep_shift"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(parity.ParityError, match="config.json: there is no _golden.timestep_shift"):
        parity.run(copy)
    (copy / "config.json").write_text(json.dumps({**config, "dim": 24}))
    with pytest.raises(parity.ParityError, match="weights.safetensors: misshapen"):
        parity.run(copy)


def test_the_command_passes_fails_and_names_a_damaged_folder(copy, capsys):
    assert main([str(GOLDEN)]) == 0
    assert "items met" in capsys.readouterr().out.splitlines()[-1]
    recorded = load_file(copy / "rope.safetensors")
    name = next(name for name in recorded if name.startswith("out."))
    save_file(recorded | {name: recorded[name] + 0.001}, copy / "rope.safetensors")
    assert main([str(copy)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("FAIL") for line in out) == 1 and "1 of" in out[-1]
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    for arguments, words in (
        ([str(copy)], str(weights)),
        (["gone"], "gone"),
        ([str(GOLDEN), "--device", "x"], "device"),
    ):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err
