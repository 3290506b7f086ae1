"""Distribution matching: what the formulas promise, and the losses built on them."""

import torch
from conftest import Draws, build_transformer, close

from shotstream_lite.conditioning import Conditioning
from shotstream_lite.dmd import (
    critic_loss,
    dmd_gradient,
    dmd_loss,
    fake_score_loss,
    generator_loss,
    guided,
    score,
    score_level,
)
from shotstream_lite.flow import SigmaTable, add_noise, few_step
from shotstream_lite.rollout import begin_shot
from shotstream_lite.training.intra_shot import self_forcing
from shotstream_lite.training.teacher import teacher_loss


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
    noise, rows = torch.randn_like(shots.target), torch.tensor([200, 900])

    def losses(batch, index):
        given = noise[index], rows[index], batch.cond
        return torch.stack(
            (
                teacher_loss(transformer, batch.target, *given, table).double(),
                generator_loss(batch.target, transformer, fake, *given, batch.cond.unconditional(), table=table),
                fake_score_loss(batch.target, fake, *given, table).double(),
            )
        )

    singles = [losses(shots.sample(i), slice(i, i + 1)) for i in range(2)]
    close(losses(shots, slice(None)), sum(singles) / 2)


def test_memory_guidance_leads_away_from_a_first_shot(transformer, shots):
    """The shot is scored without history as training draws a first shot; what history adds is what is exaggerated."""
    fake, table = build_transformer(seed=1), SigmaTable()
    noise, rows, cond = torch.randn_like(shots.target), torch.tensor([300, 600]), shots.cond
    level = score_level(rows, table)
    noisy = add_noise(shots.target, noise, level[1])
    own = shots.captions[torch.arange(2), shots.shot_id][:, None]
    first = torch.tensor([0] * cond.remembered + [1] * cond.frames)
    blank = Conditioning(own, first, torch.zeros_like(first), torch.zeros_like(shots.context))
    alone = score(transformer, noisy, level, blank)
    close(score(transformer, noisy, level, cond.without_history()), alone)

    def gradient(strength):
        generated = shots.target.clone().requires_grad_()
        given = {"guidance": 0.0, "memory_guidance": strength, "table": table}
        generator_loss(generated, transformer, fake, noise, rows, cond, cond.unconditional(), **given).backward()
        return generated.grad * generated.numel()

    with torch.no_grad():
        plain, seen = score(transformer, noisy, level, cond), score(fake, noisy, level, cond)
    close(gradient(2.0), dmd_gradient(seen, plain + 2.0 * (plain - alone), shots.target))
    assert not torch.allclose(gradient(2.0), gradient(0.0))


def test_gradients_go_where_they_belong(transformer, shots):
    real, fake, table = build_transformer(seed=1), build_transformer(seed=2), SigmaTable()
    rows, noise = torch.tensor([300, 600]), torch.randn_like(shots.target)
    cache = begin_shot(transformer, shots.cond)
    generated = self_forcing(transformer, cache, Draws(0, 1), few_step(), [3, 3], 2, table)
    cond, uncond = shots.cond, shots.cond.unconditional()
    generator_loss(generated, real, fake, noise, rows, cond, uncond, table=table).backward()
    assert all(p.grad is not None for p in transformer.parameters())
    assert all(p.grad is None for model in (real, fake) for p in model.parameters())
    transformer.zero_grad()
    fake_score_loss(generated, fake, noise, rows, cond, table).backward()
    assert all(p.grad is not None for p in fake.parameters())
    assert all(p.grad is None for p in transformer.parameters())


def test_guidance_leads_away_from_one_caption_that_all_frames_read():
    torch.manual_seed(0)
    transformer = build_transformer(0)
    ids = torch.tensor([[0, 1, 2, 2]])
    captions, shots = torch.randn(1, 3, 8, transformer.config.text_dim), torch.randn(1, 3, 4, 4, 6)
    cond = Conditioning(captions, ids, ids, shots[:, :, :2])
    for given in (None, captions[:, :1]):
        alone = transformer.joint(shots, 500.0, torch.zeros(1, 1, *captions.shape[2:]) if given is None else given, ids)
        flow = cond.unconditional(given).flow(transformer, shots[:, :, 2:], 500.0)
        torch.testing.assert_close(flow, alone[:, :, 2:])
