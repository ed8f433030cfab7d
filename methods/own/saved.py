"""A calibrated rule: what it is, what was promised of it on what data, kept as a small JSON, and applied.

The file holds words and numbers alone. Reading it makes nothing but policies that are named in `settings.KINDS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, to_device
from numpy.typing import NDArray

from eelit.methods.own.decide import ANSWERS, exits_of, stops
from eelit.methods.own.logits import Logits, WrongLogits
from eelit.methods.own.rules import RULES, of_extra
from eelit.methods.own.scores import Scores
from eelit.methods.own.settings import policy_of, settings_of
from eelit.methods.policies.base import Array, Assembling, Output, Policy, State, said, softmax, widened
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.state_similarity import StateSimilarity

FORMAT = "eelit rule"
VERSION = 1
LARGEST = 10_000_000  # bytes; a rule of hundreds of exits has some thousands


class WrongRule(ValueError):
    """A file is no rule that can be applied; the message is one sentence."""


@dataclass(frozen=True)
class SavedRule:
    """A policy at one setting, or at two of which each sample draws one, with what was promised of it.

    It is asked exit by exit like any policy: ``state = rule.start()``, then at each of `enabled` but the last
    ``state, stop = rule.step(state, logits)``; at other exits nobody stops, and their heads need not be run. Or `apply`
    takes stored outputs. `policy` is what `eelit.methods.engine.evaluate.infer` takes.

    >>> from eelit.methods.policies.patience import Patience
    >>> rule = SavedRule("patience", ((1.0, Patience(1)),), exits=3, enabled=(0, 1, 2), classes=2, kind="logits")
    >>> agrees, wavers = [[0, 3], [0, 3], [0, 3]], [[0, 3], [3, 0], [3, 0]]
    >>> found = rule.apply(np.array([agrees, wavers], dtype=float).transpose(1, 0, 2), axes="enc")
    >>> found.exits.tolist(), found.answers.tolist()
    ([1, 2], [1, 0])
    >>> state, stop = rule.step(rule.start(), np.array([[0.0, 1.0]]))  # the same, exit by exit
    >>> state, stop = rule.step(state, np.array([[0.0, 3.0]]))
    >>> stop.tolist()
    [True]
    """

    rule: str  # its name in `rules.RULES`
    parts: tuple[tuple[float, Policy], ...]  # weight and policy, one or two, the cheaper first
    exits: int
    enabled: tuple[int, ...]  # exits that are asked, the last one included
    classes: int
    kind: str
    reject_below: float = -math.inf  # confidence at the last exit below which no answer is given
    promise: Mapping[str, Any] = field(default_factory=dict, repr=False)
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)
    table_: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)
    """What it and others come to, not kept: settings, figures, outcomes of tests, and which was chosen."""

    @property
    def budget_met_(self) -> bool:
        """Whether the goal is met on the samples kept apart to tell: as measured there, or within two standard errors.

        ``promise["as_measured"]`` is true if it is met without that room. Of a budget the mean cost is looked at, of a
        drop the quality that is lost, of a share to be refused how many fewer are right among those that get an answer.
        What is proved needs no such look: both are true.
        """
        return bool(self.promise.get("kept"))

    @property
    def policy(self) -> Policy:
        """The policy, to be asked at the first exit and then where it says; or at every exit if all are enabled."""
        if self.reject_below > -math.inf:
            raise ValueError(
                "a rule that refuses answers is applied, or asked exit by exit, since infer knows no refusal"
            )
        inner = self._narrowed()
        return inner if len(self.enabled) == self.exits else Skipping(inner, self.enabled)

    def start(self) -> State:
        """Return the state before the first exit."""
        return self._narrowed().start()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Take what the next enabled exit says, logits ``[n, C]``; return the state and who stops ``[n]``.

        A rule on probabilities takes their logarithms.
        """
        return self._narrowed().step(state, output)

    def answer(self, state: State, output: Output) -> Array:
        """Return the answer ``[n, C]`` after the step of an exit: its own, unless the policy makes it from several."""
        policy = self._narrowed()
        return policy.answer(state, output) if isinstance(policy, Assembling) else said(output)

    def rejected(self, output: Output) -> Array:
        """Return who gets no answer ``[n]`` from what the last exit says, logits ``[n, C]``."""
        p = softmax(said(output))
        return array_namespace(p).max(p, axis=-1) < self.reject_below

    def apply(self, z: Any, **given: Any) -> Applied:
        """Return where each sample of stored outputs stops and what it is told; ``given`` are arguments of `Logits`.

        Axes are told by the rule's number of exits. A rule that was made for logits takes probabilities, by their
        logarithms, if ``kind`` says that they are some. Raises `WrongRule` for outputs that are not what the rule was
        made for: other exits or classes, untold probabilities, or what its policy reads is not among them.
        """
        data = z if isinstance(z, Logits) else self._taken(z, given)
        if (data.exits, data.classes) != (self.exits, self.classes):
            raise WrongRule(
                f"the rule is for {self.exits} exits and {self.classes} classes, but the outputs have {data.exits} and "
                f"{data.classes}"
            )
        if lacking := self._lacking(data):
            raise WrongRule(f"the policy `{self.rule}` reads {lacking}")
        scores = Scores(data)
        found = [self._told(policy, scores) for _, policy in self.parts]
        exits, answers = found[0]
        if len(found) == 2:
            first = data.read(self.enabled[0], 0, data.samples)
            dear = drawn(first) < self.parts[1][0]
            exits, answers = (np.where(dear, b, a) for a, b in zip(*found, strict=True))
        rejected = np.zeros(data.samples, dtype=np.bool_)
        if data.kind != "values" and self.reject_below > -math.inf:
            rejected = (exits == self.exits - 1) & (scores.confidence[-1] < self.reject_below)
        return Applied(exits, answers, rejected)

    def _taken(self, z: Any, given: Mapping[str, Any]) -> Logits:
        """Return arrays as outputs; what was not said of them is as the rule has it."""
        try:
            data = Logits(z, **{"exits": self.exits, **given, "kind": given.get("kind") or self.kind})
        except WrongLogits as error:
            raise WrongRule(f"the rule is for {self.exits} exits of {self.kind}: {error}") from error
        if data.kind == "logits" and not given.get("kind") and data.sum_to_one:
            raise WrongRule(
                "the rule is for logits, but the outputs are from 0 to 1 and sum to 1: say by kind whether they are "
                "probabilities"
            )
        return data

    def _lacking(self, data: Logits) -> str:
        """Return what the policy reads and the outputs do not say; empty if they do."""
        if self.rule in RULES:
            known = RULES[self.rule].suits(data)
            return "" if known else f"how large logits are, which {data.kind} do not tell"
        if not any(isinstance(policy, ScoreThreshold | GateConfidence | StateSimilarity) for _, policy in self.parts):
            return ""
        known = any(rule.name == self.rule for rule in of_extra(data))
        return "" if known else "what the exits said beside their answer; give it by extra"

    def _told(self, policy: Policy, scores: Scores) -> tuple[Any, Any]:
        allowed = np.isin(np.arange(self.exits - 1), np.asarray(self.enabled))
        exits = exits_of(stops(policy, scores) & allowed[:, None])
        made = ANSWERS.get(type(policy))
        return exits, made(policy, scores, exits) if made else scores.predicted[exits, np.arange(len(exits))]

    def _narrowed(self) -> Policy:
        inner = [narrowed(policy, self.enabled, self.exits) for _, policy in self.parts]
        return inner[0] if len(inner) == 1 else Mixture(inner[0], inner[1], self.parts[1][0])

    def save(self, path: str | Path) -> None:
        """Write the rule, whole or not at all: aside, then renamed. Raises `OSError`."""
        from eelit.methods.data.cache import write

        write(Path(path), self.to_json().encode() + b"\n")

    def to_json(self) -> str:
        """Return what is written."""
        found = {
            "format": FORMAT,
            "version": VERSION,
            "rule": self.rule,
            "policy": type(self.parts[0][1]).__name__,
            "mixture": [{"weight": weight, "settings": settings_of(policy)} for weight, policy in self.parts],
            "exits": self.exits,
            "enabled": list(self.enabled),
            "classes": self.classes,
            "kind": self.kind,
            "reject_below": None if self.reject_below == -math.inf else self.reject_below,
            "promise": dict(self.promise),
            "data": dict(self.data),
            "versions": dict(self.versions),
        }
        return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Applied:
    """Where samples stop ``[N]``, from 0, the classes or values that they are told ``[N]``, and who is told nothing."""

    exits: NDArray[Any]
    answers: NDArray[Any]
    rejected: NDArray[np.bool_]


def load_rule(path: str | Path) -> SavedRule:
    """Return the rule that `SavedRule.save` or `eelit calibrate` wrote. Raises `WrongRule`, `OSError`.

    >>> from tempfile import TemporaryDirectory
    >>> from eelit.methods.policies.patience import Patience
    >>> rule = SavedRule("patience", ((1.0, Patience(1)),), exits=3, enabled=(0, 1, 2), classes=2, kind="logits")
    >>> with TemporaryDirectory() as folder:
    ...     rule.save(f"{folder}/rule.json")
    ...     load_rule(f"{folder}/rule.json") == rule
    True
    """
    place = Path(path)
    if place.stat().st_size > LARGEST:
        raise WrongRule(f"{place} is far too large for a rule")
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WrongRule(f"{place} is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise WrongRule(f"{place} is no rule that `eelit calibrate` wrote")
    if found.get("version") != VERSION:
        raise WrongRule(f"{place} has version {found.get('version')!r}, and this eelit reads version {VERSION}")
    try:
        return _checked(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said_ = f"{error} is missing" if isinstance(error, KeyError) else error
        raise WrongRule(f"{place} cannot be applied: {said_}") from error


def _checked(found: dict[str, Any]) -> SavedRule:
    exits, enabled = found["exits"], found["enabled"]
    if not _count(exits) or not all(map(_count_or_zero, enabled)) or sorted(set(enabled)) != enabled:
        raise ValueError(f"exits are a number and enabled exits rise, not {exits!r} and {enabled!r}")
    if not enabled or enabled[-1] != exits - 1:
        raise ValueError(f"the last of {exits} exits is always enabled, but {enabled} are")
    weights = [float(part["weight"]) for part in found["mixture"]]
    if len(weights) not in (1, 2) or not math.isclose(sum(weights), 1, abs_tol=1e-9) or min(weights) < 0:
        raise ValueError(f"weights of one or two settings sum to 1, not {weights}")
    parts = tuple(
        (weight, policy_of(found["policy"], part["settings"]))
        for weight, part in zip(weights, found["mixture"], strict=True)
    )
    below = found["reject_below"]
    return SavedRule(
        rule=str(found["rule"]), parts=parts, exits=exits, enabled=tuple(enabled), classes=int(found["classes"]),
        kind=str(found["kind"]), reject_below=-math.inf if below is None else float(below),
        promise=dict(found["promise"]), data=dict(found["data"]), versions=dict(found["versions"]),
    )  # fmt: skip


def _count(value: Any) -> bool:
    return _count_or_zero(value) and value > 0


def _count_or_zero(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def narrowed(policy: Policy, enabled: tuple[int, ...], exits: int) -> Policy:
    """Return a policy that is asked at the enabled exits alone: of settings per exit, theirs are left.

    A fixed exit becomes its place among them.
    """
    if len(enabled) == exits:
        return policy
    changed: dict[str, Any] = {}
    if isinstance(policy, FixedExit):
        changed["exit"] = next(i for i, e in enumerate(enabled) if e >= min(policy.exit, exits - 1))
    for name in ("threshold", "temperatures"):
        value = getattr(policy, name, None)
        if isinstance(value, tuple):
            changed[name] = tuple(value[e] for e in enabled if e < len(value)) or value
    inner = getattr(policy, "policy", None)
    if inner is not None:
        changed["policy"] = narrowed(inner, enabled, exits)
    return replace(policy, **changed) if changed else policy  # type: ignore[type-var]


def drawn(first: Array) -> NDArray[np.float64]:
    """Return a number from [0, 1) for each sample, drawn from what its first exit says ``[n, ...]``, and nothing else.

    So the same sample always draws the same, without a generator that would have to be kept. The numbers are rounded
    to the precision of bfloat16 before, so that another order of summation rarely matters.
    """
    wide = widened(first)
    host = np.asarray(to_device(wide, "cpu") if is_array_api_obj(wide) else wide).astype(np.float32)
    if not len(host):
        return np.zeros(0)
    words = host.reshape(len(host), -1).copy().view(np.uint32).astype(np.uint64)
    words = (words + np.uint64(0x8000)) >> np.uint64(16)
    odd = np.random.default_rng(20).integers(0, 1 << 63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    h = (words * odd).sum(axis=1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finish of splitmix64
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    h ^= h >> np.uint64(31)
    return (h >> np.uint64(11)).astype(np.float64) / float(1 << 53)


@dataclass(frozen=True)
class Mixture:
    """Treat a share ``weight`` of the samples with ``dear``, the others with ``cheap``; who is drawn is `drawn`.

    Both are of one kind, and decide who stops and no more.
    """

    cheap: Policy
    dear: Policy
    weight: float

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask both; the state is who was drawn for ``dear`` ``[n]``, then that of ``cheap``, then that of ``dear``."""
        answer = said(output)
        xp = array_namespace(answer)
        if state:
            chosen, rest = state[0], state[1:]
            half = len(rest) // 2
            before = rest[:half], rest[half:]
        else:
            chosen = xp.asarray(drawn(answer) < self.weight, device=answer.device)
            before = self.cheap.start(), self.dear.start()
        cheap, stop = self.cheap.step(before[0], output)
        dear, later = self.dear.step(before[1], output)
        if len(cheap) != len(dear):
            raise ValueError("a mixture is of two settings of one policy")
        return (chosen, *cheap, *dear), xp.where(chosen, later, stop)


@dataclass(frozen=True)
class Skipping:
    """Ask a policy at some exits alone, and name the next of them, so that heads in between are not run.

    The first exit is asked in any case, as `eelit.methods.policies.base.Routing` has it; nobody stops there if it is
    not among them.
    """

    policy: Policy
    exits: tuple[int, ...]  # rising, the last of the network included

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the policy; the state is the exit to ask next, then the policy's own."""
        answer = said(output)
        xp = array_namespace(answer)
        n = answer.shape[0]
        if not state and self.exits[0] != 0:
            following = xp.full((n,), self.exits[0], dtype=xp.int64, device=answer.device)
            return (following, *self.policy.start()), xp.zeros((n,), dtype=xp.bool, device=answer.device)
        here = state[0] if state else xp.zeros((n,), dtype=xp.int64, device=answer.device)
        inner, stop = self.policy.step(state[1:] if state else self.policy.start(), output)
        following = xp.full_like(here, self.exits[-1])
        for exit_ in reversed(self.exits):
            following = xp.where(exit_ > here, exit_, following)
        return (following, *inner), stop

    def route(self, state: State, output: Output) -> Array:
        """Return the exit ``[n]`` to ask next."""
        return state[0]
