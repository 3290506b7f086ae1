"""Our numbers against recorded numbers of the released implementation, every recorded result of a folder.

A folder holds config.json (the released hyper-parameters and, under ``_golden``, the settings of the
recording), tiny random weights in the released format, and one file per subject with inputs (``in.*``) and
results (``out.*``). Sizes, budgets, steps and the number of shots are read from the folder; one function
checks one kind of file.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from shotstream_lite.errors import ShotStreamError, about, reason

from . import inference, training
from .record import AGAIN, TOLERANCE, Case, ParityError, Record, Row, is_result, read

__all__ = ["TOLERANCE", "ParityError", "Row", "report_text", "run"]

Check = Callable[[Case, Record], None]

CHECKS: dict[str, Check] = {
    "rope.safetensors": inference.check_rope,
    "schedule.safetensors": inference.check_schedule,
    "schedule.json": inference.check_schedule_json,
    "sampling.json": inference.check_sampling,
    "causal_mask.json": inference.check_causal_mask,
    "teacher.safetensors": inference.check_teacher,
    "ode_sampling.safetensors": inference.check_ode_sampling,
    "teacher_loss.safetensors": training.check_teacher_loss,
    "dmd_formula.safetensors": training.check_dmd_formula,
    "dmd_generator_e2e.safetensors": training.check_dmd_generator,
    "dmd_critic_e2e.safetensors": training.check_dmd_critic,
}


def run(folder: Path | str, device: str = "cpu") -> list[Row]:
    """Check everything in a folder of recorded numbers, on a device: rows of (item, relative error, detail).

    Raises ParityError naming a file or a tensor that is missing or damaged. A recorded result that no check
    knows is a row that fails.
    """
    case = Case(Path(folder), device)
    checks = dict(families(case))
    rows = [row for name, check in checks.items() for row in check_file(case, name, check)]
    for path in sorted(case.folder.glob("*.safetensors")):
        if path.name not in checks and any(is_result(key) for key in read(case.folder, path.name)):
            rows.append(Row(path.stem, float("inf"), f"no check knows the file {path.name}"))
    return rows


def check_file(case: Case, name: str, check: Check) -> list[Row]:
    """The rows of one file."""
    with about(case.folder / name):
        record = Record(name, flat(read(case.folder, name)), case.device)
    try:
        check(case, record)
    except ShotStreamError:
        raise
    except Exception as error:  # numbers of any shape and size meet here
        raise ParityError(f"{name}: does not fit the others ({reason(error)}): {AGAIN}") from None
    return record.rows()


def families(case: Case) -> Iterator[tuple[str, Check]]:
    """Every file that must be there, with its check: one a shot, one a mask, and the fixed ones."""
    yield from CHECKS.items()
    shots = [path for path in case.folder.glob("student_shot*.safetensors") if path.stem[12:].isdecimal()]
    for shot in range(max(1, len(shots))):
        yield f"student_shot{shot}.safetensors", inference.check_student
    with about(case.folder / "causal_mask.json"):
        masks = Record("causal_mask.json", flat(read(case.folder, "causal_mask.json")))
    for _, match in masks.matching(r"mask_ctx\d+_target(\d+)_chunk\d+"):
        yield f"ode_regression_f{match[1]}.safetensors", training.check_ode_regression


def flat(content: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """A file's numbers as tensors by dotted name; texts are left out."""
    if isinstance(content, list) and any(isinstance(value, dict | str) for value in content):
        content = dict(enumerate(content))
    if isinstance(content, dict):
        parts = (flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in content.items())
        return {key: value for part in parts for key, value in part.items()}
    if content is None or isinstance(content, str):
        return {}
    try:
        return {prefix: torch.as_tensor(content)}
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ParityError(f"{prefix} is no table of numbers: {AGAIN}") from None


def report_text(rows: list[Row]) -> str:
    """The report as text, one line a row, and a last line saying whether everything is met."""
    width = max(len(row.item) for row in rows)
    lines = [f"{'ok  ' if row.passed else 'FAIL'}  {row.item:<{width}}  {row.error:8.1e}  {row.detail}" for row in rows]
    failed = sum(not row.passed for row in rows)
    verdict = f"{failed} of {len(rows)} items failed" if failed else f"all {len(rows)} items met"
    return "\n".join([*lines, f"{verdict} (relative error up to {TOLERANCE:.0e})"])
