"""What class-specific exits claim: target classes recognised much sooner, and nothing lost over all classes."""

from __future__ import annotations

from eelit.methods.claims.comparisons import beside_random_search
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.designs import Prepared
from eelit.methods.papers.bonato2021classspecific import ClassSpecific
from eelit.methods.papers.kaya2019sdn import ShallowDeep
from eelit.methods.policies.max_confidence import MaxConfidence


def claims(method: ClassSpecific, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The time saved for the targets; the design beside exits for all classes, and beside a random search."""
    return [sooner(method, prepared), sooner_than_all(method, prepared, bench), beside_random_search(method, prepared)]


def sooner(method: ClassSpecific, prepared: Prepared) -> Outcome:
    """What slack 0 brings to the target classes, what it costs the others, and what is lost."""
    saving, loss, more = figures(method, prepared, 0.0)
    return Outcome(
        name="targets in two thirds of the time, nothing lost",
        statement="With accuracy slack 0 images of the target classes cost at most two thirds of the full model on "
        "test images (the paper: 2.09 to 8.79 times less time on CIFAR-10), accuracy over all classes falls by at most "
        "half a point, and images of the other classes cost at most one percent more.",
        holds=saving >= 1.5 and loss <= 0.005 and more <= 0.01,
        measured=f"targets {saving:.2f} times less, accuracy over all classes {-loss:+.4f}, other classes {more:+.1%}",
    )


def figures(method: ClassSpecific, prepared: Prepared, slack: float) -> tuple[float, float, float]:
    """Return, on test images, how much less targets cost, the accuracy lost, and how much more other classes cost."""
    design = method.chosen(slack, prepared.for_choosing)
    seen, rule = method.seen(design, prepared, "test"), method.everywhere(design)
    spent, targets = seen.paid(rule) / seen.full_costs.mean(), method.weighed(seen).numpy()
    right = seen.at(replay(rule, seen.outputs)).argmax(dim=-1) == seen.targets
    full = seen.answers[-1].argmax(dim=-1) == seen.targets
    lost = float(full.double().mean() - right.double().mean())
    return 1 / float(spent[targets].mean()), lost, float(spent[~targets].mean()) - 1


def sooner_than_all(method: ClassSpecific, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare with exits for all classes, trained as long on the same frozen network, under the same condition."""
    options = {
        name: getattr(method, name) for name in ("network", "images", "train_size", "pixels", "widths", "blocks")
    }
    options |= {name: getattr(method, name) for name in ("shares", "half", "epochs", "batch", "rate", "head_epochs")}
    rival = ShallowDeep().replace({**options, "head_rate": method.head_rate})
    held, test = (rival.prepare(bench).split(part) for part in ("validation", "test"))
    targets, best = method.weighed(test).numpy(), 1.0
    least = float((held.answers[-1].argmax(dim=-1) == held.targets).double().mean())
    for threshold in (threshold / 200 for threshold in range(60, 201)):
        rule = MaxConfidence(threshold)
        if held.under(rule, rival.score).quality >= least - 1e-9:
            best = float((test.paid(rule)[targets] / test.full_costs.mean()).mean())
            break
    saving, _, _ = figures(method, prepared, 0.0)
    return Outcome(
        name="targets sooner than by exits for all classes",
        statement="With nothing lost on validation images, images of the target classes cost at least a tenth less on "
        "test images than with exits for all classes, trained as long on the same frozen network, that stop at the "
        "least probability, one for all, with which nothing is lost.",
        holds=1 / saving <= 0.9 * best,
        measured=f"{1 / saving:.3f} of the full cost, instead of {best:.3f}",
    )
