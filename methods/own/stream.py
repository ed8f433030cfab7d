"""Samples that come one after the other, or in batches: whoever goes on behind an exit is joined with others there.

A batch that is run by itself gets smaller at every exit, and small batches use a processor badly. Here samples wait
before each stage until enough of them have come together, from whichever batches, so that the stage is run for many at
once. How long they may wait is bounded, by how many samples come meanwhile and by time.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating, joined, parts_of, select, to_policy
from eelit.methods.engine.routing import decide, onward
from eelit.methods.own.batches import inputs_of, on
from eelit.methods.own.network import Inferred, Network
from eelit.methods.own.saved import SavedRule, WrongRule
from eelit.methods.policies.base import ANSWER, Assembling, Output, Policy, Routing, State, finite, said
from eelit.methods.policies.document_threshold import DocumentThreshold
from eelit.methods.policies.score_proximity import ScoreProximity

BATCH = 32
"""Samples at which a stage is run, unless another number is asked for."""
WAITING = 8
"""How many times as many samples may come while one waits, unless another number is asked for."""
AHEAD = 2  # batches that are read before they are asked for, where a thread reads
POLL = 0.1  # seconds after which a thread that cannot go on looks whether it is still wanted

Rows: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Streamed(Inferred):
    """What is told of some samples of a stream: all of one batch of it if answers come in order, else who left now."""

    samples: Rows  # [n], their numbers in the stream, from 0


@dataclass
class _Group:
    """Samples before the same stage that are run together."""

    rows: Rows
    state: Any
    memory: State
    flawed: NDArray[np.bool_]  # [n], of whom an exit has said what is not finite
    due: Rows | None = None  # [n], the exit to ask next, where the policy says so


class _Queue:
    """Groups that wait before the same stage."""

    def __init__(self) -> None:
        self.groups: list[_Group] = []
        self.samples = 0
        self.oldest = sys.maxsize  # the least number of a sample

    def add(self, group: _Group) -> None:
        """Have a group wait, too."""
        self.groups.append(group)
        self.samples += len(group.rows)
        self.oldest = min(self.oldest, int(group.rows.min()))


@dataclass(frozen=True, eq=False)
class _Left:
    """Who left at one exit at one time."""

    rows: Rows
    exit: int
    output: Output
    flawed: NDArray[np.bool_]
    rejected: Tensor
    macs: float | None


def infer_stream(
    network: Network | MultiExit,
    batches: Iterable[Any],
    rule: SavedRule | Policy,
    *,
    batch: int = BATCH,
    waiting: int | None = None,
    seconds: float = math.inf,
    ordered: bool = True,
    costs: Sequence[float] | None = None,
) -> Iterator[Streamed]:
    """Yield what the samples of a stream are told, each as `infer` would; survivors of its batches are joined again.

    Args:
        network: what `attach` made, or any `MultiExit`.
        batches: the stream, of batches of any size as `infer` takes them.
        rule: what `calibrate` gave or `load_rule` read, or any policy that decides upon each sample by itself.
        batch: of how many samples a stage is run, if so many wait for it; batches that come larger are not divided.
        waiting: a sample waits no longer once so many have come after it; 0 for not at all. Default: 8 times ``batch``.
        seconds: nor does it wait longer than that, as long as answers are taken. If given, a thread reads the stream,
            so that waiting ends though nothing comes.
        ordered: yield one `Streamed` for each batch, in order; else whoever leaves, as soon as that happens.
        costs: MACs of one sample up to each exit; default: counted for a `Network`, and none for a `MultiExit`.

    Only samples whose inputs have the same shape are joined, since nothing is padded here: pad a stream of texts to a
    few lengths, and more of them meet. At the end of the stream all who wait are run. If the stream raises, or yields
    what is no batch, all who came before are answered first; then that is raised. What the network raises comes at
    once.

    Raises `ValueError` for a rule that compares samples with each other, and `WrongRule` for one of another network.
    """
    stream = Stream(network, rule, batch=batch, waiting=waiting, seconds=seconds, ordered=ordered, costs=costs)
    return _answers(stream, batches)


def _answers(stream: Stream, batches: Iterable[Any]) -> Iterator[Streamed]:
    failure: Exception | None = None
    source: _Reader | Iterator[Any] = _Reader(batches, stream.clock) if stream.seconds < math.inf else iter(batches)
    try:
        while True:
            try:
                came = source.get(stream.patience()) if isinstance(source, _Reader) else (stream.clock(), next(source))
                inputs = None if came is None else stream.inputs(came[1])
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            yield from stream.poll() if came is None else stream.push(inputs, came[0])
    finally:
        if isinstance(source, _Reader):
            source.stop()
    yield from stream.finish()
    if failure is not None:
        raise failure


class Stream:
    """The same for whoever has batches handed over: `push` each, `poll` when `patience` is over, `finish` at the end.

    Each returns a list of what can be told by then. Where the network raises, all wait as before, and may be tried
    again. Arguments are those of `infer_stream`; ``clock`` gives seconds.
    """

    def __init__(
        self,
        network: Network | MultiExit,
        rule: SavedRule | Policy,
        *,
        batch: int = BATCH,
        waiting: int | None = None,
        seconds: float = math.inf,
        ordered: bool = True,
        costs: Sequence[float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(network, Network | MultiExit):
            raise ValueError(
                f"a stream runs through a network that answers each sample once, not a {type(network).__name__}"
            )
        self._network = network if isinstance(network, Network) else None
        self._model = network.model if isinstance(network, Network) else network
        self._rule = rule
        self._policy = _policy(network, rule)
        self.batch, self.seconds, self.ordered, self.clock = batch, seconds, ordered, clock
        self.waiting = WAITING * batch if waiting is None else waiting
        if batch < 1 or self.waiting < 0 or not seconds >= 0:
            raise ValueError(
                f"a stage is run for at least one sample, who waits for none or some; not {batch}, {waiting}, {seconds}"
            )
        if costs is not None and len(costs) != self._model.exits:
            raise ValueError(f"{self._model.exits} exits need as many costs, not {len(costs)}")
        if costs is not None and isinstance(self._policy, Routing):
            raise ValueError("costs up to each exit say nothing of a policy that passes exits over")
        self._costs = costs
        self._queues: list[defaultdict[Any, _Queue]] = [defaultdict(_Queue) for _ in range(self._model.exits)]
        self._tables: dict[Any, NDArray[np.float64]] = {}
        self._count = self._known = 0  # samples that came, and how many of them, from the first on, have left
        self._came: deque[tuple[int, int]] = deque()  # first, behind the last; of batches that are not told yet
        self._since: deque[tuple[int, float]] = deque()  # behind the last, when it came; of batches that may wait
        self._leavers: list[_Left] = []  # who left just now
        self._left: dict[int, tuple[_Left, int]] = {}  # and before, of those who are not told yet

    @property
    def inside(self) -> int:
        """How many samples wait."""
        return sum(held.samples for depth in self._queues for held in depth.values())

    def inputs(self, batch: Any) -> Any:
        """Return the inputs of a batch as `push` takes them. Raises `ValueError` for what is no batch, or is empty."""
        inputs = batch if self._network is None else inputs_of(batch)
        if not _samples(inputs):
            raise ValueError("a batch of a stream has at least one sample")
        return inputs if self._network is None else on(device_of(self._model), inputs)

    def push(self, batch: Any, came: float | None = None) -> list[Streamed]:
        """Take a batch, that came at a time (default: now); return what can be told now."""
        inputs, now = self.inputs(batch), self.clock() if came is None else came
        n, key = _samples(inputs), _kind(inputs)
        if key not in self._tables:
            self._tables[key] = self._table(inputs)
        rows = np.arange(self._count, self._count + n)
        self._count += n
        if self.ordered:
            self._came.append((int(rows[0]), self._count))
        if self.seconds < math.inf:
            self._since.append((self._count, now))
        self._queues[0][key].add(_Group(rows, inputs, self._policy.start(), np.zeros(n, dtype=bool)))
        return self._work(self._overdue())

    def patience(self) -> float:
        """Return the seconds after which somebody will have waited long enough, infinite if nobody waits."""
        since = self._longest()
        return math.inf if since is None else max(0.0, since + self.seconds - self.clock())

    def _longest(self) -> float | None:
        """Return since when there is somebody who waits."""
        oldest = min((held.oldest for depth in self._queues for held in depth.values()), default=self._count)
        while self._since and self._since[0][0] <= oldest:
            self._since.popleft()
        return self._since[0][1] if self._since else None

    def poll(self) -> list[Streamed]:
        """Run those who have waited long enough; return what can be told now."""
        return self._work(self._overdue())

    def finish(self) -> list[Streamed]:
        """Run all who wait; return all that has not been told. Then another stream may begin."""
        return self._work(self._count)

    def _table(self, inputs: Any) -> NDArray[np.float64]:
        """Return what a sample of such inputs has cost up to each exit ``[E]``; empty if that is not known."""
        if self._costs is not None or self._network is None:
            return np.array([] if self._costs is None else self._costs, dtype=np.float64)
        return self._network.spent(inputs, self._policy)

    def _overdue(self) -> int:
        """Return before which sample nobody may wait any longer."""
        late = self._count - self.waiting
        if self._longest() is not None:
            now = self.clock()
            late = max([late, *(behind for behind, came in self._since if now - came >= self.seconds)])
        return late

    def _work(self, late: int) -> list[Streamed]:
        """Run each stage for which enough samples wait, or one that came before sample ``late``."""
        if any(self._ready(held, late) for depth in self._queues for held in depth.values()):
            with evaluating(self._model):
                for i, depth in enumerate(self._queues):  # running one fills the next
                    for key in [key for key, held in depth.items() if self._ready(held, late)]:
                        self._through(i, key, depth.pop(key).groups)
        left, self._leavers = self._leavers, []
        return self._in_order(left) if self.ordered else [_streamed(each) for each in left]

    def _ready(self, held: _Queue, late: int) -> bool:
        return held.samples >= self.batch or held.oldest < late

    @torch.inference_mode()
    def _through(self, i: int, key: Any, groups: list[_Group]) -> None:
        """Run stage ``i`` for groups, joined; who goes on waits before the next, and all as before if that fails."""
        run, table = self._routed if isinstance(self._policy, Routing) else self._asked, self._tables[key]
        left_over = groups
        try:
            left_over = _merged(groups)
            while left_over:
                rest, left = run(i, left_over[0])
                left_over = left_over[1:]
                if rest is not None:
                    self._queues[i + 1][key].add(rest)
                if left is not None:
                    self._leavers.append(replace(left, macs=float(table[i])) if len(table) else left)
        finally:
            for group in left_over:
                self._queues[i][key].add(group)

    def _asked(self, i: int, group: _Group) -> tuple[_Group | None, _Left | None]:
        """Ask the policy about all; return who goes on and who left."""
        n, last, policy = len(group.rows), i == self._model.exits - 1, self._policy
        state, memory = self._model.stages[i](group.state), group.memory
        output = _heard(self._model.heads[i](state), n, i)
        assembling = isinstance(policy, Assembling)
        if assembling or not last:
            memory, stop, sound = decide(policy, memory, output)
        good = finite(output) if last or isinstance(output, Mapping) else sound
        flawed = group.flawed | ~_host(good)
        if isinstance(policy, Assembling):
            answer = policy.answer(memory, to_policy(output))
            output = {**output, ANSWER: answer} if isinstance(output, Mapping) else answer
        leaves = np.ones(n, dtype=bool) if last else _host(stop)
        left = self._leaving(i, group.rows, output, flawed, leaves)
        if leaves.all():
            return None, left
        if left is None:
            return _Group(group.rows, state, memory, flawed), None
        keep = _index(~leaves)
        rest = _Group(group.rows[~leaves], select(state, keep, n), select(memory, keep, n), flawed[~leaves])
        return rest, left

    def _routed(self, i: int, group: _Group) -> tuple[_Group | None, _Left | None]:
        """The same under a policy that names the next exit: only those are asked whose turn it is."""
        n, policy = len(group.rows), self._policy
        assert isinstance(policy, Routing)
        state = self._model.stages[i](group.state)
        due = np.zeros(n, dtype=np.int64) if group.due is None else group.due
        here, flawed = due == i, group.flawed.copy()
        if not here.any():
            return _Group(group.rows, state, group.memory, flawed, due), None
        some = _index(here)
        output = _heard(self._model.heads[i](state if here.all() else select(state, some, n)), int(here.sum()), i)
        if i == self._model.exits - 1:
            flawed[here] |= ~_host(finite(output))
            return None, self._leaving(i, group.rows[here], output, flawed[here], np.ones(len(some), dtype=bool))
        own, stop, sound = decide(policy, select(group.memory, some), output)
        flawed[here] |= ~_host(finite(output) if isinstance(output, Mapping) else sound)
        leaves = _host(stop)
        left = self._leaving(i, group.rows[here], output, flawed[here], leaves)
        on_ = _index(~leaves)
        targets = onward(torch.as_tensor(policy.route(own, to_policy(output))).cpu()[on_], i, self._model.exits)
        keep = np.concatenate([np.flatnonzero(~here), np.flatnonzero(here)[~leaves]])
        if not len(keep):
            return None, left
        memory = select(own, on_)
        if not here.all():
            memory = _together([select(group.memory, _index(~here)), memory])
        following = np.concatenate([due[~here], targets.numpy()])
        return _Group(group.rows[keep], select(state, torch.from_numpy(keep), n), memory, flawed[keep], following), left

    def _leaving(
        self, i: int, rows: Rows, output: Output, flawed: NDArray[np.bool_], leaves: NDArray[np.bool_]
    ) -> _Left | None:
        if not leaves.any():
            return None
        told = output if leaves.all() else select(output, _index(leaves))
        rejected = torch.zeros(int(leaves.sum()), dtype=torch.bool, device=said(told).device)
        if i == self._model.exits - 1 and isinstance(self._rule, SavedRule) and self._rule.reject_below > -math.inf:
            rejected = torch.as_tensor(self._rule.rejected(said(told)))
        return _Left(rows[leaves], i, told, flawed[leaves], rejected, None)

    @torch.inference_mode()
    def _in_order(self, left: list[_Left]) -> list[Streamed]:
        """Note who has left; return the batches, from the first on, of which nobody is missing."""
        for each in left:
            self._left.update((row, (each, j)) for j, row in enumerate(each.rows.tolist()))
        while self._known in self._left:
            self._known += 1
        found = []
        while self._came and self._came[0][1] <= self._known:
            found.append(_streamed_of([self._left.pop(row) for row in range(*self._came.popleft())]))
        return found


def _policy(network: Network | MultiExit, rule: SavedRule | Policy) -> Policy:
    """Return the policy of a rule. Raises `WrongRule` if it is for another network, `ValueError` if it compares."""
    if isinstance(network, Network):
        policy = network.policy(rule)
    elif isinstance(rule, SavedRule):
        if rule.exits != network.exits:
            raise WrongRule(f"the rule is for {rule.exits} exits, but the network has {network.exits}")
        policy = replace(rule, reject_below=-math.inf).policy
    else:
        policy = rule
    if isinstance(policy, ScoreProximity | DocumentThreshold):
        raise ValueError(
            f"{type(policy).__name__} compares the samples of a batch with each other, but those of a stream meet by "
            "chance; use infer"
        )
    return policy


def _samples(inputs: Any) -> int:
    sizes = [len(part) for part in pytree.tree_leaves(inputs) if isinstance(part, Tensor) and part.dim()]
    return max(sizes, default=0)


def _kind(inputs: Any) -> Any:
    """Return what inputs have in common that can be joined."""
    if isinstance(inputs, Mapping) and all(isinstance(part, Tensor) for part in inputs.values()):
        return tuple((name, _like(inputs[name])) for name in sorted(inputs))
    parts, structure = pytree.tree_flatten(inputs)
    return repr(structure), *map(_like, parts)


def _like(part: Any) -> Any:
    """Return what a part of a state has to share with another, that the two can be joined."""
    if not isinstance(part, Tensor):
        return part
    return (part.shape[1:] if part.dim() else part.item()), part.dtype, part.device


def _merged(groups: list[_Group]) -> list[_Group]:
    """Return groups as few as possible: those whose states are alike but for the number of samples are one."""
    if len(groups) == 1:
        return groups
    kinds: list[tuple[Any, list[tuple[_Group, list[Any]]]]] = []
    for group in groups:
        parts, structure = parts_of(group.state, len(group.rows))
        kind = structure, [_like(part) for part in parts]
        same = next((held for other, held in kinds if other == kind), None)
        if same is None:
            kinds.append((kind, [(group, parts)]))
        else:
            same.append((group, parts))
    return [_one([group for group, _ in held], [parts for _, parts in held], kind[0]) for kind, held in kinds]


def _one(groups: list[_Group], parts: list[list[Any]], structure: Any) -> _Group:
    if len(groups) == 1:
        return groups[0]
    sizes = [len(group.rows) for group in groups]
    state = pytree.tree_unflatten([_rejoined(each, sizes) for each in zip(*parts, strict=True)], structure)
    dues = [group.due for group in groups if group.due is not None]
    return _Group(
        np.concatenate([group.rows for group in groups]), state, _together([group.memory for group in groups]),
        np.concatenate([group.flawed for group in groups]), np.concatenate(dues) if dues else None,
    )  # fmt: skip


def _together(memories: Sequence[State]) -> State:
    """Return what is remembered of several groups as that of one."""
    return tuple(torch.cat(parts) for parts in zip(*memories, strict=True))


def _rejoined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Return a part of several groups' states as that of one group of all.

    A tensor whose first axis is 1 may be the own one of a sole sample, or shared. If it is known to be shared, by some
    group of several, and everywhere the same, it stays; else each sample gets it, which means the same.
    """
    first = parts[0]
    if not isinstance(first, Tensor) or not first.dim():
        return first
    alone = all(len(part) == 1 for part in parts)
    if alone and max(sizes) > 1 and all(part is first or bool((part == first).all()) for part in parts):
        return first
    wide = [part if len(part) == n else part.expand(n, *part.shape[1:]) for part, n in zip(parts, sizes, strict=True)]
    return torch.cat(wide)


def _heard(output: Output, samples: int, i: int) -> Output:
    """Return what exit ``i`` says. Raises `ValueError` if that is not of each sample."""
    for part in output.values() if isinstance(output, Mapping) else [output]:
        if not isinstance(part, Tensor) or part.shape[:1] != (samples,):
            told = list(part.shape) if isinstance(part, Tensor) else f"a {type(part).__qualname__}"
            raise ValueError(f"exit {i + 1} says {told} of {samples} samples; a head returns tensors, the sample first")
    return output


def _host(part: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = part.cpu().numpy()
    return found


def _index(flags: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(flags))


def _streamed(left: _Left) -> Streamed:
    """Return who left at once as it is told."""
    n, device = len(left.rows), left.rejected.device
    macs = np.array([]) if left.macs is None else np.full(n, left.macs)
    exits = torch.full((n,), left.exit, dtype=torch.int64, device=device)
    return Streamed(exits, left.output, macs, _index(left.flawed).to(device), left.rejected, left.rows)


def _streamed_of(samples: list[tuple[_Left, int]]) -> Streamed:
    """Return what is told of some samples, in their order, each given by with whom it left, and as which of them."""
    held: dict[int, tuple[_Left, list[int], list[int]]] = {}
    for place, (left, j) in enumerate(samples):
        _, which, places = held.setdefault(id(left), (left, [], []))
        which.append(j)
        places.append(place)
    parts = [_streamed(_part(left, np.array(which))) for left, which, _ in held.values()]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([places for _, _, places in held.values()]))
    index = torch.from_numpy(order)
    flawed = np.concatenate([left.flawed[which] for left, which, _ in held.values()])[order]
    return Streamed(
        torch.cat([part.exits for part in parts])[index], select(joined([part.outputs for part in parts]), index),
        np.concatenate([part.macs for part in parts])[order if parts[0].macs.size else []],
        _index(flawed).to(parts[0].exits.device), torch.cat([part.rejected for part in parts])[index],
        np.concatenate([part.samples for part in parts])[order],
    )  # fmt: skip


def _part(left: _Left, which: Rows) -> _Left:
    if len(which) == len(left.rows) and (which[:-1] < which[1:]).all():
        return left
    told, rejected = (select(part, torch.from_numpy(which)) for part in (left.output, left.rejected))
    return _Left(left.rows[which], left.exit, told, left.flawed[which], rejected, left.macs)


class _Reader:
    """Reads a stream in a thread, so that one can wait for it no longer than one wants."""

    def __init__(self, batches: Iterable[Any], clock: Callable[[], float]) -> None:
        self._held: queue.Queue[tuple[float, Any, Exception | None]] = queue.Queue(AHEAD)
        self._stopped, self._clock = threading.Event(), clock
        threading.Thread(target=self._read, args=(iter(batches),), name="eelit-stream", daemon=True).start()

    def _read(self, source: Iterator[Any]) -> None:
        while not self._stopped.is_set():
            try:
                item: tuple[float, Any, Exception | None] = (0.0, next(source), None)
            except Exception as error:  # the end, too
                item = (0.0, None, error)
            self._put((self._clock(), *item[1:]))
            if item[2] is not None:
                return

    def _put(self, item: tuple[float, Any, Exception | None]) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._held.put(item, timeout=POLL)
                return

    def get(self, seconds: float) -> tuple[float, Any] | None:
        """Return when the next batch came, and it; None if there is none within so many seconds.

        Raises what the stream raises, `StopIteration` at its end.
        """
        try:
            came, batch, error = self._held.get(timeout=min(seconds, threading.TIMEOUT_MAX))
        except queue.Empty:
            return None
        if error is not None:
            raise error
        return came, batch

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()
