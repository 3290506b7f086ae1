"""Writes the two released repositories at a tiny size, in exactly their formats: see `released.Release`."""

from pathlib import Path

import torch
from conftest import GOLDEN
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from shotstream_lite.models.convert import diffusers_names
from shotstream_lite.toybox.language import build_tokenizer

COMPONENTS, WEIGHTS = "Wan2.1-T2V-1.3B-Diffusers", "ShotStream"
CHECKPOINTS = {"student": "shotstream_merged.pt", "teacher": "bidirectional_teacher.pt", "causal-init": "ode_init.pt"}
LAYERS, WIDTH = 2, 24  # as many layers as the recorded weights, whose names are used


def write_release(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Both repositories under `folder`; returns the transformers' weights by what they are called here."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    text = UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **sizes))
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    models = {name: build_transformer(seed) for seed, name in enumerate(("base", *CHECKPOINTS))}
    root = folder / COMPONENTS
    WanPipeline(tokenizer, text, vae, scheduler, models["base"]).save_pretrained(root)
    for part, model, shard in (("text_encoder", text, "20KB"), ("transformer", models["base"], "40KB")):
        for weights in (root / part).glob("*.safetensors"):
            weights.unlink()
        model.save_pretrained(root / part, max_shard_size=shard)
    (folder / WEIGHTS).mkdir()
    for name, file in CHECKPOINTS.items():
        torch.save({"generator": released_state(models[name])}, folder / WEIGHTS / file)
    return {name: model.state_dict() for name, model in models.items()}


def build_transformer(seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 2, "attention_head_dim": WIDTH // 2, "ffn_dim": 40, "num_layers": LAYERS}
    return WanTransformer3DModel(text_dim=16, freq_dim=16, in_channels=16, out_channels=16, **sizes).eval()


def released_state(model: WanTransformer3DModel) -> dict[str, Tensor]:
    """A transformer's weights under the released names, ``model.`` included."""
    names = load_file(GOLDEN / "weights.safetensors")
    theirs = {name: original for name, (original, _) in diffusers_names(names).items()}
    return {theirs[name]: tensor for name, tensor in model.state_dict().items()}
