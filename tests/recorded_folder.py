"""Writes a folder in the format of the recorded numbers, at other sizes, with the results of this library.

That says nothing about being right; it shows that `parity.run` reads every size from the folder.
"""

import json
from pathlib import Path

import parity
import pytest
import torch
from conftest import GOLDEN
from parity.record import Case, Record, read
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotstream_lite import history
from shotstream_lite.models import configs, convert
from shotstream_lite.transformer import ShotStreamTransformer

CHANNELS, HEIGHT, WIDTH, LAYERS, FRAMES, CHUNK, BUDGET, SHOTS = 5, 6, 4, 3, 6, 2, 4, 4
CONFIG = {
    "patch_size": [1, 2, 2],
    "in_dim": CHANNELS,
    "out_dim": CHANNELS,
    "dim": 60,
    "num_heads": 3,
    "num_layers": LAYERS,
    "ffn_dim": 40,
    "freq_dim": 16,
    "text_dim": 24,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "_golden": {
        "num_frame_per_block": CHUNK,
        "max_context_frames": BUDGET,
        "denoising_step_list": [1000, 600, 300],
        "timestep_shift": 5.0,
        "guidance_scale": 2.0,
    },
}
UNKNOWN = torch.zeros(1)


def record_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill `folder`: inputs first, then a run of all checks that keeps our results as the recorded ones."""
    torch.manual_seed(0)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    released = released_names()
    for name in ("weights", "weights_fake"):
        model = ShotStreamTransformer(**configs.from_wan(CONFIG))
        weights = {released[key]: tensor.contiguous() for key, tensor in model.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors")
    # What says which files there are, and how many sampling steps.
    (folder / "causal_mask.json").write_text('{"mask_ctx6_target4_chunk2": [0.0]}')
    save_file({"ode_sigmas_12": UNKNOWN}, folder / "schedule.safetensors")
    for shot in range(SHOTS):
        save_file({}, folder / f"student_shot{shot}.safetensors")

    def keep(record: Record, item: str, key: str, ours: Tensor, distance=None) -> None:
        record.tensors[key] = ours.detach().clone().contiguous()

    case = Case(folder)
    gradients = list(released.values())[::7]
    with monkeypatch.context() as patch:
        patch.setattr(Record, "check", keep)
        patch.setattr(Record, "check_level", lambda *arguments: keep(*arguments[:3], arguments[3].expand(1, 3)))
        for name, check in parity.families(case):
            record = Record(name, inputs(name, gradients))
            check(case, record)
            if name.endswith(".json"):
                content = {key: value.tolist() for key, value in record.tensors.items()}
                (folder / name).write_text(json.dumps(content))
            else:
                save_file(record.tensors, folder / name)


def released_names() -> dict[str, str]:
    """The released name of every parameter, by its name in diffusers."""
    first = [name for name in load_file(GOLDEN / "weights.safetensors") if "blocks.1." not in name]
    names = {name.replace("blocks.0.", f"blocks.{layer}.") for name in first for layer in range(LAYERS)}
    renamed = convert.diffusers_names(dict.fromkeys(sorted(names), UNKNOWN))
    return {name: original for name, (original, _) in renamed.items()}


def latents(frames: int) -> Tensor:
    return torch.randn(1, frames, CHANNELS, HEIGHT, WIDTH)


def captions(count: int) -> Tensor:
    return torch.randn(count, 7, 24)


def inputs(name: str, gradients: list[str]) -> dict[str, Tensor]:
    """The inputs of a file, and blanks for results whose names say what is wanted."""
    stem = name.split(".")[0]
    if stem == "sampling":
        return parity.flat(read(GOLDEN, name))
    if stem == "causal_mask":
        return {"mask_ctx6_target4_chunk2": UNKNOWN}
    if stem == "schedule":
        return {"dmd_timestep.clamp": torch.tensor([20, 980])} if name.endswith(".json") else {}
    if stem == "rope":
        return rope_inputs()
    if stem.startswith("student"):
        return noise_inputs(steps=3) | student_inputs(int(stem[-1]))
    shot = {f"in.{key}": latents(FRAMES) for key in ("target_latents", "critic_noise", "dmd_noise")}
    shot |= {f"in.{key}": latents(FRAMES) for key in ("fake_x0_cond", "pred_x0", "real_x0_cond", "real_x0_uncond")}
    shot |= {f"critic.in.{key}": latents(FRAMES) for key in ("fake_x0_pred", "generated_x0", "noise")}
    rows = {f"{key}timestep_index": torch.tensor(321) for key in ("in.", "critic.in.", "in.dmd_", "in.critic_")}
    shot |= rows | noise_inputs(steps=2) | {"in.exit_step": torch.tensor(1)}
    shot |= {"in.guidance_scale": torch.tensor(2.0), "in.uncond_embeds": captions(1)}
    shot |= {"in.prompt_embeds": captions(3), "in.context_latents": latents(BUDGET)}
    shot |= {"in.shot_ids": torch.tensor([0, 0, 1, 1] + [2] * FRAMES)}
    if stem == "teacher":
        shot["in.latents_bcfhw"] = latents(BUDGET + FRAMES).transpose(1, 2).contiguous()
        shot["in.timestep"] = torch.full((1, BUDGET + FRAMES), 640.0)
        shot["in.context_dropped_shot_ids"] = torch.tensor([0] * BUDGET + [1] * FRAMES)
    if stem.startswith("ode_regression"):
        shot["in.context_latents"] = latents(6)
        shot["in.shot_ids"] = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
        shot["in.trajectory"] = latents(4)[:, None].repeat(1, 4, 1, 1, 1, 1)
        shot["in.random_index_per_frame"] = torch.tensor([[1, 0, 3, 2]])
    if stem == "ode_sampling":
        shot |= {f"out.latents_before_step_{step}": UNKNOWN for step in (0, 7)}
    if stem in ("teacher_loss", "dmd_generator_e2e", "dmd_critic_e2e") or stem.startswith("ode_regression"):
        shot |= {f"out.grad.{key}": UNKNOWN for key in gradients}
    if stem == "dmd_generator_e2e":
        shot |= {f"out.grad_cache_detached.{key}": UNKNOWN for key in gradients}
    return shot


def noise_inputs(steps: int) -> dict[str, Tensor]:
    """Start noise, re-noise before steps 1.., and the clean pass's in training."""
    chunk = {f"in.clean_pass_noise.chunk{i}": latents(CHUNK)[0] for i in range(FRAMES // CHUNK) if steps < 3}
    for i in range(FRAMES // CHUNK):
        chunk |= {f"in.renoise.chunk{i}.step{step}": latents(CHUNK)[0] for step in range(steps - 1)}
    return chunk | {"in.noise": latents(FRAMES)}


def rope_inputs() -> dict[str, Tensor]:
    results = ("rope_apply_dynamic", "rope_apply_ordinary", "causal_rope_apply_dynamic.start_frame_4")
    return {
        "q": torch.randn(1, 7 * 6, 3, 20),
        "q_chunk": torch.randn(1, CHUNK * 6, 3, 20),
        "shot_ids": torch.tensor([0, 0, 0, 1, 1, 2, 2]),
        "shot_ids_chunk": torch.full((CHUNK,), 3),
        "grid_sizes": torch.tensor([[7, 3, 2]]),
        "angles_first_32_positions": torch.zeros(32, 10),
        **{f"out.{key}": UNKNOWN for key in results},
    }


def student_inputs(shot: int) -> dict[str, Tensor]:
    """Shot 0 has zero context and one caption; shot k has k + 1 captions and frames of the k shots before."""
    past = history.select([4 * FRAMES - 3] * shot, BUDGET)
    caches = [f"{kind}_cache" for kind in ("context", "crossattn")] + ["local_cache_after_chunk1"]
    return {
        "in.context_latents": latents(BUDGET) * bool(shot),
        "in.context_shot_ids": torch.tensor([index for index, _ in past] or [0] * BUDGET),
        "in.target_shot_ids": torch.full((FRAMES,), max(shot, 1)),
        "in.context_pixel_frame_indices": torch.zeros(BUDGET),
        "in.prompt_embeds": captions(shot + 1),
        **{f"out.{cache}.layer{i}.{part}": UNKNOWN for cache in caches for i in range(LAYERS) for part in "kv"},
    }
