"""The bidirectional next-shot teacher: flow matching on [context | noisy target] (paper sec. 4.1)."""

from torch import Tensor

from shotstream_lite.flow import SigmaTable, add_noise
from shotstream_lite.transformer import ShotStreamTransformer, with_context


def flow_error(flow: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of a predicted flow against ``noise - clean``. Shape: [B, C, F, H, W] to [B]."""
    return (flow.float() - (noise - clean)).square().mean(dim=(1, 2, 3, 4))


def teacher_loss(
    transformer: ShotStreamTransformer,
    target: Tensor,
    noise: Tensor,
    rows: Tensor,
    captions: Tensor,
    shot_ids: Tensor,
    *,
    context: Tensor | None = None,
    caption_ids: Tensor | None = None,
    table: SigmaTable,
) -> Tensor:
    """Weighted flow-matching loss on the target frames; the clean context carries the target's timestep.

    Without context this trains a plain text-to-video model.

    Shape:
        target, noise: [B, C, F, H, W]; context: [B, C, m, H, W]
        rows: [B], rows of `table`; captions: [B, n, text_tokens, text_dim]
        shot_ids, caption_ids: [m + F] or [B, m + F], over [context | target]
        returns: scalar
    """
    rows = rows.cpu()
    seen = with_context(context, add_noise(target, noise, table.sigmas[rows].to(target)))
    flow = transformer.joint(seen, table.timesteps[rows], captions, shot_ids, caption_ids=caption_ids)
    error = flow_error(flow[:, :, -target.shape[2] :], target, noise)
    return (table.weights[rows].to(error) * error).mean()
