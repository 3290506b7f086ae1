"""The live page: Gradio's own inputs around a few canvases of ours (see `static`)."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.studio import controls
from shotstream_lite.studio.answers import answer, said
from shotstream_lite.studio.facts import facts
from shotstream_lite.studio.house import House
from shotstream_lite.studio.limits import MAX_SHOT_SECONDS
from shotstream_lite.studio.words import examples, known_phrases

STATIC = Path(__file__).parent / "static"
BEAT = 10.0  # seconds after which a page hears that nothing happened
# Many pages stream at once, and none of them shows Gradio's own progress.
FREE: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}


def build(pipelines: list[ShotStreamPipeline]) -> gr.Blocks:
    """The page on these pipelines, one a device. `launch` shows it; `gr.mount_gradio_app` takes it too."""
    house = House(pipelines)
    with gr.Blocks(
        title="shotstream studio", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True
    ) as page:
        parts = _lay_out(pipelines[0], house)
        _wire(parts, pipelines[0], house)
        page.unload(_leaving(house))
    page.house = house
    return page.queue(default_concurrency_limit=None, api_open=False)


def looks() -> dict[str, Any]:
    """What `Blocks.launch` and `gr.mount_gradio_app` need to show the page as it is meant."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    # Blue and orange mean the two memories here, so that the page itself is grey.
    theme = gr.themes.Base(
        primary_hue="gray", neutral_hue="gray", radius_size="md", font=sans, font_mono=["monospace"]
    ).set(
        button_primary_background_fill="*neutral_800",
        button_primary_background_fill_hover="*neutral_700",
        button_primary_text_color="white",
        slider_color="*neutral_500",
        checkbox_background_color_selected="*neutral_700",
        checkbox_border_color_selected="*neutral_700",
    )
    return {"theme": theme, "css": (STATIC / "studio.css").read_text("utf-8"), "footer_links": []}


def _lay_out(pipeline: ShotStreamPipeline, house: House) -> dict[str, Any]:
    """All components by name, in reading order; on a phone the columns come one after the other."""
    tokenizer = pipeline.text.tokenizer
    example = examples(tokenizer)
    size = {"width": pipeline.settings.width, "height": pipeline.settings.height, "fps": pipeline.settings.fps}
    parts: dict[str, Any] = {}
    _canvas("header")
    with gr.Row(elem_id="set"):
        with gr.Column(scale=3, min_width=320, elem_id="left"):
            parts["screen"] = _canvas("screen", server_functions=[_act(house)], **size)
            parts["shot"] = gr.Textbox(
                label="What happens next?",
                placeholder=example["shots"][0],
                max_lines=4,
                max_length=10_000,
                elem_id="shot",
            )
            with gr.Row(elem_id="buttons"):
                parts["shoot"] = gr.Button("Shoot", variant="primary", elem_id="shoot", min_width=96)
                parts["turn"] = gr.Button("Change now", elem_id="turn", min_width=96)
                parts["stop"] = gr.Button("Stop", elem_id="stop", min_width=72)
            _canvas("timeline")
            _canvas("memory")
        with gr.Column(scale=2, min_width=300, elem_id="right"):
            parts["story"] = gr.Textbox(
                label="The story: who and where, in every shot",
                value=example["story"],
                lines=2,
                max_lines=5,
                max_length=10_000,
                elem_id="story",
            )
            _canvas("words", phrases=known_phrases(tokenizer), shots=list(example["shots"]))
            with gr.Group(elem_id="options"):
                parts["seconds"] = _length(pipeline)
                with gr.Row():
                    parts["seed"] = gr.Number(
                        label="Seed", placeholder="random", precision=0, minimum=0, elem_id="seed", min_width=120
                    )
                    parts["lock"] = gr.Checkbox(label="Keep this seed", elem_id="lock", min_width=120)
            with gr.Accordion("Switches: what if the memory were different?", open=False, elem_id="switches"):
                parts |= _switches(pipeline)
    _canvas("facts")
    return parts


def _length(pipeline: ShotStreamPipeline) -> gr.Slider:
    settings = pipeline.settings
    usual = round((settings.shot_frames - 1) / settings.fps, 2)
    most = min(MAX_SHOT_SECONDS, 3 * usual)
    return gr.Slider(0.5, most, value=usual, step=0.25, label="Length of the next shot, seconds", elem_id="seconds")


def _switches(pipeline: ShotStreamPipeline) -> dict[str, Any]:
    """They hold from the next shot on."""
    settings, weights = pipeline.settings, pipeline.streaming_weights
    steps = sorted({*controls.STEPS, len(settings.steps)})
    hint = "They hold from the next shot on and are saved with it. Keep a seed and take its shot again to compare."
    gr.HTML(hint, elem_id="hint")
    return {
        "memory": gr.Checkbox(True, label="Global cache: remember earlier shots", elem_id="memory-on"),
        "jump": gr.Checkbox(True, label="RoPE jump at every cut", elem_id="jump-on"),
        "history": gr.Radio(controls.HISTORIES, value=settings.policy, label="History: which frames are remembered"),
        "budget": gr.Slider(1, 12, value=settings.budget, step=1, label="Budget: how many frames are remembered"),
        "steps": gr.Radio(steps, value=len(settings.steps), label="Denoising steps of a chunk"),
        "weights": gr.Radio(
            weights, value=pipeline.weights, label="Weights", visible=len(weights) > 1, elem_id="weights"
        ),
    }


def _wire(parts: dict[str, Any], pipeline: ShotStreamPipeline, house: House) -> None:
    screen, story, shot, seed = (parts[name] for name in ("screen", "story", "shot", "seed"))
    names = ("seconds", "seed", "lock", "memory", "jump", "history", "budget", "steps", "weights")
    options = [parts[name] for name in names]

    def wishes(values: tuple) -> dict[str, Any]:
        asked = dict(zip(names, values, strict=True))
        return {
            "frames": controls.frames_of(asked["seconds"], pipeline.settings.fps),
            "seed": int(asked["seed"]) if asked["lock"] and asked["seed"] is not None else None,
            "settings": controls.switched(pipeline, asked),
        }

    # The shot's box is emptied by the page's script, and only if it still holds what was taken.
    def shoot(request: gr.Request, story: str, shot: str, *values: Any) -> None:
        director = house.open(request.session_hash)
        director.answered(shot, said(director, lambda: director.shoot(story, shot, **wishes(values))))

    def turn(request: gr.Request, story: str, shot: str, *values: Any) -> None:
        director = house.open(request.session_hash)

        def turn_or_shoot() -> None:
            if not director.turn(shot):
                director.shoot(story, shot, **wishes(values))

        director.answered(shot, said(director, turn_or_shoot))

    def retake(request: gr.Request, event: gr.EventData, *values: Any) -> None:
        director, wish = house.open(request.session_hash), wishes(values)
        keep = dict(zip(names, values, strict=True))["lock"]
        number, caption = event._data.get("number"), event._data.get("caption")
        said(director, lambda: director.retake(number, caption, keep_seed=keep, settings=wish["settings"]))

    def settle(request: gr.Request) -> tuple[Any, Any]:
        """The story's caption stands still once a shot is told; the seed shown is that of the latest shot."""
        director = house.open(request.session_hash)
        caption, latest = director.global_caption, director.latest_seed
        fixed = gr.update(interactive=True) if caption is None else gr.update(value=caption, interactive=False)
        exact = latest is not None and latest < 2**53  # more is no whole number in a browser
        return fixed, latest if exact else gr.skip()

    async def stream(request: gr.Request) -> AsyncIterator[str]:
        director = house.open(request.session_hash)
        number = director.greet()
        while director.heard(number):
            messages = await director.outbox.collect(BEAT)
            if not messages or any(message["kind"] == "story" for message in messages):
                messages.append({"kind": "facts", "pages": house.pages, **facts(director.stage.pipeline)})
            yield json.dumps(messages).replace("<", "\\u003c")

    asked = [story, shot, *options]
    gr.on([parts["shoot"].click, shot.submit], shoot, asked, trigger_mode="multiple", **FREE)
    parts["turn"].click(turn, asked, trigger_mode="multiple", **FREE)
    screen.begin(stream, outputs=screen, trigger_mode="multiple", **FREE)
    screen.settle(settle, outputs=[story, seed], trigger_mode="always_last", **FREE)
    screen.retake(retake, options, trigger_mode="multiple", **FREE)


def _act(house: House) -> Callable[[dict], dict]:
    def act(message: dict) -> dict:
        return answer(house, message)

    return act


def _leaving(house: House) -> Callable[[gr.Request], None]:
    def leave(request: gr.Request) -> None:
        house.close(request.session_hash)

    return leave


def _canvas(name: str, **options: Any) -> gr.HTML:
    """One of our own parts: its outline and its script lie in `static`; what Python says never goes through HTML."""
    outline, script = STATIC / f"{name}.html", STATIC / f"{name}.js"
    scripts = [(STATIC / "bus.js").read_text("utf-8"), script.read_text("utf-8")] if script.is_file() else []
    return gr.HTML(
        value="",
        html_template=outline.read_text("utf-8"),
        js_on_load="\n".join(scripts) or None,
        elem_id=name,
        padding=False,
        **options,
    )
