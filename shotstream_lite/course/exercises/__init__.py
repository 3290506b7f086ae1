"""Checkers of the notebooks' exercises: each says what is wrong, and with which input."""
