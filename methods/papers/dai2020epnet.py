"""EPNet: Learning to Exit with Flexible Multi-Branch Network (EPNet).

Idea
    Hand-made rules choose poorly at which branch of a network an image should leave, and a few branches offer little
    choice. So make branches light enough to place almost everywhere, and learn the decision: the passage of an image
    from branch to branch is a Markov decision process, whose rewards weigh right answers against computation. The price
    of computation may differ from request to request, without retraining.

Model
    After parts k = 1 … K-1 of an ordinary network there is a light exit unit. Its label part gives z_k: the mean over
    the map, then one linear layer. Its controller part reads the state s_k = [p_k in falling order, H(p_k)], p_k =
    softmax(z_k), H the entropy in nats, and gives through one hidden layer of 32 units the value of each action: Q(s_k,
    leave), and Q_lam(s_k, go on) for each of some falling prices lam, as a sum of steps that cannot be negative, so a
    lower price never gives a lower value. After part K comes the network's own classifier, without a choice.

Training
    1. Network and label parts together: sum_k CE(z_k, y), k = 1 … K.
    2. The controllers, all else frozen, on images not seen in stage 1. Leaving at k earns r_k = 1[argmax z_k = y];
       going on costs lam c_{k+1}, with c_k the cost of part and unit k as a share of the network's. The result of every
       action is known, so both actions are learned at every branch (fitted Q-iteration, without discounting):
       Q(s_k, leave) -> r_k,   Q_lam(s_k, go on) -> -lam c_{k+1} + V_lam(s_{k+1}), held fixed, with
       V_lam(s_k) = max(Q(s_k, leave), Q_lam(s_k, go on)) for k < K, V_lam(s_K) = r_K.
       The loss is the mean square of the first error, over images and branches, and of the second, over prices too.

Exit rule
    Leave at the first k with Q(s_k, leave) > Q_lam(s_k, go on) (strictly), else at K. The knob is lam, the price of the
    whole network's computation in right answers: inf leaves at the first branch, -inf never. Between two of the prices
    that controllers are trained for, and beyond them, the difference of both sides is interpolated linearly.

Skipped
    All parts and exit units after the exit. The label parts on the way do run: controllers read their outputs.

Trained otherwise
    Besides the epochs that all rows have, which train network and label parts, the controllers alone learn from the
    outputs of label parts on the half of the validation images on which no price is chosen: learning where to leave is
    what the paper is about. Their epochs were chosen on validation images, by accuracy at the cost of thresholds on
    confidence: 50 on held-out images lost 0.3 points to these on plain and on cluttered images, 2 on the training
    images 1.3 and -0.2, 20 on these 0.3 and 0.5, and 150 on held-out cluttered images 1.0.

Deviations
    1. The paper's text could not be read, and no code was released. The abstract describes many light branches, a
       Markov decision process with a learned policy, and that the policy follows the budget of each request; that an
       exit unit has a label part and a controller part is from a reader's notes. The form of the label parts, the
       state, the reward, Q-iteration and prices instead of budgets are reconstructed, and so are all settings.
    2. A residual network on cluttered Fashion-MNIST, 6,000 images; the paper's networks and data are not known. Five
       branches, one after each of its six blocks but the last.
    3. AdamW, whose learning rate rises and then falls linearly to 0, for both stages.
    4. Controllers are trained on held-out images, since the network is more sure, and more often right, on its own
       training images than on others.
    5. There is a separate controller for each branch, so it does not need its position as an input.
    6. The reader's notes leave open whether the label part runs where the controller goes on. Here it does, for its
       output is the state. A controller that reads the map itself, with the label part left out unless the image
       leaves, is not offered: a label part is one product of 128 or 256 numbers with ten columns, a hundred-thousandth
       of the network, so nothing would be saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from eelit.methods.backbones.internal_classifier import Shape
from eelit.methods.engine.costs import both_costs
from eelit.methods.engine.examples import Data, Examples, parted
from eelit.methods.engine.exit_outputs import all_outputs
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import entropy, softmax, widened
from eelit.methods.policies.priced_gain import PricedGain
from eelit.methods.recipes.fit import Batch, fit

PRICES = (2.0, 1.4, 1.0, 0.5, 0.3, 0.25, 0.2, 0.1, 0.05, 0.02, 0.0)
"""The prices lam that controllers know, in right answers for the computation of the whole network; they fall."""
HIDDEN = 32


# The network.


def state_of(z: Tensor) -> Tensor:
    """Return s_k ``[..., C + 1]`` of logits ``[..., C]``: p_k in falling order, H(p_k); no gradient passes."""
    z = widened(z.detach())
    return torch.cat([softmax(z).sort(dim=-1, descending=True).values, entropy(z)[..., None]], dim=-1)


class Controller(nn.Module):
    """Says from s_k what leaving is worth, and going on at each price: never less at a lower one."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden, self.values = nn.Linear(classes + 1, HIDDEN), nn.Linear(HIDDEN, 1 + len(PRICES))

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q(s_k, leave) ``[...]`` and Q_lam(s_k, go on) ``[..., prices]`` of states ``[..., C + 1]``."""
        found = widened(self.values(self.hidden(s.to(self.hidden.weight.dtype)).relu()))
        leave, dearest, more = found.split([1, 1, len(PRICES) - 1], dim=-1)
        return leave.squeeze(-1), torch.cat([dearest, more.abs()], dim=-1).cumsum(dim=-1)


class ExitUnit(nn.Module):
    """A label part and a controller part, for maps of a shape."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.label = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes))
        self.controller = Controller(classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return z_k ``[N, C]`` and ``Q(s_k, leave) - Q_lam(s_k, go on)`` ``[N, prices]``, from ``[N, D, H, W]``."""
        z = self.label(x)
        leave, go_on = self.controller(state_of(z))
        return {"answer": z, "gain": leave[..., None] - go_on}


def units_of(model: MultiExit) -> list[ExitUnit]:
    """Return the exit units 1 … K-1."""
    return [cast(ExitUnit, unit) for unit in model.heads[:-1]]


def without_controllers(model: MultiExit) -> MultiExit:
    """Return the same network with label parts alone, weights shared."""
    return MultiExit(model.stages, [*(unit.label for unit in units_of(model)), model.heads[-1]])


# What is learned. Branches are counted from 0 here, and from 1 in the equations.


def worth_of_going_on(leave: Tensor, go_on: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return ``-lam c_{k+1} + V_lam(s_{k+1})`` ``[K - 1, n, prices]``; no gradient passes.

    ``leave [K - 1, n]`` and ``go_on [K - 1, n, prices]`` are what the controllers say now, ``r [K, n]`` what leaving
    earns, ``c [K]`` what parts and units cost.
    """
    V = torch.maximum(leave[1:, :, None], go_on[1:])
    end = r[-1:, :, None].expand(-1, -1, len(PRICES))
    return (torch.cat([V, end]) - c[1:, None, None] * leave.new_tensor(PRICES)).detach()


def controller_loss(leave: Tensor, go_on: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return the mean square error of either action's worth; arguments as of `worth_of_going_on`."""
    later = worth_of_going_on(leave, go_on, r, c)
    return ((leave - r[:-1]) ** 2).mean() + ((go_on - later) ** 2).mean()


def shares_of_cost(model: MultiExit, example: Tensor) -> Tensor:
    """Return c_k ``[K]``, MACs of part and unit k by those of the plain network, for one image ``[1, ...]``."""
    reached, alone = both_costs(model, example)
    return torch.tensor([0, *reached]).diff() / alone[-1]


def train_controllers(model: MultiExit, held: Examples, data: Data, bench: Bench, **options: Any) -> None:
    """Stage 2, on images that stage 1 has not seen; ``options`` are those of `fit`."""
    units = units_of(model)

    def train() -> None:
        z = all_outputs(without_controllers(model), held, bench, "what the branches say of held-out images")
        walks = Examples(list(state_of(z[:-1]).transpose(0, 1)), held.targets)
        r = (z.argmax(dim=-1) == held.targets).float()
        c = shares_of_cost(model, held.inputs[0][None].to(device_of(model)))

        def loss(batch: Batch) -> Tensor:
            said = [unit.controller(s) for unit, s in zip(units, batch.inputs.unbind(dim=1), strict=True)]
            leave, go_on = (torch.stack(part) for part in zip(*said, strict=True))
            return controller_loss(leave, go_on, r[:, batch.index].to(leave), c.to(leave))

        controllers = [p for unit in units for p in unit.controller.parameters()]
        fit(controllers, walks, loss, bench, label="training the controllers", **options)

    settings = {"prices": PRICES, "held": len(held), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class EpNet(ImageMethod):
    """Light branches, and controllers that learned when to leave."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper's is not known
    images: str = "cluttered"  # data; the paper's is not known
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where branches stand; the paper: many
    half: bool = True  # whether the network learns with products in bfloat16; the paper: float32
    epochs: float = 2.0  # of stage 1
    batch: int = 32  # images of a step, in both stages
    rate: float = 2e-3  # largest learning rate of stage 1
    controller_epochs: float = 50.0  # of stage 2, on its fewer images
    controller_rate: float = 5e-3  # largest learning rate of stage 2

    fits_on: ClassVar[float] = (
        0.5  # of the validation images: controllers learn on them; prices are judged on the others
    )
    knob: ClassVar[str] = "price"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, *PRICES, -math.inf)
    tiny: ClassVar[Mapping[str, Any]] = {**ImageMethod.tiny, "shares": (0.5, 0.75), "controller_rate": 2e-2}
    smoke: ClassVar[Mapping[str, Any]] = {**ImageMethod.smoke, "controller_rate": 1e-2}
    others: ClassVar[Mapping[str, Any]] = {**ImageMethod.others, "shares": (0.2, 0.75)}

    def head(self, shape: Shape, classes: int) -> ExitUnit:
        """An exit unit for maps ``[C, H, W]``."""
        return ExitUnit(shape, classes)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Network and label parts, then the controllers."""
        super().train(without_controllers(model), data, bench)
        options = {**self.options, "epochs": self.controller_epochs, "rate": self.controller_rate}
        held = parted(data.validation, {"fitting": self.fits_on})["fitting"]
        train_controllers(model, held, data, bench, **options)

    def policy(self, knob: float, prepared: Prepared) -> PricedGain:
        """The knob is lam."""
        return PricedGain(knob, PRICES)
