"""An encoder whose tokens leave before the layer that a predictor finds they do not need; the text passes all layers.

What leaves is a token: ``exits`` of an operating point says how many tokens leave before layer 1, 2 … L, and how many
never do; the first token of a text never leaves and is not counted. The states depend on who left before, so nothing
can be replayed on stored outputs: every knob is run with tokens really removed, and an execution is compared with the
same network computing all tokens and masking those that left; both steps are the method's. The full model is the
network without predictors, with all tokens. The simpler rules it has to face let all tokens of a text leave together;
the one head serves all depths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import PooledHead, encoder, pooler_of
from eelit.methods.backbones.token_layer import Group, LayerPrice, TokenLayer, TokenLayers, alike
from eelit.methods.engine import chance, costs
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import Score, judged, usual
from eelit.methods.engine.multi_exit import device_of, evaluating
from eelit.methods.engine.records import Baseline, Chance, Execution, ExitFacts, OperatingPoint, Timing
from eelit.methods.engine.routing import decide
from eelit.methods.engine.stored_outputs import StoredOutputs, baselines_of, exit_facts
from eelit.methods.engine.timing import BATCH, TIMED, devices_of, in_turn
from eelit.methods.policies.base import Policy, finite, usable

Choice = Callable[[Tensor], Tensor]
"""From a predictor's logits (skim, keep) ``[n, 2]`` to who is kept, 0 or 1, ``[n]``."""


def decided(policy: Policy) -> Choice:
    """Keep whom the policy does not stop; it is asked anew before each layer."""
    return lambda logits: (~decide(policy, policy.start(), logits)[1]).to(logits.dtype)


def together(at: Tensor, length: int) -> list[Group]:
    """Return who attends to whom if the tokens at these places ``[a]`` are all that is left of texts of a length."""
    counts = np.bincount(at.cpu().numpy() // length).tolist()
    return [(rows, rows) for _, rows in alike(counts, at.device)]


@dataclass(frozen=True)
class Skimmed:
    """Answers ``[N, C]``, and in how many layers each token took part ``[N, T]``, 0 to L.

    ``not_finite [N]``: of which texts a predictor or the head said what is not finite.
    """

    logits: Tensor
    layers: Tensor
    not_finite: Tensor


class SkimEncoder(nn.Module, ABC):
    """Embeddings, layers with a predictor before each, and a head that reads all tokens.

    The first token never leaves. ``predictor`` makes, for states ``[..., d]`` of a width d, the module that gives
    logits (skim, keep) ``[..., 2]``. The method says what a layer does where tokens left, and what the head reads of
    these, twice: in `masked` for training and replay, and in `left_out` for execution.
    """

    def __init__(self, name: str, outputs: int | None, predictor: Callable[[int], nn.Module], *, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        model = encoder(name)
        self.embeddings = model.embeddings
        self.layers = TokenLayers(model)
        self.head = PooledHead(pooler_of(model), outputs)
        self.predictors = nn.ModuleList(predictor(self.head.pooler.in_features) for _ in self.layers)
        self.eval()

    @abstractmethod
    def masked(
        self, layer: TokenLayer, hidden: Tensor, out: Tensor, m: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run a layer for every token; return its states ``[N, T, d]``, what the head reads, and the masks.

        All are given as before the layer, what the head reads as ``out [N, T, d]``; the masks ``m [N, T]`` are 1 where
        a token took part in the layer before. ``chosen [N, T]`` is 1 where the predictor of this layer keeps a token,
        and for the first of each text.
        """

    @abstractmethod
    def left_out(
        self, layer: TokenLayer, hidden: Tensor, out: Tensor, at: Tensor, chosen: Tensor, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run a layer for those only who take part; return their states, what the head reads, and their places.

        ``hidden [a, d]`` are the states of all who took part in the layer before, those of all texts one below the
        other, ``at [a]`` their places among all tokens, and ``chosen [a]`` whether they go on. What the head reads,
        ``out [N T, d]``, is of all tokens of N texts of this length.
        """

    def forward(self, x: Tensor, choose: Choice) -> tuple[Tensor, Tensor]:
        """Compute every layer for every token ``[N, T]``, masking those that left: answers and masks ``[L, N, T]``."""
        hidden = out = self.embeddings(input_ids=x)
        m, masks = torch.ones_like(x, dtype=hidden.dtype), []
        for layer, predictor in zip(self.layers, self.predictors, strict=True):
            chosen = choose(predictor(hidden[:, 1:]).flatten(0, 1)).view(len(x), -1)
            hidden, out, m = self.masked(layer, hidden, out, m, torch.cat([torch.ones_like(m[:, :1]), chosen], dim=1))
            masks.append(m)
        return self.head(out), torch.stack(masks)

    @torch.inference_mode()
    def infer(self, x: Tensor, choose: Choice) -> Skimmed:
        """Run ``x [N, T]`` with tokens really removed: after each predictor the others are packed together.

        Samples with as many tokens left are attended to together; what a sample gets depends on no other. The network
        is in evaluation mode meanwhile.
        """
        with evaluating(self):
            return self._infer(x, choose)

    def _infer(self, x: Tensor, choose: Choice) -> Skimmed:
        n, length = x.shape
        hidden = out = self.embeddings(input_ids=x).flatten(0, 1)
        at = torch.arange(n * length, device=x.device)
        layers, flawed = torch.zeros_like(at), torch.zeros_like(at, dtype=torch.bool)
        may = (torch.arange(length, device=x.device) > 0).repeat(n)
        for layer, predictor in zip(self.layers, self.predictors, strict=True):
            free = may[at]
            chosen, logits = torch.ones_like(free), predictor(hidden[free])
            flawed[at[free]] |= ~usable(logits)
            chosen[free] = choose(logits) > 0
            hidden, out, at = self.left_out(layer, hidden, out, at, chosen, length)
            layers[at] += 1
        answers = self.head(out.view(n, length, -1))
        return Skimmed(answers, layers.view(n, length), flawed.view(n, length).any(dim=1) | ~finite(answers))

    def plain(self, x: Tensor) -> Tensor:
        """Return the answers ``[N, C]`` of the network without predictors, no token left out."""
        hidden = self.embeddings(input_ids=x)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


@dataclass(frozen=True)
class Prices:
    """MACs by part, where who leaves stays out and is attended to no more."""

    layer: LayerPrice
    predictor: int  # for one token
    head: int  # for one text
    layers: int

    @classmethod
    def of(cls, model: SkimEncoder) -> Prices:
        """Count each part on one token."""
        layer, predictor = model.layers[0], model.predictors[0]
        x = layer.query.weight.new_zeros(1, 1, layer.query.in_features)
        asked, head = costs.count(lambda: predictor(x)), costs.count(lambda: model.head(x))
        return cls(LayerPrice.of(layer), asked, head, len(model.layers))

    def of_layers(self, layers: Tensor) -> int:
        """Return the MACs of one text whose tokens ``[T]`` took part in so many layers."""
        kept = torch.stack([(layers > i).sum() for i in range(self.layers)])
        asked = len(layers) + int(kept[:-1].sum()) - self.layers  # before each layer, all still there but the first
        return int(self.layer(kept, kept).sum()) + asked * self.predictor + self.head

    def full(self, length: int) -> int:
        """Return the MACs of one text of ``length`` tokens in the plain network."""
        return self.cut(length, self.layers)

    def cut(self, length: int, depth: int, heads: int = 1) -> int:
        """Return the MACs of one text in the network without predictors that ends after ``depth`` layers."""
        every = torch.tensor(length)
        return depth * int(self.layer(every, every)) + heads * self.head


@dataclass
class Seen:
    """What the network says on a split: answers ``[N, C]`` and, for each text, the layers of its tokens ``[T]``.

    All is in the host's memory.
    """

    examples: Examples
    logits: Tensor
    layers: list[Tensor]

    @property
    def leaving(self) -> Tensor:
        """In how many layers each token took part that may leave, of all texts together."""
        return torch.cat([layers[1:] for layers in self.layers])


@dataclass
class Prepared:
    """A trained network with its data; what it says on a split at a knob is computed once, when first asked for."""

    method: SkimMethod
    model: SkimEncoder
    data: Data
    bench: Bench
    _seen: dict[tuple[str, float], Seen] = field(default_factory=dict)

    @cached_property
    def prices(self) -> Prices:
        """MACs by part."""
        return Prices.of(self.model)

    def examples(self, split: Split) -> Examples:
        """Return the split, up to the bench's limit; the test split is out of reach of what chooses."""
        return (self.data.validation if split == "validation" else self.data.test).head(self.bench.test)

    def seen(self, split: Split, knob: float) -> Seen:
        """Return what the network says on the split at a knob."""
        examples = self.examples(split)  # raises where the split is out of reach, also if the answer is known
        if (split, knob) not in self._seen:
            self.bench.progress(f"skimming {split} texts at {self.method.knob} {knob:g}", None)
            self._seen[split, knob] = skimmed(self.model, examples, self.method.rule(knob, self))
        return self._seen[split, knob]

    @property
    def for_choosing(self) -> Prepared:
        """The same with the test data out of reach: all that a policy may be made from."""
        return replace(self, data=self.data.without_test())

    @torch.inference_mode()
    def depths(self, split: Split) -> StoredOutputs:
        """Return what the head says on the split if all tokens leave together, after each of the layers."""
        examples, prices = self.examples(split), self.prices
        outputs = in_order(examples, self.model, lambda x: after_each(self.model, x).transpose(0, 1))
        depths, sizes = range(1, prices.layers + 1), [len(x) for x in examples.inputs]
        return StoredOutputs(
            examples,
            outputs.transpose(0, 1),
            np.array([[prices.cut(n, i, heads=i) for n in sizes] for i in depths], dtype=np.float64),
            np.array([[prices.cut(n, i) for n in sizes] for i in depths], dtype=np.float64),
        )


def after_each(model: SkimEncoder, x: Tensor) -> Tensor:
    """Return what the head reads off all tokens after each layer, ``[L, N, C]`` or ``[L, N]``, nobody having left."""
    hidden, found = model.embeddings(input_ids=x), []
    for layer in model.layers:
        hidden = layer(hidden)
        found.append(model.head(hidden))
    return torch.stack(found)


def skimmed(model: SkimEncoder, examples: Examples, policy: Policy) -> Seen:
    """Run all examples with tokens removed; the outcome is in their order."""
    return gathered(examples, model, lambda index, x: model.infer(x, decided(policy)))


def gathered(examples: Examples, model: SkimEncoder, run: Callable[[Tensor, Tensor], Skimmed]) -> Seen:
    """Return what ``run`` says of all examples, in their order.

    It is given their index ``[n]`` and inputs ``[n, T]``, these beside the model.
    """
    found = [(index, run(index, x)) for index, x in examples.batches(BATCH, device=device_of(model))]
    order = torch.cat([index for index, _ in found])
    layers = [row for _, out in found for row in out.layers.cpu()]
    logits = torch.cat([out.logits.cpu() for _, out in found])
    back = torch.argsort(order)
    return Seen(examples, logits[back], [layers[i] for i in back.tolist()])


def in_order(examples: Examples, model: SkimEncoder, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what ``run`` says of all examples, ``[N, ...]``, in their order; it is given them beside the model."""
    found = [(index, run(x).cpu()) for index, x in examples.batches(BATCH, device=device_of(model))]
    return torch.cat([out for _, out in found])[torch.argsort(torch.cat([index for index, _ in found]))]


class SkimMethod(Method):
    """A method whose predictors send tokens away before each layer."""

    @abstractmethod
    def load(self) -> Data:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> SkimEncoder:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: SkimEncoder, data: Data, bench: Bench) -> None:
        """Train the network in place (with `recipes`, which cache)."""

    @abstractmethod
    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob: it is shown the predictor's logits ``[n, 2]`` and stops tokens that leave.

        Test data are out of reach.
        """

    def rule(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob, made without sight of the test data."""
        return self.policy(knob, prepared.for_choosing)

    @property
    def score(self) -> Score:
        """What makes quality of answers ``[N, C]`` and targets, by default accuracy; of values ``[N]`` Pearson's r."""
        return usual

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        return Prepared(self, model.eval(), data, bench)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Run the split at every knob."""
        return [self.point(prepared.prices, prepared.seen(split, knob), knob) for knob in knobs]

    def point(self, prices: Prices, seen: Seen, knob: float) -> OperatingPoint:
        """Measure one knob."""
        cost = sum(prices.of_layers(layers) for layers in seen.layers) / len(seen.layers)
        full = sum(prices.full(len(layers)) for layers in seen.layers) / len(seen.layers)
        worth = judged(self.score, seen.logits, seen.examples.targets)
        return point(knob, worth, seen.leaving.numpy(), count=prices.layers + 1, cost=cost, full=full)

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commonest class; for values, no correlation."""
        seen = prepared.seen("test", self.knobs[-1])
        return chance.of_answers(seen.logits, seen.examples.targets)

    @torch.inference_mode()
    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return quality and mean MACs of the network without predictors on the test split."""
        examples, model = prepared.examples("test"), prepared.model
        costs_of = [prepared.prices.full(len(x)) for x in examples.inputs]
        return self.score(in_order(examples, model, model.plain), examples.targets), sum(costs_of) / len(costs_of)

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return what the one head says if all tokens leave together: after a fixed layer, or when it is sure."""
        held, test = prepared.depths("validation"), prepared.depths("test")
        return baselines_of(held, test, self.score)

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return every depth by itself, all tokens leaving there, and the share of texts that are overthought."""
        seen = prepared.depths("test")
        return exit_facts(seen.cut_off(self.score), seen.outputs, seen.targets)

    @torch.inference_mode()
    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run test texts: once counted from outside and compared with masking, then timed beside the plain network."""
        seen, policy = prepared.seen("test", knob), self.rule(knob, prepared)
        chosen = seen.examples.head(bench.executed)
        counted, agrees, flawed = 0, True, 0
        for index, x in chosen.batches(BATCH, device=device_of(prepared.model)):
            with costs.MacCounter() as counter:
                found = prepared.model.infer(x, decided(policy))
            counted += counter.macs
            logits, masks = prepared.model(x, decided(policy))
            said = torch.stack([seen.layers[i] for i in index.tolist()])
            agrees &= torch.equal(found.layers.cpu(), said) and torch.equal(masks.sum(dim=0).long().cpu(), said)
            agrees &= torch.allclose(found.logits, logits, atol=1e-3, equal_nan=True)
            flawed += int(found.not_finite.sum())
        ours, plain = timed(prepared.model, chosen, decided(policy), BATCH, bench.repeats)
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=sum(prepared.prices.of_layers(layers) for layers in seen.layers[: len(chosen)]),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time test texts in batches at one knob, in turn with the plain network: from inputs to predictions."""
        seen = prepared.seen("test", knob)
        index = seen.examples.filled(batch, TIMED[batch == 1])
        chosen = seen.examples.at(index)
        ours, plain = timed(prepared.model, chosen, decided(self.rule(knob, prepared)), batch, bench.repeats)
        spent = sum(prepared.prices.of_layers(seen.layers[i]) for i in index.tolist())
        full = sum(prepared.prices.full(len(x)) for x in chosen.inputs)
        return Timing(
            batch=batch, knob=knob, samples=len(chosen), saved=1 - spent / full, seconds=ours, full_seconds=plain
        )


def timed(model: SkimEncoder, examples: Examples, choose: Choice, batch: int, repeats: int) -> tuple[float, float]:
    """Return median seconds of inference with tokens removed and of the plain network over the examples."""
    batches = (x for _, x in examples.batches(batch, device=device_of(model)))
    return in_turn(lambda x: model.infer(x, choose), model.plain, batches, repeats, devices_of(model))
