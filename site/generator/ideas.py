"""A small picture of each way to decide, drawn in the colours of the page.

Most show the layers of a network from left to right: those that ran are filled, those that were skipped are hollow, and
an arrow leaves where the sample does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 260, 96
LEFT, STEP, BOX, BASE = 14, 40, 28, 78
"""First layer, distance of layers, their width, and the height on which what exits say stands."""
Parts = list[Markup]


def _shape(name: str, text: str = "", **attributes: object) -> Markup:
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, text)


def _box(x: float, y: float, w: float, h: float, kind: str = "ran") -> Markup:
    return _shape("rect", class_=kind, x=x, y=y, width=w, height=h, rx=2)


def _path(d: str, kind: str = "mark") -> Markup:
    return _shape("path", class_=kind, d=d)


def _text(x: float, y: float, text: str, kind: str = "") -> Markup:
    return _shape("text", text, class_=kind, x=x, y=y, text_anchor="middle")


def _layers(stop: int, count: int = 6) -> Parts:
    """Layers of which the first ``stop`` ran, with the arrow out."""
    boxes = [_box(LEFT + i * STEP, 82, BOX, 10, "ran" if i < stop else "skipped") for i in range(count)]
    x = LEFT + (stop - 1) * STEP + BOX + 4
    return [*boxes, _path(f"M{x} 87V10m-3 5l3 -5l3 5", "out")]


def _bars(values: Sequence[float], stop: int, kind: str = "value") -> Parts:
    """What each exit says, as a bar over its layer; those behind the exit are not computed."""
    return [
        _box(LEFT + i * STEP + 8, BASE - 60 * value, 12, 60 * value, kind if i < stop else "unknown")
        for i, value in enumerate(values)
    ]


def _line(height: float) -> Markup:
    return _path(f"M8 {BASE - 60 * height}H252", "threshold")


def _above(values: Sequence[float], height: float, stop: int) -> Parts:
    return [*_layers(stop), *_bars(values, stop), _line(height)]


def _letters(answers: str, below: Iterable[str], stop: int) -> Parts:
    said = [_text(LEFT + i * STEP + 14, 40, a if i < stop else "·", "answer") for i, a in enumerate(answers)]
    counts = [_text(LEFT + i * STEP + 14, 66, c, "count") for i, c in enumerate(below) if i < stop]
    return [*_layers(stop), *said, *counts]


def _margin() -> Parts:
    pairs = [(0.5, 0.42), (0.55, 0.35), (0.6, 0.38), (0.85, 0.12)]
    bars = [
        _box(LEFT + i * STEP + 4 + 11 * j, BASE - 60 * v, 9, 60 * v, "value" if j == 0 else "other")
        for i, pair in enumerate(pairs)
        for j, v in enumerate(pair)
    ]
    x = LEFT + 3 * STEP + 28
    return [*_layers(4), *bars, _path(f"M{x} {BASE - 51}V{BASE - 7}m-2 0h4M{x - 2} {BASE - 51}h4", "threshold")]


def _votes() -> Parts:
    stacks = [(1, 0), (1, 1), (2, 1), (3, 1)]
    blocks = [
        _box(LEFT + i * STEP + 4 + 12 * j, BASE - 13 * (k + 1), 10, 11, "value" if j == 0 else "other")
        for i, stack in enumerate(stacks)
        for j, n in enumerate(stack)
        for k in range(n)
    ]
    return [*_layers(4), *blocks, _path(f"M8 {BASE - 40}H252", "threshold")]


def _similar() -> Parts:
    shapes = [(0.6, 0.4, 0.3), (0.35, 0.7, 0.2), (0.25, 0.8, 0.15), (0.24, 0.82, 0.14)]
    bars = [
        _box(LEFT + i * STEP + 2 + 8 * j, BASE - 48 * v, 7, 48 * v, "value")
        for i, shape in enumerate(shapes)
        for j, v in enumerate(shape)
    ]
    return [*_layers(4), *bars, _text(LEFT + 2.85 * STEP, 28, "≈", "answer")]


def _states() -> Parts:
    ends = [(-9, -14), (3, -17), (12, -12), (13, -11)]
    arrows = [_path(f"M{LEFT + i * STEP + 14} 60l{x * 1.6} {y * 1.6}", "vector") for i, (x, y) in enumerate(ends)]
    return [*_layers(4), *arrows, _text(LEFT + 2.85 * STEP, 74, "≈", "answer")]


def _learned() -> Parts:
    places = (LEFT + i * STEP + 14 for i in range(6))
    gates = [_path(f"M{x} 44l9 9l-9 9l-9 -9z", "gate" if i < 4 else "unknown-line") for i, x in enumerate(places)]
    said = [_text(LEFT + i * STEP + 14, 36, word, "count") for i, word in enumerate(("no", "no", "no", "yes"))]
    return [*_layers(4), *gates, *said]


def _forecast() -> Parts:
    start, end = LEFT + 14, LEFT + 3 * STEP + 14
    leap = _path(f"M{start} 76C{start} 20 {end} 20 {end} 74m-4 -6l4 6l4 -6", "vector")
    return [*_layers(4), leap, _text(76, 24, "will stop at 4", "count")]


def _partial() -> Parts:
    cone = "M14 60L54 52L94 40L134 34V10L94 18L54 34z"
    return [*_layers(4), _path(cone, "band"), _path("M14 60L54 44L94 30L134 22", "vector"), _line(0.55)]


def _quality() -> Parts:
    lines = []
    for i, rough in enumerate((13, 8, 4, 1)):
        heights = [rough * sign for sign in (1, -0.6, 0.8, -1, 0.5, -0.9)]
        steps = "".join(f"L{LEFT + i * STEP + 5.6 * (j + 1):g} {46 - height:g}" for j, height in enumerate(heights[:4]))
        lines.append(_path(f"M{LEFT + i * STEP} 46{steps}L{LEFT + i * STEP + 28} 46", "vector"))
    said = [_text(LEFT + i * STEP + 14, 72, word, "count") for i, word in enumerate(("no", "no", "no", "clean"))]
    return [*_layers(4), *lines, *said]


def _exclude() -> Parts:
    rows = [
        _text(LEFT + i * STEP + 14, 24 + 14 * j, "A B C D"[2 * j], "answer" if j not in gone else "gone")
        for i, gone in enumerate(((), (2,), (2, 3), (0, 2, 3)))
        for j in range(4)
    ]
    return [*_layers(4), *rows]


def _reject() -> Parts:
    out = [_path(f"M{LEFT + i * STEP + 32} 87V40m-3 5l3 -5l3 5", "out") for i in (0, 1, 3)]
    said = [_text(LEFT + i * STEP + 32, 32, "no", "count") for i in (0, 1, 3)]
    boxes = [_box(LEFT + i * STEP, 82, BOX, 10) for i in range(6)]
    return [*boxes, *out, *said, _path("M246 87h8m-4 -3l4 3l-4 3", "out"), _text(236, 70, "yes", "count")]


def _verify() -> Parts:
    tokens = [_box(20 + 30 * i, 20, 24, 14, "ran" if i < 4 else "other") for i in range(6)]
    return [
        *tokens, _text(44, 14, "small model drafts", "count"), _box(20, 62, 114, 18), _box(140, 62, 54, 18, "skipped"),
        _text(77, 75, "large model agrees", "inside"), _text(167, 75, "no", "count"),
        _path("M170 58C170 44 150 44 146 38m-2 6l2 -6l5 4", "vector"), _text(216, 48, "roll back", "count"),
    ]  # fmt: skip


def _axes() -> Parts:
    curve = _path("M40 72C70 34 110 22 236 16", "vector")
    return [_path("M30 8V80H246", "axis"), curve, _text(138, 93, "cost", "count")]


def _setting() -> Parts:
    chosen = _shape("circle", class_="gate", cx=84, cy=37, r=5)
    others = [_shape("circle", class_="dot", cx=x, cy=y, r=3) for x, y in ((56, 55), (124, 26), (180, 20))]
    return [*_axes(), *others, chosen]


def _budget() -> Parts:
    return [*_axes(), _path("M104 8V80", "threshold"), _shape("circle", class_="gate", cx=100, cy=31, r=5)]


def _target() -> Parts:
    return [*_axes(), _path("M30 31H246", "threshold"), _shape("circle", class_="gate", cx=104, cy=30, r=5)]


def _resource() -> Parts:
    cells = [_box(20 + 18 * i, 22, 14, 26, "value" if i < 2 else "skipped") for i in range(4)]
    case = [_path("M16 18H92V52H16z", "axis"), _path("M94 28v14", "axis")]
    return [*_layers(3), *case, *cells, _text(54, 68, "left", "count")]


def _bandit() -> Parts:
    arms = [(0.3, 0.28), (0.55, 0.2), (0.7, 0.08), (0.45, 0.22), (0.35, 0.3)]
    drawn = []
    for i, (mean, spread) in enumerate(arms):
        x = 30 + 48 * i
        drawn.append(_box(x - 7, BASE - 60 * mean, 14, 60 * mean, "value" if i == 2 else "other"))
        drawn.append(_path(f"M{x} {BASE - 60 * (mean + spread)}V{BASE - 60 * (mean - spread)}", "threshold"))
        drawn.append(_text(x, 92, f"{i + 1}", "count"))
    return drawn


def _same() -> Parts:
    places = [(LEFT + i * STEP, 20 + 22 * j, "ran" if i < 4 else "skipped") for i in range(6) for j in range(3)]
    return [*(_box(x, y, BOX, 10, kind) for x, y, kind in places), _path("M168 10V86", "threshold")]


def _rising() -> Parts:
    return _above((0.35, 0.5, 0.62, 0.86, 0.9, 0.95), 0.75, 4)


def _falling() -> Parts:
    return _above((0.95, 0.85, 0.6, 0.22, 0.2, 0.1), 0.35, 4)


def _patience() -> Parts:
    return _letters("ABAAAA", "00012", 5)


DRAWN: dict[str, Callable[[], Parts]] = {
    "confidence": _rising,
    "max-confidence": _rising,
    "entropy": _falling,
    "margin": _margin,
    "agreement": _patience,
    "patience": _patience,
    "voting": _votes,
    "prediction-similarity": _similar,
    "hidden-state-similarity": _states,
    "learned": _learned,
    "learned-gate": _learned,
    "exit-forecast": _forecast,
    "partial-score": _partial,
    "quality-score": _quality,
    "class-exclusion": _exclude,
    "reject-only": _reject,
    "verify-and-rollback": _verify,
    "threshold-setting": _setting,
    "budgeted": _budget,
    "accuracy-target": _target,
    "resource-driven": _resource,
    "fixed-depth": _same,
    "bandit": _bandit,
}
"""Term → how its picture is drawn."""
SAID = {
    "confidence": "The more confident an exit, the higher its bar; the first exit above the line answers.",
    "max-confidence": "The largest probability of each exit; the first exit above the line answers.",
    "entropy": "The entropy of each exit; the first exit below the line answers.",
    "margin": "The two most likely classes of each exit; inference stops when they are far enough apart.",
    "agreement": "Answers of the exits, and how often in a row they were the same; here two agreements are enough.",
    "patience": "Answers and the count of agreements in a row; inference stops when the count is 2.",
    "voting": "Every exit passed so far has one vote; inference stops when a class has three votes.",
    "prediction-similarity": "Distributions of neighbouring exits; inference stops when two are nearly the same.",
    "hidden-state-similarity": "States of neighbouring layers; inference stops when they hardly change any more.",
    "learned": "A small network after each layer was trained to predict whether to stop.",
    "learned-gate": "A gate after each layer was trained to predict whether to continue.",
    "exit-forecast": "The first layers predict at which exit to stop; exits in between are not run.",
    "partial-score": "A score grows layer by layer; scoring stops when the rest can no longer change the answer.",
    "quality-score": "The output of each exit is assessed directly; inference stops when it is good enough.",
    "class-exclusion": "Every exit excludes classes; inference stops when one is left.",
    "reject-only": "Only samples answered “no” may leave early; a “yes” must pass all layers.",
    "verify-and-rollback": "A small model drafts; a large one checks the draft and takes back what it rejects.",
    "threshold-setting": "Each setting of the thresholds is a point of quality and cost; one is chosen.",
    "budgeted": "The setting is the best one within the budget.",
    "accuracy-target": "The setting is the cheapest one that reaches the wanted accuracy.",
    "resource-driven": "The remaining energy, time or bandwidth decides how many layers run.",
    "fixed-depth": "All samples stop at the same layer.",
    "bandit": "Each layer is an arm; the mean reward so far and its uncertainty decide which is chosen next.",
}
"""Term → what its picture shows."""


def picture(term: str) -> Markup:
    """Return the picture of a policy as SVG, or nothing if there is none."""
    if term not in DRAWN:
        return Markup("")
    return Markup(
        '<figure class="ee-rule" data-search-exclude=""><svg viewBox="0 0 {} {}" role="img" aria-labelledby="idea-{}">'
        '<title id="idea-{}">{}</title>{}</svg><figcaption>{}</figcaption></figure>'
    ).format(WIDTH, HEIGHT, term, term, SAID[term], Markup("").join(DRAWN[term]()), SAID[term])
