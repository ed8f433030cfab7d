"""The layers of a model of transformers, called one by one with what the model's own forward gives them.

Masks, windows, positions, multipliers and caches differ from one architecture to the next, so no loop here says what a
layer needs. The model's own forward runs with stand-ins in its layers' places, which note their arguments and compute
nothing; then the layers are called with these very arguments, for as many samples and as deep as is wanted. Which
modules are the layers, and which come after them, is seen by watching one forward.

A model whose layers cannot be called so is refused with `CannotAttach`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

State = dict[str, Tensor]
"""Hidden states ``[N, T, d]`` under `HIDDEN`, beside what the layers are given; the first axis is N, or 1 if shared."""
HIDDEN = "hidden"


class CannotAttach(ValueError):
    """Exits cannot be put on a model; the message is one sentence with its architecture and the reason."""

    def __init__(self, model: nn.Module, reason: str) -> None:
        super().__init__(f"exits cannot be put on {type(model).__name__}: {reason}")


class _Enough(Exception):
    """All that was wanted of a forward is known."""


@dataclass
class Event:
    """One call of a module: what it was given, and what it gave (None if an exception ended it)."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any = None

    @property
    def entering(self) -> Any:
        """The hidden states that it was given."""
        return self.args[0] if self.args else self.kwargs.get("hidden_states")

    @property
    def leaving(self) -> Any:
        """The hidden states that it gave."""
        return self.out[0] if isinstance(self.out, tuple) else self.out


def watch(model: nn.Module, run: Callable[[], Any]) -> list[Event]:
    """Return the calls of all modules of ``model`` during ``run()``, in the order in which they began."""
    events: list[Event] = []
    running: list[Event] = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        events.append(Event(module, args, dict(kwargs)))
        running.append(events[-1])

    def end(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        running.pop().out = out

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(end, with_kwargs=True).remove)
        run()
    return events


@contextmanager
def in_place_of(stand_ins: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let functions compute in place of modules; not for several threads at once."""
    before = {module: vars(module).get("forward") for module in stand_ins}
    for module, forward in stand_ins.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = own


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate inside, without gradients; the model's modes and torch's random numbers are afterwards as before."""
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@dataclass(frozen=True)
class Given:
    """What a forward gives its layers for ``samples``: the first states, and each call's other arguments, flattened."""

    samples: int
    first: Tensor
    leaves: list[list[Any]]
    specs: list[Any]


class OwnForward:
    """The layers of a model as its own forward calls them, and the modules of its body that come after them.

    ``run`` is one forward of the model. A layer that is called several times, as ALBERT's are, stands here as often.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Any]) -> None:
        self.model: Any = model
        try:
            events = watch(model, run)
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise CannotAttach(model, f"its own forward cannot be tried on made inputs ({said})") from error
        calls = _layers(model, events)
        self.layers = [call.module for call in calls]
        self._tuples = [len(call.out) if isinstance(call.out, tuple) else 0 for call in calls]
        body = next((event for event in events if hasattr(event.out, "last_hidden_state")), None)
        if body is None:
            raise CannotAttach(model, "its forward gives no last_hidden_state")
        self.body, self.answer = body.module, type(body.out)
        tail = _after(events, calls[-1], body.out.last_hidden_state)
        if tail is None:
            raise CannotAttach(model, "what it does after its last layer is more than one module after the other")
        self.tail = tail

    def given(self, samples: int, run: Callable[[], Any]) -> Given:
        """Return what the own forward ``run()`` gives the layers; it stops where the last one would begin."""
        found: list[tuple[Any, tuple[tuple[Any, ...], dict[str, Any]]]] = []

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
            found.append((hidden, (rest, kwargs)))
            if len(found) == len(self.layers):
                raise _Enough
            size = self._tuples[len(found) - 1]
            return (hidden, *[None] * (size - 1)) if size else hidden

        with in_place_of(dict.fromkeys(self.layers, stand_in)), suppress(_Enough):
            run()
        flat = [pytree.tree_flatten(call) for _, call in found]
        return Given(samples, found[0][0], [leaves for leaves, _ in flat], [spec for _, spec in flat])

    def layer(self, i: int, plan: Plan, state: State, cache: Any = None) -> State:
        """Return the state after layer ``i``."""
        args, kwargs = plan.arguments(i, state, cache)
        out = self.layers[i](state[HIDDEN], *args, **kwargs)
        return {**state, HIDDEN: out[0] if isinstance(out, tuple) else out}

    def after(self, hidden: Tensor) -> Tensor:
        """Map hidden states ``[N, T, d]`` after any layer as the body does after its last: a final norm, mostly."""
        for module in self.tail:
            hidden = module(hidden)
        return hidden


def text_config(model: nn.Module) -> Any:
    """Return the configuration of a model of transformers, or of its part for text."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        raise CannotAttach(model, "it is no model of transformers")
    return config.get_text_config()


def _layers(model: nn.Module, events: Sequence[Event]) -> list[Event]:
    """Return the calls of the layers: of the modules of one list, each on what the one before gave."""
    count = getattr(text_config(model), "num_hidden_layers", None)
    if not isinstance(count, int):
        raise CannotAttach(model, "its configuration does not say how many layers it has")
    broken = False
    for parts in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        members = set(parts)
        calls = [event for event in events if event.module in members]
        if len(calls) != count:
            continue
        if all(after.entering is before.leaving for before, after in pairwise(calls)):
            return calls
        broken = True
    if broken:
        raise CannotAttach(model, "between its layers it computes something of its own")
    raise CannotAttach(model, f"no list of its modules is called {count} times, as often as it has layers")


def _after(events: Sequence[Event], last: Event, wanted: Tensor) -> list[nn.Module] | None:
    """Return the modules that lead from what the last layer gave to the body's last hidden states."""
    if torch.equal(last.leaving, wanted):
        return []
    paths: dict[int, list[nn.Module]] = {id(last.leaving): []}
    inside = set(last.module.modules())
    begun = next(i for i, event in enumerate(events) if event is last)
    for event in (event for event in events[begun:] if event.module not in inside):
        x, out = next(iter([*event.args, *event.kwargs.values()]), None), event.out
        if id(x) in paths and isinstance(out, Tensor) and id(out) not in paths:
            paths[id(out)] = [*paths[id(x)], event.module]
            if out.shape == wanted.shape and torch.equal(out, wanted):
                return paths[id(out)]
    return None


@dataclass(frozen=True)
class Slot:
    """The place of a tensor among a call's arguments; ``shared``, without an axis for samples, it is kept as [1, 1, …].

    One axis of 1 might be taken for that of a recurrent network's layers, with the samples behind it.
    """

    name: str
    shared: bool


class TheCache:
    """Stands for the cache among a call's arguments."""


class Plan:
    """How the arguments of all layers are made from a state, learned from several inputs of unlike sizes.

    ``givens`` must differ in the number of samples, and in all that shall be free to differ. A tensor whose first axis
    is that number, or 1, is the samples' own, or shared by them; one whose first axis never changes is shared.
    """

    def __init__(self, model: nn.Module, givens: Sequence[Given]) -> None:
        if any(given.specs != givens[0].specs for given in givens):
            raise CannotAttach(model, "which arguments its layers get depends on the input")
        self.model, self.specs = model, givens[0].specs
        self.places: dict[Slot, tuple[int, int]] = {}
        known: dict[tuple[int, ...], Slot] = {}
        self.leaves = [
            [
                self._leaf([(given.samples, given.leaves[i][j]) for given in givens], (i, j), known)
                for j in range(len(leaves))
            ]
            for i, leaves in enumerate(givens[0].leaves)
        ]

    def _leaf(self, seen: list[tuple[int, Any]], place: tuple[int, int], known: dict[tuple[int, ...], Slot]) -> Any:
        """Return what stands for an argument, seen with several numbers of samples: a slot, the cache, or itself."""
        values = [value for _, value in seen]
        if hasattr(values[0], "get_seq_length"):
            return TheCache
        tensors = [(n, value) for n, value in seen if isinstance(value, Tensor)]
        if not tensors:
            if any(value != values[0] for value in values):
                raise CannotAttach(
                    self.model, f"its layers get {values[0]!r} or {values[-1]!r}, depending on the input"
                )
            return values[0]
        name = tuple(id(value) for value in values)
        if name not in known:
            known[name] = Slot(f"given {len(known)}", self._shared(tensors))
            self.places[known[name]] = place
        return known[name]

    def _shared(self, tensors: list[tuple[int, Tensor]]) -> bool:
        if all(t.ndim and len(t) in (1, n) for n, t in tensors):
            return False
        if len({t.shape[:1] for _, t in tensors}) == 1:
            return True
        shapes = " and ".join(f"{tuple(t.shape)} for {n} samples" for n, t in tensors[:2])
        raise CannotAttach(self.model, f"its layers get a tensor that cannot be cut by samples ({shapes})")

    def state(self, given: Given) -> State:
        """Return the state before the first layer."""
        for planned, leaves in zip(self.leaves, given.leaves, strict=True):
            if any(
                isinstance(value, Tensor) and not isinstance(leaf, Slot)
                for leaf, value in zip(planned, leaves, strict=True)
            ):
                raise CannotAttach(self.model, "its layers get a tensor that they did not get when it was tried")
        found = {HIDDEN: given.first}
        for slot, (i, j) in self.places.items():
            tensor = given.leaves[i][j]
            if tensor is not None:
                found[slot.name] = tensor[None, None] if slot.shared else tensor
        return found

    def arguments(self, i: int, state: State, cache: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what layer ``i`` is given beside the hidden states."""
        args, kwargs = pytree.tree_unflatten(
            [self._value(leaf, state, cache) for leaf in self.leaves[i]], self.specs[i]
        )
        return args, kwargs

    def _value(self, leaf: Any, state: State, cache: Any) -> Any:
        if leaf is TheCache:
            return cache
        if not isinstance(leaf, Slot):
            return leaf
        tensor = state.get(leaf.name)
        return tensor[0, 0] if leaf.shared and tensor is not None else tensor


def prove_equal(model: nn.Module, own: Tensor, ours: Tensor, what: str) -> None:
    """Refuse a model unless ``ours``, computed layer by layer, is what its ``own`` forward gives, up to rounding."""
    if not own.isfinite().all():
        raise CannotAttach(model, f"its own {what} are not finite, so that nothing can be proved")
    gap, size = float((own.float() - ours.float()).abs().max()), float(own.float().abs().max())
    if not gap <= max(1e-5, 8 * torch.finfo(own.dtype).eps) * size:  # NaN is a difference too
        raise CannotAttach(model, f"layer by layer its {what} differ by {gap:.2g} from its own, of at most {size:.2g}")


def probe_length(config: Any) -> int:
    """Return how long a probe is: 12 tokens, or beyond the model's window of attention if that is short."""
    windows = (getattr(config, name, None) for name in ("sliding_window", "local_attention"))
    beyond = [window + 4 for window in windows if isinstance(window, int) and window <= 64]
    longest = getattr(config, "max_position_embeddings", None) or 1024
    return max(2, min(max([12, *beyond]), longest - 8))


def probe_ids(config: Any, samples: int, length: int) -> Tensor:
    """Return made token ids ``[samples, length]``, always the same."""
    generator = torch.Generator().manual_seed(samples)
    return torch.randint(0, int(config.vocab_size), (samples, length), generator=generator)
