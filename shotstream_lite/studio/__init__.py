"""The studio: a page on which a film is directed while it plays. `launch("toybox")` opens it."""

from shotstream_lite.studio.server import Studio, launch

__all__ = ["Studio", "launch"]
