"""The teacher as a storyteller: whole shots at once, many steps each (paper sec. 4.1). Slow, and what the student is
measured against."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shotstream_lite.flow import euler_sigmas
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.presets import StreamSettings
from shotstream_lite.reel import Footage
from shotstream_lite.rollout import sample_joint


class TeacherPipeline(ShotStreamPipeline):
    """Tells stories with a bidirectional transformer; load it with `from_pretrained(name, "teacher")`.

    `sampling_steps` Euler steps with classifier-free guidance against an empty caption, whose embedding is all zeros.
    """

    sampling_steps = 50
    guidance = 2.0  # cond where 1; the toybox's colours burn above 3

    @torch.inference_mode()
    def latents(
        self, captions: Sequence[str], past: Sequence[Footage], seed: int, length: int, settings: StreamSettings
    ) -> Iterator[Tensor]:
        """The whole shot in one piece, [1, channels, length, h, w]."""
        context = self.context(past, settings)
        shot_ids = torch.tensor([*context.shot_ids, *[context.shot_id] * length])
        used = sorted(set(shot_ids.tolist())) if past else [len(captions) - 1]
        reads = torch.tensor([used.index(i) if past else 0 for i in shot_ids.tolist()])
        embedded = self.text([captions[i] for i in used])[None]
        generator = torch.Generator().manual_seed(seed)
        batch, channels, _, height, width = context.latents.shape
        yield sample_joint(
            self.transformer,
            torch.randn(batch, channels, length, height, width, generator=generator).to(self.device),
            embedded,
            euler_sigmas(self.sampling_steps, settings.shift),
            shot_ids=shot_ids,
            context=context.latents,
            uncond=torch.zeros_like(embedded[:, :1]),
            guidance=self.guidance,
            caption_ids=reads,
            phase=settings.phase,
        )


def load_pipeline(name: str | Path = "toybox", weights: str = "student") -> ShotStreamPipeline:
    """The storyteller that goes with some weights (see `presets.WEIGHTS`): streaming, or whole shots at once.

    Raises CheckpointError as `ShotStreamPipeline.from_pretrained`.
    """
    if weights not in ("teacher", "base"):
        return ShotStreamPipeline.from_pretrained(name, weights)
    pipeline = TeacherPipeline.from_pretrained(name, weights)
    if weights == "base":  # plain text-to-video: it never learnt to look back
        pipeline.settings = pipeline.settings.changed({"budget": 0})
    return pipeline
