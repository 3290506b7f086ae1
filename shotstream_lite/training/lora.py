"""LoRA by peft, for the stage across shots: small additions to every linear layer of the blocks, merged at the end."""

from torch import nn

from shotstream_lite.distributed import gathered
from shotstream_lite.training.weights import whole_copy
from shotstream_lite.transformer import ShotStreamTransformer


def add_lora(transformer: ShotStreamTransformer, config) -> list[nn.Module]:
    """Puts LoRA into a model; returns the modules that are to be trained.

    As released: every linear layer inside the blocks (attention to frames and to text, feed-forward), and nothing else.
    """
    from peft import LoraConfig

    inside = [f"blocks.{name}" for name, module in transformer.blocks.named_modules() if isinstance(module, nn.Linear)]
    transformer.add_adapter(
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=inside,
        )
    )
    return [module for name, module in transformer.named_modules() if name.endswith((".lora_A", ".lora_B"))]


def merged(transformer: ShotStreamTransformer, main: bool = True) -> ShotStreamTransformer | None:
    """A whole copy with its LoRA folded into the weights, on the CPU. All processes call it; the main one gets it."""
    state = gathered(transformer.state_dict(), main)
    if not main:
        return None
    whole = whole_copy(transformer, state)
    whole.fuse_lora()
    whole.unload_lora()
    return whole
