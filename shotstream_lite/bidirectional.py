"""The teacher as a storyteller: whole shots at once, many steps each (paper sec. 4.1). Slow, and what the student is
measured against."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shotstream_lite.film import Footage
from shotstream_lite.flow import euler_sigmas
from shotstream_lite.models.placement import Plan
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import WHOLE_SHOTS, After, Again, Before, ShotStreamPipeline
from shotstream_lite.rollout import sample_joint
from shotstream_lite.story import Lines, line_at


class TeacherPipeline(ShotStreamPipeline):
    """Tells stories with a bidirectional transformer; load it with `from_pretrained(name, "teacher")`.

    `sampling_steps` Euler steps with classifier-free guidance, as strong as the settings say, against their negative
    prompt; without one against an embedding of zeros.
    """

    sampling_steps = 50

    @torch.inference_mode()
    def latents(
        self,
        captions: Sequence[Lines],
        past: Sequence[Footage],
        seed: int,
        length: int,
        settings: StreamSettings,
        before: Before | None = None,
        after: After | None = None,
        again: Again | None = None,
    ) -> Iterator[Tensor]:
        """The whole shot in one piece, [1, channels, length, h, w]; it reads its first caption, and nobody looks on."""
        context = self.context(past, settings)
        shot_ids = torch.tensor([*context.shot_ids, *[context.shot_id] * length], device="cpu")
        used = sorted(set(shot_ids.tolist())) if past else [len(captions) - 1]
        reads = torch.tensor([used.index(i) if past else 0 for i in shot_ids.tolist()], device="cpu")
        embedded = self.text([line_at(captions[i], 0) for i in used])[None]
        negative = settings.negative_prompt
        generator = torch.Generator().manual_seed(seed)
        batch, channels, _, height, width = context.latents.shape
        yield sample_joint(
            self.transformer,
            self.noise(generator)((batch, channels, length, height, width)),
            embedded,
            euler_sigmas(self.sampling_steps, settings.shift),
            shot_ids=shot_ids,
            context=context.latents,
            uncond=self.text([negative])[None] if negative else torch.zeros_like(embedded[:, :1]),
            guidance=settings.guidance,
            caption_ids=reads,
            phase=settings.phase,
        )


def load_pipeline(
    name: str | Path = "toybox", weights: str = "student", device: str = "cpu", plan: Plan | None = None
) -> ShotStreamPipeline:
    """The storyteller that goes with some weights (see `folder.WEIGHTS`): streaming, or whole shots at once.

    plan: where its parts are, see `placement.choose`; None: all on `device`. Raises CheckpointError as
    `ShotStreamPipeline.from_pretrained`.
    """
    kind = TeacherPipeline if weights in WHOLE_SHOTS else ShotStreamPipeline
    pipeline = kind.from_pretrained(name, weights, device, plan)
    if weights == "base":  # plain text-to-video: it never learnt to look back
        pipeline.settings = pipeline.settings.changed({"budget": 0})
    return pipeline
