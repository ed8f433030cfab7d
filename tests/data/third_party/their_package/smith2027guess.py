"""A Method That Has Learnt Nothing (Guess).

Idea
    To keep every rule of the contract, and to guess.
"""

from dataclasses import dataclass
from typing import Any

from their_package.smith2027mine import Mine


@dataclass(frozen=True)
class Guess(Mine):
    """Is not trained."""

    def train(self, *what: Any) -> None:
        """Do nothing."""
