"""The studio as a hosted app: `python demos/app.py`, or the app file of a Gradio Space."""

from shotstream_lite.studio import launch

launch("toybox")
