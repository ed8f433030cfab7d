"""What DDNN claims: little is sent at nearly the cloud's accuracy, views complete each other, and devices may fail."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.exit_outputs import all_outputs
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tiers import Prepared
from eelit.methods.papers.teerapittayanon2017ddnn import Ddnn


def claims(method: Ddnn, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them; that views complement each other takes the network of the best camera alone beside."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    seen = prepared.split("test")
    raw = seen.examples.inputs[0][0].numel()
    best = best_camera(prepared)
    one = alone(method, prepared, bench, best)
    less = spares(point.cost, raw, point.exits[0], curve.full_quality - point.quality, point.knob)
    return [
        less.model_copy(update={"not_comparable": nothing_to_lose(curve, 0.02)}),
        complements([float(each.quality) for each in seen.cut_off(method.score)], one, best),
        tolerates(point.quality, broken(method, prepared, bench, point.knob)),
    ]


def spares(sent: float, raw: int, local: float, loss: float, knob: float) -> Outcome:
    """What is sent, against sending each view at a byte for each pixel."""
    return Outcome(
        name="much less is sent than views",
        statement="At the cheapest T that loses at most one point against the cloud on validation data, a device "
        "sends at most a tenth of the bytes of its view (the paper: a twentieth, of coloured pictures and with three "
        "classes), and accuracy on test data is at most two points below the cloud's.",
        holds=sent <= raw / 10 and loss <= 0.02,
        measured=f"{sent:.1f} instead of {raw} bytes ({raw / sent:.1f}×), {local:.1%} answered locally, accuracy "
        f"{-loss:+.4f}, at T = {knob:g}",
    )


def complements(together: list[float], one: list[float], best: int) -> Outcome:
    """Local and cloud exit of all devices against the same of the best one alone."""
    local, cloud = (a - b for a, b in zip(together, one, strict=True))
    return Outcome(
        name="views complement each other",
        statement="Beside the same network of the best camera alone, trained alike, both exits are at least five "
        "points more accurate.",
        holds=local >= 0.05 and cloud >= 0.05,
        measured=f"local exit {together[0]:.4f} and {one[0]:.4f}, cloud {together[1]:.4f} and {one[1]:.4f} "
        f"(camera {best + 1})",
    )


def tolerates(whole: float, failed: list[float]) -> Outcome:
    """Each device in turn sees nothing, and nothing is trained anew."""
    losses = [whole - each for each in failed]
    return Outcome(
        name="a device may fail",
        statement="With any one device blind, accuracy at that T is on average at most three points lower, and never "
        "more than six.",
        holds=sum(losses) / len(losses) <= 0.03 and max(losses) <= 0.06,
        measured=f"{whole:.4f}, without camera 1, 2 …: {', '.join(f'{each:.4f}' for each in failed)}",
    )


def best_camera(prepared: Prepared) -> int:
    """Return the device whose own scores are most accurate on validation data."""
    seen = prepared.split("validation")
    views: Tensor = seen.outputs["views"][0]
    right = views.argmax(dim=-1) == seen.targets[:, None]
    return int(right.double().mean(dim=0).argmax())


def alone(method: Ddnn, prepared: Prepared, bench: Bench, camera: int) -> list[float]:
    """Return the test accuracy of both exits of the network of one camera, trained for it."""

    def only(part: Examples) -> Examples:
        return Examples([x[camera : camera + 1] for x in part.inputs], part.targets)

    whole = prepared.data
    data = Data(only(whole.train), only(whole.validation), only(whole.test), whole.classes, f"{whole.digest} {camera}")
    known = data.without_test()
    model = method.build(known, bench.seed)
    method.train(model, known, bench)
    ready = Prepared(model.eval(), data, bench, method)
    return [point.quality for point in ready.split("test").cut_off(method.score)]


def broken(method: Ddnn, prepared: Prepared, bench: Bench, knob: float) -> list[float]:
    """Return the test accuracy at one T when each of the devices in turn sees nothing but black."""
    seen, found = prepared.split("test"), []
    for camera in range(method.cameras):
        blind = [x.clone() for x in seen.examples.inputs]
        for x in blind:
            x[camera] = 0
        examples = Examples(blind, seen.targets)
        outputs = all_outputs(prepared.model, examples, bench, f"all exits without camera {camera + 1}")
        other = replace(seen, examples=examples, outputs=outputs, _crossed={}, _courses={})
        found.append(method.trial(prepared.rule(knob), other).quality)
    return found
