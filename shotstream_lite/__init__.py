"""Streaming multi-shot video generation, small enough to take apart."""

__version__ = "0.1.0"
