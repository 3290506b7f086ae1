"""What a stage can do so far, to look at: a short story it has not seen, a row a shot, as a picture."""

from pathlib import Path

import torch
from torch import nn

from shotstream_lite.codec import pixel_frames
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline, TeacherPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.stills import write_strip
from shotstream_lite.text import CaptionEncoder
from shotstream_lite.training.batches import Films, FrozenText, usual
from shotstream_lite.training.config import NextShotConfig, StudentConfig
from shotstream_lite.training.loop import Run
from shotstream_lite.training.weights import codec_of, whole

SAMPLED_SHOTS = 3
SAMPLING_STEPS = 20  # of bidirectional models, which take many; a glance needs no 50


def stream_settings(config: NextShotConfig, films: Films, factor: int) -> StreamSettings:
    """How a model that was trained so streams, at the size of its films; `factor` pixels to a latent."""
    height, width = films.clip(0, 0).shape[-2:]
    student = {"chunk": config.chunk, "steps": config.student_steps} if isinstance(config, StudentConfig) else {}
    return StreamSettings(
        height=factor * height,
        width=factor * width,
        shot_frames=pixel_frames(usual(films)),
        budget=config.budget,
        policy=config.policy,
        phase=config.phase,
        own_captions=config.captions == "per-shot",
        shift=config.shift,
        text_tokens=config.text_tokens,
        **student,
    )


class Strips:
    """Draws strips: call it with a path. Only the main process does the work."""

    def __init__(self, run: Run, model: nn.Module, text: FrozenText, config: NextShotConfig, films: Films) -> None:
        self.run, self.model, self.text = run, model, text
        self.kind = ShotStreamPipeline if isinstance(config, StudentConfig) else TeacherPipeline
        self.story = films.example(SAMPLED_SHOTS)
        if 0 < run.config.sample_every <= run.config.steps:
            self.codec = codec_of(run.config)  # complains now and not when the time has come
            self.settings = stream_settings(config, films, self.codec.spatial_factor)

    @torch.no_grad()
    def __call__(self, path: Path) -> None:
        if (model := whole(self.model, self.run.main)) is None:
            return
        self.codec.vae.to(self.run.device)
        text = CaptionEncoder(self.text.text_encoder, self.text.tokenizer, self.settings.text_tokens, truncate=True)
        pipeline = self.kind(model.to(self.run.device), self.codec, text, self.settings)
        pipeline.sampling_steps = SAMPLING_STEPS
        session = StorySession.of(pipeline, self.story)
        for _ in session.tell():
            pass
        path.parent.mkdir(parents=True, exist_ok=True)
        write_strip([told.footage.frames() for told in session.shots], path, columns=6, scale=2)
