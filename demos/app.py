"""The studio as a hosted app: `python demos/app.py`, or the app file of a Gradio Space, which says who may reach it."""

import os

from shotstream_lite.studio.server import build

demo = build("toybox", hosts=[os.environ["SPACE_HOST"]] if "SPACE_HOST" in os.environ else [])

if __name__ == "__main__":
    demo.launch()
