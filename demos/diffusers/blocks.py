"""ShotStream as modular blocks of diffusers: the steps of one shot, each to be looked into, replaced or left out.

The work is done by shotstream_lite; a block names a step, what it needs and what it gives. See README.md beside this.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.modular_pipelines import (
    ComponentSpec,
    InputParam,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    OutputParam,
    SequentialPipelineBlocks,
)
from huggingface_hub import hf_hub_download
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from shotstream_lite.codec import latent_frames, to_frames
from shotstream_lite.flow import few_step
from shotstream_lite.footage import Reel
from shotstream_lite.models.placement import Plan, arrange
from shotstream_lite.models.settings import load_settings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.rollout import begin_shot, chunk_sizes, clean_pass, denoise_chunk
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.transformer import adopt


def storyteller(components):
    """The loaded components as a ShotStreamPipeline, made once: it remembers captions and frames it has encoded."""
    parts = (components.transformer, components.vae, components.text_encoder, components.tokenizer)
    if any(part is None for part in parts):
        raise ValueError("transformer, vae, text_encoder or tokenizer is not loaded: call load_components() first")
    known = getattr(components, "_storyteller", None)
    if known is None or known[0] != parts:
        source = components.get_component_spec("transformer").pretrained_model_name_or_path
        file = Path(source) / "stream.json" if Path(source).is_dir() else Path(hf_hub_download(source, "stream.json"))
        settings = load_settings(file.parent)
        for tensor in (tensor for model in parts[:3] for tensor in model.parameters()):
            tensor.data = tensor.data.clone()  # where weights lie in a file decides about last bits
        arranged = arrange(adopt(parts[0]), *parts[1:], settings, str(components.transformer.device), Plan())
        known = components._storyteller = parts, ShotStreamPipeline(*arranged, settings, str(source))
    return known[1]


class Block(ModularPipelineBlocks):
    """A step that is written as one method: `work(storyteller, state)` reads and sets what it declares."""

    model_name = "shotstream"
    needs, gives, about = (), (), ""

    @property
    def description(self):
        return self.about

    @property
    def expected_components(self):
        kinds = {
            "transformer": WanTransformer3DModel,
            "vae": AutoencoderKLWan,
            "text_encoder": UMT5EncoderModel,
            "tokenizer": PreTrainedTokenizerBase,
        }
        return [ComponentSpec(name, kind) for name, kind in kinds.items()]

    @property
    def inputs(self):
        return [need if isinstance(need, InputParam) else InputParam(need, required=True) for need in self.needs]

    @property
    def intermediate_outputs(self):
        return [OutputParam(name) for name in self.gives]

    @torch.inference_mode()
    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        self.work(storyteller(components), block_state)
        self.set_block_state(state, block_state)
        return components, state


class PickHistory(Block):
    about = "Picks frames of earlier shots by sparse history sampling, and encodes each alone (paper sec. 4.1)."
    needs = (
        InputParam("past", default=(), description="earlier shots, each uint8 [f, height, width, 3]"),
        InputParam("settings", default=None, description="changes of the model's stream.json, by name"),
    )
    gives = ("stream", "context")

    def work(self, teller, state):
        state.stream = teller.settings.changed(state.settings or {})
        teller.check(state.stream)
        reel = Reel()
        state.context = teller.context([reel.append(np.asarray(shot)) for shot in state.past], state.stream)


class EncodeCaptions(Block):
    about = "Encodes the captions that the shot and its remembered frames read."
    needs = (
        InputParam("global_caption", required=True, description="what holds for the whole story"),
        InputParam("captions", required=True, description="of all shots so far and, last, of this one"),
        InputParam("num_frames", default=None, description="of the shot; by default as long as stream.json says"),
        "context",
        "stream",
    )
    gives = ("conditioning",)

    def work(self, teller, state):
        story = Story(state.global_caption, [Shot(caption) for caption in state.captions])
        lines = captions(story, len(story.shots))
        length = latent_frames(state.num_frames or state.stream.shot_frames)
        state.conditioning = teller.conditioning(lines, state.context, length, state.stream)


class FillGlobalCache(Block):
    about = "Fills the global cache with the remembered frames; the local one is empty (paper sec. 4.2)."
    needs = ("conditioning", "stream")
    gives = ("cache", "sizes")

    def work(self, teller, state):
        state.cache = begin_shot(teller.transformer, state.conditioning, state.stream.budget)
        state.sizes = chunk_sizes(state.conditioning.frames, state.stream.chunk)


class Step(Block):
    """A step within the loop over chunks."""

    def __call__(self, components, state, start):
        self.work(storyteller(components), state, start)
        return components, state


class DenoiseChunk(Step):
    about = "Makes a chunk's latents out of noise in a few steps, looking at both caches."

    def work(self, teller, state, start):
        sigmas, frames = few_step(state.stream.steps, state.stream.shift), state.sizes[len(state.latents)]
        noise = teller.noise(state.generator)
        state.latents.append(denoise_chunk(teller.transformer, state.cache, noise, sigmas, start, frames, None))


class Decode(Step):
    about = "Decodes the chunk, and hands its frames to `on_frames` while the rest of the shot is still to be made."

    def work(self, teller, state, start):
        frames = to_frames(state.decoder.decode(state.latents[-1])[0].transpose(0, 1)).cpu().numpy()
        state.pieces.append(frames)
        if state.on_frames:
            state.on_frames(frames)


class CleanPass(Step):
    about = "Writes the finished chunk to the local cache, unless it is the shot's last one."

    def work(self, teller, state, start):
        if len(state.latents) < len(state.sizes):
            clean_pass(teller.transformer, state.cache, teller.noise(state.generator), state.latents[-1], start)


class StreamShot(LoopSequentialPipelineBlocks):
    model_name = "shotstream"
    block_classes = [DenoiseChunk, Decode, CleanPass]
    block_names = ["denoise_chunk", "decode", "clean_pass"]

    @property
    def description(self):
        return "Makes the shot chunk by chunk."

    @property
    def loop_inputs(self):
        return [
            *(InputParam(name, required=True) for name in ("cache", "sizes", "stream")),
            InputParam("seed", default=0, description="of all noise of the shot"),
            InputParam("on_frames", default=None, description="called with each chunk's frames as they come"),
        ]

    @property
    def loop_intermediate_outputs(self):
        return [OutputParam("frames", description="the shot, uint8 [f, height, width, 3]"), OutputParam("latents")]

    @torch.inference_mode()
    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.generator = torch.Generator().manual_seed(block_state.seed)
        block_state.decoder = storyteller(components).codec.stream()
        block_state.latents, block_state.pieces = [], []
        for done in range(len(block_state.sizes)):
            self.loop_step(components, block_state, start=sum(block_state.sizes[:done]))
        block_state.frames = np.concatenate(block_state.pieces)
        block_state.latents = torch.cat(block_state.latents, dim=2)
        self.set_block_state(state, block_state)
        return components, state


class ShotStreamBlocks(SequentialPipelineBlocks):
    model_name = "shotstream"
    block_classes = [PickHistory, EncodeCaptions, FillGlobalCache, StreamShot]
    block_names = ["pick_history", "encode_captions", "fill_global_cache", "stream_shot"]

    @property
    def description(self):
        return "The next shot of a story, as ShotStream makes it."

    @property
    def outputs(self):
        return [OutputParam("frames", description="the shot, uint8 [f, height, width, 3]")]
