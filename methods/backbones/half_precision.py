"""Layers that learn with products in bfloat16: twice as fast on processors that have them, and float32 for all others.

Weights, their gradients, the optimiser, losses and exit heads stay in float32, and nothing is in bfloat16 once training
is over: what is measured is the plain network (after micikevicius2018mixed, with bfloat16, which needs no scaling).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnsInHalf(nn.Sequential):
    """Layers in sequence, ``[N, …]`` to ``[N, …]`` in float32; their products are in bfloat16 in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        if not self.training:
            return self._run(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            found = self._run(x)
        return found.float()

    def _run(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x
