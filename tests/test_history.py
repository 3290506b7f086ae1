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


def test_no_history():
    assert select([33, 33], 6, "none") == []


def test_halves_are_rounded_to_even():
    assert frame_indices(4, 3) == [0, 2, 3]  # 1.5
    assert frame_indices(6, 3) == [0, 2, 5]  # 2.5


def test_nothing_to_remember():
    assert counts(0, 6) == [] and select([], 6) == [] and select([9], 0) == []


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="'last'.*dynamic, first, first-last"):
        select([9], 6, "last")
    with pytest.raises(ValueError, match="at least one frame"):
        select([9, 0], 6)
    with pytest.raises(ValueError, match="negative"):
        select([9], -1)
