"""Files of users: asked before they are read, replaced whole or not at all, each writer with a part of its own."""

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_lite.errors import CheckpointError, StoryError, about
from shotstream_lite.files import (
    MAX_TEXT,
    Part,
    _locked,
    read_json,
    read_text,
    remove_left,
    whole_file,
    whole_folder,
    write_text,
)

unix = pytest.mark.skipif(os.name == "nt", reason="pipes, devices and modes of Unix")


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(MAX_TEXT + 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "it is a folder"),
        pytest.param(lambda path: os.mkfifo(path), "no regular file", marks=unix),  # would wait for ever
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "no regular file", marks=unix),  # would fill the memory
        (sparse, "at most 16 are read"),
        (lambda path: path.write_bytes(b"{\xff}"), "not UTF-8 text"),
        (lambda path: path.write_text("[" * 100_000), "nested too deep"),
        (lambda path: path.write_text("9" * 5000), "number too long"),
        (lambda path: path.write_text("[1]"), "holds a list"),
        (lambda path: path.write_text('{"a": 1, "a": 2}'), '"a" is there twice'),
        (lambda path: path.write_text("{"), "not JSON at line 1"),
    ],
)
def test_what_is_no_json_file_is_named_before_it_is_read(tmp_path, make, words):
    make(tmp_path / "x.json")
    with pytest.raises(CheckpointError) as complaint:
        read_json(tmp_path / "x.json", error=CheckpointError, again="fetch it again")
    message = str(complaint.value)
    assert message.startswith(f"{tmp_path / 'x.json'}: ") and words in message and message.endswith(": fetch it again")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "a\nb", "gone/x"])
def test_odd_names_end_in_one_short_line(tmp_path, name):
    for use in (read_text, lambda path: write_text(path, "x")):
        with pytest.raises(StoryError, match="cannot be (read|written)") as complaint:
            use(f"{tmp_path}/nowhere/{name}")
        assert "\n" not in str(complaint.value) and len(str(complaint.value)) < 300


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with suppress(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]
    write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]


def test_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "film [1].mp4"
    one, two = Part(path), Part(path)
    assert one.path != two.path and not remove_left(path)  # the second does not take the first for a dead one's
    one.path.write_text("one")
    two.path.write_text("two")
    two.keep()
    one.keep()
    assert path.read_text() == "one" and os.listdir(tmp_path) == [path.name]


def test_what_a_killed_writer_left_is_found_and_removed(tmp_path):
    code = "import os, sys; from shotstream_lite.files import Part; p = Part(sys.argv[1]); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.txt")], env=os.environ)
    (killed,) = tmp_path.iterdir()
    assert remove_left(tmp_path / "x.txt") == [killed] and not list(tmp_path.iterdir())


@unix
def test_what_is_written_others_can_read(tmp_path):
    with whole_file(tmp_path / "w.safetensors") as part:
        save_file({"a": torch.zeros(1)}, part)
    with whole_folder(tmp_path / "model") as folder:
        save_file({"a": torch.zeros(1)}, folder / "w.safetensors")
    plain = tmp_path / "plain"
    plain.touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert len(list(tmp_path.rglob("*"))) == 4 and modes == {stat.S_IMODE(plain.stat().st_mode)}


@unix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_in_one_line(tmp_path):
    def fill(part: Path) -> None:
        with open("/dev/full", "wb") as file:
            file.write(b"x")

    def fill_by_torch(part: Path) -> None:
        torch.save({"a": torch.zeros(100_000)}, "/dev/full")

    def fill_by_safetensors(part: Path) -> None:
        save_file({"a": torch.zeros(1)}, part / "gone")

    for write in (fill, fill_by_torch, fill_by_safetensors):
        refused = pytest.raises(CheckpointError, match="w.pt: cannot be written.*: make room there")
        with refused as complaint, whole_file(tmp_path / "w.pt", CheckpointError) as part:
            write(part)
        assert "\n" not in str(complaint.value) and not list(tmp_path.iterdir())


@unix
def test_a_device_is_written_to_as_it_is():
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_folder_is_replaced_only_when_told_to(tmp_path):
    folder = tmp_path / "model"
    for replace in (False, True):
        with whole_folder(folder, replace=replace) as part:
            (part / str(replace)).touch()
    assert os.listdir(folder) == ["True"]
    with pytest.raises(StoryError, match="is there already: name a new folder"), whole_folder(folder):
        pass
    with suppress(KeyError), whole_folder(folder, replace=True):
        raise KeyError
    assert os.listdir(folder) == ["True"] and os.listdir(tmp_path) == ["model"]


@unix
@pytest.mark.parametrize(("killed_at", "left"), [("replace", "old"), ("rmtree", "new")])
def test_killed_while_it_replaces_a_folder(tmp_path, killed_at, left):
    """Between its two renames the old folder comes back; behind them the new one stays and the old one goes."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    if not (child := os.fork()):
        module, ending = (os, ".part") if killed_at == "replace" else (shutil, ".old")
        real = getattr(module, killed_at)
        kill = lambda path, *more, **how: os._exit(9) if str(path).endswith(ending) else real(path, *more, **how)  # noqa: E731
        setattr(module, killed_at, kill)
        with suppress(BaseException), whole_folder(folder, replace=True) as part:
            (part / "new").touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert folder.exists() == (left == "new") and len(list(tmp_path.glob("*.old"))) == 1
    with pytest.raises(StoryError, match="is there already"), whole_folder(folder):
        pass
    assert os.listdir(folder) == [left] and os.listdir(tmp_path) == ["model"]


@unix
def test_what_is_being_replaced_now_is_left_alone(tmp_path):
    old, part = (tmp_path / f"model.0a1b2c3d.{ending}" for ending in ("old", "part"))
    old.mkdir(), part.mkdir()
    with _locked(part):
        assert remove_left(tmp_path / "model") == [] and old.exists() and part.exists()
    assert remove_left(tmp_path / "model") == [part] and os.listdir(tmp_path) == ["model"]


def test_a_complaint_names_its_file_once():
    with pytest.raises(CheckpointError, match="^a: b: what$"), about("a"), about("a"), about("b"):
        raise CheckpointError("what")
