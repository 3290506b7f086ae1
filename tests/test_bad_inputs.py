"""Four hundred bad inputs, and what every one of them must come to: exit code 2, one line, nothing written, no wait.

A row is a command line and the files it needs; add yours to `ROWS`. The words of single complaints are tested where
they are made.
"""

import json
import os
import time
from pathlib import Path

import parity.__main__ as parity
import pytest

from shotstream_lite.cli import main
from shotstream_lite.models.placement import Plan

GOOD = {"global_caption": "A red ball in a meadow.", "shot1": "Wide shot: the red ball jumps.", "shot2": "It waves."}
NAN, INF = float("nan"), float("inf")
NO_TEXT = [None, True, 5, 1.5, NAN, [], ["x"], {}, {"a": 1}, "", " \n\t", "x " * 501, "x" * 5001, "\ud800"]
NO_WHOLE = [True, 1.5, NAN, INF, "33", "", [], {}, -1, 10**40]
NO_NUMBER = [None, True, "1", [], {}, NAN, INF, 10**40]


def told(**changes: object) -> dict:
    return {key: value for key, value in (GOOD | changes).items() if value is not ...}


def stories() -> list[object]:
    """What is no story: JSON, or text as it is."""
    bad: list[object] = [told(**{key: value}) for key in ("global_caption", "shot1", "shot2") for value in NO_TEXT]
    bad += [told(seed=value) for value in NO_WHOLE + [2**63]]
    bad += [told(seeds=value) for value in ([1], [1, 2, 3], "1", 1, {"1": 2}, True)]
    bad += [told(seeds=[1, value]) for value in NO_WHOLE]
    bad += [told(frames=value) for value in [*NO_WHOLE, 0, 2, 12, 965, [13], [13, 13, 13]]]
    bad += [told(frames=[13, value]) for value in [*NO_WHOLE, 0, 2, 12, 965]]
    bad += [told(turns=value) for value in (5, "x", {}, [[]], [[], [], []], [5, None], ["x", None], [{}, None])]
    turns = [{"frame": value, "caption": "x"} for value in [*NO_WHOLE, None, 962, 13]]
    turns += [{"frame": 0, "caption": value} for value in NO_TEXT]
    turns += [{"frame": 0}, {"caption": "x"}, {"frame": 0, "caption": "x", "to": 1}, None, 5, []]
    bad += [told(turns=[[turn], None], frames=13) for turn in turns]
    bad += [told(turns=[[{"frame": 4, "caption": "x"}, {"frame": frame, "caption": "x"}], None]) for frame in (4, 3)]
    bad.append(told(turns=[[{"frame": 13, "caption": "past the end of the shot the model makes"}], None]))
    bad += [told(settings=value) for value in (5, "x", [], True, [{}])]
    sizes = {"height": [0, 44, 9000], "width": [0, 50, 9000], "fps": [0, 241], "chunk": [0, 241], "budget": [65]}
    bad += [told(settings={key: value}) for key, values in sizes.items() for value in [*values, *NO_WHOLE, None]]
    bad += [told(settings={"shot_frames": value}) for value in [*NO_WHOLE, 0, 2, 965]]
    bad += [told(settings={"policy": value}) for value in [None, True, 5, [], {}, "", "dynamo", "x" * 9999]]
    bad += [told(settings={key: value}) for key in ("phase", "shift") for value in NO_NUMBER]
    bad += [told(settings={"shift": value}) for value in (0, -1)]
    steps = [None, 5, "x", {}, [], [500], [1000, 1000], [1000, 0], [1000, -5], [1000, NAN], [1000, "5"], [1000, True]]
    steps += [[1000, 2000], [1000, None], [1000, []], [1000 - number / 20 for number in range(10_000)]]
    bad += [told(settings={"steps": value}) for value in steps]
    bad += [told(settings={key: 1}) for key in ("hight", "", "x" * 9999, "text_tokens", "guidance", "negative_prompt")]
    bad += [told(shot_settings=value) for value in (5, "x", {}, [{}], [5, None], ["x", None], [[1], None])]
    changes = [{"height": 32}, {"fps": 16}, {"policy": "x"}, {"chunk": 0}, {"steps": []}, {"weights": "x"}]
    changes += [{"weights": value} for value in (5, [], {})]
    bad += [told(shot_settings=[None, value]) for value in changes]
    bad += [told(**{key: "x"}) for key in ("shot0", "shto3", "Shot3", "shot_3", "shot03", "Global_Caption", "frame")]
    bad += [told(shot4="x"), told(shot999999="x"), told(global_caption=...), told(shot1=...), {}, {"shot1": "x"}]
    bad += [[], [GOOD], 5, None, True, NAN, "x", {"global_caption": "g", "shots": ["a", "b"]}]
    bad += [
        Raw(text) for text in ("", " ", "{", "}", "{]", "nul", "[" * 100_000, "{" * 9, '{"a":' * 99_999, "9" * 5000)
    ]
    bad += [Raw(text) for text in ('{"seed": ' + "9" * 5000 + "}", '{"shot1": "a", "shot1": "b"}', '{"shot1": "\n"}')]
    bad += [Raw(text) for text in (b"\xff\xfe{\0}\0", b"\x80", '{"shot1": "caf\xe9"}'.encode("latin-1"), b"\0" * 99)]
    bad += [
        Raw(text) for text in ("version https://git-lfs.github.com/spec/v1\n", "<!DOCTYPE html>", "global_caption: g")
    ]
    return bad


class Raw:
    """A file's content, not JSON yet."""

    def __init__(self, content: str | bytes) -> None:
        self.content = content.encode() if isinstance(content, str) else content


def tables() -> list[str]:
    good = "json_path,frame_number\n"
    ranges = [
        "[]",
        "[[]]",
        "[5]",
        "[[0,13],5]",
        "[[0]]",
        "[[0,1,2]]",
        "[[13,0]]",
        "[[0,0]]",
        "[[-5,0]]",
        "[[0,12]]",
        "x",
    ]
    ranges += [
        "[[0,1e999]]",
        "[[0,nan]]",
        "[[0,13.5]]",
        '[["0","13"]]',
        "[[None,13]]",
        "{}",
        "0",
        "[[0,13]",
        "[" * 9999,
    ]
    ranges += [
        "[[0,13],[13,26],[26,39]]",
        "[[0,99999999]]",
        "__import__('os')",
        "[[0," + "9" * 5000 + "]]",
        "((((",
        "{0:13}",
    ]
    bad = [f'{good}good.json,"{text.replace(chr(34), chr(34) * 2)}"\n' for text in ranges]
    bad += ["", "\n\n", "json_path\n", "path\ngood.json\n", "json_path;x\ngood.json;\n", good + "x" * 200_000 + ",\n"]
    bad += [
        f"{good}{name},\n" for name in ("gone.json", "x" * 5000, "a\tb", ".", "..", "/", "table.csv", "~", "good", "%s")
    ]
    bad += [good + "\0,\n", good + '"good.json', good + ",\n", f"{good}good.json,\ngone.json,\n"]
    return bad


PARITY = "python -m tests.parity"
TELL = ["tell", "good.json", "-o", "film.mp4"]
EVALUATED = ["", "budget", "budget=", "=1", "hight=1", "budget=x", "policy=dynamo", "budget=1,budget=2", "float8=maybe"]
EVALUATED += [
    "float8=1",
    "float8=true,float8=false",
    "steps=[1000",
    "steps=1000,500",
    "height=32",
    "budget=NaN",
    "@",
    "a\0b=1",
]
EVALUATED += ["guidance=3", "text_tokens=4", "budget=2,", "budget=" + "9" * 5000, "steps=" + "[" * 99_999]
TRAINED = [
    "--lr fast",
    "--betas 0.9",
    "--steps 1e3",
    "--precision fp8",
    "--budget",
    "--compile maybe",
    "--preset toybx",
]
OPTIONS = [
    *([*TELL, "--seed", value] for value in ("-1", "1.5", "x", "", str(2**63), "nan", "1e3", "True")),
    *([*TELL, "--frames", value] for value in ("0", "-13", "12", "2", "965", "x", "1.5", "", "999999999999999999999")),
    *([*TELL, f"--{side}", value] for side in ("height", "width") for value in ("0", "-16", "44", "9000", "x", "1.5")),
    *([*TELL, "--device", value] for value in ("", " ", "meta", "cdua", "cuda:99", "cuda:-1", "cpu:", "x" * 999, "0")),
    *([*TELL, "--preset", value] for value in ("", "toybx", "gone", "good.json", ".", "/dev/null", "a\0b", "x" * 5000)),
    *([*TELL, "--weights", value] for value in ("", "studnet", "../student", "x" * 999)),
    *([*TELL, "--json", value] for value in ("", "gone/x.json", ".", "good.json", "film.mp4", "a\0b", "x" * 5000)),
    *(
        ["tell", "good.json", "-o", value]
        for value in ("", ".", "film", "film.avi", "film.mp4.gz", "gone/film.mp4", "a\0b.mp4", "x" * 5000 + ".mp4")
    ),
    *(["tell", value] for value in ("gone.json", "a\0b", "x" * 5000, "good.json/x", "empty", "pipe", "zero", "huge")),
    *(
        ["tell", "good.json", option]
        for option in ("--loud", "--seed", "-x", "more.json", "--float8=maybe", "--preset")
    ),
    *([name] for name in ("", "sing", "--loud", "tell", "convert", "Tell", "train")),
    *([PARITY, value] for value in ("", "gone", "good.json", "empty", ".", "a\0b", "x" * 5000, "pipe", "empty/..")),
    *(["benchmark", "--shots", value] for value in ("0", "-1", "x", "1.5", "", "1000000000")),
    *(["benchmark", "--device", value] for value in ("", "meta", "cdua", "cuda:99")),
    *(["benchmark", "--preset", value] for value in ("", "toybx", "good.json", "wan-1.3b")),
    *(["benchmark", "--weights", value] for value in ("", "studnet", "../student")),
    *(["benchmark", f"--{side}", value] for side in ("height", "width") for value in ("0", "44", "9000", "x")),
    *(["benchmark", "--tiny-decoder", value] for value in ("", "gone", "bad.safetensors", "pipe", "zero", "a\0b")),
    *(["benchmark", "--json", value] for value in ("", ".", "gone/x.json", "a\0b")),
    ["benchmark", "--weights", "teacher", "--random-weights"],
    ["benchmark", "--count", "--card", "abacus"],
    *(["studio", "--port", value] for value in ("-1", "65536", "x", "1.5", "")),
    *(["studio", "--weights", value] for value in ("", "teacher", "x")),
    *(["studio", "--preset", value] for value in ("", "toybx", "good.json", "a\0b", "wan-1.3b")),
    *(
        ["studio", "--host", value]
        for value in ("", "no such host", "256.0.0.1", "a\0b", "x" * 999, "::g", "fe80::1%no")
    ),
    *(["studio", "--auth", value] for value in ("", "name", ":", "name:", ":word")),
    *(["studio", "--stories", value] for value in ("", "gone", "good.json", "a\0b", "x" * 5000)),
    *(["serve", "--port", value] for value in ("-1", "65536", "x")),
    *(["serve", "--host", value] for value in ("", "no such host", "a\0b")),
    *(
        ["serve", option, value]
        for option, value in (("--weights", "teacher"), ("--auth", "name"), ("--preset", "toybx"))
    ),
    *(["evaluate", f"--{name}", value] for name in ("stories", "shots") for value in ("0", "-1", "x", "1.5", "1" * 10)),
    *(["evaluate", "--seed", value] for value in ("-1", "x", str(2**63), str(2**60))),
    *(["evaluate", "--seen", f"--{name}", "1000000"] for name in ("stories", "shots")),
    *(["evaluate", "--weights", value] for value in ("", "x", "gone:student", "toybox:", ":", "a\0b:student")),
    *(["evaluate", "--weights", f"student@{value}"] for value in EVALUATED),
    *(["evaluate", "--weights", *pair] for pair in (("student", "student"), ("student", "toybox:student"))),
    ["evaluate", "--weights", "@budget=2"],
    ["evaluate", "--weights"],
    *(["evaluate", "--preset", value] for value in ("", "toybx", "good.json", "wan-1.3b")),
    *(["evaluate", "--films", value] for value in ("", "gone", "empty", "good.json", "a\0b")),
    *(
        ["evaluate", option, value]
        for option in ("--keep", "--pictures")
        for value in ("good.json", "a\0b", "x" * 5000)
    ),
    *(["evaluate", "--json", value] for value in ("", "gone/x.json", ".", "a\0b")),
    *(
        ["convert", value, "new"]
        for value in ("", "gone", "gone.pt", "good.json", "empty", "toybox", "a\0b.pt", "wan-1.3b")
    ),
    *(["convert", f"{name}.pt", "new"] for name in ("pipe", "zero", "bad", "huge")),
    *(["convert", f"bad.{kind}", "new"] for kind in ("pth", "safetensors")),
    ["convert", "bad.pt", "new", "--weights", "teacher"],
    *(["convert", "bad.pt", target] for target in ("", "a\0b", "good.json", "x" * 5000, ".")),
    *(["convert", "toybox", "new", option, "gone"] for option in ("--config", "--lora", "--weights")),
    *(["convert", "bad.pt", "new", "--config", value] for value in ("gone", "pipe", "good.json", "empty", "a\0b", "")),
    *(
        ["story", "convert", source, "new"]
        for source in ("", "gone.txt", "empty", "pipe", "zero", "huge", "a\0b.jsonl")
    ),
    *(["story", "convert", "good.json", target] for target in ("a\0b", "good.json/x", "x" * 5000, "gone/x.json")),
    *(["story", *rest] for rest in ([], ["revert", "good.json", "new"], ["convert"], ["convert", "good.json"])),
    *(["train", stage, "--out", "run"] for stage in ("", "student", "Teacher", "--loud")),
    *(
        ["train", "teacher", *rest]
        for rest in ([], ["--out"], ["--out", "run", "--steps", "x"], ["--out", "run", "more"])
    ),
    *(["train", "teacher", "--out", "run", *rest.split()] for rest in TRAINED),
    *(["train", "teacher", "--out", value] for value in ("", "good.json", "a\0b", "x" * 5000, "pipe")),
    ["train", "all", "--out", "run", "--preset", "toybx"],
    ["train", "films", "--out", "run", "--frames", "33.0"],
    ["train", "films", "--out", "run", "--budgets", "2,4"],
]

ROWS = [
    *((["tell", "story.json", "-o", "film.mp4"], {"story.json": story}) for story in stories()),
    *((["tell", "table.csv", "-o", "films"], {"table.csv": Raw(table)}) for table in tables()),
    *((options, {}) for options in OPTIONS),
]


def test_every_bad_input_is_one_line(tmp_path, monkeypatch, capsys, loaded):
    """The model is in memory already; loading it four hundred times would prove nothing more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shotstream_lite.commands.tell.place", placed)
    monkeypatch.setattr("shotstream_lite.pipeline.load_pipeline", loader(loaded))
    surroundings()
    mishandled, began = [], time.process_time()
    for arguments, files in ROWS:
        for name, content in files.items():
            data = content.content if isinstance(content, Raw) else json.dumps(content).encode()
            Path(name).write_bytes(data)
        before = set(os.listdir())
        try:
            code = parity.main(arguments[1:]) if arguments[:1] == [PARITY] else main(arguments)
        except BaseException as error:  # noqa: BLE001, also SystemExit is wrong
            code = f"{type(error).__name__}: {error}"[:200]
        out, err = capsys.readouterr()
        longest = 1200 if "wan-1.3b" in arguments else 600  # of a released model every missing file is named
        said = [line for line in err.splitlines() if not line.endswith("passed over")]
        wrote = {name for name in set(os.listdir()) - before if name != "films"} | set(Path(".").glob("films/*"))
        named = "parity: " if arguments[:1] == [PARITY] else "shotstream: "
        if code != 2 or len(said) != 1 or len(said[0]) > longest or not said[0].startswith(named) or wrote:
            mishandled.append(f"{str((arguments, files and data[:80]))[:200]}: {code} {err[:300]!r} {wrote}")
    assert len(ROWS) >= 400
    assert not mishandled, f"{len(mishandled)} of {len(ROWS)}:\n" + "\n".join(mishandled)
    assert time.process_time() - began < 120


def placed(preset, device, float8, changes, download=True):
    from shotstream_lite.commands.common import place

    if preset == "toybox" and device is None:
        return "cpu", Plan()
    return place(preset, device, float8, changes, download)


def loader(pipeline):
    from shotstream_lite.pipeline import load_pipeline

    return lambda name, weights="student", *rest: (
        pipeline if weights == "student" and name == "toybox" else load_pipeline(name, weights, *rest)
    )


def surroundings() -> None:
    """Files that rows name: some are no files."""
    Path("good.json").write_text(json.dumps(GOOD), encoding="utf-8")
    Path("empty").mkdir()
    for kind in ("pt", "pth", "safetensors"):
        Path(f"bad.{kind}").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for name in ("pipe", "pipe.pt"):
        os.mkfifo(name) if hasattr(os, "mkfifo") else Path(name).mkdir()
    for name in ("zero", "zero.pt"):
        Path(name).symlink_to("/dev/zero") if os.name != "nt" else Path(name).mkdir()
    with open("huge", "wb") as file:
        file.truncate(3 * 2**30)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
