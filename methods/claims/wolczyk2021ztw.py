"""What Zero Time Waste claims: recycled opinions are worth more than those thrown away, and both ways of it help."""

from __future__ import annotations

from eelit.methods.claims.comparisons import better_than, gains_of_mixtures, points_of, tried
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families import images
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.kaya2019sdn import ShallowDeep
from eelit.methods.papers.wolczyk2021ztw import ZeroTimeWaste
from eelit.methods.policies.patience import Patience

SHARED = (*images.SHARED, "head_epochs", "head_rate")
"""Settings of the network and of its internal classifiers."""


def claims(method: ZeroTimeWaste, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside Shallow-Deep Networks and patience on the same frozen network, and beside what lacks a part."""
    shallow = ShallowDeep().replace({name: getattr(method, name) for name in SHARED})
    theirs = shallow.prepare(bench)
    ours = tried(method, prepared, [method.rule(knob, prepared) for knob in method.knobs[1:-1]])

    def beside(name: str, rival: Baseline, where: str) -> Outcome:
        return better_than(name, gains_of_mixtures(ours, rival), where)

    where = "With internal classifiers on the same frozen network, trained as long"
    patient = [Patience(t) for t in range(1, prepared.model.exits - 1)]
    found = [
        beside("SDN", points_of(shallow, theirs, bench), where),
        beside("PABEE", tried(shallow, theirs, patient), where),
    ]
    if not (method.cascade and method.geometric):
        return found
    for name, settings in (("additive ensembles", {"geometric": False}), ("no cascade", {"cascade": False})):
        less = method.replace(settings)
        rival = points_of(less, less.prepare(bench), bench)
        found.append(beside(name, rival, "On the same frozen network, all else alike"))
    return found
