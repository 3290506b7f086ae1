"""Sparse history: the recorded choices of the released code, and what holds for any history."""

import json

import pytest

from shotstream_lite.history import POLICIES, counts, frame_indices, select


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
