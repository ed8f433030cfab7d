"""A tagger with a classifier after every layer, whose words halt at layers of their own or all at once.

What leaves is a word: ``exits`` says how many words get their tag from layer 1, 2 … L. Costs are MACs per word; samples
are sentences. Rules that stop whole sentences are replayed on one pass. Where single words halt, later layers depend on
who did: every knob is run with halted words really left out, and an execution is compared with the same rule on the
network that computes all tokens and masks. What becomes of the state of a halted word, the method says. The full model
is the network without the classifiers between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import encoder
from eelit.methods.backbones.token_layer import LayerPrice, TokenLayer, TokenLayers
from eelit.methods.engine import chance, costs
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import device_of, evaluating, select
from eelit.methods.engine.records import Baseline, Chance, Execution, ExitFacts, OperatingPoint, Timing
from eelit.methods.engine.routing import decide
from eelit.methods.engine.stored_outputs import exit_facts
from eelit.methods.engine.timing import BATCH, TIMED, devices_of, in_turn
from eelit.methods.policies.base import Policy, usable
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.window_uncertainty import Together

CONFIDENCES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.1)
"""Thresholds of the largest probability: fewer than where stored outputs serve all, for each is a run of its own."""


CERTAIN = 1000.0
"""Logit of class 0 where there is no word: such a place is certain and keeps nobody waiting."""


@dataclass(frozen=True)
class Tagged:
    """Logits ``[N, T, K]`` and layer ``[N, T]`` (from 0; -1 where there is no word) with which each word left.

    ``not_finite [N, T]``: of which words a layer, up to the one where they left, said what is not finite.
    """

    logits: Tensor
    exits: Tensor
    not_finite: Tensor


def of_pieces(values: Tensor, numbers: Tensor, special: float) -> Tensor:
    """Return the values ``[n, T]`` of words for each of their pieces ``[n, T]``, and ``special`` for special tokens."""
    return torch.where(numbers >= 0, values.gather(1, numbers.clamp_min(0)), special)


def words_of(numbers: Tensor) -> Tensor:
    """Return where there is a word, ``[n, T]``, if the pieces ``[n, T]`` are of these words."""
    return torch.arange(numbers.shape[1], device=numbers.device) <= numbers.amax(dim=1, keepdim=True)


class TagEncoder(nn.Module, ABC):
    """Embeddings, layers, and a linear classifier after each that reads the first piece of every word.

    Sentences are ``[N, 2, T]``: ids of word pieces, and the number of the word that each is of, -1 for special tokens.
    What is said of words is ``[N, T, …]``, word 0 first. The method says what becomes of the states of words that
    halted, twice: in `masked` for replay and in `left_out` for execution.
    """

    def __init__(self, name: str, tags: int, *, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__()
        model = encoder(name)
        self.embeddings = model.embeddings
        self.layers = TokenLayers(model)
        self.heads = nn.ModuleList(nn.Linear(model.config.hidden_size, tags) for _ in self.layers)
        self.eval()

    @abstractmethod
    def masked(self, layer: TokenLayer, hidden: Tensor, active: Tensor) -> Tensor:
        """Return the states after a layer, from those before it ``[n, T, d]``; all of them are computed.

        ``active [n, T]`` are the pieces that have not halted. From the others the layer asks nothing.
        """

    @abstractmethod
    def left_out(self, layer: TokenLayer, hidden: Tensor, active: Tensor) -> Tensor:
        """Return the same with the queries and the feed-forward work of all others really left out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all layers ``[L, N, T, K]``, nothing halted."""
        ids, numbers = x.unbind(1)
        hidden, said = self.embeddings(input_ids=ids), []
        for layer, head in zip(self.layers, self.heads, strict=True):
            hidden = layer(hidden)
            said.append(self.read(head, hidden, numbers))
        return torch.stack(said)

    def read(self, head: nn.Module, hidden: Tensor, numbers: Tensor) -> Tensor:
        """Return the logits ``[n, T, K]`` of all words for states ``[n, T, d]``."""
        first = torch.ones_like(numbers, dtype=torch.bool)
        first[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        sample, piece = (first & (numbers >= 0)).nonzero().unbind(1)
        logits = head(hidden[sample, piece])
        found = logits.new_zeros(*numbers.shape, logits.shape[-1])
        found[..., 0] = CERTAIN
        return found.index_put((sample, numbers[sample, piece]), logits)

    @torch.inference_mode()
    def infer(self, x: Tensor, policy: Policy) -> Tagged:
        """Run sentences with what halted words need no more really left out.

        The classifiers go on reading them. Special tokens go on until their sentence is done; then it is dropped. The
        network is in evaluation mode meanwhile.
        """
        with evaluating(self):
            return self._infer(x, policy)

    def _infer(self, x: Tensor, policy: Policy) -> Tagged:
        numbers = x[:, 1]
        n, length = numbers.shape
        hidden, running = self.embeddings(input_ids=x[:, 0]), words_of(numbers)
        rest, exits = torch.arange(n, device=x.device), torch.full_like(numbers, -1)
        flawed = torch.zeros_like(running)
        answers, memory = hidden.new_zeros(n, length, self.tags), policy.start()
        for i, layer in enumerate(self.layers):
            active = of_pieces(running.long(), numbers, 1) > 0
            hidden = self.left_out(layer, hidden, active)
            logits, stop = self.read(self.heads[i], hidden, numbers), running
            sound = usable(logits)
            flawed[rest] |= running & ~sound
            if i < len(self.layers) - 1:
                memory, stop, _ = decide(policy, memory, logits, sound)
            leaving, slot = (stop & running).nonzero().unbind(1)
            exits[rest[leaving], slot] = i
            answers[rest[leaving], slot] = logits[leaving, slot]
            running = running & ~stop
            left = running.any(dim=1).nonzero().flatten()
            if not len(left):
                break
            rest, hidden, numbers, running, memory = select((rest, hidden, numbers, running, memory), left)
        return Tagged(answers, exits, flawed)

    @property
    def tags(self) -> int:
        """Number of tags, K."""
        head = self.heads[0]
        assert isinstance(head, nn.Linear)
        return head.out_features

    def plain(self, x: Tensor) -> Tensor:
        """Return the logits ``[N, T, K]`` of the last layer, the other classifiers not asked."""
        ids, numbers = x.unbind(1)
        hidden = self.embeddings(input_ids=ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.read(self.heads[-1], hidden, numbers)


@dataclass(frozen=True)
class Prices:
    """MACs by part."""

    layer: LayerPrice
    head: int  # for one word
    layers: int

    @classmethod
    def of(cls, model: TagEncoder) -> Prices:
        """Count each part on one token."""
        layer, head = model.layers[0], model.heads[0]
        x = layer.query.weight.new_zeros(1, layer.query.in_features)
        return cls(LayerPrice.of(layer), costs.count(lambda: head(x)), len(model.layers))

    def of_exits(self, exits: Tensor, x: Tensor) -> int:
        """Return the MACs of a sentence ``[2, T]`` whose words left at these layers ``[T]``.

        In each layer that is run, all tokens have keys and values and every word is classified.
        """
        depth, numbers = int(exits.max()) + 1, x[1:]
        last = of_pieces(exits[None], numbers, depth - 1)
        asking = (last >= torch.arange(depth)[:, None]).sum(dim=1)
        asked = torch.tensor(x.shape[1])
        return int(self.layer(asking, asked).sum()) + depth * self.head * (int(numbers.max()) + 1)

    def cut(self, x: Tensor, depth: int) -> int:
        """Return the MACs of a sentence ``[2, T]`` in the network cut off for good after ``depth`` layers."""
        length = torch.tensor(x.shape[1])
        return depth * int(self.layer(length, length)) + self.head * (int(x[1].max()) + 1)


@dataclass
class Seen:
    """What is said of the words of a split: right or wrong and the layer of each, ``[M]``, and MACs in all."""

    right: Tensor
    exits: Tensor
    cost: float


@dataclass
class Prepared:
    """A trained tagger with its data; what it says on a split at a knob is computed once, when first asked for."""

    method: TagMethod
    model: TagEncoder
    data: Data
    bench: Bench
    _seen: dict[tuple[str, float], Seen] = field(default_factory=dict)
    _said: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def prices(self) -> Prices:
        """MACs by part."""
        return Prices.of(self.model)

    def examples(self, split: Split) -> Examples:
        """Return the split, up to the bench's limit; the test split is out of reach of what chooses."""
        return (self.data.validation if split == "validation" else self.data.test).head(self.bench.test)

    def seen(self, split: Split, knob: float) -> Seen:
        """Return what is said on the split at a knob."""
        self.examples(split)  # raises where the split is out of reach, also if the answer is known
        if (split, knob) not in self._seen:
            self.bench.progress(f"tagging {split} sentences at {self.method.knob} {knob:g}", None)
            if self.method.whole:
                knobs = {*self.method.knobs, knob}
                runs = self.at_once(split, [self.method.rule(each, self) for each in knobs])
                self._seen.update({(split, each): run for each, run in zip(knobs, runs, strict=True)})
            else:
                self._seen[split, knob] = self.run(split, self.method.rule(knob, self))
        return self._seen[split, knob]

    @property
    def for_choosing(self) -> Prepared:
        """The same with the test data out of reach: all that a policy may be made from."""
        return replace(self, data=self.data.without_test())

    def run(self, split: Split, policy: Policy) -> Seen:
        """Tag the split under any policy, halted words left out."""
        return self.of_runs(split, lambda x: [self.model.infer(x, policy)])[0]

    def at_once(self, split: Split, policies: Sequence[Policy]) -> list[Seen]:
        """Return what `run` would for rules that stop whole sentences: one pass serves them all."""

        def tag(x: Tensor) -> list[Tagged]:
            said, words = self.model(x), words_of(x[:, 1])
            return [stopped(policy, said, words) for policy in policies]

        return self.of_runs(split, tag)

    @torch.inference_mode()
    def of_runs(self, split: Split, tag: Callable[[Tensor], Sequence[Tagged]]) -> list[Seen]:
        """Tag the split in one or several ways at once; words are in order of their sentences."""
        examples = self.examples(split)
        found: dict[int, list[tuple[Tensor, Tensor, int]]] = {}
        for index, x in examples.batches(BATCH, device=device_of(self.model)):
            ways, targets = [to_host(way) for way in tag(x)], examples.targets[index, : x.shape[-1]]
            for row, i in enumerate(index.tolist()):
                said = targets[row] >= 0
                found[i] = [
                    (
                        (way.logits[row].argmax(dim=-1) == targets[row])[said],
                        way.exits[row][said],
                        self.prices.of_exits(way.exits[row], examples.inputs[i]),
                    )
                    for way in ways
                ]
        every = [list(zip(*way, strict=True)) for way in zip(*(found[i] for i in range(len(examples))), strict=True)]
        return [Seen(torch.cat(right), torch.cat(exits), sum(costs)) for right, exits, costs in every]

    @torch.inference_mode()
    def said(self, split: Split) -> Tensor:
        """Return what each layer says of each word, nothing halted: logits ``[L, M, K]``, words in order."""
        examples = self.examples(split)
        if split not in self._said:
            found = in_order(examples, self.model, lambda x: self.model(x).transpose(0, 1))
            rows = [said[:, tagged_words(target, said)] for said, target in zip(found, examples.targets, strict=True)]
            self._said[split] = torch.cat(rows, dim=1)
        return self._said[split]

    def tags(self, split: Split) -> Tensor:
        """Return the true tags of the words, ``[M]``."""
        targets = self.examples(split).targets
        return targets[targets >= 0]

    def every(self, split: Split) -> Tensor:
        """Return which words each layer tags right, ``[L, M]``, nothing halted."""
        return self.said(split).argmax(dim=-1) == self.tags(split)


def in_order(examples: Examples, model: TagEncoder, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return what ``run`` says of each sentence, in order, in the host's memory; it is given them beside the model."""
    found: dict[int, Tensor] = {}
    for index, x in examples.batches(BATCH, device=device_of(model)):
        found.update(zip(index.tolist(), run(x).cpu(), strict=True))
    return [found[i] for i in range(len(examples))]


def to_host(found: Tagged) -> Tagged:
    """Return what is said of words, in the host's memory."""
    return Tagged(found.logits.cpu(), found.exits.cpu(), found.not_finite.cpu())


def tagged_words(target: Tensor, logits: Tensor) -> Tensor:
    """Return which places ``[T]`` of a sentence hold words with a tag, given tags and logits ``[..., T, K]``."""
    return target[: logits.shape[-2]] >= 0


def correct(logits: Sequence[Tensor], examples: Examples) -> Tensor:
    """Return which words of all sentences are tagged right, ``[M]``, for logits ``[T, K]`` of each sentence."""
    pairs = [(row, target, tagged_words(target, row)) for row, target in zip(logits, examples.targets, strict=True)]
    return torch.cat([row[words].argmax(dim=-1) == target[: len(row)][words] for row, target, words in pairs])


def stopped(policy: Policy, outputs: Tensor, words: Tensor) -> Tagged:
    """Return where words ``[N, T]`` leave by outputs ``[L, N, T, K]`` that do not depend on who left before."""
    answers, running, memory = outputs[-1].clone(), words, policy.start()
    exits, flawed = torch.where(words, len(outputs) - 1, -1), torch.zeros_like(words)
    for i, logits in enumerate(outputs[:-1]):
        memory, stop, sound = decide(policy, memory, logits, usable(logits))
        flawed |= running & ~sound
        leaving = running & stop
        exits[leaving], answers[leaving] = i, logits[leaving]
        running = running & ~stop
    return Tagged(answers, exits, flawed | running & ~usable(outputs[-1]))


@torch.inference_mode()
def replay(model: TagEncoder, x: Tensor, policy: Policy) -> Tagged:
    """Return what `TagEncoder.infer` would, with every layer computed for every token."""
    ids, numbers = x.unbind(1)
    hidden, running = model.embeddings(input_ids=ids), words_of(numbers)
    exits, memory, flawed = torch.full_like(numbers, -1), policy.start(), torch.zeros_like(running)
    answers = hidden.new_zeros(*numbers.shape, model.tags)
    for i, (layer, head) in enumerate(zip(model.layers, model.heads, strict=True)):
        active = of_pieces(running.long(), numbers, 1) > 0
        hidden = model.masked(layer, hidden, active)
        logits, stop = model.read(head, hidden, numbers), torch.ones_like(running)
        sound = usable(logits)
        flawed |= running & ~sound
        if i < len(model.layers) - 1:
            memory, stop, _ = decide(policy, memory, logits, sound)
        leaving = running & stop
        exits[leaving], answers[leaving] = i, logits[leaving]
        running = running & ~stop
    return Tagged(answers, exits, flawed)


class TagMethod(Method):
    """A method that halts words of sentences to be tagged."""

    @property
    def whole(self) -> bool:
        """Whether it stops whole sentences only."""
        return False

    @property
    def quality(self) -> str:
        """Share of words with the right tag."""
        return "tagging accuracy"

    @abstractmethod
    def load(self) -> Data:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> TagEncoder:
        """Return the untrained tagger; everything random follows the seed."""

    @abstractmethod
    def train(self, model: TagEncoder, data: Data, bench: Bench) -> None:
        """Train the tagger in place (with `trained`, which caches)."""

    @abstractmethod
    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob: it is shown logits ``[n, W, K]`` and says which words stop, ``[n, W]``.

        Test data are out of reach.
        """

    def rule(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob, made without sight of the test data."""
        return self.policy(knob, prepared.for_choosing)

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
        """Tag the split at every knob."""
        return [self.point(prepared, split, prepared.seen(split, knob), knob) for knob in knobs]

    def point(self, prepared: Prepared, split: Split, seen: Seen, knob: float) -> OperatingPoint:
        """Measure one knob."""
        layers, words = prepared.prices.layers, len(seen.right)
        full = sum(prepared.prices.cut(x, layers) for x in prepared.examples(split).inputs) / words
        return point(knob, seen.right.numpy(), seen.exits.numpy(), count=layers, cost=seen.cost / words, full=full)

    def static(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return the trained network cut off for good after each layer; the knob is the layer, from 1."""
        every, inputs, found = prepared.every(split), prepared.examples(split).inputs, []
        for i, right in enumerate(every):
            cost = sum(prepared.prices.cut(x, i + 1) for x in inputs)
            found.append(
                self.point(prepared, split, Seen(right, torch.full_like(right, i, dtype=torch.long), cost), i + 1)
            )
        return found

    def surest(self, prepared: Prepared, split: Split) -> list[OperatingPoint]:
        """Return what stopping at the largest probability gives: word by word, or for sentences whose words all stop.

        Words that stop are halted like those of the method.
        """
        rules = [MaxConfidence(c) for c in CONFIDENCES]
        if self.whole:
            runs = prepared.at_once(split, [Together(rule) for rule in rules])
        else:
            runs = [prepared.run(split, rule) for rule in rules]
        return [self.point(prepared, split, run, c) for run, c in zip(runs, CONFIDENCES, strict=True)]

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each layer as a fixed depth, and the same network stopped by the largest probability."""
        rules = {"static exit": self.static, "max-confidence": self.surest}
        return [
            Baseline(name=name, validation=rule(prepared, "validation"), test=rule(prepared, "test"))
            for name, rule in rules.items()
        ]

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return every layer by itself, and the share of words that some earlier layer has right and the last wrong."""
        return exit_facts(self.static(prepared, "test"), prepared.said("test"), prepared.tags("test"))

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commonest tag."""
        return chance.of_classes(prepared.tags("test"), "words")

    @torch.inference_mode()
    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return accuracy and MACs per word of the network without the classifiers between, on the test split."""
        examples, model = prepared.examples("test"), prepared.model
        right = correct(in_order(examples, model, model.plain), examples)
        cost = sum(prepared.prices.cut(x, prepared.prices.layers) for x in examples.inputs)
        return float(right.double().mean()), cost / len(right)

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Tag test sentences: once counted from outside and compared with `replay`, then timed beside the full model.

        What is claimed follows from the exits in the replay.
        """
        policy, chosen = self.rule(knob, prepared), prepared.examples("test").head(bench.executed)
        counted, claimed, agrees, flawed = 0, 0, True, 0
        for _, x in chosen.batches(BATCH, device=device_of(prepared.model)):
            with costs.MacCounter() as counter:
                found = prepared.model.infer(x, policy)
            counted += counter.macs
            said = replay(prepared.model, x, policy)
            claimed += sum(prepared.prices.of_exits(*pair) for pair in zip(said.exits.cpu(), x.cpu(), strict=True))
            agrees &= torch.equal(found.exits, said.exits) and torch.equal(found.not_finite, said.not_finite)
            agrees &= torch.allclose(found.logits, said.logits, atol=1e-3, equal_nan=True)
            flawed += int(found.not_finite.any(dim=1).sum())
        ours, plain = timed(prepared.model, chosen, policy, BATCH, bench.repeats)
        return Execution(
            knob=knob, samples=len(chosen), claimed=claimed, counted=counted, agrees=agrees,
            seconds=ours, full_seconds=plain, not_finite=flawed,
        )  # fmt: skip

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time test sentences in batches at one knob, in turn with the full model: from inputs to predictions."""
        examples, policy = prepared.examples("test"), self.rule(knob, prepared)
        chosen = examples.at(examples.filled(batch, TIMED[batch == 1]))
        ours, plain = timed(prepared.model, chosen, policy, batch, bench.repeats)
        found = in_order(chosen, prepared.model, lambda x: prepared.model.infer(x, policy).exits)
        spent = sum(prepared.prices.of_exits(*pair) for pair in zip(found, chosen.inputs, strict=True))
        full = sum(prepared.prices.cut(x, prepared.prices.layers) for x in chosen.inputs)
        return Timing(
            batch=batch, knob=knob, samples=len(chosen), saved=1 - spent / full, seconds=ours, full_seconds=plain
        )


def timed(model: TagEncoder, examples: Examples, policy: Policy, batch: int, repeats: int) -> tuple[float, float]:
    """Return median seconds of inference with halted words left out and of the full model over the examples."""
    batches = (x for _, x in examples.batches(batch, device=device_of(model)))
    return in_turn(lambda x: model.infer(x, policy), model.plain, batches, repeats, devices_of(model))
