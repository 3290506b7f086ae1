"""The studio as a hosted app: `python demos/app.py`, or the app file of a Space, which says who may reach it."""

import os

from shotstream_lite.studio import launch

space = os.environ.get("SPACE_HOST")
launch("toybox", host="0.0.0.0" if space else "127.0.0.1", port=7860 if space else None, hosts=[space] if space else [])
