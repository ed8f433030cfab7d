"""The recipes of registered methods that `Network.fit` offers, by name: what each trains, and its settings.

Torch is not imported here, so that pages can list them; `training` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A way of training that a registered method has."""

    key: str
    says: str
    numbers: tuple[str, ...]  # the settings of the method that count
    values: bool = True  # whether it also trains networks that give values, not classes


RECIPES: dict[str, Recipe] = {
    "pabee": Recipe(
        "zhou2020pabee", "Everything together; the loss of exit i of E weighs i / (1 + … + E).",
        ("epochs", "rate", "head_rate"),
    ),
    "right-tool": Recipe(
        "schwartz2020right", "Everything together, by Adam; all losses weigh the same.",
        ("epochs", "rate", "head_rate"),
    ),
    "msdnet": Recipe(
        "huang2018msdnet", "Everything together, by SGD with momentum; all losses weigh the same.",
        ("epochs", "rate"),
    ),
    "dynexit": Recipe(
        "wang2019dynexit", "Everything together; how much each loss weighs is learned too.",
        ("epochs", "rate", "weight_rate"),
    ),
    "sdn": Recipe(
        "kaya2019sdn", "IC-only: first the network by itself; then it is frozen, and the heads before the last learn.",
        ("epochs", "rate", "head_epochs", "head_rate"),
    ),
    "sdn-training": Recipe(
        "kaya2019sdn", "Everything together; losses before the last grow to the share of the cost at their exits.",
        ("epochs", "rate"),
    ),
    "berxit": Recipe(
        "xin2021berxit", "Alternating: one step for the loss of the last exit, one for the sum of all losses.",
        ("epochs", "rate", "head_rate"),
    ),
    "romebert": Recipe(
        "geng2021romebert",
        "Everything together; earlier exits learn from labels and from the last exit. Where the gradients of the early "
        "and of the last loss conflict, the one that `leads` stays (\"early\", \"last\" or None for neither).",
        ("epochs", "rate", "head_rate", "gamma", "temperature", "leads"), values=False,
    ),
    "distillation": Recipe(
        "phuong2019distillation",
        "Everything together; earlier exits learn from labels and from the last exit, at a temperature that rises.",
        ("epochs", "rate", "C", "tau", "multiplier", "mu"), values=False,
    ),
    "diverse": Recipe(
        "sun2021ensemble", "As pabee, and each exit is rewarded for answering unlike the earlier ones.",
        ("epochs", "rate", "head_rate", "diversity"), values=False,
    ),
    "branchynet": Recipe(
        "teerapittayanon2016branchynet", "First the network by itself, then everything together.",
        ("trunk_epochs", "epochs", "rate", "branch_weight", "last_weight"),
    ),
    "deebert": Recipe(
        "xin2020deebert", "First the network by itself; then it is frozen, and the heads before the last learn.",
        ("epochs", "rate", "ramp_epochs", "ramp_rate"),
    ),
    "layer-wise": Recipe(
        "baccarelli2020cdnn",
        "From the first exit to the last: the part of the network up to it and its head learn, then they are frozen.",
        ("epochs", "rate"),
    ),
}  # fmt: skip
"""Short name → recipe; a method's key serves, too, and means the first recipe of this method."""

LEFT_OUT = {
    "wolczyk2021ztw": "its exits read what earlier exits said, which heads on your own network do not; its first two "
    "stages, without these connections, are the recipe sdn",
    "zhu2021leebert": "it needs the training data in two fixed halves, which a loader does not give; distillation and "
    "romebert also let exits learn from each other",
    "zhou2022metadistil": "it trains a teacher network beside yours",
    "schuster2021cats": "it needs the training data in several fixed parts; its heads learn as in the recipe deebert",
    "zeng2024consistentee": "it trains units that decide beside the exits",
}
"""Methods whose training one might look for, and why it is no recipe here."""
