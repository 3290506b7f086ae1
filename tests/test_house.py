"""The layout: imports run one way, down the floors that CONTRIBUTING.md draws, and in no circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shotstream_lite"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, now or when something in it is called; not what only types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    types = {inner for check in checks for inner in ast.walk(check)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shotstream_lite") and node not in types:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else name.rpartition(".")[0] for name in _ours(names)}
        if isinstance(node, ast.Import):
            found |= set(_ours(alias.name for alias in node.names))
    return found & MODULES.keys()


def _ours(names) -> list[str]:
    return [name.removeprefix("shotstream_lite.") for name in names if name.startswith("shotstream_lite.")]


def room(module: str) -> str:
    return module.partition(".")[0]


def test_imports_run_down_the_floors_and_in_no_circle():
    drawn = re.search(r"```text\n(__main__.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    floors = [line.split() for line in reversed(drawn[1].splitlines())]
    height = {name: number for number, floor in enumerate(floors) for name in floor}
    graph = {module: imports(path) for module, path in MODULES.items()}
    assert height.keys() == {room(module) for module in graph}, "a module or a room without a floor in CONTRIBUTING.md"
    up = [
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if room(module) != room(other) and height[room(other)] >= height[room(module)]
    ]
    assert not up
    list(TopologicalSorter(graph).static_order())  # raises CycleError
