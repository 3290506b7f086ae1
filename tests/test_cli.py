"""The command: a film and a report for a good story; for a bad one a line, exit code 2 and nothing overwritten."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_lite import __version__
from shotstream_lite.cli import COMMANDS, main
from shotstream_lite.codec import StreamDecoder
from shotstream_lite.errors import CheckpointError, StoryError
from shotstream_lite.film import read_film
from shotstream_lite.footage import Reel
from shotstream_lite.models.settings import StreamSettings
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession

ROOT = Path(__file__).resolve().parent.parent
GOOD = {
    "global_caption": "A story about a red ball and a blue box, by the sea.",
    "shot1": "Wide shot: the red ball jumps.",
    "shot2": "Close-up: the blue box waves.",
}
LONG = {"global_caption": GOOD["global_caption"]} | {f"shot{i}": GOOD["shot1"] for i in range(1, 500)}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the command runs: a story, and a film and a report that are there already."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "story.json", GOOD)
    (tmp_path / "film.mp4").write_bytes(b"an older film")
    (tmp_path / "report.json").write_bytes(b"an older report")
    return tmp_path


def write(path: Path, content: object) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def tell(model_folder: Path, *options: str) -> int:
    return main(
        ["tell", "story.json", "-o", "film.mp4", "--json", "report.json", "--preset", str(model_folder), *options]
    )


def complaint(folder: Path, capsys, code: int) -> str:
    """The one line of a command that refused, and changed nothing."""
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("shotstream: ")
    assert (folder / "film.mp4").read_bytes() == b"an older film"
    assert (folder / "report.json").read_bytes() == b"an older report"
    assert not list(folder.glob("*.part"))
    return err


def python(*arguments: str, **options) -> subprocess.Popen:
    """Another Python that finds this package."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_story_becomes_a_film(folder, model_folder, capsys):
    assert tell(model_folder) == 0
    assert read_film("film.mp4").shape == (26, 480, 720, 3)  # enlarged from 32 x 48
    line = capsys.readouterr().out
    assert re.fullmatch(
        r"film\.mp4: 2 of 2 shots, 26 frames, [\d.]+ frames/s, first frame after \d\.\d\d s, seed 0\n", line
    )


def test_the_report_says_what_was_made_and_how_to_make_it_again(folder, model_folder, capsys):
    assert tell(model_folder, "--seed", "5") == 0
    film, report = Path("film.mp4").read_bytes(), json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["film"] == "film.mp4" and report["frames"] == 26 and report["interrupted"] is False
    assert report["preset"] == str(model_folder) and report["seed"] == 5
    assert [shot["caption"] for shot in report["shots"]] == [GOOD["shot1"], GOOD["shot2"]]
    for shot in report["shots"]:
        assert shot["frames"] == 13 and 0 < shot["first_frame_seconds"] < shot["seconds"]
        assert shot["fps"] == pytest.approx(13 / shot["seconds"], rel=0.01)
    assert report["first_frame_seconds"] == report["shots"][0]["first_frame_seconds"]
    assert report["fps"] == pytest.approx(26 / sum(shot["seconds"] for shot in report["shots"]), rel=0.01)
    assert report["load_seconds"] > 0
    assert report["machine"]["device"] == "cpu" and report["machine"]["threads"] == torch.get_num_threads()
    assert report["machine"]["torch"] == torch.__version__ and report["machine"]["cpu"]
    write(folder / "story.json", report["story"])
    assert tell(model_folder) == 0
    assert Path("film.mp4").read_bytes() == film


def test_seeds_frames_and_sizes(folder, model_folder):
    films = []
    for options in ([], ["--seed", "0"], ["--seed", "1"], ["--frames", "5"], ["--height", "48", "--width", "32"]):
        assert tell(model_folder, *options) == 0
        films.append(read_film("film.mp4"))
    assert films[0].tobytes() == films[1].tobytes() != films[2].tobytes()
    assert films[3].shape == (10, 480, 720, 3) and films[4].shape == (26, 480, 320, 3)


def test_a_terminal_is_told_at_once_that_a_model_is_loaded(folder, model_folder, capsys, monkeypatch):
    def load(*_):
        raise CheckpointError("stop here")

    monkeypatch.setattr("shotstream_lite.pipeline.load_pipeline", load)
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert tell(model_folder) == 2
        assert (f"shotstream: loading {model_folder} ..." in capsys.readouterr().err.splitlines()) == terminal


def test_a_shot_longer_than_any_of_training_is_named(folder, model_folder, capsys):
    assert tell(model_folder, "--frames", "17") == 0
    said = "shotstream: shot2 has 17 frames, the model was trained on 13 at most: it may fall apart"
    assert said in capsys.readouterr().err.splitlines()
    assert tell(model_folder) == 0
    assert "fall apart" not in capsys.readouterr().err
    assert StreamSettings(shot_frames=13, longest=21).longest_shot == 21
    with pytest.raises(StoryError, match="longest is 22"):
        StreamSettings(longest=22)


def test_without_options_the_film_has_the_name_of_the_story(folder, model_folder):
    os.mkdir("elsewhere")
    shutil.move("story.json", "elsewhere/tale.json")
    assert main(["tell", "elsewhere/tale.json", "--preset", str(model_folder), "--frames", "1"]) == 0
    assert len(read_film("tale.mp4")) == 2


def test_unknown_words_are_named_and_the_film_is_made(folder, model_folder, capsys):
    write(folder / "story.json", GOOD | {"shot2": "Close-up: the blu box waves at a qqq."})
    assert tell(model_folder) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "shotstream: the model does not know the word 'blu', did you mean blue?" in lines
    assert "shotstream: the model does not know the word 'qqq'" in lines
    assert len(read_film("film.mp4")) == 26


def without(name: str) -> dict:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("story", "field", "fix"),
    [
        (without("shot1"), "shot1 is missing", "add it"),
        (without("global_caption"), "global_caption is missing", "add it"),
        ({"global_caption": "A red ball."}, "shot1 is missing", "add it"),
        (GOOD | {"shot2": ""}, "shot2 is empty", "say in a sentence"),
        (GOOD | {"shot2": " \n "}, "shot2 is empty", "say in a sentence"),
        (GOOD | {"shoot3": "A ball."}, 'unknown key "shoot3"', "did you mean shot3"),
        (GOOD | {"shot2": 5}, "shot2 is a number", "write a text"),
        (GOOD | {"shot2": None}, "shot2 is null", "write a text"),
        (GOOD | {"global_caption": ["A ball."]}, "global_caption is a list", "write a text"),
        (GOOD | {"seed": "one"}, "seed is a text", "write a whole number"),
        (GOOD | {"settings": 3}, "settings is a number", "write an object"),
        (GOOD | {"shot4": "A ball."}, "shot3 is missing", "add it or renumber"),
        (GOOD | {"shot0": "A ball."}, "shot0", "renumber"),
        (GOOD | {"shot2": "red " * 10_000}, "shot2 has 10000 words", "shorten it"),
        (GOOD | {"global_caption": "red " * 10_000}, "global_caption has 10000 words", "shorten it"),
        ([GOOD], "holds a list", "write an object"),
        ("{", "not JSON at line 1", "correct the file"),
        ("", "not JSON at line 1", "correct the file"),
        ("A story about a ball.", "not JSON at line 1", "correct the file"),
        (GOOD | {"frames": 0}, "frames of shot1 is 0", "write 1, 5, 9"),
        (GOOD | {"frames": [13, -5]}, "frames of shot2 is -5", "write 1, 5, 9"),
        (GOOD | {"frames": [13, 12]}, "frames of shot2 is 12", "write 9 or 13"),
        (GOOD | {"frames": "many"}, "frames is a text", "write a whole number such as 45, or a list"),
    ],
)
def test_a_bad_story(folder, model_folder, capsys, story, field, fix):
    write(folder / "story.json", story)
    line = complaint(folder, capsys, tell(model_folder))
    assert line.startswith("shotstream: story.json: ") and field in line and fix in line


@pytest.mark.parametrize(
    ("story", "field", "fix"),
    [
        (GOOD | {"shot2": "red " * 200}, "global_caption with shot2 has 21", "shorten it"),
        (GOOD | {"settings": {"height": 36}}, "height is 36, which does not divide by 8", "take 32 or 40"),
        (GOOD | {"settings": {"width": -16}}, "settings: width is -16", "write a whole number"),
        (GOOD | {"settings": {"shot_frames": 0}}, "settings: shot_frames is 0", "write 1, 5, 9"),
        (GOOD | {"settings": {"hight": 32}}, "settings: 'hight' is unknown", "write one of height"),
        (GOOD | {"settings": {"policy": 3}}, "settings: policy is 3", "write one of dynamic"),
    ],
)
def test_a_story_this_model_cannot_tell(folder, model_folder, capsys, story, field, fix):
    write(folder / "story.json", story)
    line = complaint(folder, capsys, tell(model_folder))
    assert line.startswith("shotstream: story.json: ") and field in line and fix in line


@pytest.mark.parametrize(
    ("options", "field", "fix"),
    [
        (["--frames", "0"], "--frames is 0", "write 1, 5, 9"),
        (["--frames", "-13"], "--frames is -13", "write 1, 5, 9"),
        (["--frames", "12"], "--frames is 12", "write 9 or 13"),
        (["--height", "36"], "command line: height is 36", "take 32 or 40"),
        (["--width", "50"], "command line: width is 50", "take 48 or 56"),
        (["--width", "0"], "command line: settings: width is 0", "write a whole number"),
        (["--height", "-16"], "command line: settings: height is -16", "write a whole number"),
        (["--seed", "-1"], "--seed: seed is -1", "write a whole number"),
        (["--preset", "toybx"], "preset toybx", "name a preset (toybox"),
        (["--preset", "gone/model"], "gone", "name a preset"),
        (["--weights", "studnet"], "weights is 'studnet'", "choose one of student"),
        (["--weights", "teacher"], "teacher", "fetch the model folder again"),
        (["--remember", "hat.png"], "--remember hat.png: says no caption", "write PICTURE=CAPTION"),
        (["--remember", "gone.png=A ball."], "--remember: gone.png", "check the name"),
        (["-o", "film.avi"], "film.avi", "rename the film"),
        (["-o", "gone/film.mp4"], "gone", "make it first"),
        (["-o", "a_folder.mp4"], "a_folder.mp4: is a folder", "name a file in it"),
        (["--json", "gone/report.json"], "--json gone", "a folder that exists"),
        (["--json", "a_folder.mp4"], "--json a_folder.mp4", "name a file"),
        (["--json", "story.json"], "--json story.json", "choose another name"),
        (["--json", "film.mp4"], "--json film.mp4", "choose another name"),
    ],
)
def test_bad_options(folder, model_folder, capsys, options, field, fix):
    (folder / "a_folder.mp4").mkdir()
    line = complaint(folder, capsys, tell(model_folder, *options))
    assert field in line and fix in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_to(folder, model_folder, capsys):
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    assert "choose another" in complaint(folder, capsys, tell(model_folder, "-o", str(closed / "film.mp4")))
    assert "cannot be written" in complaint(folder, capsys, tell(model_folder, "--json", str(closed / "report.json")))


def test_a_story_that_is_not_there(folder, model_folder, capsys):
    line = complaint(folder, capsys, main(["tell", "gone.json", "--preset", str(model_folder)]))
    assert line.startswith("shotstream: gone.json: ") and "check the name" in line


def test_what_no_story_has_is_named_and_passed_over(folder, model_folder, capsys):
    write(folder / "story.json", GOOD | {"sample_id": 7, "zzz": [], "frames_per_shot": [1, 5]})
    assert tell(model_folder) == 0
    assert "shotstream: story.json: sample_id, zzz: no key of a story, passed over\n" in capsys.readouterr().err
    assert len(read_film("film.mp4")) == 6


def missing(state):
    del state["proj_out.bias"]


def extra(state):
    state["proj_in.bias"] = torch.zeros(3)


def misshapen(state):
    state["proj_out.bias"] = torch.zeros(3)


@pytest.mark.parametrize("damage", [missing, extra, misshapen])
def test_a_checkpoint_that_does_not_fit(folder, model_folder, capsys, damage):
    shutil.copytree(model_folder, "model")
    state = load_file(f"model/{WEIGHTS}")
    damage(state)
    save_file(state, f"model/{WEIGHTS}")
    line = complaint(folder, capsys, tell(Path("model")))
    assert str(Path("model") / WEIGHTS) in line and damage.__name__ in line and "proj_" in line
    assert "fetch the model folder again" in line


class Trap:
    """A pickle that writes a file when it is opened."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("damage", ["cut", "pickle"])
def test_a_damaged_checkpoint(folder, model_folder, capsys, damage):
    path = Path(shutil.copytree(model_folder, "model")) / WEIGHTS
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        torch.save(Trap(), path)
    line = complaint(folder, capsys, tell(Path("model")))
    assert str(path) in line and "cannot be read" in line and "fetch the file again" in line
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["tell"], ["sing"], ["tell", "a.json", "--loud"], ["tell", "a.json", "--seed", "x"]]
)
def test_bad_usage(arguments, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("shotstream: ") and err.count("\n") == 1


def test_the_commands_and_the_version_are_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    out = capsys.readouterr().out
    assert not stop.value.code and all(f"• {name} " in out for name in COMMANDS) and "train" in COMMANDS
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"shotstream {__version__}\n"


def test_bad_stories_are_refused_before_torch_is_imported(folder):
    write(folder / "story.json", {"global_caption": "A red ball."})
    code = "import sys; from shotstream_lite.cli import main; c = main(sys.argv[1:]); print(c, 'torch' in sys.modules)"
    out, err = python("-c", code, "tell", "story.json").communicate()
    assert out.split() == ["2", "False"] and err == "shotstream: story.json: shot1 is missing: add it with a caption\n"


def test_the_exit_code_reaches_the_shell(folder):
    process = python("-m", "shotstream_lite", "tell", "gone.json")
    out, err = process.communicate()
    assert process.returncode == 2 and out == "" and err.count("\n") == 1


def test_a_name_the_terminal_cannot_print_and_a_reader_that_leaves(folder, model_folder, monkeypatch):
    """A terminal of ASCII, as in a bare container; the pipe is closed, as by `head`."""
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert tell(model_folder, "-o", "雪.mp4", "--frames", "1") == 0
    terminal.seek(0)
    assert terminal.read().startswith("\\u96ea.mp4: 2 of 2 shots") and len(read_film("雪.mp4")) == 2
    process = python("-m", "shotstream_lite", "--help")
    process.stdout.close()
    assert process.wait() == 0 and process.stderr.read() == ""


@pytest.fixture
def stops_after(monkeypatch):
    """Ctrl-C, or what else happens, after so many pieces of film."""

    def install(pieces: int, what: BaseException | int | None = None) -> None:
        made = StorySession.tell

        def tell(self):
            for number, frames in enumerate(made(self)):
                if number == pieces:
                    if isinstance(what, int):
                        signal.raise_signal(what)
                    raise what or KeyboardInterrupt
                yield frames

        monkeypatch.setattr(StorySession, "tell", tell)

    return install


STOPS = [None, *(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))]


@pytest.mark.parametrize("stop", STOPS)
def test_what_is_finished_is_kept_when_stopped(folder, model_folder, capsys, stops_after, stop):
    if stop and signal.getsignal(stop) == signal.SIG_IGN:  # under nohup, and then nothing is to be stopped
        pytest.skip("whoever started this ignores the signal")
    handlers = [signal.getsignal(number) for number in STOPS[1:]]
    stops_after(4, stop)  # 1 + 8 + 4 frames of the first shot and 1 of the second
    assert tell(model_folder) == 130
    assert [signal.getsignal(number) for number in STOPS[1:]] == handlers
    assert Path("film.mp4").read_bytes() == b"an older film"  # a stub replaces no film
    assert len(read_film("film-stopped.mp4")) == 14
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["interrupted"] is True and report["frames"] == 14 and len(report["shots"]) == 1
    assert "shot2" not in report["story"]
    assert "stopped early, 1 of 2 shots, 14 frames, " in capsys.readouterr().out


def test_ctrl_c_in_the_first_shot(folder, model_folder, capsys, stops_after):
    stops_after(1)
    assert tell(model_folder) == 130
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["fps"] is None and report["story"] is None and report["frames"] == 1
    assert capsys.readouterr().out == "film-stopped.mp4: stopped early, 0 of 2 shots, 1 frames, seed 0\n"


def test_a_late_error_keeps_what_is_finished(folder, model_folder, capsys, monkeypatch):
    """The temporary disk is full when the second shot is to be stored."""
    append, stored = Reel.append, []

    def full(self, frames):
        if stored:
            self._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
        stored.append(frames)
        return append(self, frames)

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    monkeypatch.setattr(Reel, "append", full)
    assert tell(model_folder, "-o", "new.mp4") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left on device): make room there, or set TMPDIR" in err
    assert err.endswith("; new.mp4 holds what is finished\n") and len(read_film("new.mp4")) == 26


def test_what_a_killed_command_left_is_named_and_removed(folder, model_folder, capsys):
    Path("film.mp4.0123abcd.part").touch()
    assert tell(model_folder, "--frames", "1") == 0
    assert "film.mp4.0123abcd.part: left by a command that was killed, removed" in capsys.readouterr().err
    assert not list(folder.glob("*.part"))


def test_frames_that_are_not_finite_are_no_film(folder, model_folder, capsys, monkeypatch):
    decode = StreamDecoder.decode
    monkeypatch.setattr(StreamDecoder, "decode", lambda self, latents: decode(self, latents) * float("nan"))
    assert "frames came out that are not finite" in complaint(folder, capsys, tell(model_folder))


def test_ctrl_c_before_the_first_frame_changes_nothing(folder, model_folder, capsys, stops_after):
    stops_after(0)
    assert tell(model_folder) == 130
    assert (folder / "film.mp4").read_bytes() == b"an older film"
    assert (folder / "report.json").read_bytes() == b"an older report"
    assert capsys.readouterr().err == "shotstream: stopped before the first frame, no film written\n"


def test_ctrl_c_while_loading(folder, model_folder, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt  # no signal: a test run in the background ignores Ctrl-C

    monkeypatch.setattr(ShotStreamPipeline, "from_pretrained", interrupted)
    assert tell(model_folder) == 130
    assert capsys.readouterr() == ("", "shotstream: stopped\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to the whole console")
def test_a_real_ctrl_c(folder, model_folder):
    write(folder / "story.json", LONG)
    # A test run in the background hands on that Ctrl-C is ignored: take it back.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from shotstream_lite.cli import main; sys.exit(main(sys.argv[1:]))"
    process = python("-c", code, "tell", "story.json", "-o", "film.mp4", "--preset", str(model_folder))
    patience = time.monotonic() + 120

    def grows() -> bool:
        return any(part.stat().st_size > 1000 for part in folder.glob("*.part"))

    while process.poll() is None and not grows() and time.monotonic() < patience:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "stopped early" in out
    assert f" {len(read_film('film-stopped.mp4'))} frames" in out
    assert not list(folder.glob("*.part"))


def test_benchmark_prints_and_writes_the_figures(folder, model_folder, capsys, monkeypatch):
    monkeypatch.setattr("shotstream_lite.benchmark._import_seconds", lambda: 1.0)
    assert main(["benchmark", "--preset", str(model_folder), "--shots", "3", "--json", "figures.json"]) == 0
    figures = json.loads(Path("figures.json").read_text(encoding="utf-8"))
    assert figures["shots"] == len(figures["shot_seconds"]) == 3 and figures["frames_per_shot"] == 13
    assert figures["times_real_time"] == pytest.approx(figures["fps"] / 16, abs=0.02)
    assert figures["resident_growth"] > -1
    assert all(value > 0 for name, value in figures.items() if isinstance(value, float) and name != "resident_growth")
    assert figures["machine"]["cpu"] and figures["machine"]["threads"] == torch.get_num_threads()
    out = capsys.readouterr().out
    assert f"{figures['fps']:.1f}, {figures['times_real_time']:.2f} times real time" in out


def test_benchmark_refuses_bad_input(folder, model_folder, capsys):
    for options, words in (
        (["--shots", "0"], "--shots is 0: write a whole number from 1"),
        (["--json", "gone/figures.json"], "--json gone"),
        (["--preset", "toybx"], "preset toybx"),
        (["--weights", "teacher", "--random-weights"], "--random-weights makes a student only"),
    ):
        assert words in complaint(folder, capsys, main(["benchmark", "--preset", str(model_folder), *options]))
