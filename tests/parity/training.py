"""What the released code computes with gradient: the losses of the teacher, causal initialisation and DMD."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from shotstream_lite import dmd, rollout
from shotstream_lite.cache import ShotCache
from shotstream_lite.conditioning import Conditioning
from shotstream_lite.flow import add_noise, few_step, to_clean
from shotstream_lite.training import causal_init, intra_shot, teacher
from shotstream_lite.transformer import causal_mask, with_context

from .inference import chunk_lengths, recorded_noise
from .record import Case, Record


def check_teacher_loss(case: Case, record: Record) -> None:
    """The teacher's weighted flow-matching loss and its gradients."""
    target, noise, context = (record.latents(f"in.{k}") for k in ("target_latents", "noise", "context_latents"))
    rows, captions, shot_ids = record["in.timestep_index"][None], record.captions(), record["in.shot_ids"]
    sigma, timestep, weight = (t[rows] for t in (case.table.sigmas, case.table.timesteps, case.table.weights))
    noisy = add_noise(target, noise, sigma)
    record.check("level", "in.timestep", timestep)
    record.check("level", "out.sigma", sigma)
    record.check("level", "out.training_weight", weight)
    record.check_latents("level", "out.noisy_target", noisy)
    with torch.no_grad():
        flow = case.student.joint(with_context(context, noisy), timestep, captions, shot_ids)
    error = teacher.flow_error(flow[:, :, context.shape[2] :], target, noise)
    record.check("loss", "out.unweighted_mse", error)
    loss = teacher.teacher_loss(case.student, target, noise, rows, conditioning(record), case.table)
    record.check("loss", "out.loss", loss)
    record.check_gradients("gradients", "out.grad", case.student, loss)


def check_ode_regression(case: Case, record: Record) -> None:
    """Causal initialisation: mask, inputs, prediction, loss and gradients."""
    context, captions, shot_ids = record.latents("in.context_latents"), record.captions(), record["in.shot_ids"]
    trajectory, drawn = record["in.trajectory"].transpose(2, 3).to(case.device), record["in.random_index_per_frame"]
    chunk, past = case["num_frame_per_block"], context.shape[2]
    sigmas = few_step((*case["denoising_step_list"], 0), case.shift)
    levels = causal_init.chunk_levels(drawn, chunk)
    timestep = causal_init.frame_timesteps(levels, sigmas, past)
    seen = with_context(context, causal_init.at_levels(trajectory, levels))
    mask = causal_mask(past, drawn.shape[1], chunk)
    record.check("inputs", "out.frame_mask", mask)
    record.check("inputs", "out.timestep_with_context", timestep)
    record.check("inputs", "out.frames_in_loss", timestep > 0)
    record.check_latents("inputs", "out.model_input", seen)
    with torch.no_grad():
        flow = case.student.joint(seen, timestep, captions, shot_ids, mask=mask.to(case.device))
    clean = to_clean(seen, flow, case.table.sigma(timestep))
    record.check_latents("prediction", "out.flow", flow)
    record.check_latents("prediction", "out.x0", clean)
    error = causal_init.frame_error(clean[:, :, past:], trajectory[:, -1])
    record.check("loss", "out.unnormalized_loss", error.mean(dim=1))
    cond = conditioning(record)
    loss = causal_init.causal_init_loss(case.student, trajectory, drawn, sigmas, cond, case.table, chunk)
    record.check("loss", "out.loss", loss)
    record.check_gradients("gradients", "out.grad", case.student, loss)


def check_dmd_formula(case: Case, record: Record) -> None:
    """Gradient and losses of distribution matching on given predictions."""
    context, noise, fake_x0 = (record.latents(f"in.{k}") for k in ("context_latents", "noise", "fake_x0_cond"))
    pred_x0 = record.latents("in.pred_x0").requires_grad_()
    level = dmd.score_level(record["in.timestep_index"][None], case.table)
    check_score_input(record, "", level, with_context(context, add_noise(pred_x0, noise, level[1])))
    real_x0 = dmd.guided(
        record.latents("in.real_x0_cond"), record.latents("in.real_x0_uncond"), record["in.guidance_scale"]
    )
    grad = dmd.dmd_gradient(fake_x0, real_x0, pred_x0.detach())
    loss = dmd.dmd_loss(pred_x0, grad)
    record.check_latents("gradient", "out.real_x0_cfg", real_x0)
    record.check_latents("gradient", "out.unnormalized_grad", fake_x0 - real_x0)
    record.check("gradient", "out.normalizer", dmd.dmd_normalizer(pred_x0, real_x0))
    record.check_latents("gradient", "out.grad", grad)
    record.check("gradient", "out.dmdtrain_gradient_norm", grad.abs().mean())
    record.check("generator loss", "out.loss_float64", loss)
    record.check_latents("generator loss", "out.dloss_dpred_x0", torch.autograd.grad(loss, pred_x0)[0])

    level = dmd.score_level(record["critic.in.timestep_index"][None], case.table)
    generated, noise = record.latents("critic.in.generated_x0"), record.latents("critic.in.noise")
    noisy = add_noise(generated, noise, level[1])
    record.check("critic's input", "critic.out.sigma", level[1])
    check_score_input(record, "critic.", level, with_context(context, noisy))
    fake_x0 = record.latents("critic.in.fake_x0_pred")
    record.check("critic loss", "critic.out.loss", dmd.critic_loss(fake_x0, noisy, level[1], generated, noise))


def check_score_input(record: Record, role: str, level: tuple[Tensor, Tensor], seen: Tensor) -> None:
    """What a score model is shown: timestep, the same for all frames, and [context | noised shot]."""
    item = "critic's input" if role else "scores' input"
    for key in (f"{role}out.timestep", f"{role}out.score_model_timestep"):
        record.check_level(item, key, level[0])
    record.check_latents(item, f"{role}out.score_model_input", seen)


def check_dmd_generator(case: Case, record: Record) -> None:
    """A whole generator update: rollout, three scores, loss, and both kinds of gradient."""
    cond, noise, rows = conditioning(record), record.latents("in.dmd_noise"), record["in.dmd_timestep_index"][None]
    uncond = cond.unconditional(record.captions("in.uncond_embeds"))
    generated = recorded_rollout(case, record, ShotCache)
    record.check_latents("rollout", "out.pred_x0", generated)

    level = dmd.score_level(rows, case.table)
    noisy = add_noise(generated.detach(), noise, level[1])
    record.check_level("scores", "out.dmd_timestep", level[0])
    record.check_latents("scores", "out.dmd_noisy_latents", noisy)
    seen = with_context(cond.context, noisy)
    whole, free = (replace(c, context=None) for c in (cond, uncond))  # what is recorded has the context's part, too
    with torch.no_grad():
        fake_x0 = dmd.score(case.fake, seen, level, whole)
        real_x0 = dmd.score(case.student, seen, level, whole)
        free_x0 = dmd.score(case.student, seen, level, free)
    record.check_latents("scores", "out.fake_x0_cond_with_context", fake_x0)
    record.check_latents("scores", "out.real_x0_cond_with_context", real_x0)
    record.check_latents("scores", "out.real_x0_uncond_with_context", free_x0)
    guided = dmd.guided(real_x0, free_x0, case["guidance_scale"])
    past = cond.remembered
    grad = dmd.dmd_gradient(fake_x0[:, :, past:], guided[:, :, past:], generated.detach())
    record.check_latents("scores", "out.grad_normalized", grad)

    def loss_of(shot: Tensor) -> Tensor:
        strength = {"guidance": case["guidance_scale"], "table": case.table}
        return dmd.generator_loss(shot, case.student, case.fake, noise, rows, cond, uncond, **strength)

    loss = loss_of(generated)
    record.check("loss", "out.loss_float64", loss)
    record.check_gradients("gradients, cache detached", "out.grad_cache_detached", case.student, loss)
    released = loss_of(recorded_rollout(case, record, LeakyCache))
    record.check_gradients("gradients, released cache", "out.grad", case.student, released)


def check_dmd_critic(case: Case, record: Record) -> None:
    """A whole critic update: rollout without gradient, fake score, loss and gradients."""
    cond, noise = conditioning(record), record.latents("in.critic_noise")
    rows = record["in.critic_timestep_index"][None]
    with torch.no_grad():
        generated = recorded_rollout(case, record, ShotCache)
        level = dmd.score_level(rows, case.table)
        seen = with_context(cond.context, add_noise(generated, noise, level[1]))
        fake_x0 = dmd.score(case.fake, seen, level, replace(cond, context=None))
    record.check_latents("rollout", "out.pred_x0", generated)
    record.check_level("score", "out.critic_timestep", level[0])
    record.check_level("score", "out.score_model_timestep", level[0])
    record.check_latents("score", "out.score_model_input", seen)
    record.check_latents("score", "out.fake_x0_with_context", fake_x0)
    loss = dmd.fake_score_loss(generated, case.fake, noise, rows, cond, case.table)
    record.check("loss", "out.loss", loss)
    record.check_gradients("gradients", "out.grad", case.fake, loss)


@dataclass
class LeakyCache(ShotCache):
    """The released training cache: values from the clean pass, gradient to the exit step that made the chunk.

    Not used for training here; it shows that this edge is all that parts our gradient from the released one.
    """

    exits: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def append_kv(
        self, tokens: slice, layer: int, keys: Tensor, values: Tensor, query: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        known = super().append_kv(tokens, layer, keys, values, query)
        if not torch.is_grad_enabled():
            return known
        first = self.context_frames * self.frame_tokens
        exits = self.exits.setdefault(layer, [])
        edges = [torch.cat(earlier, dim=2) for earlier in zip(*exits, strict=True)]
        exits.append((keys, values))
        if not edges:
            return known
        pad = (0, 0, first, keys.shape[2])
        return tuple(
            now + torch.nn.functional.pad(edge - edge.detach(), pad) for now, edge in zip(known, edges, strict=True)
        )


def recorded_rollout(case: Case, record: Record, memory: type[ShotCache]) -> Tensor:
    """The recorded self-forcing rollout of a shot, with a cache of the given kind. Shape: [B, C, F, H, W]."""
    cond = conditioning(record)
    cache = rollout.begin_shot(case.student, cond, case["max_context_frames"])
    chunks = chunk_lengths(cond.frames, case["num_frame_per_block"])
    return intra_shot.self_forcing(
        case.student,
        memory(**vars(cache)),
        recorded_noise(record, chunks),
        case.sigmas,
        chunks,
        int(record["in.exit_step"]),
        case.table,
    )


def conditioning(record: Record) -> Conditioning:
    """What the recorded shot was made from."""
    return Conditioning(record.captions(), record["in.shot_ids"], context=record.latents("in.context_latents"))
