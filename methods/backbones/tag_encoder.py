"""An encoder that tags words, with a classifier after every layer; words can halt at layers of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import encoder
from eelit.methods.backbones.token_layer import TokenLayers, alike
from eelit.methods.engine.course import decide
from eelit.methods.engine.multi_exit import evaluating, select
from eelit.methods.policies.base import Policy, usable

CERTAIN = 1000.0
"""Logit of class 0 where there is no word: such a place is certain and keeps nobody waiting."""


@dataclass(frozen=True)
class Tagged:
    """Logits ``[N, T, K]`` and layer ``[N, T]`` (from 0; -1 where there is no word) with which each word left.

    ``not_finite [N, T]``: of which words a layer, up to the one where they left, said what is not finite.
    """

    logits: Tensor
    exits: Tensor
    not_finite: Tensor


def of_pieces(values: Tensor, numbers: Tensor, special: float) -> Tensor:
    """Return the values ``[n, T]`` of words for each of their pieces ``[n, T]``, and ``special`` for special tokens."""
    return torch.where(numbers >= 0, values.gather(1, numbers.clamp_min(0)), special)


def words_of(numbers: Tensor) -> Tensor:
    """Return where there is a word, ``[n, T]``, if the pieces ``[n, T]`` are of these words."""
    return torch.arange(numbers.shape[1], device=numbers.device) <= numbers.amax(dim=1, keepdim=True)


class TagEncoder(nn.Module):
    """Embeddings, layers, and a linear classifier after each that reads the first piece of every word.

    Sentences are ``[N, 2, T]``: ids of word pieces, and the number of the word that each is of, -1 for special tokens.
    What is said of words is ``[N, T, …]``, word 0 first.
    """

    def __init__(self, name: str, tags: int, *, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        model = encoder(name)
        self.embeddings = model.embeddings
        self.layers = TokenLayers(model)
        self.heads = nn.ModuleList(nn.Linear(model.config.hidden_size, tags) for _ in self.layers)
        self.eval()

    def forward(self, x: Tensor, halts: Tensor | None = None) -> Tensor:
        """Return the logits of all layers ``[L, N, T, K]``.

        If ``halts [N, T]`` says at which layer (from 0) each word halts, its state is copied from there on, by masking.
        """
        ids, numbers = x.unbind(1)
        hidden, said = self.embeddings(input_ids=ids), []
        last = None if halts is None else of_pieces(halts, numbers, len(self.layers))
        for i, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            new = layer(hidden)
            hidden = new if last is None else torch.where((last >= i)[..., None], new, hidden)
            said.append(self.read(head, hidden, numbers))
        return torch.stack(said)

    def read(self, head: nn.Module, hidden: Tensor, numbers: Tensor) -> Tensor:
        """Return the logits ``[n, T, K]`` of all words for states ``[n, T, d]``."""
        first = torch.ones_like(numbers, dtype=torch.bool)
        first[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        sample, piece = (first & (numbers >= 0)).nonzero().unbind(1)
        logits = head(hidden[sample, piece])
        found = logits.new_zeros(*numbers.shape, logits.shape[-1])
        found[..., 0] = CERTAIN
        return found.index_put((sample, numbers[sample, piece]), logits)

    @torch.inference_mode()
    def infer(self, x: Tensor, policy: Policy) -> Tagged:
        """Run sentences with the queries and feed-forward work of halted words really left out.

        A halted word keeps its state, which the others go on attending to and the classifiers go on reading. Special
        tokens go on until their sentence is done; then it is dropped. The network is in evaluation mode meanwhile.
        """
        with evaluating(self):
            return self._infer(x, policy)

    def _infer(self, x: Tensor, policy: Policy) -> Tagged:
        numbers = x[:, 1]
        n, length = numbers.shape
        hidden, running = self.embeddings(input_ids=x[:, 0]), words_of(numbers)
        rest, exits = torch.arange(n, device=x.device), torch.full_like(numbers, -1)
        flawed = torch.zeros_like(running)
        answers, memory = hidden.new_zeros(n, length, self.tags), policy.start()
        for i, layer in enumerate(self.layers):
            active = of_pieces(running.long(), numbers, 1) > 0
            sentences = torch.arange(len(rest) * length, device=x.device).view(len(rest), length)
            groups = [(asking, sentences[chosen]) for chosen, asking in alike(active.sum(dim=1).tolist(), x.device)]
            hidden[active] = layer.packed(hidden[active], hidden.flatten(0, 1), groups)
            logits, stop = self.read(self.heads[i], hidden, numbers), running
            sound = usable(logits)
            flawed[rest] |= running & ~sound
            if i < len(self.layers) - 1:
                memory, stop, _ = decide(policy, memory, logits, sound)
            leaving, slot = (stop & running).nonzero().unbind(1)
            exits[rest[leaving], slot] = i
            answers[rest[leaving], slot] = logits[leaving, slot]
            running = running & ~stop
            left = running.any(dim=1).nonzero().flatten()
            if not len(left):
                break
            rest, hidden, numbers, running, memory = select((rest, hidden, numbers, running, memory), left)
        return Tagged(answers, exits, flawed)

    @property
    def tags(self) -> int:
        """Number of tags, K."""
        head = self.heads[0]
        assert isinstance(head, nn.Linear)
        return head.out_features

    def plain(self, x: Tensor) -> Tensor:
        """Return the logits ``[N, T, K]`` of the last layer, the other classifiers not asked."""
        ids, numbers = x.unbind(1)
        hidden = self.embeddings(input_ids=ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.read(self.heads[-1], hidden, numbers)
