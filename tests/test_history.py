"""Sparse history: the recorded choices of the released code, and what holds for any history."""

import json

import pytest
import torch

from shotstream_lite.context import remember
from shotstream_lite.history import POLICIES, asked, counts, frame_indices, select


def test_recorded_histories(golden):
    cases = json.loads((golden / "sampling.json").read_text())["cases"]
    assert len(cases) == 15
    for case in cases:
        lengths, budget = case["history_shot_lengths"], case["budget"]
        assert counts(len(lengths), budget) == case["per_shot_counts"]
        chosen = select(lengths, budget)
        assert [shot for shot, _ in chosen] == case["context_shot_ids"]
        assert [frame for _, frame in chosen] == case["within_shot_indices"]


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
@pytest.mark.parametrize("shots", range(1, 12))
def test_every_policy_spends_the_budget_in_order(policy, shots):
    lengths = [33 + shot for shot in range(shots)]
    chosen = select(lengths, 6, policy)
    assert len(chosen) == 6 and chosen == sorted(chosen)
    assert all(0 <= frame < lengths[shot] for shot, frame in chosen)


def test_policies_differ_in_frames_only():
    assert select([33, 33], 6, "first") == [(0, 0)] * 3 + [(1, 0)] * 3
    assert select([33, 33], 6, "first-last") == [(0, 0), (0, 0), (0, 32), (1, 0), (1, 0), (1, 32)]
    assert select([33, 33], 6) == [(0, 0), (0, 16), (0, 32), (1, 0), (1, 16), (1, 32)]


CAST = {"anna": "a red ball with a story", "bert": "a blue box with a story", "cleo": "a green cone with a story"}


def test_the_caption_asks_for_whom_and_where_it_names():
    """Anna was in the meadow once, eight shots ago; since then only Bert was seen, in the city."""
    captions = [f"{CAST['anna']} in the meadow", f"{CAST['cleo']} at sea", *[f"{CAST['bert']} in the city"] * 7]

    def shots(new: str, policy: str = "asked", captions=captions) -> list[int]:
        return [shot for shot, _ in select([33] * len(captions), 3, policy, [*captions, new])]

    assert shots(f"{CAST['anna']} waits", "dynamic") == [6, 7, 8]
    assert shots(f"{CAST['anna']} waits") == [0, 7, 8]
    assert shots(f"{CAST['cleo']} in the meadow") == [0, 1, 8]
    assert shots(f"{CAST['bert']} in the city") == shots("nobody") == [6, 7, 8]
    few = captions[:3]  # every shot gives a frame: the paper's rule
    assert select([33] * 3, 6, "asked", [*few, few[0]]) == select([33] * 3, 6)
    assert select([33] * 9, 3, "asked") == select([33] * 9, 3) and select([33], 0, "asked", few[:2]) == []
    latest = [*captions, f"{CAST['anna']} in the city"]  # what was said by a shot already chosen counts less
    assert shots(f"{CAST['anna']} in the meadow at sea", captions=latest) == [0, 1, 9]


# What `asked` promises, a case a promise: captions of the earlier shots, the new one, the budget, the shots that give.
ASKED = {
    "capitals and full stops are no words": (["Anna, waits.", "bert", "cleo"], "here comes anna", 2, [0, 2]),
    "the latest shot is there whatever is asked": (["anna", "anna", "bert"], "anna", 1, [2]),
    "a rare word says more than a common one": (["anna", "sea", "sea", "sea", "bert"], "anna sea", 2, [0, 4]),
    "a word of all captions says nothing": (
        ["sea bert", "sea bert", "anna", "anna sea bert"],
        "anna sea bert",
        2,
        [2, 3],
    ),
    "the new caption is one of them": (["anna", "bert", "anna"], "anna sea", 2, [0, 2]),
    "only what both say counts": (["sea snow city", "anna", "bert"], "anna", 2, [1, 2]),
    "a long caption says no less": (["anna in the far snow", "sea", "sea", "bert"], "anna sea", 2, [0, 3]),
    "of equals the later": (["anna", "anna", "anna", "bert"], "anna", 3, [1, 2, 3]),
    "and where nobody fits the later": (["anna", "bert", "cleo", "anna"], "snow", 3, [1, 2, 3]),
    "what the latest says is said": (["sea", "sea", "anna", "anna"], "anna sea", 2, [1, 3]),
    "and what a chosen one says": (["sea", "sea", "anna", "anna", "bert"], "anna sea", 3, [1, 3, 4]),
    "said once, a quarter": (["anna", "anna", "bert", "bert", "anna", "anna bert"], "anna bert", 3, [3, 4, 5]),
    "and no eighth": (
        ["anna cleo", "bert", "bert", "bert", "anna bert cleo", "anna cleo"],
        "anna bert cleo",
        3,
        [0, 4, 5],
    ),
    "as many shots as frames": (["anna", "bert"], "bert", 2, [0, 1]),
}


@pytest.mark.parametrize("earlier, new, budget, shots", ASKED.values(), ids=ASKED)
def test_asked_keeps_its_promises(earlier, new, budget, shots):
    assert [shot for shot, count in enumerate(asked([*earlier, new], budget)) for _ in range(count)] == shots


@pytest.mark.parametrize("captions", [[], ["anna"] * 9, ["anna"] * 11], ids=["none", "one too few", "one too many"])
def test_captions_that_do_not_fit_the_shots_are_not_asked(captions):
    assert select([33] * 9, 3, "asked", captions) == select([33] * 9, 3)


def test_the_story_that_all_shots_share_asks_for_nobody():
    """The story's words stand before every caption: only a shot's own part says whom its first frame, which is the
    one to be remembered, shows. Who is chosen is numbered as if the shots between had never been; the paper's rule
    numbers as the story does."""
    told = ["anna in snow", "cleo at sea", "bert in a city", "bert in a city", "anna waits"]
    captions = [f"Anna and Bert, in a city.shot{shot}:{line}" for shot, line in enumerate(told)]
    captions[1] = ((0, captions[1]), (5, "Anna and Bert, in a city.shot1:anna waits"))
    numbered = {}
    for policy in ("asked", "dynamic"):
        given = lambda picked: [torch.zeros(1, 1, 1)] * len(picked)  # noqa: E731
        context = remember([9] * 4, 2, policy, given, torch.zeros(1, 1, 1, 1), captions)
        numbered[policy] = (context.picked, context.shot_ids, context.shot_id)
    assert numbered["asked"] == (((0, 0), (3, 0)), (0, 1), 2)
    assert numbered["dynamic"] == (((2, 0), (3, 0)), (2, 3), 4)


def test_no_history():
    assert select([33, 33], 6, "none") == []


def test_halves_are_rounded_to_even():
    assert frame_indices(4, 3) == [0, 2, 3]  # 1.5
    assert frame_indices(6, 3) == [0, 2, 5]  # 2.5


def test_nothing_to_remember():
    assert counts(0, 6) == [] and select([], 6) == [] and select([9], 0) == []


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="'last'.*dynamic, first, first-last, asked"):
        select([9], 6, "last")
    with pytest.raises(ValueError, match="at least one frame"):
        select([9, 0], 6)
    with pytest.raises(ValueError, match="negative"):
        select([9], -1)
