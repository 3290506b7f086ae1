"""Distribution matching: what the formulas promise, and the losses built on them."""

import torch
from conftest import Draws, build_transformer, close

from shotstream_lite.dmd import (
    critic_loss,
    dmd_gradient,
    dmd_loss,
    fake_score_loss,
    generator_loss,
    guided,
    score,
    score_level,
    score_without_history,
)
from shotstream_lite.flow import SigmaTable, add_noise, few_step
from shotstream_lite.rollout import begin_shot
from shotstream_lite.training.intra_shot import self_forcing
from shotstream_lite.training.teacher import teacher_loss
from shotstream_lite.transformer import with_context


def draw(count):
    return torch.randn(count, 2, 3, 4, 4, 6, generator=torch.Generator().manual_seed(0))


def test_the_loss_passes_the_gradient_on():
    pred, grad = draw(2)
    pred.requires_grad_()
    dmd_loss(pred, grad).backward()
    close(pred.grad, grad / grad.numel(), 1e-6)


def test_the_gradient_is_normalised_per_sample():
    fake, real, pred = draw(3)
    scaled = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    close(dmd_gradient(fake * scaled, real * scaled, pred * scaled), dmd_gradient(fake, real, pred))
    assert not dmd_gradient(real, real, pred).any()
    assert not dmd_gradient(real, real, real).any()  # 0 / 0


def test_guidance_three_is_four_in_the_usual_convention():
    cond, uncond = draw(2)
    close(guided(cond, uncond, 3.0), uncond + 4 * (cond - uncond))


def test_a_perfect_critic_has_no_loss():
    generated, noise = draw(2)
    sigma = torch.tensor([0.3, 0.8])
    noisy = add_noise(generated, noise, sigma)
    assert critic_loss(generated, noisy, sigma, generated, noise) < 1e-9
    assert critic_loss(generated + 1, noisy, sigma, generated, noise) > 1


def test_losses_of_a_batch_are_means_of_single_ones(transformer, shots):
    """Every sample has its own shots, captions, noise level and history."""
    fake, table = build_transformer(seed=1), SigmaTable()
    noise, uncond = torch.randn_like(shots.target), torch.zeros_like(shots.captions[:, :1])
    rows = torch.tensor([200, 900])

    def losses(batch, index):
        common = {"context": batch.context, "table": table}
        n, r, u = noise[index], rows[index], uncond[index]
        captions, ids = batch.captions, batch.shot_ids
        return torch.stack(
            (
                teacher_loss(transformer, batch.target, n, r, captions, ids, **common).double(),
                generator_loss(batch.target, transformer, fake, n, r, captions, u, ids, **common),
                fake_score_loss(batch.target, fake, n, r, captions, ids, **common).double(),
            )
        )

    singles = [losses(shots.sample(i), slice(i, i + 1)) for i in range(2)]
    close(losses(shots, slice(None)), sum(singles) / 2)


def test_memory_guidance_leads_away_from_a_first_shot(transformer, shots):
    """The shot is scored without history as training draws a first shot; what history adds is what is exaggerated."""
    fake, table = build_transformer(seed=1), SigmaTable()
    remembered, noise, rows = shots.context.shape[2], torch.randn_like(shots.target), torch.tensor([300, 600])
    level = score_level(rows, table)
    noisy = with_context(shots.context, add_noise(shots.target, noise, level[1]))
    told = torch.arange(2), shots.shot_id
    first = torch.tensor([0] * remembered + [1] * shots.target.shape[2])
    blank = torch.cat((torch.zeros_like(shots.context), noisy[:, :, remembered:]), dim=2)
    alone = score(transformer, blank, level, shots.captions[told][:, None], first, torch.zeros_like(first))
    close(score_without_history(transformer, noisy, level, shots.captions, shots.shot_ids, None, remembered), alone)

    def gradient(strength):
        generated = shots.target.clone().requires_grad_()
        given = {"context": shots.context, "guidance": 0.0, "memory_guidance": strength, "table": table}
        uncond = torch.zeros_like(shots.captions[:, :1])
        given |= {"uncond": uncond, "captions": shots.captions, "shot_ids": shots.shot_ids}
        generator_loss(generated, transformer, fake, noise, rows, **given).backward()
        return generated.grad * generated.numel()

    with torch.no_grad():
        plain = score(transformer, noisy, level, shots.captions, shots.shot_ids)
        real = (plain + 2.0 * (plain - alone))[:, :, remembered:]
        seen = score(fake, noisy, level, shots.captions, shots.shot_ids)[:, :, remembered:]
    close(gradient(2.0), dmd_gradient(seen, real, shots.target))
    assert not torch.allclose(gradient(2.0), gradient(0.0))


def test_gradients_go_where_they_belong(transformer, shots):
    real, fake, table = build_transformer(seed=1), build_transformer(seed=2), SigmaTable()
    rows, noise = torch.tensor([300, 600]), torch.randn_like(shots.target)
    cache = begin_shot(transformer, shots.context, shots.context_ids, shots.shot_id, shots.captions, 6)
    generated = self_forcing(transformer, cache, Draws(0, 1), few_step(), [3, 3], 2, table)
    scored = {"context": shots.context, "table": table}
    captions, ids = shots.captions, shots.shot_ids
    generator_loss(generated, real, fake, noise, rows, captions, captions[:, :1], ids, **scored).backward()
    assert all(p.grad is not None for p in transformer.parameters())
    assert all(p.grad is None for model in (real, fake) for p in model.parameters())
    transformer.zero_grad()
    fake_score_loss(generated, fake, noise, rows, captions, ids, **scored).backward()
    assert all(p.grad is not None for p in fake.parameters())
    assert all(p.grad is None for p in transformer.parameters())
