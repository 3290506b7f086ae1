"""What the page's script may ask for, and the answers: JSON both ways, nothing else is reachable."""

import base64
import re
from collections.abc import Callable
from typing import Any

from shotstream_lite.errors import ShotStreamError, StoryError
from shotstream_lite.studio.director import Director
from shotstream_lite.studio.house import House


def answer(house: House, message: Any) -> dict[str, Any]:
    """Does what a message {"token", "do", ...} asks for.

    Returns:
        {} or what was asked for; {"error": sentence} if it cannot be done. The page also hears of it as a notice.
    """
    if not isinstance(message, dict) or not isinstance(message.get("token"), str):
        return {"error": "this page is not connected: reload it"}
    try:
        director = house.of_token(message["token"])
    except StoryError as error:
        return {"error": str(error)}
    action = ACTIONS.get(message.get("do")) if isinstance(message.get("do"), str) else None
    if action is None:
        return {"error": "the page asked for something unknown: reload it"}
    result: dict[str, Any] = {}
    if not said(director, lambda: result.update(action(director, message) or {})):
        result = {"error": "see the notice"}
    return result


def said(director: Director, action: Callable[[], Any]) -> bool:
    """Does it; a complaint becomes a notice on the page. False if there was one."""
    try:
        action()
    except ShotStreamError as error:
        director.notice(str(error), "error")
        return False
    return True


def _number(message: dict, key: str = "number") -> int | None:
    value = message.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6 else None


def _save(director: Director, message: dict) -> dict:
    return {"text": director.save(), "name": "story.json"}


def _film(director: Director, message: dict) -> dict:
    number = _number(message)
    name = f"shot{number}.mp4" if number else "film.mp4"
    return {"base64": base64.b64encode(director.film(number)).decode("ascii"), "name": name}


def _load(director: Director, message: dict) -> None:
    name = re.sub(r"[^\w.\- ]", "", str(message.get("name", "")))[:60] or "story"
    director.load(message.get("text"), name)


ACTIONS: dict[str, Callable[[Director, dict], dict | None]] = {
    "more": lambda director, _: director.more(),
    "stop": lambda director, _: director.stop(),
    "go on": lambda director, _: director.go_on(),
    "unqueue": lambda director, message: director.unqueue(_number(message) or 0),
    "undo": lambda director, _: director.undo(),
    "branch": lambda director, _: director.branch(),
    "choose": lambda director, message: director.choose(_number(message) or 0),
    "close version": lambda director, _: director.close_version(),
    "compare": lambda director, _: director.compare(),
    "play": lambda director, message: director.play(_number(message)),
    "retell": lambda director, _: director.retell(),
    "drop stale": lambda director, _: director.drop_stale(),
    "new": lambda director, _: director.restart(),
    "save": _save,
    "film": _film,
    "load": _load,
}
