"""The tracks of the benchmark: on which data and under which conditions methods are measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Track:
    """One task and the conditions on which methods are measured side by side."""

    title: str
    item: str  # of the data manifest: methods that need it are measured on this track
    conditions: str
    sizes: str  # how many examples rows are trained, chosen and tested on
    training: Mapping[str, str]  # the settings among these conditions that say how long is trained
    threads: int | None = None  # that a run computes with; None: all cores
    settings: Mapping[str, Any] = field(default_factory=dict)  # of each method that has a setting of the name
    instead: Mapping[str, Any] = field(default_factory=dict)  # which of their own values these settings may replace
    items: tuple[str, ...] = ()  # of the data manifest: what rows need, where settings replace the methods' own data

    def takes(self, settings: Mapping[str, str]) -> bool:
        """Return whether a method, or a variant, with these settings of its own, as Python writes them, has this task.

        Those whose setting of a name in ``instead`` has another value have another task; None stands for no setting.
        """
        return all(settings.get(name, repr(None)) == repr(value) for name, value in self.instead.items())


IMAGES = (
    "A residual network (one convolution of 4×4 pixels, then three blocks each of 128 and 256 channels, {macs} million "
    "MACs, 4.2 million weights) with exits after {shares} % of its cost, on 6,000 training images, for 2 "
    "epochs in batches of 32, by AdamW with weight decay 0.01: rates rise for a tenth of the steps to 2e-3 (the "
    "vision transformer: 1e-3), then fall linearly to 0, and gradients are clipped at norm 1. Products of training "
    "are in bfloat16 (weights, losses and all that is measured: float32). Where the network is the method "
    "(BranchyNet, GoogLeNet, MSDNet, Runtime-configurable DNN, SkipNet, SnaPEA, the vision transformer), it is "
    "the paper's, made small, its products are in float32 in training, too, and shares of the cost are of its own full "
    "model. So they are where the paper needs another network, which learns in bfloat16 (Deep Cascade Learning: like "
    "VGG; EE-PCN: blocks that run in cycles; GFNet: a small network that sees crops). "
    "Where a paper is about something else than joint training (frozen networks, "
    "distillation, gates, attacks), its row says what is trained otherwise, and why; knobs chosen on 2,000 validation "
    "images, figures from all 10,000 test images. Seconds are those of one thread."
)
"""What both image tracks have in common; what the network costs, and where its exits stand, follows from the images."""

ALL_IMAGES = {"train_size": 6000, "epochs": 2.0, "trunk_epochs": 2.0, "hybrid_epochs": 2.0}
"""How long all rows are trained, those that have a longer recipe of their own too."""

TRACKS = {
    "text": Track(
        "Text: MiniLM-L6 on Rotten Tomatoes",
        "minilm-l6",
        "MiniLM-L6 (6 layers, 384 wide, 22.7 million weights) fine-tuned on 4,000 sentences of Rotten Tomatoes of at "
        "most 40 tokens, for one epoch in batches of 8, by AdamW with weight decay 0.01: rates rise for a tenth of the "
        "steps to 1e-4, to 1e-3 for what starts from nothing, then fall linearly to 0, and gradients are clipped at "
        "norm 1, whatever the paper does about decay, warm-up and clipping. Where a paper is about something else "
        "(off-ramps on a frozen network, adapters, policies, parts of the sentences for calibration), its row says "
        "what is trained otherwise, and why; knobs chosen on 1,000 validation sentences, figures from 2,000 test "
        "sentences. "
        "Methods whose task is another one (regression, ranking, tagging, a stream of reviews) use the same backbone "
        "on other data, and are listed apart. With two classes entropy, margin and largest probability order sentences "
        "identically, so that differences between rules that compare one of them with a threshold come from the values "
        "tried for their knobs alone: how such rules differ shows on the track text-topics, with 20 classes.",
        "4000 / 1000 / 2000",
        {"epochs": "1.0", "batch": "8"},
    ),
    "text-topics": Track(
        "Text: MiniLM-L6 on 20 Newsgroups",
        "minilm-l6",
        "Which of 20 newsgroups a message was posted to: the data set with many classes beside the one with two, where "
        "entropy, margin and largest probability order inputs identically, so that differences between rules that use "
        "them come from the values tried for their knobs alone. With 20 classes the three orders differ, and the knobs "
        "are spread over what exits say there. MiniLM-L6 is fine-tuned as on the track text (one epoch in batches of "
        "8, the same rates, the same exceptions, which rows name), on the first 40 tokens of 4,000 messages; knobs "
        "chosen on 1,000 validation messages, figures from 4,000 of the 7,514 test messages: at an accuracy of 0.6 "
        "their standard error, 0.008, is that of the 2,000 sentences of the track text. The parts are the official "
        "ones, by date: test messages were posted after those for training and validation, so knobs are chosen on "
        "easier messages. Texts are in lower case and letters only. Of the header the subject line alone is left; "
        "quotations, the lines that announce them and signatures are not removed, and help to tell groups apart. "
        "Methods whose task is another one are not on this track: regression (variants of PABEE and BERxiT), ranking, "
        "tagging, and SplitEE’s stream of reviews.",
        "4000 / 1000 / 4000",
        {"epochs": "1.0", "batch": "8"},
        settings={"corpus": "20-newsgroups", "held": 4000},
        instead={"corpus": "rotten-tomatoes", "stream": None},
        items=("minilm-l6", "newsgroups"),
    ),
    "images": Track(
        "Images: cluttered Fashion-MNIST",
        "fashion-mnist",
        f"{IMAGES.format(macs=246, shares='17, 35, 52, 65 and 83')} Each picture of 28×28 pixels lies at a random "
        "place of a canvas of 48×48, among eight pieces of other training pictures: later exits know more.",
        "6000 / 2000 / 10000",
        {"epochs": "2.0", "batch": "32"},
        1,
        {"images": "cluttered", **ALL_IMAGES},
    ),
    "images-plain": Track(
        "Images: plain Fashion-MNIST",
        "fashion-mnist",
        f"{IMAGES.format(macs=96, shares='15, 30, 45, 61 and 80')} Pictures are those of Fashion-MNIST as they are, "
        "28×28 pixels: the easy set, beside the cluttered one, so that no verdict rests on one set. The network sees "
        "7×7 places instead of 12×12, and costs 39 %.",
        "6000 / 2000 / 10000",
        {"epochs": "2.0", "batch": "32"},
        1,
        {"images": "fashion-mnist", **ALL_IMAGES},
    ),
}
"""Name of a track → the track."""
