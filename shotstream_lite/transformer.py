"""The Wan transformer and its three ways through: joint, context, chunk.

Nothing is added to diffusers' model, no parameter and no name: the forward is written out over its
sub-modules, so that what a token attends to is an argument. All state (caches, shot ids, positions) is
passed in.
"""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.activations import GELU
from torch import Tensor, nn

from shotstream_lite.attention import NATIVE, Spans, attend, merged, preferring, spans
from shotstream_lite.cache import CaptionKeys, ShotCache
from shotstream_lite.rope import SHOT_PHASE, rope_table, rotate

AppendKV = Callable[..., tuple[Tensor, Tensor]]
Halves = tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., Tensor]]
"""What a block does before its attention and after it."""


class ShotStreamTransformer(WanTransformer3DModel):
    """`WanTransformer3DModel` with frames of several shots, a caption for each, and caches.

    Latents are [batch, channels, frames, height, width], timesteps 1000 * sigma, and the returned flow
    predicts ``noise - clean``. The stock forward of diffusers stays available as ``model(...)``.
    """

    backend = NATIVE  # the attention kernel tried first, see `attention.use_backend`
    halves: Halves | None = None  # compiled ones, see `compile_halves`
    whole: Callable[..., Tensor] | None = None  # a compiled block for `joint`, see `compile_blocks`
    watch: Callable[[int, Tensor], None] | None = None  # shown the tokens [B, F, tokens, dim] that enter each layer

    @property
    def device(self) -> torch.device:
        """Where it works; diffusers walks through all modules to say so, and is asked for each piece of a shot."""
        return self.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, whatever its linear layers are kept in."""
        return self.patch_embedding.weight.dtype

    def joint(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        captions: Tensor | CaptionKeys,
        shot_ids: Tensor | None = None,
        *,
        caption_ids: Tensor | None = None,
        mask: Tensor | None = None,
        phase: float = SHOT_PHASE,
        positions: Tensor | None = None,
    ) -> Tensor:
        """All frames at once: the teacher, the score models, masked causal training (paper sec. 4.1).

        Shape:
            latents: [B, C, F, H, W], context frames first
            timestep: [], [B] or [B, F]
            captions: embeddings [B, n, text_tokens, text_dim], or what `caption_keys` made of them
            shot_ids: [F] or [B, F]; None: a single shot
            caption_ids: [F] or [B, F], the caption each frame reads, or [B, 1], one for all frames of a
                sample; None: that of the frame's shot id, or the only caption there is
            mask: bool [F, F], True where the row's frame may attend to the column's (see `causal_mask`), or how often
                it counts there; None: everywhere
            positions: [F] in time; None: 0, 1, 2...
            returns: flow [B, C, F, H, W]
        """
        frames, height, width = latents.shape[2:]
        if shot_ids is None:
            shot_ids = torch.zeros(frames, dtype=torch.long, device="cpu")
        if positions is None:
            positions = torch.arange(frames, device="cpu")
        if not isinstance(captions, CaptionKeys):
            captions = self.caption_keys(captions)
        if caption_ids is None and len(captions) > 1:
            caption_ids = shot_ids
        grid = self.token_grid(height, width)
        table = rope_table(positions, shot_ids, *grid, self.config.attention_head_dim, phase, latents.device)
        groups = None if mask is None else spans(mask, grid[0] * grid[1])
        return self._through(latents, timestep, table, captions, caption_ids, groups=groups)

    @torch.no_grad()
    def context(
        self, cache: ShotCache, latents: Tensor, captions: CaptionKeys, caption_ids: Tensor | None = None
    ) -> Tensor | None:
        """Fill the global cache: the context frames alone, clean, at timestep 0 (paper sec. 4.2).

        Shape:
            latents: [B, C, cache.context_frames, H, W]; captions: the keys of all captions
            caption_ids: [context_frames] or [B, context_frames], the caption each reads; None: caption 0
            returns: the flow, like latents
        """
        tokens = cache.tokens(-cache.context_frames, latents.shape[2])
        return self._through(latents, 0.0, cache.table[:, tokens], captions, caption_ids, (cache, tokens))

    def chunk(self, cache: ShotCache, latents: Tensor, timestep: Tensor | float, start: int) -> Tensor:
        """The frames from frame `start` of the shot, attending to both caches and to themselves.

        Without gradient their keys are written to the local cache, so the last pass over a chunk is the one
        later chunks see; with gradient nothing is written (see `ShotCache.append_kv`).

        Shape:
            latents: [B, C, f, H, W]; timestep: [], [B] or [B, f]; returns: flow [B, C, f, H, W]
        """
        tokens = cache.tokens(start, latents.shape[2])
        return self._through(latents, timestep, cache.table[:, tokens], cache.captions, None, (cache, tokens))

    def caption_keys(self, captions: Tensor) -> CaptionKeys:
        """Keys and values of every caption in every layer; zero rows beyond a text are attended, as in Wan.

        Shape:
            captions: [B, n, text_tokens, text_dim]
        """
        text = self.condition_embedder.text_embedder(captions.to(self.dtype))
        attentions = [block.attn2 for block in self.blocks]
        keys = tuple(heads_first(attn.norm_k(attn.to_k(text)), attn.heads) for attn in attentions)
        values = tuple(heads_first(attn.to_v(text), attn.heads) for attn in attentions)
        return CaptionKeys(keys, values)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens in a latent frame."""
        _, patch_height, patch_width = self.config.patch_size
        return height // patch_height, width // patch_width

    def _through(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        table: Tensor,
        captions: CaptionKeys,
        caption_ids: Tensor | None,
        memory: tuple[ShotCache, slice] | None = None,
        groups: Spans | None = None,
    ) -> Tensor | None:
        """What the three ways share: tokens [B, F, tokens of a frame, dim] through all blocks.

        memory: the cache that keys and values are appended to, and where
        """
        if caption_ids is not None:
            caption_ids = torch.atleast_2d(caption_ids).to(latents.device, torch.long)
            caption_ids = caption_ids.expand(len(latents), -1)
        temb, modulation = self._time(timestep, latents.device)
        x = self.patch_embedding(latents.to(self.dtype))
        x = x.flatten(3).permute(0, 2, 3, 1).contiguous()
        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing
        run = partial(run_block, halves=self.halves) if self.halves else run_block
        run = self.whole if self.whole and memory is None else run
        run = partial(self._gradient_checkpointing_func, run) if checkpointing else run
        # Checkpointed blocks run once more after this, and must find the same kernel then.
        with preferring(NATIVE if checkpointing else self.backend):
            for layer, block in enumerate(self.blocks):
                if self.watch:
                    self.watch(layer, x)
                append_kv = partial(memory[0].append_kv, memory[1], layer) if memory else None
                if memory and memory[0].only_writes and layer == len(self.blocks) - 1:
                    query, keys, values = (self.halves or HALVES)[0](block, x, modulation, table)
                    append_kv(keys, values, query)
                    return None
                x = run(block, x, modulation, table, captions.layer(layer, caption_ids), append_kv, groups)
        shift, scale = (self.scale_shift_table[0].unsqueeze(1) + temb[:, :, None, None].float()).unbind(2)
        x = self.proj_out(modulated(self.norm_out, x, shift, scale))
        return unpatchify(x, self.config.patch_size, latents.shape[4])

    def _time(self, timestep: Tensor | float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Time embedding [b, f, dim] and six modulations [b, f, 6, 1, dim]; b or f is 1 where all agree.

        The sinusoid is evaluated in float64 as in the released code; diffusers' float32 is off by 1e-5.
        """
        embedder = self.condition_embedder
        time = timestep if isinstance(timestep, Tensor) else torch.tensor(timestep, dtype=torch.float32, device="cpu")
        if time.is_cpu and time.ndim == 0:  # written by a kernel: a copy from the host would wait for all work before
            time = torch.full((), time.item(), device=device, dtype=torch.float64)
        time = time.to(device, torch.float64)
        time = time[(...,) + (None,) * (3 - time.ndim)]
        half = self.config.freq_dim // 2
        angles = time * 10000 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
        wave = torch.cat((angles.cos(), angles.sin()), dim=-1)
        temb = embedder.time_embedder(wave.to(embedder.time_embedder.linear_1.weight.dtype))
        temb = temb.to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(temb)).float()
        return temb, modulation.unflatten(-1, (6, 1, -1))


def run_block(
    block: nn.Module,
    x: Tensor,
    modulation: Tensor,
    table: Tensor,
    caption: tuple[Tensor, Tensor],
    append_kv: AppendKV | None,
    groups: Spans | None,
    halves: Halves | None = None,
) -> Tensor:
    """One block on tokens [B, F, tokens, dim]; modulations are per frame and never spread over the tokens."""
    before, after = halves or HALVES
    query, keys, values = before(block, x, modulation, table)
    if append_kv is not None:
        keys, values = append_kv(keys, values, query)
    return after(block, x, attend(block.attn1, query, keys, values, groups), modulation, *caption)


def before_attention(block: nn.Module, x: Tensor, modulation: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries, rotated keys and values of tokens [B, F, tokens, dim]: [B, heads, F * tokens, head_dim] each."""
    attn = block.attn1
    shift, scale, _, _, _, _ = (block.scale_shift_table[0].unsqueeze(1) + modulation).unbind(2)
    flat = modulated(block.norm1, x, shift, scale).flatten(1, 2)
    query = rotate(attn.norm_q(attn.to_q(flat)).unflatten(2, (attn.heads, -1)), table).transpose(1, 2)
    keys = rotate(attn.norm_k(attn.to_k(flat)).unflatten(2, (attn.heads, -1)), table).transpose(1, 2)
    return query, keys, heads_first(attn.to_v(flat), attn.heads)


def after_attention(
    block: nn.Module, x: Tensor, attended: Tensor, modulation: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Adds what attention [B, F * tokens, dim] found, then the caption's part, then what the feed-forward net makes."""
    _, _, gate1, shift, scale, gate2 = (block.scale_shift_table[0].unsqueeze(1) + modulation).unbind(2)
    x = torch.addcmul(x.float(), attended.view_as(x).float(), gate1).type_as(x)
    x = x + cross_attention(block.attn2, block.norm2(x.float()).type_as(x), keys, values)
    fed = block.ffn(modulated(block.norm3, x, shift, scale))
    return torch.addcmul(x.float(), fed.float(), gate2).type_as(x)


HALVES: Halves = (before_attention, after_attention)


def compile_halves(model: ShotStreamTransformer, **options) -> None:
    """Compiles what blocks do before and after their attention; `options` are `torch.compile`'s.

    Attention and the caches stay outside: their key ranges grow from chunk to chunk, and each would be compiled anew.
    All blocks share the two graphs, one for each number of tokens.
    """
    options = {"dynamic": False, "fullgraph": True, **options}  # a shot's sizes are few and known
    *halves, merge = (torch.compile(part, **options) for part in (*HALVES, merged))
    model.halves = tuple(halves)
    for block in model.blocks:
        block.attn1.merge = merge


def compile_blocks(model: ShotStreamTransformer, **options) -> None:
    """Compiles the blocks in halves, and in one piece for `joint`, where nothing grows: for training."""
    compile_halves(model, **options)
    model.whole = torch.compile(run_block, **{"dynamic": False, **options})


def for_gpu(model: ShotStreamTransformer) -> ShotStreamTransformer:
    """The same object and flow, in a GPU's ways: see `_GeluInProduct`. Only before anything is hung into its layers."""
    for block in model.blocks:
        first = block.ffn.net[0]
        if type(first) is GELU and first.approximate == "tanh" and type(first.proj) is nn.Linear:
            first.__class__ = _GeluInProduct
    return model


class _GeluInProduct(GELU):
    """Without gradient one kernel of cuBLASLt multiplies, adds the bias and activates (on CUDA by the tanh form): the
    widest tensor of a block is not read and written once more."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or hidden_states.dtype != self.proj.weight.dtype:
            return super().forward(hidden_states)
        rows, weight = hidden_states.flatten(0, -2), self.proj.weight.t()
        made = torch._addmm_activation(self.proj.bias, rows, weight, use_gelu=True)
        return made.unflatten(0, hidden_states.shape[:-1])


def modulated(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``norm(x) * (1 + scale) + shift`` in float32, cast back to x."""
    return torch.addcmul(shift, norm(x.float()), 1 + scale).type_as(x)


def cross_attention(attn: nn.Module, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each group of frames attends to its caption; keys, values [B * groups, heads, text, head_dim]."""
    query = attn.norm_q(attn.to_q(x)).view(len(keys), -1, x.shape[-1])
    return attend(attn, heads_first(query, attn.heads), keys, values).view_as(x)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """[..., tokens, dim] to [..., heads, tokens, head_dim]."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def unpatchify(x: Tensor, patch_size: tuple[int, int, int], width: int) -> Tensor:
    """Tokens [B, F, tokens of a frame, patch * channels], channels innermost, to latents [B, C, F, H, W]."""
    _, patch_height, patch_width = patch_size
    x = x.unflatten(3, (patch_height, patch_width, -1)).unflatten(2, (-1, width // patch_width))
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def with_context(context: Tensor | None, latents: Tensor) -> Tensor:
    """[context | latents] along the frames (paper eq. 2); None is no context."""
    return latents if context is None else torch.cat((context, latents), dim=2)


def causal_mask(context_frames: int, frames: int, chunk: int) -> Tensor:
    """Who may attend to whom in [context | shot]: the context to itself, a chunk to all before and itself.

    Shape:
        returns: bool [context_frames + frames] squared, rows attend to columns (released causal init)
    """
    order = torch.cat(
        (torch.zeros(context_frames, dtype=torch.long, device="cpu"), torch.arange(frames, device="cpu") // chunk + 1)
    )
    return order[:, None] >= order[None, :]


def adopt(model: WanTransformer3DModel) -> ShotStreamTransformer:
    """The same object as a `ShotStreamTransformer`: the class adds methods only, so nothing is copied.

    Raises ValueError for patches longer than one latent frame.
    """
    if model.config.patch_size[0] != 1:
        raise ValueError(f"patches of {model.config.patch_size[0]} latent frames: a token must be in one frame")
    if not isinstance(model, ShotStreamTransformer):
        model.__class__ = ShotStreamTransformer
    return model
