"""What is said where a network cannot be written, or read again; without torch, so that it can be caught without."""

from __future__ import annotations


class CannotExport(ValueError):
    """A network cannot be written as ONNX; the message is one sentence with the reason."""


class WrongNetwork(ValueError):
    """A folder holds no network that can be made again; the message is one sentence."""
