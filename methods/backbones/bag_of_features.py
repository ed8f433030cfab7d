"""Bag-of-Features pooling with a logistic kernel: a map becomes a short histogram (passalis2020hierarchical)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 5e-16
"""Added to the sum that similarities are divided by."""


class BagOfFeatures(nn.Module):
    """Tells of the feature vectors x_j of a map how similar they are to learned codewords v_k, whatever the map's size.

    ``a_jk = (1 + tanh(s (<x_j, v_k> + b_k) + t)) / 2``; ``u_jk = n_1 a_jk / sum_k a_jk``; the histogram is n_2 times
    the mean of u_j over each of ``side × side`` regions: ``codewords · side²`` numbers. Codewords with their b_k are a
    1×1 convolution; s, t, n_1 and n_2 are learned, from 1, 0, the number of codewords, and 1.
    """

    def __init__(self, channels: int, codewords: int, *, side: int = 1) -> None:
        super().__init__()
        self.codebook = nn.Conv2d(channels, codewords, 1)
        self.side, self.size = side, codewords * side**2
        self.s, self.t = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
        self.n_1, self.n_2 = nn.Parameter(torch.tensor(float(codewords))), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to histograms ``[N, codewords · side²]``."""
        a = (1 + torch.tanh(self.s * self.codebook(x) + self.t)) / 2
        u = self.n_1 * a / (a.sum(dim=1, keepdim=True) + EPS)
        return self.n_2 * F.adaptive_avg_pool2d(u, self.side).flatten(1)
