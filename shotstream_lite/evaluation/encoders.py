"""Real encoders for full-size films: DINOv2, CLIP and video-text models, by transformers' auto classes.

A name is a local folder or a model on the hub, NAME or NAME@COMMIT. ViCLIP, which the paper uses, is no model of
transformers: its hub folder brings its own Python code and tokenizer, which are not run here. In its place stands
X-CLIP, or CLIP with its features averaged over the frames. Their figures are therefore comparable among themselves,
not with the paper's.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from shotstream_lite.errors import CheckpointError, reason
from shotstream_lite.text import tokenize

BATCH = 32


class Encoder:
    """What image and text encoders share: loading, batches, and the way from frames to pixels.

    Raises CheckpointError when there is no such model, or not one of this kind; one line.
    """

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        self.name, self.device = str(name), torch.device(device)
        self.options: dict[str, Any] = {"trust_remote_code": False}
        if not Path(name).exists():
            self.name, _, commit = self.name.partition("@")
            self.options["revision"] = commit or "main"
        try:
            self.model = AutoModel.from_pretrained(self.name, **self.options)
            self.processor = AutoImageProcessor.from_pretrained(self.name, **self.options)
        except Exception as error:  # transformers raises whatever it meets on the way
            raise CheckpointError(f"{name}: no encoder can be loaded ({reason(error)}): check the name") from None
        self.model.eval().requires_grad_(False).to(self.device)

    def pixels(self, frames: np.ndarray) -> Tensor:
        """uint8 [n, H, W, 3] to what the model reads, [n, 3, h, w]."""
        return self.processor(images=list(frames), return_tensors="pt")["pixel_values"].to(self.device)


class ImageEncoder(Encoder):
    """Features of single frames: DINOv2's class token, or CLIP's image embedding."""

    @torch.inference_mode()
    def frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] to float [n, features]."""
        see = getattr(self.model, "get_image_features", self.model)
        batches = (self.pixels(frames[i : i + BATCH]) for i in range(0, len(frames), BATCH))
        return torch.cat([_tensor(see(pixel_values=pixels)) for pixels in batches]).float().cpu().numpy()


class VideoTextEncoder(Encoder):
    """Features of a shot and of its caption in one space."""

    def __init__(self, name: str | Path, device: str = "cpu") -> None:
        super().__init__(name, device)
        self.whole = hasattr(self.model, "get_video_features")
        if not (hasattr(self.model, "get_text_features") and (self.whole or hasattr(self.model, "get_image_features"))):
            raise CheckpointError(f"{name}: does not read text and pictures: name a CLIP or an X-CLIP")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.name, **self.options)
        except Exception as error:
            raise CheckpointError(f"{name}: no tokenizer can be loaded ({reason(error)}): check the folder") from None
        self.looks = getattr(self.model.config.vision_config, "num_frames", 8)  # X-CLIP is trained for a number

    @torch.inference_mode()
    def shot(self, shot: np.ndarray) -> np.ndarray:
        """uint8 [frames, H, W, 3], of which evenly spread ones are looked at, to float [features] of length 1."""
        pixels = self.pixels(shot[np.linspace(0, len(shot) - 1, self.looks).round().astype(int)])
        if self.whole:
            return _unit(_tensor(self.model.get_video_features(pixel_values=pixels[None])))[0]
        frames = _tensor(self.model.get_image_features(pixel_values=pixels))
        return _unit(F.normalize(frames, dim=-1).mean(0, keepdim=True))[0]

    @torch.inference_mode()
    def text(self, caption: str) -> np.ndarray:
        """A caption, cut to what the model can read, to float [features] of length 1."""
        tokens = tokenize(self.tokenizer, [caption], truncation=True, return_tensors="pt").to(self.device)
        wanted = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        return _unit(_tensor(self.model.get_text_features(**wanted)))[0]


def _tensor(output: object) -> Tensor:
    """The features themselves: transformers gives a tensor, or an output that holds one."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _unit(features: Tensor) -> np.ndarray:
    return F.normalize(features.float(), dim=-1).cpu().numpy()
