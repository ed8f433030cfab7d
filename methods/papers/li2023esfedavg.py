"""Early-exit personalised federated learning with sparse weights (ES-FedAvg).

Idea
    Clients of a federation differ in their data and in what they can compute. One network with exits serves them all:
    each client trains and runs as many blocks as it can afford, keeps its exit heads to itself, and sends only the
    weights that matter most; the server averages each weight over those who sent it. Neither text nor abstract of this
    preprint could be read. Everything here is reconstructed from its title.

Model
    Blocks B_1 … B_E of convolutions, a head H_e after each. Client k of budget e_k has B_1 … B_{e_k}, H_1 … H_{e_k}.

Training
    In each round
    1. the server sends B_1 … B_{e_k} to client k;
    2. it trains them and its heads on its n_k images:  L_k = 1/e_k sum_{e <= e_k} CE(H_e(B_e(… B_1(x))), y);
    3. it sends of each tensor theta the ceil(s numel) numbers that it has changed most, or (variant "weight") those of
       largest magnitude, and their positions, mask m_k;
    4. theta_j <- sum_k n_k m_kj theta_kj / sum_k n_k m_kj, and theta_j stays if no client sent it.
    After the last round each client takes the blocks, sets all but the largest ceil(r numel) numbers of each tensor of
    weights to 0, and trains the rest, with its heads, once more: its weights are sparse and personal.

Exit rule
    stop at the first of the client's exits with max softmax >= threshold; else its last exit answers.

Skipped
    Blocks after the exit, with their heads; in communication, the less important weights. Multiplications with weights
    that are 0 are not skipped, and are counted.

Measured apart
    The task differs from that of the tracks: each client has its own network, and few images of few classes.

Deviations
    1. Everything is reconstructed from the title: that budgets are depths, that heads are the personal part, which
       weights are sent and kept, and how they are averaged. No number of the preprint is known. Two readings of which
       weights are sent are variants; which of them is the preprint's, if either, is not known.
    2. 1,600 images of Fashion-MNIST, a small network of three blocks, a Dirichlet partition of classes, another for
       each seed; 8 clients that all take part in each of 20 rounds of one local epoch. AdamW, whose rate rises and
       falls within each round.
    3. Each client has a fixed share of each part of the data; its validation and test images have the same mixture of
       classes as its training images.
    4. An update that is not finite is left out of the average.
    5. The share s of the weights that is sent and the share r that is kept in the end are separate settings, of equal
       value: so each can be tried alone. The server sends whole blocks, so s bears only on the way to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, Chance, Execution, ExitFacts, OperatingPoint
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import checked
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.federated import Ask, Traffic, Update, averaged, divided, exchange, skewed
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.world.wire import Whole

SHARED = ("blocks", "all", "nothing")
"""What clients have in common: blocks alone, heads too, or nothing, each learning by itself."""
BY = ("update", "weight")
"""What tells which numbers are sent: by how much they have changed in the round, or how large they are."""
PLACES = 4
"""Most places down and across of which a head reads the mean."""


@dataclass(frozen=True)
class Owned(Data):
    """Data of which each sample belongs to one client: numbers of the samples of each, by part."""

    owners: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)

    def each(self, part: str) -> list[Examples]:
        """Return the samples of each client in a part of the data."""
        whole: Examples = getattr(self, part)
        return [whole.at(rows) for rows in self.owners[part]]


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return a convolution that halves the map, and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU())


def head(channels: int, side: int, classes: int) -> nn.Sequential:
    """Return an exit head for maps ``[channels, side, side]``: means over places, then a linear layer."""
    places = min(PLACES, side)
    return nn.Sequential(nn.AdaptiveAvgPool2d(places), nn.Flatten(), nn.Linear(channels * places**2, classes))


class Federation(MultiExit):
    """The server's network, beside it what each client has of it, and the bytes ``[2]`` that training took.

    These are all messages of all rounds, to the clients and back.
    """

    traffic: Tensor

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module], budgets: Sequence[int]) -> None:
        super().__init__(stages, heads)
        self.clients = nn.ModuleList(MultiExit(deepcopy(stages[:e]), deepcopy(heads[:e])) for e in budgets)
        self.register_buffer("traffic", torch.zeros(2, dtype=torch.int64))


def mask(theta: Tensor, density: float) -> Tensor:
    """Return where the ``ceil(density · numel)`` numbers of largest magnitude stand."""
    kept = theta.detach().abs().flatten().topk(math.ceil(density * theta.numel())).indices
    found = torch.zeros(theta.numel(), dtype=torch.bool)
    found[kept] = True
    return found.view_as(theta)


def bits(mask: Tensor) -> Tensor:
    """Return a mask as bytes, eight places each."""
    flat = torch.zeros(8 * math.ceil(mask.numel() / 8), dtype=torch.uint8)
    flat[: mask.numel()] = mask.flatten()
    return (flat.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(dim=1).to(torch.uint8)


def unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    """Return the mask of such bytes."""
    flat = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().flatten()
    return flat[: shape.numel()].view(shape)


@dataclass(frozen=True)
class Local:
    """Settings of local training on a client."""

    epochs: float
    batch: int
    rate: float
    density: float
    kept: float
    shared: str
    by: str
    seed: int
    rounds: int
    most_steps: float = math.inf
    watch: Callable[[Any], None] | None = None


class Client:
    """One client: its images and heads never leave it."""

    def __init__(self, model: MultiExit, examples: Examples, how: Local) -> None:
        self.model, self.examples, self.how = model, examples, how
        self.taken: Mapping[str, Tensor] = {}  # what the server sent in this round
        self.steps = 0  # of its optimisers so far

    def names(self) -> list[str]:
        """Return the names of the tensors that it shares."""
        return shared_names(self.model, self.how.shared)

    def learn(self, turn: int) -> None:
        """Train on its own images; the last time, after all rounds, what is 0 stays 0."""
        how, exits = self.how, self.model.exits
        bench = Bench(seed=how.seed + turn, most_steps=how.most_steps, watch=how.watch)
        pruned = [p for name, p in self.model.named_parameters() if name.startswith("stages.") and p.dim() > 1]
        hooks = [p.register_hook(lambda g, kept=p != 0: g * kept) for p in pruned if turn == how.rounds]

        def loss(batch: Batch) -> Tensor:
            return weighted(exit_losses(self.model(batch.inputs), batch.targets), [1 / exits] * exits)

        self.model.train()
        options: dict[str, Any] = {"epochs": how.epochs, "batch": how.batch, "rate": how.rate}
        fit(self.model.parameters(), self.examples, loss, bench, label=f"round {turn + 1}", **options)
        self.steps += bench.steps
        self.model.eval()
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def take(self, values: Mapping[str, Tensor]) -> None:
        """Put what the server sent in the place of its own."""
        self.taken = values
        state = self.model.state_dict()
        for name, value in values.items():
            state[name].copy_(value)

    @torch.no_grad()
    def prune(self) -> None:
        """Set all but the largest numbers of each tensor of weights in its blocks to 0."""
        for name, p in self.model.named_parameters():
            if name.startswith("stages.") and p.dim() > 1:
                p.mul_(mask(p, self.how.kept))

    def work(self, turn: int) -> dict[str, Any]:
        """Train, and return what it sends: nothing after the last round, which is its own affair."""
        if turn == self.how.rounds:
            self.prune()
            self.learn(turn)
            return {}
        self.learn(turn)
        return self.sent()

    def sent(self) -> dict[str, Any]:
        """Return the chosen numbers of each shared tensor, and where they stand unless they are all."""
        state, all_of_it = self.model.state_dict(), self.how.density == 1
        by = state if self.how.by == "weight" else {name: state[name] - self.taken[name] for name in self.names()}
        masks = {name: mask(by[name], self.how.density) for name in self.names()}
        values = {name: state[name][kept] for name, kept in masks.items()}
        return {"values": values, "masks": {} if all_of_it else {name: bits(kept) for name, kept in masks.items()}}

    def handle(self, message: bytes) -> bytes:
        """Answer a message ``{"turn", "values"}``."""
        told = Whole().unpack(message)
        self.take(told["values"])
        return self.packed(self.work(int(told["turn"])))

    def packed(self, sent: Mapping[str, Any]) -> bytes:
        """Return a message to the server, with the number of its images."""
        return Whole().pack({"size": torch.tensor(len(self.examples)), **sent})


def shared_names(model: MultiExit, shared: str) -> list[str]:
    """Return the names of the tensors of a client's network that are shared."""
    parts = {"blocks": ("stages.",), "all": ("stages.", "heads."), "nothing": ()}[shared]
    return [name for name in model.state_dict() if name.startswith(tuple(parts))]


def update(reply: Mapping[str, Any], like: Mapping[str, Tensor]) -> Update:
    """Return what a client sent as tensors of full size with masks."""
    values, masks = {}, {}
    for name, found in reply["values"].items():
        full = torch.ones_like(like[name], dtype=torch.bool)
        kept = unpacked(reply["masks"][name], like[name].shape) if reply["masks"] else full
        values[name] = torch.zeros_like(like[name]).masked_scatter(kept, found)
        masks[name] = kept
    return Update(float(reply["size"]), values, masks)


@torch.no_grad()
def one_round(
    server: MultiExit, asks: Sequence[Ask], wanted: Sequence[Sequence[str]], turn: int, seen: Traffic
) -> None:
    """Send each client the tensors ``wanted`` of it, let it train, and average what comes back."""
    state = server.state_dict()
    told = [{"turn": torch.tensor(turn), "values": {name: state[name] for name in names}} for names in wanted]
    with torch.enable_grad():
        replies = exchange(asks, told, seen)
    updates = [update(reply, state) for reply in replies if "values" in reply]
    sound = [u for u in updates if all(bool(torch.isfinite(value).all()) for value in u.values.values())]
    for name, value in averaged({name: state[name] for names in wanted for name in names}, sound).items():
        state[name].copy_(value)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: on such small batches of such small networks, more threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Clients(Prepared):
    """All clients, each with its own network and data; taken as one, it is the deepest client of the most images."""

    each: list[Prepared] = field(default_factory=list)
    federation: Federation | None = None
    owned: Owned | None = None  # the data of all clients


def members_of(model: Federation, examples: Sequence[Examples], local: Mapping[str, Any], bench: Bench) -> list[Client]:
    """Return the clients before the first round, given the training images of each and the settings of `Local`."""
    seen = {"most_steps": bench.most_steps, "watch": bench.watch}
    return [
        Client(own, images, Local(**local, **seen, seed=bench.seed + 1000 * k))  # type: ignore[arg-type]
        for k, (own, images) in enumerate(zip(model.clients, examples, strict=True))
    ]


@dataclass(frozen=True)
class EsFedAvg(ExitMethod):
    """Blocks as deep as each client affords, averaged where they were sent; personal heads; the largest weights."""

    clients: int = 8  # in the federation; the paper: unknown, as all that follows
    budgets: tuple[int, ...] = (1, 2, 3)  # blocks that clients can afford, in turn
    alpha: float = 0.3  # of the Dirichlet partition of classes: the smaller, the more skewed
    partition: int = 0  # the seed of the partition is this number plus the seed of the run
    density: float = 0.3  # s, the share of the weights that is sent
    kept: float = 0.3  # r, the share of the weights of blocks that a client keeps in the end
    by: str = "update"  # whose magnitude says which numbers are sent: update, what the round has changed, or weight
    shared: str = "blocks"  # what is averaged: blocks, all (heads too), or nothing
    rounds: int = 20  # of averaging
    images: str = "fashion-mnist"  # data
    train_size: int = 1600  # training images of all clients together: a federation is for those who have few
    widths: tuple[int, ...] = (16, 32, 64)  # channels of the blocks
    epochs: float = 1.0  # of a client in a round
    batch: int = 32  # images of a step
    rate: float = 5e-3  # largest learning rate of AdamW in a round

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[Method]]] = {"update": {}, "weight": {"by": "weight"}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "clients": 3, "train_size": 400, "rounds": 6, "widths": (6, 8, 12), "rate": 2e-2,
        "batch": 16, "epochs": 2.0,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 800, "rounds": 10, "widths": (8, 16, 32), "rate": 1e-2}
    full: ClassVar[Mapping[str, Any]] = {"train_size": 4800, "rounds": 60}
    others: ClassVar[Mapping[str, Any]] = {
        "by": "weight", "budgets": (1, 3), "density": 0.8, "kept": 0.6, "shared": "all", "widths": (6, 8, 16),
        "clients": 4,
    }  # fmt: skip

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field_ in ("clients", "rounds", "train_size"):
            checked(name, field_, getattr(self, field_), whole=True, least=1)
        for field_ in ("density", "kept"):
            checked(name, field_, getattr(self, field_), above=0, most=1)
        checked(name, "budgets", self.budgets, per_exit=True, whole=True, least=1, most=len(self.widths))
        for field_, known in (("shared", SHARED), ("by", BY)):
            if getattr(self, field_) not in known:
                raise ValueError(f"{name}: {field_} is one of {', '.join(known)}, not {getattr(self, field_)!r}")

    def load(self) -> Owned:
        """Images in ten classes, each a client's: a client has the same share of a class in all parts."""
        found = tasks.images(self.images, train=self.train_size)
        shares = skewed(found.classes or 1, self.clients, self.alpha, self.partition)
        parts = {"train": found.train, "validation": found.validation, "test": found.test}
        owners = {name: divided(part.targets, shares, self.partition) for name, part in parts.items()}
        return Owned(**{each.name: getattr(found, each.name) for each in fields(found)}, owners=owners)

    def budget(self, client: int) -> int:
        """Return the blocks that a client can afford."""
        return self.budgets[client % len(self.budgets)]

    def build(self, data: Data, seed: int) -> Federation:
        """The server's network, and equal ones of all clients, untrained."""
        torch.manual_seed(seed)
        image = data.train.inputs[0].shape
        channels = [image[0], *self.widths]
        stages = [block(*pair) for pair in zip(channels, self.widths, strict=False)]
        sides = [math.ceil(image[1] / 2 ** (i + 1)) for i in range(len(stages))]
        heads = [head(width, side, data.classes or 1) for width, side in zip(self.widths, sides, strict=True)]
        return Federation(stages, heads, [self.budget(k) for k in range(self.clients)]).eval()

    def members(self, model: Federation, examples: Sequence[Examples], bench: Bench) -> list[Client]:
        """Return the clients before the first round, given the training images of each."""
        return members_of(model, examples, self.local, bench)

    @property
    def local(self) -> dict[str, Any]:
        """The settings of what clients do by themselves."""
        names = ("epochs", "batch", "rate", "density", "kept", "shared", "by", "rounds")
        return {name: getattr(self, name) for name in names}

    def trained(self, bench: Bench) -> tuple[Any, Data]:
        """Load, build and train as all methods do; who has which images follows the seed of the run, too."""
        return super(EsFedAvg, self.replace({"partition": self.partition + bench.seed})).trained(bench)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All rounds, then what each client does by itself."""
        assert isinstance(model, Federation)
        assert isinstance(data, Owned)
        clients, local = data.each("train"), self.local

        def rounds() -> None:
            members, turns, seen = members_of(model, clients, local, bench), local["rounds"] + 1, Traffic()
            for turn in range(turns):
                bench.progress("rounds of the federation", turn / turns)
                asks, wanted = [each.handle for each in members], [each.names() for each in members]
                one_round(model, asks, wanted, turn, seen)
            model.traffic.copy_(torch.tensor([sum(seen.down), sum(seen.up)]))
            bench.steps += sum(each.steps for each in members)

        settings = {each.name: getattr(self, each.name) for each in fields(self)}
        with one_thread():
            trained(model, rounds, bench, data=data.digest, settings=settings)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is the threshold, the same for all clients."""
        return MaxConfidence(knob)

    def prepare(self, bench: Bench) -> Clients:
        """Train the federation, and give each client its own part of the data."""
        model, data = self.trained(bench)
        assert isinstance(data, Owned)
        each = [Prepared(own, owned_by(k, data, bench.test), bench, self) for k, own in enumerate(model.clients)]
        deepest = max(each, key=lambda one: (one.model.exits, len(one.data.train)))
        return Clients(deepest.model, deepest.data, bench, self, each=each, federation=model, owned=data)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """All clients at the same knobs, taken together."""
        found = [
            (len(one.data.part(split)), super(EsFedAvg, self).sweep(one, bench, split, knobs))
            for one in held(prepared, split)
        ]
        return together(found, self.exits)

    @property
    def exits(self) -> int:
        """Exits of the deepest network."""
        return len(self.widths)

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return the quality of each client's last exit, and what its plain network costs, over all test images."""
        found = [(len(one.data.test), super(EsFedAvg, self).full_model(one, bench)) for one in held(prepared, "test")]
        n = sum(size for size, _ in found)
        quality, cost = (sum(size * pair[i] for size, pair in found) / n for i in range(2))
        return quality, cost

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying each client's commonest class."""
        targets = [one.data.test.targets for one in held(prepared, "test")]
        n = sum(len(y) for y in targets)
        p = sum(int(y.unique(return_counts=True)[1].max()) for y in targets) / n
        said = f"each client's commonest class, of {n} samples"
        return Chance(what=said, quality=p, error=math.sqrt(p * (1 - p) / n))

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return exits of fixed depth, or each client's last where it has fewer."""
        points = {
            split: together(
                [(len(one.data.part(split)), stretched(one, split, self)) for one in held(prepared, split)], self.exits
            )
            for split in ("validation", "test")
        }
        return [Baseline(name="static exit", validation=points["validation"], test=points["test"])]

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return what `baselines` says of each exit."""
        return [ExitFacts(quality=p.quality, cost=p.cost) for p in self.baselines(prepared, bench)[0].test], None

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run each client's network on its own test images."""
        clients = held(prepared, "test")
        some = replace(bench, executed=max(1, bench.executed // len(clients)))
        found = [super(EsFedAvg, self).execute(one, some, knob) for one in clients]
        sums = {
            name: sum(getattr(one, name) for one in found)
            for name in ("samples", "claimed", "counted", "seconds", "full_seconds", "not_finite")
        }
        return Execution(knob=knob, agrees=all(one.agrees for one in found), **sums)


def owned_by(client: int, data: Owned, most: int | None) -> Data:
    """Return one client's data; of each measured part those among the first ``most`` samples of all clients."""

    def own(name: str) -> Examples:
        rows = data.owners[name][client]
        return data.part(name).at(rows if most is None or name == "train" else rows[rows < most])

    return Data(own("train"), own("validation"), own("test"), data.classes, f"{data.digest} {client}")


def held(prepared: Prepared, split: Split) -> list[Prepared]:
    """Return the clients that have samples of a split."""
    assert isinstance(prepared, Clients)
    return [one for one in prepared.each if len(one.data.part(split))]


def stretched(one: Prepared, split: Split, method: EsFedAvg) -> list[OperatingPoint]:
    """Return a client's exits of fixed depth, its last again for each that it has not."""
    points = method.static(one.split(split))
    last = points[-1]
    return [*points, *(last.model_copy(update={"knob": i + 1.0}) for i in range(len(points), method.exits))]


def together(found: Sequence[tuple[int, Sequence[OperatingPoint]]], exits: int) -> list[OperatingPoint]:
    """Return the points of several clients ``(samples, points)`` as those of all samples."""
    points = []
    for each in zip(*(own for _, own in found), strict=True):
        sizes = [size for size, _ in found]
        cost = weighed(sizes, [point.cost for point in each])
        full = weighed(sizes, [point.cost * point.speed_up for point in each])
        left = [[*point.exits, *[0.0] * (exits - len(point.exits))] for point in each]
        points.append(
            OperatingPoint(
                knob=each[0].knob,
                quality=weighed(sizes, [point.quality for point in each]),
                cost=cost,
                speed_up=full / cost,
                exits=[weighed(sizes, [own[i] for own in left]) for i in range(exits)],
            )
        )
    return points


def weighed(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the mean of the clients' values over all samples; of equal shares of exactly 1 it is exactly 1."""
    return sum(size * value for size, value in zip(sizes, values, strict=True)) / sum(sizes)
