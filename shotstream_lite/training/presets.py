"""The recipe in numbers: what each stage of a preset is trained with, under the paper's names.

`toybox` is what two CPU cores can do, the defaults of every stage. `wan-1.3b` is the paper's recipe (supplement sec. 9)
with what only the released configuration says: a shift of 8, beta1 0, gradients clipped to 10 for teacher and critic.
The paper's runs took 32 GPUs.
"""

from typing import Any

_WAN: dict[str, Any] = {"precision": "bf16"}
_WAN_SHOTS = _WAN | {"shift": 8.0, "text_tokens": 512}
_WAN_TRAINED = _WAN_SHOTS | {"warmup": 0, "lr_floor": 1.0, "betas": (0.0, 0.999)}
_WAN_TRAINED |= {"checkpointing": True, "accumulate": 64}  # a sample is 42,120 tokens: one at a time
_WAN_DISTILLED = _WAN_TRAINED | {
    "batch": 32,  # given for intra-shot only
    "lr": 2e-6,
    "critic_lr": 4e-7,
    "critic_updates": 5,
    "critic_clip": 10.0,
    "guidance": 3.0,  # cond + 3 (cond - uncond), ordinary guidance 4
}

# At 4e-5 a hundred updates of the generator hardly move it; led by its history too, it comes back with what was there.
_TOY_DISTILLED: dict[str, Any] = {"lr": 1e-4, "guidance": 0.5, "memory_guidance": 1.0}

# Short shots teach movement as well, and cost less; long ones come often enough to be known.
_LENGTHS = {"lengths": (3, 3, 6, 6, 9, 12, 21)}
_YOUNG: dict[str, Any] = _LENGTHS | {"batch": 16, "optimizer": "muon", "lr": 0.015, "warmup": 50}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {  # the settings of each stage, in their order, by preset
    "toybox": {
        "codec": {},
        "films": {},
        "text": {},
        "base": _YOUNG | {"steps": 2400, "image_steps": 2000, "image_batch": 64, "align": 0.1, "align_steps": 2000},
        "teacher": _YOUNG
        | {"steps": 2900, "image_batch": 8, "looks": 2, "trained": "all", "align": 0.15, "align_steps": 900},
        "ode-pairs": {},
        "causal-init": _LENGTHS | {"steps": 800, "optimizer": "muon", "lr": 0.012, "warmup": 20},
        "intra-shot": _TOY_DISTILLED | _LENGTHS | {"steps": 900, "critic_lr": 4e-4, "critic_updates": 4, "warmup": 30},
        "inter-shot": _TOY_DISTILLED
        | {"lengths": (6, 9, 12), "steps": 160, "critic_lr": 3e-4, "critic_updates": 3, "warmup": 20},
        "decoder": {},
        "probe": {},
    },
    "wan-1.3b": {
        "films": _WAN | {"frames": 81, "height": 480, "width": 832},
        "teacher": _WAN_TRAINED
        | {"steps": 10_000, "batch": 64, "lr": 1e-5, "clip": 10.0, "bell": True, "trained": "self-attention"},
        "ode-pairs": _WAN_SHOTS | {"pairs": 5000, "batch": 1, "sampling_steps": 50, "guidance": 6.0},
        "causal-init": _WAN_TRAINED | {"steps": 2000, "batch": 64, "lr": 1e-6, "trajectories": "teacher"},
        "intra-shot": _WAN_DISTILLED | {"steps": 500},
        "inter-shot": _WAN_DISTILLED
        | {"steps": 1000, "shots": 5, "lora_rank": 256, "lora_alpha": 256.0, "lora_dropout": 0.0},
    },
}
