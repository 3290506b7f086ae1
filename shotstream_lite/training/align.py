"""An aid for the miniature world: the middle of the model must know what is to be seen.

A hat is a few pixels, so the flow loss hardly asks for it. Here small heads read the tokens of a middle block and must
answer, for every frame, what an oracle knows of the finished picture: who, where, which hat, which light. Of a noisy
frame that can only come from its caption or its context, so looking there is learnt early. Features of an image encoder
do the same for real films (REPA, Yu et al. 2024); the paper's own training has neither. The heads are thrown away.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_lite.errors import StoryError
from shotstream_lite.training.batches import Films, Origin
from shotstream_lite.training.loop import Run
from shotstream_lite.transformer import ShotStreamTransformer

WIDTH = 256


class Align(nn.Module):
    """Heads on the tokens that enter the block in the middle of `transformer`, for all questions that `films` answer.

    Args:
        tokens: of a latent frame.

    Raises StoryError if nobody knows what the films show.
    """

    def __init__(self, transformer: ShotStreamTransformer, films: Films, tokens: int) -> None:
        super().__init__()
        if not films.questions():
            fix = "leave it out, or take films of the second edition of the miniature world"
            raise StoryError(f"--align: nobody knows what these films show: {fix}")
        self.films = films
        inner = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        self.place = nn.Parameter(torch.zeros(tokens, WIDTH))  # the same thing means something else elsewhere
        self.look = nn.Linear(inner, WIDTH)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTH, choices) for name, choices in films.questions().items()})
        self._seen: list[Tensor] = []
        self.middle = len(transformer.blocks) // 2
        transformer.watch = self._keep

    def _keep(self, layer: int, tokens: Tensor) -> None:
        if layer == self.middle:
            self._seen[:] = [tokens]

    def loss(self, origins: Sequence[Sequence[Origin]]) -> Tensor:
        """Mean cross entropy over the questions, of the frames the transformer has just been called with."""
        seen = F.silu(self.look(self._seen.pop()) + self.place)  # [batch, frames, tokens, WIDTH]
        features = torch.cat([seen.mean(2), seen.amax(2)], dim=-1).flatten(0, 1)
        answers = self._answers(origins)
        losses = []
        for name, head in self.heads.items():
            asked = torch.tensor(answers[name], device=features.device)
            if (asked >= 0).any():
                losses.append(F.cross_entropy(head(features).float(), asked, ignore_index=-1))
        return torch.stack(losses).mean()

    def _answers(self, origins: Sequence[Sequence[Origin]]) -> dict[str, list[int]]:
        shown = [o and (self.films.shown(o[0], o[1]), o[2]) for sample in origins for o in sample]
        return {name: [int(one[0][name][one[1]]) if one else -1 for one in shown] for name in self.heads}


def aligned(run: Run, transformer: ShotStreamTransformer, films: Films) -> list[Align]:
    """The heads of a run, none if its `align` is 0."""
    if not run.config.align:
        return []
    rows, columns = transformer.token_grid(*films.clip(0, 0).shape[-2:])
    return [run.trained(Align(transformer, films, rows * columns))]
