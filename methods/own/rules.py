"""Which policies need no more than what exits said, and which settings of each are tried on it.

A `Rule` makes the settings from the choosing half alone. Whatever policy is not here has its reason in `LEFT_OUT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.logits import Logits
from eelit.methods.own.scores import Scores, log_softmax
from eelit.methods.policies.activation import Activation
from eelit.methods.policies.base import Policy
from eelit.methods.policies.budgeted_thresholds import exit_shares, thresholds_for
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.policies.conformal import independent_thresholds
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar
from eelit.methods.policies.flexible_patience import FlexiblePatience
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.margin import Margin
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.raw_margin import RawMargin
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.policies.state_similarity import StateSimilarity
from eelit.methods.policies.surest import Surest
from eelit.methods.policies.temperature import COLDEST, HOTTEST, Tempered
from eelit.methods.policies.voting import Voting

Array = NDArray[Any]
Rows = NDArray[np.int64]
MOST = 50
"""Settings of one policy that are tried, unless another number is asked for."""
ROUNDING = 1e-6
"""What two scores must differ by, as a share of them, for a threshold to lie between them."""
LEFT_OUT = {
    "ContinuationThreshold": "reads what a trained predictor says of going on; give it as an extra column",
    "DocumentThreshold": "stops candidates of one query by their rank among the others",
    "DontKnow": "reads class probabilities by a small network for each exit, which is trained",
    "ExitProbability": "reads a gate that was trained with those before it, not thresholds on what exits answer",
    "Forecast": "saves the heads that it passes over, and what a head costs by itself is not known here",
    "LikeliestDepth": "reads a forecast over exits that a trained head gives at the first",
    "LinearChoice": "takes trained weights, and saves the heads that it passes over",
    "PredictedClass": "has a threshold for each exit and class, found by a search of its own",
    "PricedGain": "reads gains at several prices, which a trained head gives",
    "ScoreProximity": "stops candidates of one query by their rank among the others",
    "SentenceUncertainty": "stops the words of a sentence together",
    "SoleExit": "is a network cut off for good, as the static exits are",
    "TargetClasses": "needs to be told which classes are wanted",
    "Together": "stops the words of a sentence together",
    "TokenGate": "stops single tokens of a text by a trained gate, while the others go on",
    "WindowUncertainty": "stops the words of a sentence by those near them",
}
"""Policy → why it is not tried on stored outputs alone."""


@dataclass(frozen=True)
class Rule:
    """A policy, and how its settings follow from the choosing half."""

    name: str
    policy: str  # the class in `eelit.methods.policies`
    source: str  # key of the work that it comes from, as `eelit show` takes it; empty for common property
    says: str  # one sentence
    settings: Callable[[Scores, Rows, int], list[Policy]]  # from all scores and the rows of the choosing half
    suits: Callable[[Logits], bool] = lambda data: data.kind != "values"
    single: bool = False  # whether it is one policy with one threshold, which exits may be left out of


def between(values: Array, count: int) -> list[float]:
    """Return at most so many numbers that lie between the values, as evenly among them as can be, rising.

    Values that are equal but for the rounding of float32 are not told apart: another library may round otherwise.
    """
    known = np.sort(np.asarray(values, dtype=np.float64).ravel())
    known = known[np.isfinite(known)]
    if not len(known) or count < 1:
        return []
    places = np.unique(np.linspace(0, len(known) - 1, count + 2)[1:-1].astype(np.int64))
    found = []
    for place in places:
        here = known[place]
        after = int(np.searchsorted(known, here + ROUNDING * abs(here), side="right"))
        if after < len(known):
            found.append(float((known[after - 1] + known[after]) / 2))
    return sorted(set(found))


def _pooled(scores: Array, rows: Rows) -> Array:
    """Return the scores of the choosing half at all exits but the last."""
    return scores[:-1, rows]


def _rising(make: Callable[[Any], Policy], of: Callable[[Scores], Array], ends: tuple[float, float]) -> Any:
    """Return the settings of a rule that stops where a score reaches a threshold, the most eager first."""

    def settings(scores: Scores, rows: Rows, count: int) -> list[Policy]:
        return [make(t) for t in (ends[0], *between(_pooled(of(scores), rows), count - 2), ends[1])]

    return settings


def _falling(make: Callable[[Any], Policy], of: Callable[[Scores], Array], ends: tuple[float, float]) -> Any:
    """Return the settings of a rule that stops where a score is below a threshold, the most eager first."""

    def settings(scores: Scores, rows: Rows, count: int) -> list[Policy]:
        return [make(t) for t in (ends[0], *reversed(between(_pooled(of(scores), rows), count - 2)), ends[1])]

    return settings


def _sigmoid(scores: Scores) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-scores.first)))


def _patience(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    return [Patience(p) for p in range(min(scores.logits.exits, count))]


def _patience_of_values(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    far = np.abs(np.diff(scores.predicted[:, rows], axis=0))[:-1]
    patiences = range(1, min(3, max(2, scores.logits.exits - 1)) + 1)
    limits = [math.inf, *reversed(between(far, count // len(patiences) - 1))]
    grid: list[Policy] = [Patience(p, tolerance=t) for p in patiences for t in limits]
    return [Patience(0, tolerance=0.0), *grid, Patience(scores.logits.exits - 1, tolerance=0.0)]


def _flexible_patience(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    patiences = range(1, min(3, max(1, scores.logits.exits - 2)) + 1)
    limits = list(reversed(between(scores.distance[1:-1, rows], (count - 2) // len(patiences))))
    return [FlexiblePatience(math.inf, 0), *(FlexiblePatience(t, p) for p in patiences for t in limits), _never_close()]


def _never_close() -> Policy:
    return FlexiblePatience(0.0, 1)


def _patient_confidence(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    patiences = range(2, min(4, max(2, scores.logits.exits - 1)) + 1)
    limits = between(_pooled(scores.entropy, rows) / math.log(scores.logits.classes), (count - 2) // len(patiences))
    grid = (PatientConfidence(u, p) for p in patiences for u in reversed(limits))
    return [PatientConfidence(2.0, 1), *grid, PatientConfidence(0.0, 1)]


def _voting(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    exits = scores.logits.exits
    by_root = sorted({v / d**0.5 for d in range(1, exits) for v in range(1, d + 1)})
    limits = between(np.asarray(by_root), max(1, count - exits - 1))
    plain: list[Policy] = [Voting(v) for v in range(1, exits + 1)]
    return [*plain[:count], *(Voting(v, 0.5) for v in limits)]


def _exclusion(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    """Betas are those at which a second class would just remain."""
    heads = max(1, scores.logits.exits - 1)
    limits = between(_pooled(scores.excluded, rows), count - 2)
    betas = [1.0, *(math.exp(limit) for limit in reversed(limits)), 0.0]
    return [ClassExclusion((min(1.0, beta),) * heads) for beta in dict.fromkeys(betas)]


def _class_thresholds(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    side = max(2, int(math.sqrt(count)))
    likely, sure = _pooled(scores.predicted, rows), _pooled(scores.confidence, rows)
    positive, negative = (sorted({0.0, *between(sure[likely == c], side - 2), 1.0}) for c in (1, 0))
    return [ClassThresholds(p, n) for p in positive for n in negative]


def _apart(thresholds: tuple[float, ...], held: Array) -> tuple[float, ...]:
    """Return thresholds, each one of the scores ``[E - 1, n]`` of its exit, moved halfway to the next lower.

    The same samples stay above; but in another library, which rounds otherwise, so they do there.
    """
    found = []
    for threshold, scores in zip(thresholds, held.astype(np.float64), strict=True):
        below, above = scores[scores < threshold], scores[scores >= threshold]
        between_two = math.isfinite(threshold) and len(below) and len(above)
        found.append((float(below.max()) + float(above.min())) / 2 if between_two else threshold)
    return tuple(found)


def _budgeted(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    exits = scores.logits.exits
    ratios = [*np.exp(np.linspace(-3, 3, max(0, count - 2))), math.inf]
    held = scores.confidence[:, rows]
    return [
        MaxConfidence(0.0),
        *(MaxConfidence(_apart(thresholds_for(held, exit_shares(r, exits)), held[:-1]) or 2.0) for r in ratios),
    ]


def _percentile(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    held = scores.entropy[:-1, rows]
    return [
        Entropy(_apart(percentile_thresholds(list(held), float(share)), held) or 0.0)
        for share in np.linspace(1, 0, count)
    ]


def _conformal(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    """Confidence must be strictly above the threshold, so that lies halfway to the next higher one."""
    sure, said = scores.confidence[:-1, rows], scores.predicted[:, rows]
    same = (said[:-1] == said[-1]) & (said[:-1] >= 0)
    found: list[Policy] = []
    for tolerance in 1 - np.linspace(0, 1, count) ** 0.5:
        limits = independent_thresholds(sure, same, float(tolerance)) if len(sure) else (2.0,)
        above = tuple(float(np.nextafter(t, math.inf)) for t in limits)
        found.append(MaxConfidence(_apart(above, sure) if len(sure) else above))
    return found


def _calibrated(scores: Scores, rows: Rows, count: int) -> list[Policy]:
    heats = temperatures(scores, rows)
    pooled = _pooled(scores.tempered(heats).confidence, rows)
    return [Tempered(heats, MaxConfidence(t)) for t in (0.0, *between(pooled, count - 2), 1.1)]


def temperatures(scores: Scores, rows: Rows, most: int = 1000) -> tuple[float, ...]:
    """Return the temperature of each exit of the least negative log likelihood on some rows, at most so many of them.

    As `policies.temperature.fit_temperature` finds it: the slope by the inverse temperature rises, so its zero is
    enclosed; here by steps of Newton, which ask the outputs some ten times instead of fifty.
    """
    step = max(1, len(rows) // most)
    chosen = np.sort(rows)[::step][:most]
    return tuple(_temperature(scores, e, chosen) for e in range(scores.logits.exits))


def _temperature(scores: Scores, exit_: int, rows: Rows) -> float:
    z = np.concatenate([scores.logits.read(exit_, int(i), int(i) + 1) for i in rows])
    known = scores.usable[exit_, rows] & (scores.truth[rows] >= 0)
    if not known.any():
        return 1.0
    z, y = z[known], scores.truth[rows][known].astype(np.int64)
    z -= z.max(axis=1, keepdims=True)
    true, masked = float(z[np.arange(len(y)), y].mean(dtype=np.float64)), np.where(np.isfinite(z), z, 0.0)
    low, high, at = math.log(1 / HOTTEST), math.log(1 / COLDEST), 0.0
    for _ in range(40):
        p = np.exp(log_softmax(z * np.asarray(math.exp(at), dtype=z.dtype)))
        mean = (p * masked).sum(axis=1, dtype=np.float64)
        slope = float(mean.mean()) - true
        low, high = (at, high) if slope <= 0 else (low, at)
        bend = float(((p * masked * masked).sum(axis=1, dtype=np.float64) - mean**2).mean()) * math.exp(at)
        guess = at - slope / bend if bend > 0 else math.inf
        after = guess if low < guess < high else (low + high) / 2
        if abs(after - at) < 1e-4 or high - low < 1e-4:
            break
        at = after
    return math.exp(-at)


def _depths(make: Callable[[int], Policy]) -> Callable[[Scores, Rows, int], list[Policy]]:
    return lambda scores, rows, count: [make(e) for e in range(scores.logits.exits)]


def _raw(data: Logits) -> bool:
    """Whether the size of logits means something: that of probabilities' logarithms is another one."""
    return data.kind == "logits"


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("max-confidence", "MaxConfidence", "", "Stop when the largest probability reaches a threshold.",
             _rising(MaxConfidence, lambda s: s.confidence, (0.0, 1.1)), single=True),
        Rule("entropy", "Entropy", "teerapittayanon2016branchynet", "Stop when the entropy is below a threshold.",
             _falling(Entropy, lambda s: s.entropy, (math.inf, 0.0)), single=True),
        Rule("margin", "Margin", "schuster2022calm", "Stop when the two likeliest classes are far enough apart.",
             _rising(Margin, lambda s: s.confidence - s.runner_up, (0.0, 1.1)), single=True),
        Rule("raw-margin", "RawMargin", "park2015biglittle", "Stop when the two largest logits are far enough apart.",
             _rising(RawMargin, lambda s: s.first - s.second, (0.0, math.inf)), single=True),
        Rule("activation", "Activation", "passalis2020hierarchical", "Stop when the largest logit is above one.",
             _rising(Activation, lambda s: s.first, (-math.inf, math.inf)), _raw, single=True),
        Rule("sole-class", "SoleClass", "panda2016cdl", "Stop when one class is likely enough and no other is.",
             _rising(SoleClass, _sigmoid, (0.5, 1.1)), _raw, single=True),
        Rule("patience", "Patience", "zhou2020pabee", "Stop when exits have agreed often enough in a row.", _patience),
        Rule("patience-of-values", "Patience", "zhou2020pabee", "Stop when values have hardly changed for some exits.",
             _patience_of_values, lambda data: data.kind == "values"),
        Rule("flexible-patience", "FlexiblePatience", "gao2023pfberxit",
             "Stop when distributions have hardly changed for some exits.", _flexible_patience,
             lambda data: data.kind != "values" and data.exits > 2),
        Rule("patient-confidence", "PatientConfidence", "zhang2022pceebert", "Stop when exits in a row are sure.",
             _patient_confidence, lambda data: data.kind != "values" and data.exits > 2),
        Rule("voting", "Voting", "sun2021ensemble", "Stop when one class has enough votes; else the majority says.",
             _voting),
        Rule("surest", "Surest", "kaya2019sdn", "As max-confidence, but at the end the surest of all exits answers.",
             _rising(Surest, lambda s: s.confidence, (0.0, 1.1))),
        Rule("class-exclusion", "ClassExclusion", "wang2024exclusion", "Strike out classes until one is left.",
             _exclusion, _raw),
        Rule("class-thresholds", "ClassThresholds", "xin2020ranking", "A threshold for each of two classes.",
             _class_thresholds, lambda data: data.classes == 2),
        Rule("calibrated-confidence", "Tempered", "", "As max-confidence, after temperature scaling of each exit.",
             _calibrated, single=True),
        Rule("budgeted", "MaxConfidence", "huang2018msdnet", "Max-confidence, thresholds by how many leave where.",
             _budgeted, single=True),
        Rule("percentile-entropy", "Entropy", "", "Entropy, the same share below the threshold of each exit.",
             _percentile, single=True),
        Rule("conformal", "MaxConfidence", "schuster2021cats", "Max-confidence, thresholds by conformal calibration.",
             _conformal, single=True),
        Rule("mean-so-far", "MeanSoFar", "phuong2019distillation", "One depth for all, answered by the mean so far.",
             _depths(MeanSoFar)),
        Rule("static", "FixedExit", "", "One depth for all samples.", _depths(FixedExit), lambda data: True),
    )
}  # fmt: skip
"""Name → rule; beside these, `of_extra` gives those that read what exits said beside their answer."""


def suited(data: Logits, names: Sequence[str] = ()) -> list[Rule]:
    """Return the rules that these outputs suffice for, or of these names. Raises `ValueError` for one that does not."""
    known = {name: rule for name, rule in RULES.items() if rule.suits(data)} | {r.name: r for r in of_extra(data)}
    for name in names:
        if name not in known:
            why = "does not suit these outputs" if name in RULES else "is not known"
            raise ValueError(f"the policy `{name}` {why}; choose among {', '.join(known)}")
    return [rule for name, rule in known.items() if not names or name in names]


def of_extra(data: Logits) -> list[Rule]:
    """Return the rules that read what exits said beside their answer, one for each column that can be read."""
    found = []
    for name, part in data.extra.items():
        if part.ndim == 2:
            found.append(_of_column(name, part))
        elif name == "gate" and part.shape[2] == 2:
            found.append(
                Rule("gate", "GateConfidence", "schuster2022calm", "Stop when a trained gate is confident enough.",
                     lambda s, rows, count: [GateConfidence(t) for t in np.linspace(0, 1.1, count)],
                     lambda data: True)
            )  # fmt: skip
        elif name == "state":
            found.append(
                Rule("state-similarity", "StateSimilarity", "schuster2022calm", "Stop when a layer changed little.",
                     lambda s, rows, count: [
                         StateSimilarity(float(t)) for t in (0.0, *(1 - np.geomspace(1, 1e-4, count - 2)), 1.1)
                     ], lambda data: True)
            )  # fmt: skip
    return found


def _of_column(name: str, part: Array) -> Rule:
    def settings(scores: Scores, rows: Rows, count: int) -> list[Policy]:
        limits = (-math.inf, *between(np.asarray(part[:-1])[:, rows], count - 2), math.inf)
        return [ScoreThreshold(t, of=name) for t in limits]

    says = f"Stop when `{name}`, which each exit says, is above a threshold."
    return Rule(f"score:{name}", "ScoreThreshold", "schuster2021cats", says, settings, lambda data: True, single=True)
