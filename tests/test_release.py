"""What a release says of itself agrees, its forms are valid, and `shotstream info` tells what a report needs."""

import re
from pathlib import Path

import pytest
import torch

from shotstream_lite import __version__
from shotstream_lite.cli import main

check_jsonschema = pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
ROOT = Path(__file__).parent.parent
FORMS = {
    "github-workflows": [".github/workflows/*.yml"],
    "github-issue-forms": [f".github/ISSUE_TEMPLATE/{name}.yml" for name in ("fault", "speed", "wish")],
    "github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
    "citation-file-format": ["CITATION.cff"],
}


def test_the_version_is_the_same_everywhere():
    read = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "CHANGELOG.md")}
    assert re.search(r"^version: (\S+)$", read["CITATION.cff"], re.MULTILINE)[1] == __version__
    assert re.search(r"^## (\d[\w.]*)", read["CHANGELOG.md"], re.MULTILINE)[1] == __version__


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_valid(form, tmp_path, capsys):
    files = sorted(path for pattern in FORMS[form] for path in ROOT.glob(pattern))
    options = ["--builtin-schema", f"vendor.{form}", "--default-filetype", "yaml"]
    with pytest.raises(SystemExit) as stop:
        check_jsonschema.main([*options, *map(str, files)])
    assert files and stop.value.code in (0, None), capsys.readouterr().out
    (tmp_path / "bad.yml").write_text("on: 5\nbody: 5\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        check_jsonschema.main([*options, str(tmp_path / "bad.yml")])
    assert stop.value.code == 1


def test_every_way_of_tests_is_there():
    tests = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    assert "[ubuntu-latest, macos-latest, windows-latest]" in tests and '["3.11", "3.12", "3.13"]' in tests


def test_info_says_what_a_report_needs_and_nothing_private(capsys):
    assert main(["info"]) == 0
    said = dict(line.partition(": ")[::2] for line in capsys.readouterr().out.splitlines())
    assert said["shotstream"].strip() == __version__ and said["torch"].strip() == torch.__version__
    cards = {f"cuda:{index}" for index in range(torch.cuda.device_count())}
    assert {"python", "diffusers", "av", "cpu", "attention", *cards} <= said.keys()
    assert "GiB free" in said["cpu"] and str(Path.home()) not in str(said)
