"""The second of two stages of training: the plain network is trained and frozen, other heads learn from its states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.examples import Data, Examples, alike
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of, parts_of, select, stacked
from eelit.methods.engine.weights import trained
from eelit.methods.policies.base import said
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses

READ = 64  # samples at a time when the frozen states are stored


class States:
    """What the exits of a frozen network read of each sample, to train on: states of any structure, one per exit.

    Samples whose inputs had one shape lie together: ``groups`` holds, for each shape, one nesting of tensors per exit.
    """

    def __init__(self, groups: Sequence[Sequence[Any]], places: Sequence[tuple[int, int]], targets: Tensor) -> None:
        self.groups, self.places, self.targets = groups, places, targets

    def __len__(self) -> int:
        return len(self.places)

    def batches(self, size: int, shuffle: torch.Generator | None = None) -> Iterator[tuple[Tensor, list[Any]]]:
        """Yield ``(index [n], one state per exit)``, as `Examples.batches` does."""
        for chunk in alike([group for group, _ in self.places], size, shuffle):
            group, rows = self.groups[self.places[chunk[0]][0]], torch.tensor([self.places[i][1] for i in chunk])
            yield torch.tensor(chunk), [select(state, rows) for state in group]


def train_heads(
    model: MultiExit, data: Data, bench: Bench, *, keep: Callable[[Any], Any] = lambda state: state, **options: Any
) -> None:
    """Minimise the sum of the losses of all heads but the last, everything else frozen (xin2020deebert, kaya2019sdn).

    The backbone cannot change: the heads learn from states computed once, in evaluation mode. ``keep`` cuts a state
    down to what the heads read of it, so that less is stored. ``options`` are those of `fit`.
    """
    heads = model.heads[:-1]

    def loss(batch: Batch) -> Tensor:
        outputs = [head(state) for head, state in zip(heads, batch.inputs, strict=True)]
        return exit_losses(said(stacked(outputs)), batch.targets).sum()

    def train() -> None:
        states = frozen_states(model, data.train, bench, keep)
        heads.train()
        fit(heads.parameters(), states, loss, bench, label="training the exit heads on frozen states", **options)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


def train_parts(model: MultiExit, parts: Iterable[nn.Parameter], data: Data, bench: Bench, **options: Any) -> None:
    """Minimise the sum of the losses of all exits but the last over some parameters, everything else frozen.

    As `train_heads`, but the network, in evaluation mode, is run anew for every batch: for heads that read whole
    feature maps, which would take gigabytes to keep, and for parts of exits that lie in stages.
    """
    chosen = list(parts)

    def loss(batch: Batch) -> Tensor:
        outputs = [head(state) for head, state in zip(model.heads[:-1], model.states(batch.inputs), strict=False)]
        return exit_losses(said(stacked(outputs)), batch.targets).sum()

    def train() -> None:
        model.eval()
        learning = {id(p) for p in chosen}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in learning]
        for p in others:  # so that no gradient is computed for them
            p.requires_grad_(False)
        for part in model.modules():  # what learns as a whole drops out and looks at batches, as in `train_heads`
            if (own := [*part.parameters()]) and all(id(p) in learning for p in own):
                part.train()
        fit(chosen, data.train, loss, bench, label="training the exits on the frozen network", **options)
        for p in others:
            p.requires_grad_(True)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


@torch.no_grad()
def frozen_states(
    model: MultiExit, examples: Examples, bench: Bench, keep: Callable[[Any], Any] = lambda state: state
) -> States:
    """Return what the heads before the last read of each example, in the host's memory. The last stage is not run.

    The network may be on any device. Raises `ValueError` for a state whose samples cannot be told apart (see
    `multi_exit.parts_of`), or in which what all samples share is not the same in all batches.
    """
    model.eval()
    found: dict[torch.Size, list[list[Any]]] = {}
    places: list[tuple[int, int]] = [(0, 0)] * len(examples)
    rows: dict[torch.Size, int] = {}
    for index, x in examples.batches(READ, device=device_of(model)):
        shape = x.shape[1:]
        states = zip(model.heads[:-1], model.states(x), strict=False)
        read = [pytree.tree_map_only(Tensor, Tensor.cpu, keep(state)) for _, state in states]
        for state in read:
            parts_of(state, len(index))  # which raises, if samples cannot be told apart
        found.setdefault(shape, []).append(read)
        number, start = list(found).index(shape), rows.get(shape, 0)
        for row, i in enumerate(index.tolist(), start):
            places[i] = (number, row)
        rows[shape] = start + len(index)
        bench.progress("states of the frozen backbone", sum(rows.values()) / len(examples))
    return States([_together(parts, rows[shape]) for shape, parts in found.items()], places, examples.targets)


@torch.no_grad()
def frozen_rows(
    model: MultiExit, examples: Examples, read: Callable[[Tensor, Any], Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """Return what ``read(index [n], x [n, ...])`` makes of all examples by a frozen network, each ``[N, ...]``.

    For what is one vector of a sample, the last exit's answer too: `frozen_states` keeps states of any shape.
    """
    model.eval()
    found = [(index, *read(index, x)) for index, x in examples.batches(READ, device=device_of(model))]
    index, *parts = (torch.cat(part) for part in zip(*found, strict=True))
    order = index.argsort()
    return tuple(part[order] for part in parts)


def _together(parts: list[list[Any]], samples: int) -> list[Any]:
    """Join the states of batches of one shape; what all samples share is kept once."""

    def join(*found: Any) -> Any:
        first = found[0]
        if isinstance(first, Tensor) and first.dim():
            joined = torch.cat(found)
            if len(joined) == samples:
                return joined
        same = all(
            torch.equal(first, each) if isinstance(first, Tensor) else repr(first) == repr(each) for each in found
        )
        if not same:
            what = f"tensor {list(first.shape)}" if isinstance(first, Tensor) else type(first).__qualname__
            raise ValueError(
                f"a state holds a {what} that all samples of a batch share, but not those of another; what belongs to "
                "a sample must be in a tensor whose first axis is the sample"
            )
        return first.clone() if isinstance(first, Tensor) else first

    return [pytree.tree_map(join, *states) for states in zip(*parts, strict=True)]
