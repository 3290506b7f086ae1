"""Footage on disk: what goes in comes out, from any place and any thread, and the file goes when nobody needs it."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shotstream_lite.footage import Reel


def frames(count: int, seed: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_every_shot_comes_back_whole_and_in_parts():
    reel, shots = Reel(), [frames(1, 0), frames(9, 1), frames(5, 2, height=8)]
    footage = [reel.append(shot) for shot in shots]
    for stored, shot in zip(footage, shots, strict=True):
        assert stored.length == len(shot)
        assert np.array_equal(stored.frames(), shot)
    assert np.array_equal(footage[1].frames(3, 2), shots[1][3:5])
    assert np.array_equal(footage[1].frames(7), shots[1][7:])
    later = reel.append(frames(2, 3))  # reading in between does not misplace what is written
    assert np.array_equal(later.frames(), frames(2, 3)) and np.array_equal(footage[2].frames(), shots[2])


def test_frames_that_lie_scattered_in_memory_are_stored_in_order():
    shot = frames(6, 0)[::2, :, ::-1]
    assert np.array_equal(Reel().append(shot).frames(), shot)


def test_what_is_stored_cannot_be_changed_through_what_was_read():
    with pytest.raises(ValueError, match="read-only"):
        Reel().append(frames(1, 0)).frames()[0] = 0


def test_footage_equals_only_itself():
    reel = Reel()
    first, second = reel.append(frames(1, 0)), reel.append(frames(1, 0))
    assert first != second and len({first, second, first}) == 2


def test_threads_do_not_mix():
    reel = Reel()

    def store_and_read(seed: int) -> bool:
        footage = reel.append(frames(3, seed))
        return all(np.array_equal(footage.frames(), frames(3, seed)) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(store_and_read, range(32)))


def test_the_file_goes_with_the_last_footage():
    reel = Reel()
    file, footage = reel._file, reel.append(frames(2, 0))
    del reel
    gc.collect()
    assert np.array_equal(footage.frames(), frames(2, 0))
    del footage
    gc.collect()
    assert file.closed
