"""What Past-Future claims: early exits gain by a global view; near layers are imagined best; DeeBERT, PABEE beaten."""

from __future__ import annotations

import torch
from torch import Tensor

from eelit.methods.claims.comparisons import better_than, gains_at_equal_cost, points_of, steps, trained_alike
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.timing import BATCH
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.papers.liao2021pastfuture import PastFuture, training_pass
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.entropy import Entropy


def claims(method: PastFuture, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them on the main variant; exits that see their own layer alone are what it is compared with."""
    if method.local:
        return []
    rivals = (("DeeBERT", DeeBert()), ("PABEE", Pabee()))
    return [
        early_exits_gain(method, prepared, bench),
        near_layers_are_imagined_best(prepared),
        *(better_than_rival(method, name, rival, prepared, bench) for name, rival in rivals),
    ]


def early_exits_gain(method: PastFuture, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare the accuracy of each exit with that of one that sees its own layer alone."""
    local = method.replace({"local": True}).prepare(bench)
    tests = [ready.split("test") for ready in (prepared, local)]
    ours, theirs = ([method.score(output, seen.targets) for output in seen.outputs] for seen in tests)
    half = len(ours) // 2
    early = sum(ours[:half]) / half - sum(theirs[:half]) / half
    by_exit = ", ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(ours, theirs, strict=True))
    return Outcome(
        name="a global view helps early exits",
        statement="In the lower half of the layers, exits that see all layers are on average a point more "
        "accurate than exits that see their own.",
        holds=early >= 0.01,
        measured=f"{early:+.4f}; by exit {by_exit}",
    )


def near_layers_are_imagined_best(prepared: Prepared) -> Outcome:
    """Compare imagined with true states."""
    _, x = next(prepared.data.test.batches(BATCH))
    alike = imitation_cosines(prepared.model, x)
    return Outcome(
        name="near layers are imagined best",
        statement="On a batch of test sentences, the mean cosine of imagined and true states is 0.05 higher for the "
        "next layer than for the farthest.",
        holds=alike[0] >= alike[-1] + 0.05,
        measured="mean cosine by layers ahead: " + ", ".join(f"{a:.3f}" for a in alike),
    )


@torch.inference_mode()
def imitation_cosines(model: MultiExit, x: Tensor) -> list[float]:
    """Mean cosine of imagined and true states, by how many layers ahead (1 … n - 1) they are, on a batch of inputs."""
    _, h, imagined = training_pass(model, x)
    ahead: list[list[float]] = [[] for _ in imagined[:-1]]
    for i, g in enumerate(imagined[:-1], 1):
        for j, cosine in enumerate(torch.cosine_similarity(h[:, i:], g, dim=-1).mean(dim=0).tolist()):
            ahead[j].append(cosine)
    return [sum(each) / len(each) for each in ahead]


def better_than_rival(method: PastFuture, name: str, rival: TextMethod, prepared: Prepared, bench: Bench) -> Outcome:
    """Compare at equal cost with an earlier method on the network that it trains itself."""
    rival, n = trained_alike(method, rival), steps(method, prepared.data)
    points = points_of(rival, rival.prepare(bench), bench)
    gains = gains_at_equal_cost(method, prepared, [Entropy(s) for s in method.knobs], points)
    ramps = " and as many for its off-ramps" if isinstance(rival, DeeBert) else ""
    return better_than(name, gains, f"Against the network that {name} trains ({n} steps as here{ramps})")
