"""Rivals that make all shots of a story at once: who sees whom, and which level each shot is at.

Each is the one transformer with another `joint`, so that `teacher_loss` and samplers use it as they use a teacher. They
know every caption before the first frame: none of them can stream.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from shotstream_lite.flow import TIMESTEPS, add_noise
from shotstream_lite.rivals.film import MARKS, Mark
from shotstream_lite.transformer import ShotStreamTransformer, after_attention, before_attention, causal_mask

NEVER = -1e4  # a logit that no softmax gives any weight
Change = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Of the rotated queries and keys and the values of a block, [B, heads, tokens, head_dim] each."""


def seen_through(
    model: ShotStreamTransformer, change: Change | None = None, turn: Tensor | None = None
) -> ShotStreamTransformer:
    """A view on a model that shares all its weights; the model itself stays as it is.

    turn: rotations on top of those of `joint`, complex [1 or B, tokens, 1, head_dim / 2]
    """

    def before(block, x: Tensor, modulation: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = before_attention(block, x, modulation, table if turn is None else table * turn)
        return parts if change is None else change(*parts)

    view = copy.copy(model)
    view.halves, view.whole = (before, after_attention), None
    return view


def biased(query: Tensor, keys: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose logits are greater by ``rows @ columns.T``, which travel as further channels.

    Shape: rows [..., queries, m] and columns [..., keys, m], for all samples and heads or for each
    """
    size, grown = query.shape[-1], query.shape[-1] + rows.shape[-1]
    rows, columns = (x.to(query).expand(*query.shape[:-1], -1) for x in (rows * grown**0.5, columns))
    return torch.cat((query * (grown / size) ** 0.5, rows), dim=-1), torch.cat((keys, columns), dim=-1)


class Joint(ShotStreamTransformer):
    """Full attention over all shots, each frame reading its shot's caption.

    With no mark this is Mask^2DiT (2025) without its conditional half, with an offset of .5 or 4 it is
    MultiShotMaster or EchoShot (2025), and with any mark a next-shot teacher that tells cuts by it.
    """

    mark = Mark()
    causal = False  # a shot sees the earlier ones and itself
    asynchronous = False  # in training each shot has a level of its own

    @classmethod
    def of(cls, model: ShotStreamTransformer, **answers) -> "Joint":
        """The same weights seen so; answers: attributes that differ from the class's."""
        view = copy.copy(model)
        view.__class__ = cls
        view.__dict__.update(answers)
        return view

    def mask(self, shots: Tensor) -> Tensor | None:
        """Which frames see which, as `ShotStreamTransformer.joint` has it. Shape: [F] to [F, F]."""
        return shots[:, None] >= shots if self.causal else None

    def change(self, shots: Tensor, tokens: int) -> Change | None:
        """What happens to queries and keys before they meet; tokens: of a frame."""

    def joint(self, latents, timestep, captions, shot_ids, *, mask=None, phase=0.0, **options) -> Tensor:
        """As in `ShotStreamTransformer`, but for mask and mark; `phase` is not used."""
        height, width = self.token_grid(*latents.shape[3:])
        change, turn = self.change(shot_ids, height * width), None
        if self.mark != Mark():
            turn = self.mark.turn(shot_ids, height * width, self.config.attention_head_dim).to(latents.device)
        view = seen_through(self, change, turn) if change or turn is not None else self
        options |= {"mask": self.mask(shot_ids) if mask is None else mask, "phase": 0.0}
        return ShotStreamTransformer.joint(view, latents, timestep, captions, shot_ids, **options)


class LongContext(Joint):
    """Long context tuning (Guo et al. 2025): full attention, shots apart on all three axes, each at its own level.

    So it makes all shots together, or the next one from earlier ones that are clean or a little noisy. `causal`: after
    its context-causal tuning, where earlier shots can be kept as keys and values.
    """

    mark = MARKS["diagonal"]
    asynchronous = True


class HoloCine(Joint):
    """HoloCine (Meng et al. 2025): a frame sees its own shot, and of every shot the first frame as a summary.

    Its own first frame it therefore sees twice; `double` off counts it once.
    """

    double = True

    def mask(self, shots: Tensor) -> Tensor:
        first = F.pad(shots[1:] != shots[:-1], (1, 0), value=True)
        return ((shots[:, None] == shots).int() + first.int()).clamp(max=1 + self.double)


class Contexts(Joint):
    """Mixture of contexts (Cai et al. 2025): every query of every head picks the `routed` frames it fits best.

    A frame is described by the mean of its keys. A query's own shot is always there, outside of the choice, and by
    `earlier` it may choose among earlier shots only, so that no two shots choose each other.
    """

    routed = 6
    earlier = True

    def change(self, shots: Tensor, tokens: int) -> Change:
        rows = shots.repeat_interleave(tokens)[:, None]
        may = rows > shots if self.earlier else rows != shots
        frame = torch.eye(len(shots), device=shots.device).repeat_interleave(tokens, 0)

        def route(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                described = keys.unflatten(2, (len(shots), tokens)).mean(3)
                scores = (query @ described.mT).masked_fill(~may.to(query.device), -torch.inf)
                best = scores.topk(min(self.routed, len(shots)), dim=-1)
                chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best.indices, best.values > -torch.inf)
                logits = torch.where(chosen | (rows == shots).to(query.device), 0.0, NEVER)
            return *biased(query, keys, logits, frame), values

        return route


class DiffusionForcing(Joint):
    """Diffusion Forcing (Chen et al. 2024): chunk after chunk, each at a level of its own, in training as in use."""

    def mask(self, shots: Tensor) -> Tensor:
        return causal_mask(0, len(shots), chunk=3)


class Consistent(Joint):
    """StoryDiffusion's attention among keyframes (Zhou et al. 2024): one's own tokens and a random half of others'.

    Not in the first tenth of the steps, when the picture is laid out; then in seven passes of ten, later in nine.
    Training-free, on a model of single frames. `levels`: the noise levels at which the two begin.
    """

    levels = (0.96, 0.85)
    kept = 0.5
    source: torch.Generator | None = None

    def joint(self, latents, timestep, *others, **options) -> Tensor:
        sigma = float(torch.as_tensor(timestep).max()) / TIMESTEPS
        rate = 0.0 if sigma > self.levels[0] else 0.7 if sigma > self.levels[1] else 0.9
        self.looks = bool(torch.rand((), generator=self.source) < rate)
        return super().joint(latents, timestep, *others, **options)

    def mask(self, shots: Tensor) -> Tensor | None:
        return None if self.looks else shots[:, None] == shots

    def change(self, shots: Tensor, tokens: int) -> Change | None:
        if not self.looks:
            return None
        frame = torch.eye(len(shots)).repeat_interleave(tokens, 0)
        hidden = frame * (torch.rand(len(frame), 1, generator=self.source) >= self.kept)
        return lambda query, keys, values: (*biased(query, keys, NEVER * (1 - frame), hidden), values)


KINDS: dict[str, tuple[type[Joint], dict]] = {"full": (Joint, {}), "lct": (LongContext, {})}
KINDS |= {"lct-causal": (LongContext, {"causal": True}), "holocine": (HoloCine, {}), "moc": (Contexts, {})}
"""The joint rivals by name, with the answers that differ from their class's."""


def pyramid(steps: int, lags: list[int]) -> Tensor:
    """Who is at which level in which pass: Diffusion Forcing's scheduling matrix (Chen et al. 2024).

    Levels count down from `steps`, pure noise, to 0; a frame waits `lags` passes before it begins. All at 0 is joint
    generation, a multiple of `steps` for each shot (or chunk) one after another, and in between a pyramid.

    Shape: [passes + 1, frames]
    """
    passes = torch.arange(steps + max(lags) + 1)[:, None]
    return (steps + torch.tensor(lags) - passes).clamp(0, steps)


@torch.no_grad()
def sample_film(
    model, noise: Tensor, captions: Tensor, sigmas, shot_ids, matrix: Tensor, *, uncond=None, guidance=1.0, history=0.0
) -> Iterator[Tensor]:
    """The latents after every pass; frames that have not begun are left out of it, for earlier ones must not see them.

    Shape:
        noise: [B, C, F, H, W]; captions: [B, shots, text_tokens, text_dim]; uncond: [B, 1, ...] or None
        sigmas: [steps + 1], the last 0; matrix: see `pyramid`; history: the level finished frames are seen at
        yields: [B, C, F, H, W]
    """
    keys, free = model.caption_keys(captions), None if uncond is None else model.caption_keys(uncond)
    latents, levels = noise.clone(), sigmas.flip(0)
    for now, then in zip(matrix[:-1], matrix[1:], strict=True):
        live = int((then < matrix.max()).nonzero().max()) + 1
        now, then, ids = now[:live], then[:live], shot_ids[:live]
        known = add_noise(latents[:, :, :live], noise[:, :, :live], history)
        seen = torch.where((now == 0).view(1, 1, -1, 1, 1).to(noise.device), known, latents[:, :, :live])
        timestep = (torch.where(now == 0, history, levels[now]) * TIMESTEPS).expand(len(noise), -1)
        flow = model.joint(seen, timestep, keys, ids, caption_ids=ids)
        if free is not None:
            unguided = model.joint(seen, timestep, free, ids, caption_ids=torch.zeros_like(ids))
            flow = unguided + guidance * (flow - unguided)
        step = (levels[then] - levels[now]).view(1, 1, -1, 1, 1)
        latents[:, :, :live] += step.to(flow) * flow
        yield latents


def replay(
    model, clean: Tensor, noisy: Tensor, timestep: float, captions, chunk: int, *, caption_ids: Tensor, detach=False
) -> Tensor:
    """All chunks of a film in one pass: [clean | noisy], a noisy chunk seeing clean ones before it and itself.

    CausalCine's causal base learns so from real films. Of a student's own rollout, at the exit step and with the
    noise it had there, this is self-gradient forcing's second pass (2026): clean keys carry gradient, so that the loss
    of a later chunk trains how earlier ones are remembered. `detach`: they do not, which is Self Forcing once more.

    Shape: clean, noisy [B, C, F, H, W]; timestep of the noisy half; caption_ids [F]; returns the flow of the noisy half
    """
    frames, (height, width) = clean.shape[2], model.token_grid(*clean.shape[3:])
    tokens, order = frames * height * width, torch.arange(frames) // chunk
    before, own = order[:, None] > order, order[:, None] == order
    mask = torch.cat((torch.cat((before | own, torch.zeros_like(own)), 1), torch.cat((before, own), 1)))

    def cut_off(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, *(torch.cat((x[:, :, :tokens].detach(), x[:, :, tokens:]), 2) for x in (keys, values))

    times = torch.as_tensor(timestep, dtype=torch.float32).expand(len(clean), frames)
    both, times = torch.cat((clean, noisy), dim=2), torch.cat((torch.zeros_like(times), times), dim=1)
    options = {"caption_ids": caption_ids.repeat(2), "positions": torch.arange(frames).repeat(2), "mask": mask}
    return (seen_through(model, cut_off) if detach else model).joint(both, times, captions, **options)[:, :, frames:]
