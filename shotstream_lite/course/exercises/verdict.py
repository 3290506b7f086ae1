"""What a checker answers: right, or in one sentence why not yet."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """Shown at the end of a cell as its sentence."""

    right: bool
    says: str

    def __repr__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}: {self.says}"


class NotYet(Exception):
    """Raised inside a checker; its message says what is wrong and with which input."""


def checker(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Makes a checker of a function that returns praise or raises `NotYet`."""

    @wraps(check)
    def checked(answer: Callable) -> Verdict:
        try:
            return Verdict(True, check(answer))
        except NotYet as why:
            return Verdict(False, str(why))

    return checked


def ask(answer: Callable, *inputs: Any, shown: str) -> Any:
    """What the learner's function gives. Raises NotYet if that is nothing, or an error; `shown` names the input."""
    try:
        given = answer(*inputs)
    except NotYet:
        raise
    except Exception as error:
        raise NotYet(f"for {shown} your function stops with {type(error).__name__}: {error}") from error
    if given is None or given is Ellipsis:
        raise NotYet(f"for {shown} your function gives nothing back: replace the ... and return a value")
    return given


def ask_for(kind: str, make: Callable, answer: Callable, *inputs: Any, shown: str) -> Any:
    """The same, made into what it has to be. Raises NotYet, naming that `kind` of thing, where it cannot be made."""
    given = ask(answer, *inputs, shown=shown)
    try:
        return make(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotYet(f"for {shown} your function gives {given!r:.60}, not {kind}") from error


def number(answer: Callable, *inputs: Any, shown: str) -> float:
    """The same for a function that gives one number, a finite one."""
    given = ask_for("a number", float, answer, *inputs, shown=shown)
    if not math.isfinite(given):
        raise NotYet(f"for {shown} you give {given}: a finite number is needed")
    return given


def expect_number(answer: Callable, *inputs: Any, wanted: float, shown: str, hints: dict[float, str]) -> None:
    """Raises NotYet unless the answer is `wanted`; `hints` explain wrong answers that are often given."""
    given = number(answer, *inputs, shown=shown)
    if abs(given - wanted) <= 1e-5 * max(1.0, abs(wanted)):
        return
    hint = next((f" ({why})" for value, why in hints.items() if abs(given - value) <= 1e-4 * max(1.0, abs(value))), "")
    raise NotYet(f"for {shown} you give {given:.6g}, it is {wanted:.6g}{hint}")


def whole_numbers(given: Iterable[int]) -> list[int]:
    """For `ask_for`."""
    return [int(number) for number in given]


def pairs(given: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    """For `ask_for`: (shot, frame) of each frame."""
    return [tuple(whole_numbers(pair)) for pair in given]
