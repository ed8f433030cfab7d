"""An encoder with a predictor before every layer that says which tokens need neither this layer nor any later one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import PooledHead, encoder, pooler_of
from eelit.methods.backbones.token_layer import TokenLayers, alike
from eelit.methods.engine.course import decide
from eelit.methods.engine.multi_exit import evaluating
from eelit.methods.policies.base import Policy, finite, usable

Choice = Callable[[Tensor], Tensor]
"""From a predictor's logits (skim, keep) ``[n, 2]`` to who is kept, 0 or 1, ``[n]``."""


def decided(policy: Policy) -> Choice:
    """Keep whom the policy does not stop; it is asked anew before each layer."""
    return lambda logits: (~decide(policy, policy.start(), logits)[1]).to(logits.dtype)


@dataclass(frozen=True)
class Skimmed:
    """Answers ``[N, C]``, and in how many layers each token took part ``[N, T]``, 0 to L.

    ``not_finite [N]``: of which texts a predictor or the head said what is not finite.
    """

    logits: Tensor
    layers: Tensor
    not_finite: Tensor


class SkimEncoder(nn.Module):
    """Embeddings, layers with a predictor before each, and a head that reads the tokens as they left.

    The first token never leaves. One that leaves keeps the state it has, and does not come back. ``predictor`` makes,
    for states ``[..., d]`` of a width d, the module that gives logits (skim, keep) ``[..., 2]``.
    """

    def __init__(self, name: str, outputs: int | None, predictor: Callable[[int], nn.Module], *, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        model = encoder(name)
        self.embeddings = model.embeddings
        self.layers = TokenLayers(model)
        self.head = PooledHead(pooler_of(model), outputs)
        self.predictors = nn.ModuleList(predictor(self.head.pooler.in_features) for _ in self.layers)
        self.eval()

    def forward(self, x: Tensor, choose: Choice) -> tuple[Tensor, Tensor]:
        """Compute every layer for every token ``[N, T]``, masking those that left: answers and masks ``[L, N, T]``."""
        hidden = self.embeddings(input_ids=x)
        left, mask, masks = hidden, torch.ones_like(x, dtype=hidden.dtype), []
        for layer, predictor in zip(self.layers, self.predictors, strict=True):
            chosen = choose(predictor(hidden[:, 1:]).flatten(0, 1)).view(len(x), -1)
            mask = mask * torch.cat([torch.ones_like(mask[:, :1]), chosen], dim=1)
            hidden = layer(hidden, mask)
            left = mask[..., None] * hidden + (1 - mask[..., None]) * left
            masks.append(mask)
        return self.head(left), torch.stack(masks)

    @torch.inference_mode()
    def infer(self, x: Tensor, choose: Choice) -> Skimmed:
        """Run ``x [N, T]`` with tokens really removed: after each predictor the others are packed together.

        Samples with as many tokens left are attended to together; what a sample gets depends on no other. The network
        is in evaluation mode meanwhile.
        """
        with evaluating(self):
            return self._infer(x, choose)

    def _infer(self, x: Tensor, choose: Choice) -> Skimmed:
        n, length = x.shape
        left = self.embeddings(input_ids=x).flatten(0, 1)
        place = torch.arange(n * length, device=x.device)
        layers, flawed, rows = torch.zeros_like(place), torch.zeros_like(place, dtype=torch.bool), left
        free = (torch.arange(length, device=x.device) > 0).repeat(n)
        for i, predictor in enumerate(self.predictors):
            stay, logits = torch.ones_like(free), predictor(rows[free])
            flawed[place[free]] |= ~usable(logits)
            stay[free] = choose(logits) > 0
            rows, place, free = rows[stay], place[stay], free[stay]
            layers[place] = i + 1
            counts = (layers > i).view(n, length).sum(dim=1).tolist()
            rows = self.layers[i].packed(rows, rows, [(asking, asking) for _, asking in alike(counts, x.device)])
            left[place] = rows
        answers = self.head(left.view(n, length, -1))
        return Skimmed(answers, layers.view(n, length), flawed.view(n, length).any(dim=1) | ~finite(answers))

    def plain(self, x: Tensor) -> Tensor:
        """Return the answers ``[N, C]`` of the network without predictors, no token left out."""
        hidden = self.embeddings(input_ids=x)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)
