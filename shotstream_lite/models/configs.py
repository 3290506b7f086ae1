"""What the config.json files of a model may say: kind, range and fit with each other, before anything is built of them.

Names and meanings are diffusers' and transformers'; what is not named here is not read.
"""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config

from shotstream_lite.errors import CheckpointError
from shotstream_lite.files import MEBIBYTE, read_json

AGAIN = "fetch the model folder again"
PARTS = ("transformer", "vae", "text_encoder")


class Rule(NamedTuple):
    """Which values fit, and what they are in words."""

    fits: Callable[[Any], bool]
    words: str


def whole(low: int, high: int, even: bool = False) -> Rule:
    words = f"{'an even' if even else 'a whole'} number from {low} to {high}"
    return Rule(lambda value: type(value) is int and low <= value <= high and not (even and value % 2), words)


def number(low: float, high: float) -> Rule:
    """Above `low`, at most `high`; never NaN."""
    return Rule(lambda value: type(value) in (int, float) and low < value <= high, f"above {low:g}, at most {high:g}")


def one_of(*values: Any) -> Rule:
    return Rule(
        lambda value: any(type(value) is type(known) and value == known for known in values),
        " or ".join("null" if value is None else repr(value) for value in values),
    )


def many(rule: Rule, most: int) -> Rule:
    fits = lambda value: isinstance(value, list | tuple) and len(value) <= most and all(map(rule.fits, value))  # noqa: E731
    return Rule(fits, f"a list of at most {most}, each {rule.words}")


def or_null(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.fits(value), f"{rule.words}, or null")


_TRUTH, _EPSILON = one_of(True, False), number(0, 0.1)
_PATCH = Rule(
    lambda value: many(whole(1, 16), 3).fits(value) and len(value) == 3 and value[0] == 1 and value[1] == value[2],
    "[1, n, n], a token being in one latent frame",
)
FINITE = Rule(lambda value: type(value) in (int, float) and math.isfinite(value), "a number")

RULES: Mapping[str, Mapping[str, Rule]] = {
    "transformer": {
        "_class_name": Rule(
            lambda name: name == "WanTransformer3DModel" or isinstance(name, str) and not name.endswith("DModel"),
            "WanTransformer3DModel or a class of ours made of it",
        ),
        "patch_size": _PATCH,
        "num_attention_heads": whole(1, 256),
        "attention_head_dim": whole(6, 1024, even=True),
        "in_channels": whole(1, 1024),
        "out_channels": whole(1, 1024),
        "text_dim": whole(1, 65536),
        "freq_dim": whole(2, 16384, even=True),
        "ffn_dim": whole(1, 262144),
        "num_layers": whole(1, 256),
        "cross_attn_norm": _TRUTH,
        "qk_norm": one_of("rms_norm_across_heads"),
        "eps": _EPSILON,
        "image_dim": one_of(None),
        "added_kv_proj_dim": one_of(None),
        "rope_max_seq_len": whole(1, 16384),
        "pos_embed_seq_len": one_of(None),
    },
    "vae": {
        "_class_name": one_of("AutoencoderKLWan"),
        "base_dim": whole(1, 1024),
        "decoder_base_dim": or_null(whole(1, 1024)),
        "z_dim": whole(1, 1024),
        "dim_mult": many(whole(1, 64), 6),
        "num_res_blocks": whole(0, 16),
        "attn_scales": many(number(0, 64), 6),
        "temperal_downsample": many(_TRUTH, 6),
        "dropout": number(-1e-9, 0.99),
        "latents_mean": many(FINITE, 1024),
        "latents_std": many(number(0, 1e6), 1024),
        "is_residual": _TRUTH,
        "in_channels": whole(1, 1024),
        "out_channels": whole(1, 1024),
        "patch_size": or_null(whole(1, 16)),
        "scale_factor_temporal": one_of(4),
        "scale_factor_spatial": or_null(whole(1, 128)),
    },
    "text_encoder": {
        "model_type": one_of("umt5"),
        "vocab_size": whole(1, 2**22),
        "d_model": whole(1, 65536),
        "d_kv": whole(1, 4096),
        "d_ff": whole(1, 262144),
        "num_layers": whole(1, 256),
        "num_decoder_layers": or_null(whole(1, 256)),
        "num_heads": whole(1, 512),
        "relative_attention_num_buckets": whole(4, 4096, even=True),
        "relative_attention_max_distance": whole(2, 2**20),
        "dropout_rate": number(-1e-9, 0.99),
        "layer_norm_epsilon": _EPSILON,
        "initializer_factor": number(0, 100),
        "feed_forward_proj": one_of("gated-gelu", "gated-silu", "relu"),
        "is_encoder_decoder": _TRUTH,
        "tie_word_embeddings": _TRUTH,
        "pad_token_id": or_null(whole(0, 2**22)),
        "eos_token_id": or_null(whole(0, 2**22)),
    },
}
_ALIKE = ("patch_size", "text_dim", "freq_dim", "ffn_dim", "num_layers", "cross_attn_norm", "eps")
WAN: Mapping[str, Rule] = {
    **{name: RULES["transformer"][name] for name in _ALIKE},
    "num_heads": whole(1, 256),
    "dim": whole(6, 65536),
    "in_dim": whole(1, 1024),
    "out_dim": whole(1, 1024),
}
"""Wan's own names for what a transformer is made of; all of them are needed."""
FIRST_EDITION = {"in_channels": 12, "num_attention_heads": 4, "text_dim": 64}
"""Weights whose films nothing here can measure, nor its studio offer."""
_BUILDS = {
    "transformer": WanTransformer3DModel.__init__,
    "vae": AutoencoderKLWan.__init__,
    "text_encoder": UMT5Config,
}


def read_config(path: Path, part: str, again: str = AGAIN) -> dict[str, Any]:
    """The config.json of one of PARTS, as `checked` gives it. Raises CheckpointError."""
    config = read_json(path, MEBIBYTE, CheckpointError, again)
    try:
        return checked(config, part)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}: {again}") from None


def checked(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What of a configuration is read, in diffusers' names if it comes in Wan's. Raises CheckpointError.

    What is not there takes the default of the class that is built.
    """
    if part == "transformer" and "num_heads" in config and "num_attention_heads" not in config:
        config = from_wan(config)
    known = follow(config, RULES[part])
    full = {name: p.default for name, p in signature(_BUILDS[part]).parameters.items() if name in RULES[part]} | known
    if part == "transformer" and FIRST_EDITION.items() <= full.items():
        raise CheckpointError("in_channels is 12: weights of the miniature world's first edition, 64 x 96 pixels")
    if part == "vae":
        _check_codec(full)
    if part == "text_encoder":
        buckets, distance = full["relative_attention_num_buckets"], full["relative_attention_max_distance"]
        _demand(distance >= buckets, f"relative_attention_max_distance is {distance}, less than the {buckets} buckets")
        for name in ("pad_token_id", "eos_token_id"):
            size, token = full["vocab_size"], full[name]
            _demand(token is None or token < size, f"{name} is {token}, the vocabulary has {size} words")
    return known


def from_wan(config: Mapping[str, Any]) -> dict[str, Any]:
    """Wan's own hyper-parameters, as in its config.json, in diffusers' names. Raises CheckpointError."""
    for name in WAN:
        _demand(name in config, f"the Wan configuration has no {name!r}")
    known = follow(config, WAN)
    heads, dim = known.pop("num_heads"), known.pop("dim")
    _demand(dim % heads == 0, f"dim is {dim}, which does not divide by num_heads, {heads}")
    names = {"in_dim": "in_channels", "out_dim": "out_channels"}
    known = {names.get(name, name): value for name, value in known.items()}
    return known | {"num_attention_heads": heads, "attention_head_dim": dim // heads}


def check_together(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises CheckpointError unless the parts of a model, by name, speak of the same text and the same latents."""
    same = {"text_dim": ("text_encoder", "d_model"), "in_channels": ("vae", "z_dim"), "out_channels": ("vae", "z_dim")}
    for name, (part, other) in same.items():
        mine, theirs = configs["transformer"].get(name), configs[part].get(other)
        complaint = f"transformer: {name} is {mine}, {part}: {other} is {theirs}: {AGAIN}"
        _demand(None in (mine, theirs) or mine == theirs, complaint)


def _check_codec(full: Mapping[str, Any]) -> None:
    levels, channels = len(full["dim_mult"]), full["z_dim"]
    halved, pixels = full["temperal_downsample"], 3 * (full["patch_size"] or 1) ** 2
    _demand(
        levels >= 1 and len(halved) == levels - 1, f"temperal_downsample has {len(halved)} entries, not {levels - 1}"
    )
    _demand(sum(halved) == 2, f"temperal_downsample is {halved}: a latent holds four frames, so two are true")
    for name in ("latents_mean", "latents_std"):
        _demand(len(full[name]) == channels, f"{name} has {len(full[name])} entries, z_dim is {channels}")
    for name in ("in_channels", "out_channels"):
        _demand(full[name] == pixels, f"{name} is {full[name]}, a patch of pixels has {pixels} numbers")


def follow(config: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The values that `rules` know. Raises CheckpointError for one that does not fit."""
    for name, rule in rules.items():
        if name in config and not rule.fits(config[name]):
            shown = repr(config[name])
            raise CheckpointError(f"{name} is {shown if len(shown) < 60 else shown[:50] + '...'}, not {rule.words}")
    return {name: config[name] for name in rules if name in config and not name.startswith("_")}


def _demand(holds: bool, complaint: str) -> None:
    if not holds:
        raise CheckpointError(complaint)
