"""README to the letter: every block of the page runs, in the order of the page, in one folder.

What takes hours or a network has a stand-in that holds what the command asks for against what there is: training gets
its stages' names, the hub is a folder with both released repositories at a tiny size, the released code an empty one.
"""

import importlib
import inspect
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import parity.__main__ as parity
import pytest
from released_folder import COMPONENTS, WEIGHTS, write_release

from shotstream_lite import benchmark, film, studio
from shotstream_lite.cli import COMMANDS, main
from shotstream_lite.film import read_film
from shotstream_lite.models.placement import Plan
from shotstream_lite.models.released import MODELS
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.session import StorySession
from shotstream_lite.story_files import load_story
from shotstream_lite.training import recipe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
SMALL = ["--height", "32", "--width", "48"]


class Visitor:
    """Somebody who types what the page says."""

    def __init__(self, folder: Path, model: Path, monkeypatch) -> None:
        self.model, self.patch, self.hub = model, monkeypatch, folder / "hub"
        self.ran: list[str] = []
        for name in ("demos", "tests"):
            (folder / name).symlink_to(ROOT / name)
        write_release(self.hub)
        monkeypatch.setenv(MODELS, str(self.hub))
        monkeypatch.setenv("SHOTSTREAM_CACHE", str(folder / "cache"))
        monkeypatch.syspath_prepend(str(ROOT / "demos"))
        monkeypatch.setattr(benchmark, "_import_seconds", lambda: 1.0)
        monkeypatch.setattr(film, "COMFORTABLE", 1)  # films of many pixels take their time
        monkeypatch.setattr(recipe, "train_all", self.train_all)
        opened = inspect.signature(studio.launch)
        monkeypatch.setattr(studio, "launch", lambda *given, **options: opened.bind(*given, **options))

    def bash(self, block: str) -> None:
        for line in block.splitlines():
            for command in re.split(r"\s&&\s", line.partition("  #")[0]):
                program, *arguments = shlex.split(command)
                getattr(self, program)(*arguments)
                self.ran.append(command.strip())

    def pip(self, install: str, *wanted: str) -> None:
        assert install == "install"
        for extra in re.findall(r"\[(.*?)\]", " ".join(wanted)):
            assert set(extra.split(",")) <= EXTRAS.keys()

    def shotstream(self, command: str, *arguments: str) -> None:
        given = [command, *arguments]
        if "wan-1.3b" in arguments and command == "tell":
            given += SMALL
        if "--random-weights" in arguments:
            load = ShotStreamPipeline.from_pretrained
            self.patch.setattr(benchmark, "random_pipeline", lambda *_, **__: load(self.model))
            self.patch.setattr("shotstream_lite.commands.benchmark.place", lambda *_, **__: ("cpu", Plan()))
        assert main(given) == 0, given

    def train_all(self, config: recipe.AllConfig) -> None:
        """A run that has been through all stages of its plan."""
        stages = recipe.stage_configs(config)
        for name, stage in stages.items():
            stage.check()
            if name not in ("films", "text"):
                part = {"codec": "vae", "decoder": "vae"}.get(name, "transformer")
                shutil.copytree(self.model / part, config.out / {"vae": "vae"}.get(part, name), dirs_exist_ok=True)
        for name in ("text_encoder", "tokenizer"):
            shutil.copytree(self.model / name, config.out / name)

    def hf(self, download: str, repository: str, option: str, folder: str) -> None:
        """The hub, which has what the library asks it for, and nothing else."""
        owned = {f"Wan-AI/{COMPONENTS}", f"KlingTeam/{WEIGHTS}"}
        assert (download, option) == ("download", "--local-dir") and repository in owned
        shutil.copytree(self.hub / repository.split("/")[1], folder)

    def export(self, assignment: str) -> None:
        """And from then on the hub is not there."""
        shutil.move(self.hub, self.hub.with_name("gone"))
        self.patch.setenv(*assignment.split("="))
        assert main(["tell", "story.json", "--preset", "wan-1.3b", "-o", "local.mp4", *SMALL]) == 0

    def git(self, clone: str, address: str) -> None:
        released = importlib.import_module("released_code")
        for name in released.MODULES.values():
            file = Path(address.rsplit("/", 1)[1], *name.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def python(self, *arguments: str) -> None:
        if arguments[:2] == ("-m", "tests.parity"):
            assert parity.main([*arguments[2:]]) == 0
            return
        script, *options = arguments
        demo, tyro = importlib.import_module(Path(script).stem), importlib.import_module("tyro")
        ours = object()
        for name, stand_in in {
            "check_place": lambda checkout: None,  # here is no GPU, and no released code
            "load_released": lambda checkout: (checkout / "pipeline").is_dir(),
            "random_pipeline": lambda preset, device: ours,
            "compare": lambda pipeline, modules, shots: {"right": pipeline is ours and modules, "shots": shots},
            "report_text": lambda figures: f"{figures['right']} {figures['shots']}",
        }.items():
            self.patch.setattr(demo, name, stand_in)
        assert Path(script).is_file() and tyro.cli(demo.main, args=options) == 0

    def pytest(self, *arguments: str) -> None:
        """What CI runs, as it stands there."""


def test_every_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch, model_folder, capsys):
    monkeypatch.chdir(tmp_path)
    visitor = Visitor(tmp_path, model_folder, monkeypatch)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    for kind, block in blocks:
        if kind == "python":
            exec(block, names := {})
            session = names["session"]
            story, told = load_story("story.json"), session.film()
            assert story == session.story and story.shots[-1].caption == "Close-up: the blue box spins."
            again = StorySession.of(session.pipeline, story)
            assert np.array_equal(np.concatenate(list(again.tell())), told)
            assert len(read_film("film.mp4")) == 5 * session.settings.shot_frames
        else:
            visitor.bash(block)
    assert len(blocks) >= 9 and any("train ship" in command for command in visitor.ran)
    assert "True 4" in capsys.readouterr().out and Path("FOLDER/model_index.json").is_file()


def options_of(command: str, capsys) -> set[str]:
    """All that a command, or a stage of training, takes."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    return options(capsys.readouterr().out)


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/report.md",
    "notebooks/README.md",
    "shotstream_lite/weights/toybox/README.md",
]


def test_options_that_texts_name_are_there(capsys):
    """Of the command they are named with, or, in README, of any."""
    stages = [f"train {stage}" for stage in (*recipe.STAGES, "all", "ship", "tiny-decoder", "tables")]
    known = {command: options_of(command, capsys) for command in (*COMMANDS, *stages) if command != "train"}
    known["train"] = set().union(*(known[stage] for stage in stages))
    anywhere = set().union(*known.values(), {"--version", "--help"})
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        for span in re.findall(r"`([^`\n]+)`", text):
            if named := re.match(r"shotstream (train \S+|\w+)", span):
                stage = re.match("train [a-z]", named[1])  # not `train STAGE`
                assert options(span) <= known[named[1] if stage else named[1].split()[0]], f"{page}: {span}"
            elif span.startswith("--") and page == "README.md":  # others name options of nbconvert, too
                assert options(span) <= anywhere, f"{page}: {span}"
