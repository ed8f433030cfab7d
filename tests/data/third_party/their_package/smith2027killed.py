"""A Method That Takes Its Process Along (Killed).

Idea
    To die without a word, as a process does that the system kills for its memory.
"""

import os
from dataclasses import dataclass
from typing import Any

from their_package.smith2027mine import Mine


@dataclass(frozen=True)
class Killed(Mine):
    """Kills its process when it is trained."""

    def train(self, *what: Any) -> None:
        """Die."""
        os._exit(9)
