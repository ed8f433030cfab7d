"""A Method That Fails (Broken).

Idea
    To fail, so that one sees that the others are still reported.
"""

from dataclasses import dataclass
from typing import Any

from their_package.smith2027mine import Mine


@dataclass(frozen=True)
class Broken(Mine):
    """Fails when it is trained."""

    def train(self, *what: Any) -> None:
        """Fail."""
        raise RuntimeError("the gradient went for a walk")
