"""What the released code computes without gradient: RoPE, schedule, history, teacher, student."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from shotstream_lite import history, rollout
from shotstream_lite.cache import ShotCache
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import TIMESTEPS, euler_sigmas, few_step, to_clean
from shotstream_lite.rope import rope_frequencies, rope_table, rotate
from shotstream_lite.transformer import ShotStreamTransformer, causal_mask

from .record import AGAIN, Case, ParityError, Record, read


def check_rope(case: Case, record: Record) -> None:
    """Angles, and queries rotated with the shot phase and without."""
    head_dim, grid = record["q"].shape[-1], record["grid_sizes"][0, 1:].tolist()
    positions = torch.arange(len(record["angles_first_32_positions"]))
    angles = torch.cat([positions[:, None] * band for band in rope_frequencies(head_dim)], dim=1)
    record.check("angles", "angles_first_32_positions", angles)
    for key, match in record.matching(r"out\.(causal_)?rope_apply_(dynamic|ordinary)(?:\.start_frame_(\d+))?"):
        part = "_chunk" if match[1] else ""
        shot_ids = record[f"shot_ids{part}"]
        positions = torch.arange(len(shot_ids)) + int(match[3] or 0)
        phase = {} if match[2] == "dynamic" else {"phase": 0.0}
        table = rope_table(positions, shot_ids, *grid, head_dim, **phase)
        record.check(match[2], key, rotate(record[f"q{part}"], table))


def check_schedule(case: Case, record: Record) -> None:
    """The table of noise levels, the student's steps, the teacher's sampling steps."""
    columns = {
        "sigmas_1000": case.table.sigmas,
        "timesteps_1000": case.table.timesteps,
        "training_weight_1000": case.table.weights,
        "denoising_step_list_warped": case.sigmas * TIMESTEPS,
    }
    for key, ours in columns.items():
        record.check("table", key, ours)
    sigmas = euler_sigmas(sampling_steps(case), case.shift)[:-1]
    record.check("sampler", f"ode_sigmas_{len(sigmas)}", sigmas)
    record.check("sampler", f"ode_timesteps_{len(sigmas)}", sigmas * TIMESTEPS)


def sampling_steps(case: Case) -> int:
    """Euler steps of the recorded teacher sampling, said by a name in schedule.safetensors."""
    record = Record("schedule.safetensors", read(case.folder, "schedule.safetensors"))
    for _, match in record.matching(r"ode_sigmas_(\d{1,4})"):
        return int(match[1])
    raise ParityError("schedule.safetensors: there is no 'ode_sigmas_...'")


def check_schedule_json(case: Case, record: Record) -> None:
    """The numbers of schedule.json that are not in schedule.safetensors: look-ups by nearest row."""
    init_sigmas = few_step((*case["denoising_step_list"], 0), case.shift)
    nothing = torch.tensor(0.0)
    record.check("steps", "denoising_step_list_warped", case.sigmas * TIMESTEPS)
    record.check("steps", "ode_init_denoising_step_list_warped", init_sigmas * TIMESTEPS)
    record.check("look-up", "sigmas_used_for_x0_and_renoise", case.table.sigma(case.sigmas * TIMESTEPS))
    record.check("look-up", "indices_into_timesteps", case.table.nearest(case.sigmas * TIMESTEPS))
    record.check("look-up", "t0_lookup.index", case.table.nearest(nothing))
    record.check("look-up", "t0_lookup.sigma", case.table.sigma(nothing))
    for bound in record["dmd_timestep.clamp"].tolist():
        ours = case.table.sigma(torch.tensor(float(bound)))
        record.check("look-up", f"dmd_timestep.sigma_at_{bound}", ours)


def check_sampling(case: Case, record: Record) -> None:
    """Which frames of the history are remembered, for every recorded history."""
    for key, match in record.matching(r"(cases\.\d+)\.history_shot_lengths"):
        lengths, budget = record[key].tolist(), int(record[f"{match[1]}.budget"])
        if budget > 4096:
            raise ParityError(f"{record.name}: {match[1]}.budget is {budget}: {AGAIN}")
        chosen = torch.tensor(history.select(lengths, budget))
        starts = torch.tensor([0, *lengths]).cumsum(0)
        ours = {
            "per_shot_counts": torch.tensor(history.counts(len(lengths), budget)),
            "context_shot_ids": chosen[:, 0],
            "within_shot_indices": chosen[:, 1],
            "global_frame_indices": starts[chosen[:, 0]] + chosen[:, 1],
            "target_shot_id": chosen[-1, 0] + 1,
        }
        for name, value in ours.items():
            record.check("frames", f"{match[1]}.{name}", value)


def check_causal_mask(case: Case, record: Record) -> None:
    """Who may attend to whom in the masked joint pass."""
    for key, match in record.matching(r"mask_ctx(\d+)_target(\d+)_chunk(\d+)"):
        context, frames, chunk = (int(number) for number in match.groups())
        if not chunk or context + frames > 4096:
            raise ParityError(f"{record.name}: there is no mask as large as {key}: {AGAIN}")
        record.check("mask", key, causal_mask(context, frames, chunk))


@torch.no_grad()
def check_teacher(case: Case, record: Record) -> None:
    """The bidirectional model: a caption a frame, one caption, plain Wan, and dropped context."""
    latents, timestep = record["in.latents_bcfhw"].to(case.device), record["in.timestep"]
    captions, shot_ids = record.captions(), record["in.shot_ids"]
    dropped, dropped_ids = latents.clone(), record["in.context_dropped_shot_ids"]
    dropped[:, :, : case["max_context_frames"]] = 0
    flows = {
        "multi_caption": case.student.joint(latents, timestep, captions, shot_ids),
        "single_caption": case.student.joint(latents, timestep, record.captions("in.uncond_embeds"), shot_ids),
        "no_shot_ids_last_caption": case.student.joint(latents, timestep, captions[:, -1:], phase=0.0),
        "context_dropped_all_captions": case.student.joint(dropped, timestep, captions, dropped_ids),
    }
    record.check("inputs", "in.latents_bfchw", latents.transpose(1, 2))
    for variant, flow in flows.items():
        record.check_latents(variant, f"out.{variant}.flow_bfchw", flow)
    record.check("multi_caption", "out.multi_caption.flow_bcfhw", flows["multi_caption"])
    for variant in ("multi_caption", "single_caption"):
        clean = to_clean(latents, flows[variant], case.table.sigma(timestep))
        record.check_latents(variant, f"out.{variant}.x0_bfchw", clean)
    # The caption a frame reads is its shot id unless the caller says otherwise.
    record.check("multi_caption", "out.multi_caption.caption_index_per_frame", shot_ids)
    record.check(
        "context_dropped_all_captions",
        "out.context_dropped_all_captions.caption_index_per_frame",
        dropped_ids,
    )


@torch.no_grad()
def check_ode_sampling(case: Case, record: Record) -> None:
    """The teacher's guided Euler sampling, at the saved steps and at the end."""
    cond = Conditioning(record.captions(), record["in.shot_ids"], context=record.latents("in.context_latents"))
    uncond = cond.unconditional(record.captions("in.uncond_embeds"))
    sigmas = euler_sigmas(sampling_steps(case), case.shift)
    sampler = rollout.joint_states(case.student, record.latents("in.noise"), cond, sigmas, uncond=uncond)
    states = list(sampler)
    for key, match in record.matching(r"out\.latents_before_step_(\d+)"):
        record.check_latents("states", key, states[int(match[1])])
    record.check_latents("final latents", "out.final_x0", states[-1])


@torch.no_grad()
def check_student(case: Case, record: Record) -> None:
    """One shot of the released inference: context pass, caches, every step and every clean pass."""
    watched = PassRecorder(case.student)
    captions, frames = record.captions(), record["in.noise"].shape[1]
    ids = torch.cat((record["in.context_shot_ids"], record["in.target_shot_ids"]))
    cond = Conditioning(captions, ids, context=record.latents("in.context_latents"))
    cache = rollout.begin_shot(watched, cond, case["max_context_frames"])
    chunks = chunk_lengths(frames, case["num_frame_per_block"])
    noise = recorded_noise(record, chunks)
    shot = list(rollout.rollout(watched, cache, noise, case.sigmas, chunks))
    stored = {"crossattn_cache": [keys[0] for keys in chain(*vars(case.student.caption_keys(captions)).values())]}
    stored["context_cache"] = cached_frames(cache, -cache.context_frames, cache.context_frames)
    for _, match in record.matching(r"out\.local_cache_after_chunk(\d+)\.layer.*"):
        stored[f"local_cache_after_chunk{match[1]}"] = cached_frames(cache, 0, sum(chunks[: int(match[1])]))
    # The released code runs a clean pass after the last chunk too, which no chunk ever reads.
    watched.chunk(cache, shot[-1], 0.0, frames - chunks[-1])

    check_remembered_frames(record, captions.shape[1] - 1, frames, case["max_context_frames"])
    record.check_latents("context pass", "out.context_pass.flow", watched.context_flow)
    for key, match in record.matching(r"out\.(\w+)\.layer(\d+)\.([kv])"):
        layer = int(match[2]) + (match[3] == "v") * len(cache.keys)
        record.check("caches", key, stored[match[1]][layer].transpose(-3, -2))
    check_passes(case, record, watched.passes, len(chunks))
    record.check_latents("final latents", "out.final_latents", torch.cat(shot, dim=2))


def check_remembered_frames(record: Record, shots: int, frames: int, budget: int) -> None:
    """The pixel frames the recorded context was taken from; earlier shots are as long as this one."""
    length = 4 * frames - 3
    chosen = [shot * length + frame for shot, frame in history.select([length] * shots, budget)]
    ours = torch.tensor(chosen) if shots else torch.zeros_like(record["in.context_pixel_frame_indices"])
    record.check("context frames", "in.context_pixel_frame_indices", ours)


def check_passes(case: Case, record: Record, passes: list[tuple[Tensor, Tensor, Tensor]], chunks: int) -> None:
    """Every step of every chunk and its clean pass, in the order in which they ran."""
    in_order = iter(passes)
    for chunk in range(chunks):
        for step, sigma in enumerate(case.sigmas):
            noisy, timestep, flow = next(in_order)
            record.check_level("timesteps", f"in.timestep_step{step}", timestep)
            record.check_latents("steps", f"out.chunk{chunk}.step{step}.noisy_input", noisy)
            record.check_latents("steps", f"out.chunk{chunk}.step{step}.flow", flow)
            record.check_latents("steps", f"out.chunk{chunk}.step{step}.x0", to_clean(noisy, flow, sigma))
        record.check_latents("clean passes", f"out.chunk{chunk}.clean_pass.flow", next(in_order)[2])


class PassRecorder:
    """A transformer that notes what goes through its context and chunk passes."""

    def __init__(self, transformer: ShotStreamTransformer) -> None:
        self.transformer = transformer
        self.passes: list[tuple[Tensor, Tensor, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def context(self, cache: ShotCache, *arguments: Any) -> Tensor:
        self.context_flow = self.transformer.context(replace(cache, only_writes=False), *arguments)
        return self.context_flow

    def chunk(self, cache: ShotCache, latents: Tensor, timestep: Tensor | float, start: int) -> Tensor:
        flow = self.transformer.chunk(replace(cache, only_writes=False), latents, timestep, start)
        self.passes.append((latents, torch.as_tensor(timestep), flow))
        return flow


def chunk_lengths(frames: int, chunk: int) -> list[int]:
    """Latent frames of each chunk of a shot."""
    return [min(chunk, frames - start) for start in range(0, frames, chunk)]


def cached_frames(cache: ShotCache, start: int, frames: int) -> list[Tensor]:
    """Copies of the keys of all layers, then the values, of some frames of the shot."""
    return [layer[:, :, cache.tokens(start, frames)].clone() for layer in (*cache.keys, *cache.values)]


def recorded_noise(record: Record, chunks: list[int]) -> Callable[[tuple[int, ...]], Tensor]:
    """The recorded draws in the order in which `rollout` asks for them."""

    def draws() -> Iterator[Tensor]:
        for chunk, start in enumerate(record.latents("in.noise").split(chunks, dim=2)):
            yield start
            steps = sorted(int(match[1]) for _, match in record.matching(rf"in\.renoise\.chunk{chunk}\.step(\d+)"))
            names = [f"in.renoise.chunk{chunk}.step{step}" for step in steps]
            for name in (*names, f"in.clean_pass_noise.chunk{chunk}"):
                if name in record.tensors:
                    yield record[name].transpose(0, 1)[None].to(record.device)

    queue = draws()
    return lambda shape: next(queue)
