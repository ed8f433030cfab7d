"""What the measures of quality are: meaning, range and unit of each, for axes, captions and the command line.

Of every measure more is better. Leaderboards, budgets and verdicts rely on that, so a method whose paper reports errors
turns them around, as in ``1 - CER``. A method names its measure in `Method.quality`; whatever name is not in the table
(of a method of another package) is shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

DIRECTION = "higher is better"
IN_TIME = "accuracy in time"
"""The measure by which a late answer is a wrong one."""


@dataclass(frozen=True)
class Quality:
    """One measure, as methods and their results name it."""

    name: str
    meaning: str = ""
    low: float = -inf
    high: float = inf
    unit: str = ""  # empty: a number without a unit
    each: str = "sample"  # what leaves at exits, and what costs are a mean over

    @property
    def range(self) -> str:
        """Which values there are; empty if nobody has said what the measure is."""
        if not self.meaning:
            return ""
        bounds = {
            (True, True): f"from {self.low:g} to {self.high:g}",
            (True, False): f"{self.low:g} or more",
            (False, True): f"{self.high:g} at most",
            (False, False): "without bounds",
        }[self.low > -inf, self.high < inf]
        return f"in {self.unit}, {bounds}" if self.unit else bounds

    @property
    def told(self) -> str:
        """What it is, in one sentence that begins with its name."""
        parts = ": ".join(filter(None, [self.name, self.meaning]))
        return f"{'; '.join(filter(None, [parts, self.range, DIRECTION]))}."

    def cost_in(self, unit: str) -> str:
        """Which costs a unit measures, what they are a mean over included."""
        return unit if " per " in unit else f"{unit} per {self.each}"


QUALITIES = {
    quality.name: quality
    for quality in (
        Quality("accuracy", "share of samples that are answered correctly", 0, 1),
        Quality(IN_TIME, "share of samples that are answered correctly before their deadline", 0, 1),
        Quality("tagging accuracy", "share of words that get the right tag", 0, 1, each="word"),
        Quality("mean F1 of the classes", "F1 of each class, harmonic mean of precision and recall, averaged", 0, 1),
        Quality("F1 of detections", "harmonic mean of their precision and recall", 0, 1),
        Quality("Pearson's r", "correlation of predicted and true values", -1, 1),
        Quality("NDCG@10", "discounted gain of the ten documents ranked first ÷ that of the best order", 0, 1,
                each="document"),
        Quality("BLEU", "agreement with reference texts in sequences of up to four words, by sacrebleu", 0, 100,
                each="token"),
        Quality(
            "ROUGE-L with the full model's text", "longest common subsequence with it, as a share of its length", 0, 1,
            each="token",
        ),
        Quality("1 - CER", "1 minus the character error rate", high=1),
        Quality("PSNR in dB", "peak signal-to-noise ratio, the noise being the difference to the clean picture",
                unit="dB"),
        Quality("SI-SDR in dB", "ratio of clean speech to everything else, at any loudness", unit="dB"),
        Quality("-NMSE (dB)", "energy of the signal ÷ energy of the error", unit="dB"),
        Quality("explained variance of the noise", "1 minus squared error of the predicted noise ÷ its variance",
                high=1),
        Quality("1 - EfficientNet-Lite0 distance to the drawing", "1 minus the mean squared distance between "
                "unit-length features of the picture and of the real drawing, from two depths of EfficientNet-Lite0",
                high=1),
        Quality("1 - random-feature distance to the drawing", "1 minus the same distance between features of random "
                "convolutions, in unit tests", high=1),
    )
}  # fmt: skip


def described(name: str) -> Quality:
    """Return what a measure is, by the name that results have."""
    return QUALITIES.get(name, Quality(name))
