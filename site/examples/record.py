"""Run the walk-throughs and write down what their pages show of the run: python site/examples/record.py [NAME…]."""

import io
import json
import re
import runpy
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from eelit.methods import compare
from eelit.methods.own.curves import halves
from eelit.methods.own.logits import standard_error

WALKS = ("hugging_face", "cnn", "any_framework")
SETTINGS = 20  # of the policy, which its curve has
DIGITS = 4


def record(name: str) -> dict:
    """Run a walk-through in an empty folder, and return what it printed, its rule, and the curve of the rule's policy.

    Each point of a curve is a share of the full model's cost, a quality, and what was set.
    """
    printed = io.StringIO()
    with TemporaryDirectory() as folder, chdir(folder), redirect_stdout(printed):
        ran = runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))
        logits, rule = ran["logits"], ran["rule"]
        found = compare(logits, [rule.rule], settings=SETTINGS)
    (policy,) = found.lines
    measured = {part: round(value, DIGITS) for part, value in rule.promise["measured"].items()}
    points = sorted((point.share, point.quality, setting(point.settings)) for point in policy.points)
    lines = {
        rule.rule: points,
        "one exit for all": [(share, quality, f"exit {i}") for i, (share, quality) in enumerate(found.static, 1)],
        "oracle": [(share, quality, "bound") for share, quality in found.oracle],
        "the rule": [(measured["share"], measured["quality"], "as chosen")],
    }
    return {
        "said": printed.getvalue(),
        "quality": found.quality_is,
        "exits": logits.exits,
        "samples": logits.samples,
        "rule": rule.rule,
        "promise": rule.promise["text"],
        "proved": rule.promise["proved"],
        "measured": measured,
        "cut": cut(logits, rule, [share for share, _ in found.static]),
        "lines": {
            title: [(round(x, DIGITS), round(y, DIGITS), z) for x, y, z in line] for title, line in lines.items()
        },
    }


def cut(logits, rule, shares: list[float]) -> dict:
    """Compare a rule with the network cut off after the exit whose cost is nearest, on the half to tell on.

    What the rule gains is told pair by pair, since both answer the same samples.
    """
    e = int(np.abs(np.array(shares) - rule.promise["measured"]["share"]).argmin())
    rows = halves(logits).telling
    ours, theirs = (
        (answers[rows] == logits.labels[rows]).astype(float)
        for answers in (rule.apply(logits).answers, logits.z[e].argmax(axis=1))
    )
    told = {"share": shares[e], "quality": theirs.mean(), "gain": (ours - theirs).mean()}
    told["gain_error"] = standard_error(ours - theirs)
    return {"exit": e + 1} | {name: round(float(value), DIGITS) for name, value in told.items()}


def setting(settings: dict) -> str:
    """Return a policy's settings in a few words."""
    return ", ".join(f"{name} {value:.4g}" for name, value in settings.items() if isinstance(value, int | float))


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the tests: with more threads sums are rounded otherwise, and training ends elsewhere
    for walk in sys.argv[1:] or WALKS:
        place = Path(__file__).with_name(f"{walk}.json")
        text = json.dumps(record(walk), indent=1)
        text = re.sub(r'\[\s+([\d.]+),\s+([\d.]+),\s+("[^"]*")\s+\]', r"[\1, \2, \3]", text)  # a point is a line
        place.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {place}")
