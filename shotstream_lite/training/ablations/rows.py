"""The rows of the paper's Tables 3 and 4, of what it left out, and of its rivals: settings of stages, as data.

Every row changes one thing of "ours". Changes name a stage, or "*" for all that have the setting, so that teacher and
student fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TEACHER = ("teacher",)
BOTH_STAGES = ("teacher", "causal-init", "intra-shot", "inter-shot")
FIRST_STAGE = BOTH_STAGES[:3]
EMBEDDING = {stage: {"indicator": "embedding"} for stage in BOTH_STAGES[1:]}


@dataclass(frozen=True)
class Row:
    """A model to train and to measure.

    Attributes:
        stages: in their order; the last one is measured.
        changes: of the stages' configurations.
        start: what the teacher begins as, the run's base model or its finished teacher.
        settings: of the stream, when it is measured only (see `models.settings`).
        shots: of the stories it is measured on; None for the usual number.
        rival: what it is measured as, see `ablations.rivals`; "" for the method itself.
    """

    table: str
    name: str
    stages: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    start: Literal["base", "teacher"] = "teacher"
    settings: Mapping[str, Any] = field(default_factory=dict)
    shots: int | None = None
    rival: str = ""


def _students(**changes: Any) -> dict[str, dict[str, Any]]:
    return {stage: changes for stage in BOTH_STAGES[1:]}


TABLE_3 = tuple(  # from the base: a finished teacher has learnt the paper's way already
    Row("3", name, TEACHER, changes, "base")
    for name, changes in {
        "ours": {},
        "first frame only": {"*": {"policy": "first"}},
        "first and last": {"*": {"policy": "first-last"}},
        "target caption for all": {"*": {"captions": "target"}},
        "channel concat": {"teacher": {"injection": "channel"}},
        "all parameters": {"teacher": {"trained": "all"}},
    }.items()
)
TABLE_4 = (
    Row("4", "ours", BOTH_STAGES),
    Row("4", "no indicator", BOTH_STAGES, {"*": {"phase": 0.0}}),
    Row("4", "learnt embedding", BOTH_STAGES, {"*": {"phase": 0.0}} | EMBEDDING),
    Row("4", "stage 1 only", FIRST_STAGE),
    Row("4", "stage 2 only", ("teacher", "causal-init", "inter-shot"), {"inter-shot": {"begin": "causal-init"}}),
)
BEYOND = (
    Row("beyond", "no global cache", BOTH_STAGES, settings={"policy": "none"}),
    *(Row("beyond", f"phase 1/{n}", BOTH_STAGES, {"*": {"phase": 1 / n}}) for n in (12, 3, 1)),
    *(Row("beyond", f"budget {n}", BOTH_STAGES, {"*": {"budget": n}}) for n in (2, 12)),
    Row("beyond", "1 step", BOTH_STAGES, _students(student_steps=(1000,))),
    Row("beyond", "2 steps", BOTH_STAGES, _students(student_steps=(1000, 500))),
    Row("beyond", "8 steps", BOTH_STAGES, _students(student_steps=tuple(range(1000, 0, -125)))),
    *(Row("beyond", f"chunk {n}", BOTH_STAGES, _students(chunk=n)) for n in (1, 9)),
)
DRIFT = (
    Row("drift", "causal-init", BOTH_STAGES[:2], shots=20),
    Row("drift", "stage 1", FIRST_STAGE, shots=20),
    Row("drift", "stage 2", BOTH_STAGES, shots=20),
)
RIVAL_STAGES = ("teacher", "rival-init", "rival-distil")
LEARNT_SHOTS = 4  # of a film, where rivals are given films


def _rival(name: str, shots: int, measured: tuple[str, ...] = (), **distil: Any) -> tuple[Row, ...]:
    """A streaming rival, measured as itself or as others: the rules that need no training of their own."""
    init = {"rival": name, "shots": shots if not distil else 1}
    changes = {"rival-init": init, "rival-distil": {"rival": name, "shots": shots} | distil}
    given = ", our films" if shots > 1 and not distil else ", as published"
    return tuple(Row("rivals", n + given, RIVAL_STAGES, changes, rival=n) for n in measured or (name,))


RIVALS = (
    Row("rivals", "shotstream", BOTH_STAGES),
    Row("rivals", "keyframes", BOTH_STAGES, rival="keyframes"),
    *_rival("self-forcing", 1, ("self-forcing", "infinity-rope")),
    *_rival("causvid", 1),
    *_rival("rolling-forcing", 1),
    *_rival("longlive", LEARNT_SHOTS, ("longlive", "longlive without recache"), history="own", remembers=False),
    *_rival("self-forcing", LEARNT_SHOTS, ("self-forcing", "infinity-rope")),
    *_rival("causvid", LEARNT_SHOTS),
    *_rival("rolling-forcing", LEARNT_SHOTS),
    *_rival("longlive", LEARNT_SHOTS, ("longlive", "longlive without recache")),
    *_rival("causalcine", LEARNT_SHOTS),
    *(
        Row("rivals", name, ("rival-flow",), {"rival-flow": {"rival": name, "shots": LEARNT_SHOTS}}, rival=name)
        for name in ("full", "lct", "lct-causal", "holocine", "moc")
    ),
)
MARKS = tuple(
    Row("marks", name, ("rival-flow",), {"rival-flow": {"mark": name}}, rival="full")
    for name in ("none", "phase", "offset-0.5", "offset-4", "offset-8", "jump-45", "negative", "diagonal", "embedding")
)
ROWS = (*TABLE_3, *TABLE_4, *BEYOND, *DRIFT, *RIVALS, *MARKS)
