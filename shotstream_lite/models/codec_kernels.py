"""Faster ways through the Wan VAE, on a GPU and on a CPU: what it computes is the codec's, see `codec`."""

from functools import partial

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm, WanUpsample
from torch import Tensor, nn
from torch.nn import functional as F


def for_gpu(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """The same object, and pictures, in a GPU's ways.

    The weights of convolutions are laid out as tensor cores want them, what they look back to and what comes new is
    written once and not twice, and cuDNN measures which of its kernels is fastest: the sizes of a film never change.
    """
    torch.backends.cudnn.benchmark = True
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        if type(module) is WanCausalConv3d:
            module.__class__ = _WrittenOnce
        elif type(module) is WanUpsample:  # which goes through float32: the nearest pixel is the same without
            module.__class__ = nn.Upsample
    return vae


def for_cpu(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """The same object, and pictures but for rounding, in a CPU's ways: only convolutions in the plane are fast there.

    torch has no fast one in space and time for a single clip without gradients; so the frames that a result depends on
    are laid beside each other as channels.
    """
    for module in vae.modules():
        if type(module) is WanCausalConv3d:
            module.__class__ = _InThePlane
    return vae


class _WrittenOnce(WanCausalConv3d):
    """Leaves the zeros around pictures to the convolution."""

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        across, _, down, _, back, _ = self._padding
        if back:
            seen = () if cache_x is None else (cache_x,)
            missing = back - sum(part.shape[2] for part in seen)
            zeros = (x.new_zeros(*x.shape[:2], missing, *x.shape[3:]),) if missing else ()
            x = torch.cat((*zeros, *seen, x), dim=2)
        return self.convolve(x, (down, across))

    def convolve(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """What comes of all frames that are read, [B, C, f, h, w]; `padding` of their pictures."""
        return F.conv3d(x, self.weight, self.bias, self.stride, (0, *padding))


class _InThePlane(_WrittenOnce):
    """A convolution of pictures whose channels are those of all frames it reads."""

    def convolve(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        windows = x.unfold(2, self.kernel_size[0], self.stride[0])  # [B, C, results, h, w, frames read]
        pictures = windows.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)
        y = F.conv2d(pictures, self.weight.flatten(1, 2), self.bias, self.stride[1:], padding)
        return y.unflatten(0, (len(x), -1)).transpose(1, 2)


def compile_norms(vae: AutoencoderKLWan, **options) -> None:
    """Compiles what comes before a convolution into one piece: norm, activation, and joining what was seen before.

    Apart they read and write the largest tensors of the codec several times over; weights and their names stay, and
    may not move any more. Sizes stay open: one graph for each would be more than torch keeps, the largest last.
    `options` are `torch.compile`'s.
    """
    # One graph for each number of remembered frames, and torch keeps 8 unless told otherwise.
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    joined = torch.compile(_joined, dynamic=True, **options)
    fused = torch.compile(_norm_and_activation, dynamic=True, **options)
    for module in list(vae.modules()):
        if not isinstance(getattr(module, "nonlinearity", None), nn.SiLU):
            continue
        if isinstance(module, WanResidualBlock):
            module.__class__, module.joined = _JoinedBlock, joined
        elif isinstance(getattr(module, "norm_out", None), WanRMS_norm):
            module.nonlinearity = nn.Identity()
            gamma = module.norm_out.gamma.detach()  # a parameter's size would not stay open
            module.norm_out.forward = partial(fused, gamma=gamma)


class _JoinedBlock(WanResidualBlock):
    """A block whose convolutions find what they read in one piece, see `_joined`."""

    def forward(self, x: Tensor, feat_cache: list | None = None, feat_idx: list[int] | None = None) -> Tensor:
        skipped = self.conv_shortcut(x)
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            seen = None if feat_cache is None else feat_cache[feat_idx[0]]
            x, last = self.joined(x, norm.gamma.detach(), seen)
            if feat_cache is not None:
                feat_cache[feat_idx[0]] = last
                feat_idx[0] += 1
            x = F.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))
        return x + skipped


def _joined(x: Tensor, gamma: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a convolution reads, [B, C, 2 + f, h, w]: the two frames before and those of x, normed and activated; and
    its last two frames, to be remembered."""
    x = _norm_and_activation(x, gamma)
    whole = F.pad(x, (0, 0, 0, 0, 2, 0)) if seen is None else torch.cat((seen, x), dim=2)
    return whole, whole[:, :, -2:].clone()


def _norm_and_activation(x: Tensor, gamma: Tensor) -> Tensor:
    """``silu(norm(x))`` of features [B, C, f, h, w] as `WanRMS_norm` and the codec's blocks do it, float32 inside."""
    return F.silu(F.normalize(x.float(), dim=1).type_as(x) * x.shape[1] ** 0.5 * gamma)
