"""What BranchyNet claims: large savings at the knee of the screened thresholds, and a last exit that gains."""

from __future__ import annotations

from itertools import product

from eelit.methods.engine.exit_outputs import all_outputs
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.teerapittayanon2016branchynet import BranchyNet
from eelit.methods.policies.entropy import Entropy

GRID = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0)
"""Entropies in nats that the released scripts try for each branch, up to the first above ln 10."""

SPEED_UPS = {"lenet": 2.7, "alexnet": 1.5}
"""What counts as fast: half of the paper's 5.4× for LeNet; for AlexNet, where a half would ask nothing, its 1.5×."""


def claims(method: BranchyNet, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Large savings at the knee of the screened thresholds, and a last exit that gains from its branches."""
    return [knee(method, prepared), no_harm(method, prepared, bench, curve)]


def knee(method: BranchyNet, prepared: Prepared) -> Outcome:
    """Screen all combinations of thresholds on validation data; take the cheapest that is nearly as accurate."""
    held, test = prepared.split("validation"), prepared.split("test")
    grid = list(product(GRID, repeat=prepared.model.exits - 1))
    screened = [method.trial(Entropy(thresholds), held) for thresholds in grid]
    enough = method.score(held.outputs[-1], held.targets) - 0.005
    chosen = grid[min((i for i, p in enumerate(screened) if p.quality >= enough), key=lambda i: screened[i].cost)]
    point = method.trial(Entropy(chosen), test)
    loss, enough_speed = method.score(test.outputs[-1], test.targets) - point.quality, SPEED_UPS[method.network]
    return Outcome(
        name="faster at nearly the same accuracy",
        statement="The cheapest thresholds that lose at most half a point on validation data make the network at "
        f"least {enough_speed:g} times as fast as the plain one (the paper, on CPUs: 5.4 for LeNet, 1.5 for AlexNet), "
        "and lose at most a point on test data.",
        holds=point.speed_up >= enough_speed and loss <= 0.01,
        measured=f"T = {', '.join(map(str, chosen))}: speed-up {point.speed_up:.2f}×, accuracy {-loss:+.4f}",
    )


def no_harm(method: BranchyNet, prepared: Prepared, bench: Bench, curve: Curve) -> Outcome:
    """Compare the last exit with a trunk that was trained alone for as many epochs in all."""
    longer = method.replace({"trunk_epochs": method.trunk_epochs + method.epochs})
    trunk = longer.build(prepared.data, bench.seed)
    longer.train_trunk(trunk, prepared.data, bench)
    examples = prepared.split("test").examples
    alone = method.score(all_outputs(trunk, examples, bench, "the plain trunk")[-1], examples.targets)
    gain = curve.full_quality - alone
    return Outcome(
        name="the last exit gains from the branches",
        statement="After joint training the last exit is half a point more accurate than a trunk that was trained "
        f"alone for as long: {longer.trunk_epochs:g} epochs.",
        holds=gain >= 0.005,
        measured=f"{curve.full_quality:.4f} with branches, {alone:.4f} alone ({gain:+.4f})",
    )
