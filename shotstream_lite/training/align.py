"""An aid for the miniature world: the model must know what is to be seen, and look for it in the right frames.

A hat is a few pixels, so the flow loss hardly asks for it. Here an oracle of the finished picture asks, of every frame:
who, where, which hat, which light. What the caption says must be known a quarter of the way through the model, what
only the memory knows at five eighths; in the two blocks before that, remembered frames must know what they show, and a
head of the attention each is led to the hat and to the stripe of the same character. Of a noisy frame all this can only
come from captions and context, so looking there is learnt early. Features of an image encoder do the same for real
films (REPA, Yu et al. 2024); the paper's own training has neither. What reads the answers is thrown away. The aid
belongs at the beginning: at full weight to the end it drowns the picture (see `fading`).
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_lite.errors import StoryError
from shotstream_lite.training.batches import Films, Origin
from shotstream_lite.training.loop import Run
from shotstream_lite.transformer import ShotStreamTransformer

WIDTH = 256
LED_FRAMES = 4  # of a target whose attention is looked at
REST = 0.1  # what is left of the aid's weight in the end


def fading(step: int, steps: int) -> float:
    """The part of its weight that the aid has: all at first, falling to REST at `steps`; 0 steps: all always."""
    return 1 - (1 - REST) * min(1.0, step / steps) if steps else 1.0


class Answers(nn.Module):
    """Reads the tokens of a frame and answers questions: a head each over their mean and maximum."""

    def __init__(self, width: int, tokens: int, questions: Mapping[str, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.place = nn.Parameter(torch.zeros(tokens, WIDTH))  # the same thing means something else elsewhere
        self.look = nn.Linear(width, WIDTH)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTH, choices) for name, choices in questions.items()})

    def forward(self, tokens: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
        """Sum over the questions of their mean cross entropy.

        Shape:
            tokens: [frames, tokens, width]; answers: int [frames] each, -1 where nobody knows
        """
        seen = F.silu(self.look(self.norm(tokens.float())) + self.place)
        features = torch.cat([seen.mean(1), seen.amax(1)], dim=-1)
        losses = []
        for name, head in self.heads.items():
            asked = answers[name].to(features.device)
            missed = F.cross_entropy(head(features).float(), asked, ignore_index=-1, reduction="sum")
            losses.append(missed / (asked >= 0).sum().clamp(min=1))  # nobody asked: 0, the same on every process
        return torch.stack(losses).sum()


class Align(nn.Module):
    """What is asked of `transformer`, all that `films` know of what they show. Raises StoryError if that is nothing.

    Args:
        grid: rows and columns of tokens of a latent frame.
    """

    def __init__(self, transformer: ShotStreamTransformer, films: Films, grid: tuple[int, int]) -> None:
        super().__init__()
        if not films.questions():
            raise StoryError("--align: nobody knows what these films show: leave it out, or take drawn films")
        self.films, self.grid = films, grid
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        layers, tokens = len(transformer.blocks), grid[0] * grid[1]
        self.early, self.late = layers // 4, 5 * layers // 8
        self.before = max(0, self.late - 2)
        hidden = {name: n for name, n in films.questions().items() if name not in films.said()}
        said = {name: n for name, n in films.questions().items() if name in films.said()}
        self.told = Answers(width, tokens, said)
        self.shown = Answers(width, tokens, hidden)
        self.found = Answers(width, tokens, hidden)
        self._seen: dict[int, Tensor] = {}
        self._heard: dict[int, tuple[Tensor, Tensor]] = {}
        transformer.watch = self._keep
        transformer.listen = {layer: partial(self._listen, layer) for layer in range(self.before, self.late)}

    def _keep(self, layer: int, tokens: Tensor) -> None:
        if layer in (self.early, self.before, self.late):
            self._seen[layer] = tokens

    def _listen(self, layer: int, keys: Tensor, values: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        self._heard[layer] = query, keys
        return keys, values

    def loss(self, origins: Sequence[Sequence[Origin]], remembered: int = 0) -> Tensor:
        """Of the frames the transformer has just been called with, `origins` over [context | target].

        remembered: context frames
        """
        answers, context, target = self._answers(origins), slice(0, remembered), slice(remembered, None)

        def ask(heads: Answers, layer: int, frames: slice) -> Tensor:
            asked = {name: answers[name][:, frames].flatten() for name in heads.heads}
            return heads(self._seen[layer][:, frames].flatten(0, 1), asked)

        loss = ask(self.told, self.early, target)
        if remembered:
            loss = loss + ask(self.shown, self.before, context)
            blank = torch.tensor([[not any(sample[:remembered])] for sample in origins])
            answers |= {name: asked.masked_fill(blank, -1) for name, asked in answers.items()}  # nobody can know it
            loss = loss + ask(self.found, self.late, target) + self._led(origins, remembered)
        self._seen.clear(), self._heard.clear()
        return loss

    def _answers(self, origins: Sequence[Sequence[Origin]]) -> dict[str, Tensor]:
        """int [samples, frames] for each question."""
        shown = [[o and (self.films.shown(o[0], o[1]), o[2]) for o in sample] for sample in origins]
        return {
            name: torch.tensor([[int(one[0][name][one[1]]) if one else -1 for one in sample] for sample in shown])
            for name in self.films.questions()
        }

    def _led(self, origins: Sequence[Sequence[Origin]], remembered: int) -> Tensor:
        """How unlikely attention is to fall on the same character's hat (first head) and stripe (second head)."""
        rows, columns = self.grid
        asks: list[tuple[int, int, int, list[int]]] = []  # sample, head, a frame's token, the tokens it should look at
        for b, sample in enumerate(origins):
            frames = len(sample) - remembered
            some = torch.linspace(0, frames - 1, min(LED_FRAMES, frames)).round().int().tolist()
            known = [(j, self._things(origin)) for j, origin in enumerate(sample[:remembered]) if origin]
            for i in some:
                for what, (_, column) in self._things(sample[remembered + i]).items():
                    right = [(j, there[what]) for j, there in known if what in there]
                    keys = [(j * rows + r) * columns + c for j, (r, c) in right]
                    for r in range(rows) if keys else ():  # who asks stands in that column, higher or lower
                        token = ((remembered + i) * rows + r) * columns + column
                        asks.append((b, int(what[0] == "stripe"), token, keys))
        some_key = next(iter(self._heard.values()))[1]
        if not asks:
            return some_key.float().sum() * 0
        samples, heads, tokens = (torch.tensor(column) for column in list(zip(*asks, strict=True))[:3])
        wanted = torch.zeros(len(asks), some_key.shape[2], dtype=torch.bool)
        for row, (*_, keys) in zip(wanted, asks, strict=True):
            row[keys] = True
        wanted = wanted.to(some_key.device)
        losses = []
        for query, keys in self._heard.values():
            logits = torch.einsum("nd,ntd->nt", query[samples, heads, tokens].float(), keys[samples, heads].float())
            logits = logits * query.shape[-1] ** -0.5
            losses.append((logits.logsumexp(1) - logits.masked_fill(~wanted, -torch.inf).logsumexp(1)).mean())
        return torch.stack(losses).sum()

    def _things(self, origin: tuple[int, int, int]) -> dict[tuple, tuple[int, int]]:
        """The row and column of tokens where each hat and stripe of a frame is, by whose it is and how it looks."""
        story, shot, frame = origin
        shown, (rows, columns) = self.films.shown(story, shot), self.grid
        found = {}
        for name, place in self.films.places(story, shot).items():
            prefix, thing = ("other ", name[6:]) if name.startswith("other ") else ("", name)
            look = shown[name][frame]
            down, across = place[frame]
            if look >= 0 and 0 <= down < 1 and 0 <= across < 1:
                who = int(shown[f"{prefix}shape"][frame]), int(shown[f"{prefix}colour"][frame])
                found[thing, who, int(look)] = int(down * rows), int(across * columns)
        return found


def aligned(run: Run, transformer: ShotStreamTransformer, films: Films) -> list[Align]:
    """What is asked in a run, nothing if its `align` is 0."""
    if not run.config.align:
        return []
    torch.manual_seed(run.config.seed)  # the same heads on every process and in every run
    return [run.trained(Align(transformer, films, transformer.token_grid(*films.clip(0, 0).shape[-2:])))]
