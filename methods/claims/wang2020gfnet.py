"""What GFNet claims: small looks cost less than whole images at equal accuracy, and a policy learns where they go."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import torch
from torch import Tensor, nn

from eelit.methods.backbones.resnet import residual_exits
from eelit.methods.claims.comparisons import accuracies, keeps_budget
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2020gfnet import Focus, GlanceAndFocus, Next, State, anywhere, parts_of
from eelit.methods.recipes.plain import train_plain

GAIN = 0.01
"""How much more accurate looks must be where the policy says."""
PRIME = 2**31 - 1
"""Numbers below it have squares that whole numbers of 64 bits hold."""


def claims(method: GlanceAndFocus, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside looks that go elsewhere, after the same first stage; and beside the same encoder on whole images."""
    ours = accuracies(method, prepared)
    anywhere_else = elsewhere(method, prepared, bench, Anywhere, anywhere)
    central = elsewhere(method, prepared, bench, Central, at_centre)
    whole = whole_images(method, prepared, bench)
    held, test = (method.static(whole.split(split))[-1].quality for split in ("validation", "test"))
    return [
        better("random", ours, accuracies(method, anywhere_else)),
        better("central", ours, accuracies(method, central)),
        cheaper(curve, held, test, float(whole.split("test").full_costs.mean())),
        keeps_budget(prepared, curve),
    ]


# The rivals.


def at_centre(focus: Focus, state: State) -> State:
    """Look at the middle of the image."""
    return focus.look(state, torch.full((len(state["x"]), 2), 0.5, device=state["x"].device))


def rest(numbers: Tensor) -> Tensor:
    """Return what is left of whole numbers by division by `PRIME`, by operations that the counter of MACs knows."""
    return numbers - numbers.floor_divide(PRIME) * PRIME


def place_of(x: Tensor, turn: Tensor) -> Tensor:
    """Return a place ``[N, 2]`` for each image at its turn ``[N]``, as good as random, whatever its batch mates are."""
    number = (1000 * x).round().long().flatten(1).sum(dim=1)
    both = rest(torch.stack([number * a + turn.long() * b for a, b in ((7919, 4513), (6271, 8243))], dim=1))
    for _ in range(3):  # squares, so that one turn more does not move all images by as much
        both = rest(both * both + 12345)
    return both / PRIME


class Anywhere(Focus):
    """Closer looks at places that have nothing to do with what was seen; the policy's state counts them."""

    def forward(self, state: State) -> State:
        """Look somewhere."""
        return self.look({**state, "s": state["s"] + 1}, place_of(state["x"], state["s"][:, 0]))


class Central(Focus):
    """Closer looks at the middle."""

    def forward(self, state: State) -> State:
        """Look there."""
        return at_centre(self, state)


def elsewhere(method: GlanceAndFocus, prepared: Prepared, bench: Bench, kind: type[Focus], onward: Next) -> Prepared:
    """Return the network after the same first stage, its third with looks that go elsewhere, for as many steps."""
    known = prepared.data.without_test()
    model = method.build(known, bench.seed)
    method.warm_up(model, known, bench)
    glance, focus, answer = parts_of(model)
    other = kind(focus.policy, focus.encoder, focus.memory, focus.h)
    rival = MultiExit([glance, *[other] * (model.exits - 1)], [answer] * model.exits)
    method.tune(rival, onward, known, bench)
    return Prepared(rival, prepared.data, bench, method)


def whole_images(method: GlanceAndFocus, prepared: Prepared, bench: Bench) -> Prepared:
    """Return an encoder of the same form that sees whole images, trained for as many steps as ours are."""
    known = prepared.data.without_test()
    model = residual_exits(
        known.train.inputs[0].shape, known.classes or 1, widths=method.widths, blocks=method.blocks, shares=(),
        head=nn.Identity, seed=bench.seed, pixels=method.pixels, half=method.half,
    )  # fmt: skip
    epochs = method.epochs + method.tune_epochs
    train_plain(model, known, bench, epochs=epochs, batch=method.batch, rate=method.rate)
    return Prepared(model, prepared.data, bench, method)


# The claims.


def better(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Outcome:
    """Compare the accuracies after each look with those of looks elsewhere."""
    gains = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Outcome(
        name=f"better than {name} looks",
        statement=f"After closer looks where the policy says, accuracy on test data is on average one point higher "
        f"than after as many {name} ones; the first stage is the same, the third trains as long with looks of its own.",
        holds=mean(gains[1:]) >= GAIN,
        measured="by look " + ", ".join(f"{gain:+.4f}" for gain in gains),
    )


def cheaper(curve: Curve, held: float, test: float, cost: float) -> Outcome:
    """Compare with whole images, given their accuracy on validation and test data, and what each costs."""
    point = cheapest_within(curve.validation, curve.test, 0.005, of=held)
    loss, saved = test - point.quality, 1 - point.cost / cost
    return Outcome(
        name="cheaper than whole images at equal accuracy",
        statement="The cheapest budget that on validation data loses at most half a point to an encoder of the same "
        "form on whole images, trained for as many steps as the two encoders are, costs 20 % less than it (the paper: "
        "20 % less latency) and loses at most one point to it on test data. Three looks at a quarter of the pixels "
        "cost three quarters of it in any case: what can fail is the accuracy.",
        holds=saved >= 0.2 and loss <= 0.01,
        measured=f"{saved:.1%} of the MACs saved, accuracy {-loss:+.4f}, at budget {point.knob:g}",
    )
