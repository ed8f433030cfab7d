"""The layers of a model of transformers, called one by one with what the model's own forward gives them.

Masks, windows, positions, multipliers and caches differ from one architecture to the next, so no loop here says what a
layer needs. The model's own forward runs with stand-ins in its layers' places, which note their arguments and compute
nothing; then the layers are called with these very arguments, for as many samples and as deep as is wanted. Which
modules are the layers, and which come after them, is seen by watching one forward.

A model whose layers cannot be called so is refused with `CannotAttach`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
def trial(model: nn.Module) -> Iterator[None]:
    """Evaluate inside, without gradients; the model and torch's random numbers are afterwards as before.

    Whatever fails inside means that exits cannot be put on the model: raises `CannotAttach`.
    """
    before = {module: (dict(vars(module)), dict(module._modules), dict(module._buffers)) for module in model.modules()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model.eval()
        try:
            yield
            if set(model.modules()) != set(before):
                raise CannotAttach(model, "which modules it has depends on the input")
        except CannotAttach:
            raise
        except Exception as error:
            raise CannotAttach(model, f"its layers cannot be called one by one ({_said(error)})") from error
        finally:
            for module, (own, modules, buffers) in before.items():
                held: list[dict[str, Any]] = [vars(module), module._modules, module._buffers]
                kept: list[dict[str, Any]] = [own, modules, buffers]
                for now, then in zip(held, kept, strict=True):
                    now.clear()
                    now.update(then)


def _said(error: Exception) -> str:
    """Return what an error says, as a part of a sentence."""
    first = (str(error).strip().splitlines() or [""])[0].strip()
    return f"{type(error).__name__}: {first}".removesuffix(": ").rstrip(".").replace(". ", "; ")


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
            raise CannotAttach(model, f"its own forward cannot be tried on made inputs ({_said(error)})") from error
        calls = _layers(model, events)
        self.layers = [call.module for call in calls]
        shapes = {tuple(call.leaving.shape): None for call in calls}
        if len(shapes) > 1 or calls[-1].leaving.ndim != 3:
            told = " and ".join(map(str, map(list, shapes)))
            raise CannotAttach(model, f"its layers give {told}, not a state of one width for each token or patch")
        self.width = int(calls[-1].leaving.shape[-1])  # d
        self._tuples = [len(call.out) if isinstance(call.out, tuple) else 0 for call in calls]
        body = next((e for e in events if isinstance(getattr(e.out, "last_hidden_state", None), Tensor)), None)
        if body is None:
            raise CannotAttach(model, "its forward gives no last_hidden_state")
        self.body, self.answer = body.module, type(body.out)
        tail = _after(events, calls[-1], body.out.last_hidden_state)
        if tail is None:
            raise CannotAttach(model, "what it does after its last layer is more than one module after the other")
        self.tail = tail
        config = text_config(model)
        self.longest = min((n for n in (*windows(config), *rescalings(config)) if n > PROBED), default=None)

    def given(self, samples: int, run: Callable[[], Any], tokens: int | None = None, past: int = 0) -> Given:
        """Return what the own forward ``run()`` gives the layers; it stops where the last one would begin.

        Raises `CannotAttach` if the layers get another number of states than of ``tokens``, if one is named: what the
        model cuts off or puts together behind its layers would be left to heads. Raises `ValueError` for a text, with
        the ``past`` tokens in a cache, beyond a length at which the model may change and that is too long to be tried.
        """
        if self.longest is not None and tokens is not None and past + tokens > self.longest:
            raise ValueError(
                f"{type(self.model).__name__} may change beyond {self.longest} tokens, where exits were not tried: "
                f"it was given {past + tokens}"
            )
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
        if tokens is not None and found[0][0].shape[:2] != (samples, tokens):
            got = "×".join(map(str, found[0][0].shape[:-1]))
            raise CannotAttach(self.model, f"its layers get {got} states for {samples} texts of {tokens} tokens")
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
        if all(isinstance(call.entering, Tensor) for call in calls) and all(
            after.entering is before.leaving for before, after in pairwise(calls)
        ):
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
        """Return the state before the first layer; `CannotAttach` if layers get what they did not when it was tried."""
        if given.specs != self.specs:
            raise CannotAttach(self.model, "its layers get other arguments than when it was tried")
        for planned, leaves in zip(self.leaves, given.leaves, strict=True):
            for leaf, value in zip(planned, leaves, strict=True):
                if isinstance(leaf, Slot) or leaf is TheCache:
                    continue
                if isinstance(value, Tensor):
                    raise CannotAttach(self.model, "its layers get a tensor that they did not get when it was tried")
                if value != leaf:
                    raise CannotAttach(self.model, f"its layers get {value!r}, and got {leaf!r} when it was tried")
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


def prove_equal(model: nn.Module, wanted: Tensor, found: Tensor, what: str) -> None:
    """Refuse a model unless ``found`` is what is ``wanted``, up to rounding; ``what`` says what else differs."""
    if not wanted.isfinite().all():
        raise CannotAttach(model, "what it gives by itself is not finite: nothing can be proved")
    if wanted.shape != found.shape:
        raise CannotAttach(model, f"{what}: they are {list(found.shape)} instead of {list(wanted.shape)}")
    gap, size = float((wanted.float() - found.float()).abs().max()), float(wanted.float().abs().max())
    if not gap <= max(1e-5, 8 * torch.finfo(wanted.dtype).eps) * size:  # NaN is a difference too
        raise CannotAttach(model, f"{what}, by {gap:.2g} where they are at most {size:.2g}")


PROBED = 512
"""Tokens of the longest texts that are tried: longer ones would take minutes for a network of the usual size."""
WINDOWS = ("window", "local_attention", "chunk", "block_size", "bucket", "landmarks")
"""What settings are called that say how many tokens are attended to at once."""
FIXED_ROTATIONS = ("default", "linear", "llama3", "proportional", "yarn")
"""Rotary positions that a longer text does not change; the others are scaled anew beyond some length."""


def windows(config: Any) -> list[int]:
    """Return how many tokens a model attends to at once, by all its settings that say so."""
    named = (value for name, value in vars(config).items() if any(word in name for word in WINDOWS))
    return _lengths(each for value in named for each in (value if isinstance(value, list | tuple) else [value]))


def rescalings(config: Any) -> list[int]:
    """Return the lengths beyond which a longer text has other rotary positions, its first tokens too."""
    rotary, original = getattr(config, "rope_parameters", None) or {}, "original_max_position_embeddings"
    kinds = [rotary, *(each for each in rotary.values() if isinstance(each, dict))]
    changing = [each for each in kinds if each.get("rope_type", "default") not in FIXED_ROTATIONS]
    own = [getattr(config, name, None) for name in (original, "max_position_embeddings") if changing]
    return _lengths([*own, *(each.get(original) for each in changing)])


def _lengths(found: Iterable[Any]) -> list[int]:
    return sorted({each for each in found if isinstance(each, int) and each > 1})


def probe_lengths(config: Any) -> list[int]:
    """Return how long probes are: 12 tokens, a prime number beyond 64 and all lengths probed, and one less than each.

    These are `windows` and `rescalings`. What a model does to whole windows it cannot do to a prime number of tokens;
    one less, and a text grows beyond the length step by step. No probe needs more positions than the model has.
    """
    scaled = [each for each in rescalings(config) if each <= PROBED]
    probed = [*(each for each in windows(config) if each <= PROBED), *scaled]
    beyond = max([64, *probed])
    room = max([2, (getattr(config, "max_position_embeddings", None) or 1024) - 8, *(2 * each for each in scaled)])
    primes = [n for n in range(2, min(room, 2 * beyond) + 1) if all(n % k for k in range(2, int(n**0.5) + 1))]
    usual = sorted({min(12, room), next((n for n in primes if n > beyond), primes[-1])})
    return list(dict.fromkeys([*usual, *(each - 1 for each in probed if 3 < each <= room)]))


def probe_ids(model: nn.Module, samples: int, length: int) -> Tensor:
    """Return made token ids ``[samples, length]``, always the same, where the model is."""
    vocabulary = getattr(text_config(model), "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise CannotAttach(model, "its configuration does not say how many tokens it knows")
    generator = torch.Generator().manual_seed(samples)
    return torch.randint(0, vocabulary, (samples, length), generator=generator).to(next(model.parameters()).device)
