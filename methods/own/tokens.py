"""Your own language model with an exit after every layer, for each token by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn

from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.backbones.decoding import Ending, Generation, TokenCosts, always, generate
from eelit.methods.engine.method import Bench, silent
from eelit.methods.engine.multi_exit import device_of, evaluating
from eelit.methods.own.batches import NO_BATCH, inputs_of, on
from eelit.methods.own.logits import Logits
from eelit.methods.own.refusals import CannotExport
from eelit.methods.own.sampling import Sampling, write
from eelit.methods.own.saved import SavedRule, Skipping, WrongRule
from eelit.methods.policies.base import Array, Output, Policy, State, said

if TYPE_CHECKING:
    from eelit.methods.recipes.fit import Batch

RECIPES = ("calm", "schuster2022calm")
IDS, MASK = "input_ids", "attention_mask"
TOGETHER = "each token leaves by itself, and needs keys and values of all tokens before it"


@dataclass(frozen=True)
class AskedAt:
    """Ask a policy after some layers alone; nobody stops after another."""

    policy: Policy
    exits: tuple[int, ...]

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Ask the policy, if its turn has come; the state is the number of the layer, then the policy's own."""
        answer: Any = said(output)
        here = state[0] if state else torch.zeros(len(answer), dtype=torch.int64, device=answer.device)
        inner = state[1:] if state else self.policy.start()
        if len(here) and int(here[0]) not in self.exits:
            return (here + 1, *inner), torch.zeros(len(answer), dtype=torch.bool, device=answer.device)
        inner, stop = self.policy.step(inner, output)
        return (here + 1, *inner), stop


class TokenNetwork:
    """A language model of yours whose every layer is an exit, made by `attach`; `model` is its `ExitDecoder`.

    Decoders alone are taken, no encoder–decoders. ``export`` and ``infer_stream`` refuse: since each token leaves by
    itself, the keys and values that later layers need must be at hand for all tokens before it.
    """

    def __init__(self, model: ExitDecoder, original: nn.Module) -> None:
        self.model, self.original = model.eval(), original

    def __repr__(self) -> str:
        return f"<TokenNetwork: {type(self.original).__name__}, {self.exits} exits>"

    @property
    def exits(self) -> int:
        """E: of layers."""
        return self.model.exits

    def to(self, device: torch.device | str) -> TokenNetwork:
        """Bring the model to a device."""
        self.model.to(device)
        return self

    def fit(
        self,
        loader: Iterable[Any],
        recipe: str = "calm",
        *,
        device: torch.device | str | None = None,
        freeze: str | Sequence[str] = (),
        epochs: float = 1.0,
        rate: float = 1e-4,
        seed: int = 0,
        progress: Callable[[str, float | None], None] = silent,
    ) -> None:
        """Train all exits together to predict the next token; the loss after layer i of E weighs i / (1 + … + E).

        That is the training of schuster2022calm, by AdamW. Texts are padded where the mask is 0; modules of the model
        that ``freeze`` names do not learn. Raises `ValueError` for another recipe, or if nothing is left to learn.
        """
        from eelit.methods.own.training import frozen, modules_named, watched
        from eelit.methods.recipes.fit import fit
        from eelit.methods.recipes.joint import depth_weights, exit_losses, weighted

        if recipe not in RECIPES:
            raise ValueError(f"there is no recipe {recipe!r} for a language model; choose {RECIPES[0]} ({RECIPES[1]})")
        if device is not None:
            self.to(device)
        weights = depth_weights(self.exits)

        def loss(batch: Batch) -> Tensor:
            ids, mask = _texts(batch.inputs)
            real = mask[:, :-1].bool() & mask[:, 1:].bool()
            outputs = self.model(ids, mask)[:, :, :-1]
            return weighted(exit_losses(outputs[:, real], ids[:, 1:][real]), weights)

        with frozen(modules_named(self.original, freeze)):
            learning = [p for p in self.model.parameters() if p.requires_grad]
            if not learning:
                raise ValueError("everything is frozen, so that there is nothing to train")
            self.model.train()
            fit(
                learning, cast(Any, _Texts(loader)), loss, Bench(seed=seed, progress=progress, watch=watched([])),
                label="training all layers to predict the next token", epochs=epochs, batch=1, rate=rate,
            )  # fmt: skip
        self.model.eval()

    @torch.inference_mode()
    def collect(self, loader: Iterable[Any]) -> Logits:
        """Return what all exits say of each next token, with what it is; the tokens of a text belong together.

        Costs are MACs of a token at its place in the text, as `infer` runs it, with what later layers need of it.
        """
        priced, found = TokenCosts.of(self.model, "logits"), []
        labels, lengths, costs, plain = [], [], [], []
        for batch in loader:
            ids, mask = _texts(on(device_of(self.model), inputs_of(batch, tokens=True)))
            with evaluating(self.model):
                said_now = self.model(ids, mask)
            for i, known in enumerate(mask.bool()):
                z, text = said_now[:, i, known][:, :-1], ids[i, known]
                if z.shape[1]:
                    found.append(z.float().cpu().numpy())
                    labels.append(text[1:].cpu().numpy())
                    lengths.append(z.shape[1])
                    exits = np.arange(self.exits)[:, None].repeat(z.shape[1], axis=1)
                    costs.append(priced.claimed(exits, 0))
                    plain.append(np.stack([priced.plain(d + 1, 0, z.shape[1]) for d in range(self.exits)]))
        if not found:
            raise ValueError("the loader yields no text of two tokens")
        return Logits(
            np.concatenate(found, axis=1), np.concatenate(labels), np.concatenate(costs, axis=1), "enc", kind="logits",
            unit="MACs", plain_costs=np.concatenate(plain, axis=1).mean(axis=1), lengths=lengths,
        )  # fmt: skip

    @torch.inference_mode()
    def infer(
        self,
        prompts: Any,
        rule: SavedRule | Policy | None,
        *,
        length: int,
        ends: Sequence[int] = (),
        pad: int = 0,
        sampling: Sampling | None = None,
    ) -> Generation:
        """Generate at most ``length`` tokens after each prompt; each token leaves as soon as the rule says.

        Args:
            prompts: ids ``[N, t]``, a dictionary with ``input_ids`` and ``attention_mask``, padded on the left, or a
                list of prompts of unlike lengths.
            rule: what `calibrate` gave on what `collect` returned, or any policy that reads logits; None: all layers.
            length: tokens at most.
            ends: tokens that end a text.
            pad: what stands behind its end.
            sampling: how tokens are drawn; None: the likeliest is taken.
        """
        ids, mask = _texts(_padded(prompts, pad) if isinstance(prompts, list) else inputs_of(prompts, tokens=True))
        if not ids.numel():
            raise ValueError("each prompt has a token at least")
        ids, mask = ids.to(device_of(self.model)), mask.to(device_of(self.model))
        if not bool(mask[:, -1].all()):
            raise ValueError("prompts must be padded on the left, and each have a token")
        with evaluating(self.model):
            cache = self.model.read(ids[:, :-1], ids.shape[1] + length, mask[:, :-1])
            policy, ending = None if rule is None else self._policy(rule), Ending(tuple(ends), pad)
            if sampling is not None:
                return write(self.model, cache, ids[:, -1], length, policy, sampling, ending)
            return generate(
                self.model, cache, ids[:, -1], length, None if policy is None else always(policy), ending=ending
            )

    def infer_stream(self, batches: Iterable[Any], rule: SavedRule | Policy, **options: Any) -> NoReturn:
        """Raise `ValueError`: texts do not leave at once."""
        raise ValueError(f"there is no stream of a language model: {TOGETHER}; call infer on prompts")

    def export(self, folder: str | Path, example: Any) -> NoReturn:
        """Raise `CannotExport`: layers cannot stand in files of their own."""
        raise CannotExport(f"a language model is not written stage by stage: {TOGETHER}")

    def _policy(self, rule: SavedRule | Policy) -> Policy:
        if not isinstance(rule, SavedRule):
            return rule
        if rule.exits != self.exits:
            raise WrongRule(f"the rule is for {rule.exits} exits, but the model has {self.exits}")
        if rule.reject_below > -math.inf:
            raise WrongRule("a rule that refuses answers cannot write a text")
        policy = rule.policy
        return AskedAt(policy.policy, policy.exits) if isinstance(policy, Skipping) else policy

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and configuration (JSON), whole or not at all."""
        from eelit.methods.own.kept import save

        save(self, Path(folder))


class _Texts:
    """A loader of texts as `fit` takes training data: what follows is told by the texts themselves."""

    __slots__ = ("_loader",)

    def __init__(self, loader: Iterable[Any]) -> None:
        if iter(loader) is loader:
            raise ValueError("a loader is passed over several times; this one is an iterator, used up after one pass")
        self._loader = loader

    @property
    def targets(self) -> _Texts:
        """Nothing beside the texts."""
        return self

    def __getitem__(self, index: Tensor) -> Tensor:
        return index

    def batches(self, size: int, shuffle: torch.Generator | None = None) -> Iterable[tuple[Tensor, Any]]:
        """Yield batches as they come. Raises `ValueError` if there is none."""
        some = False
        for batch in self._loader:
            some = True
            yield torch.empty(0), inputs_of(batch, tokens=True)
        if not some:
            raise ValueError(NO_BATCH)


def _texts(inputs: Any) -> tuple[Tensor, Tensor]:
    """Return ids and mask ``[n, t]``."""
    ids = inputs[IDS] if isinstance(inputs, Mapping) else inputs
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise ValueError("texts are token ids [texts, tokens], or a dictionary with them under input_ids")
    return ids, torch.ones_like(ids) if mask is None else mask.to(ids)


def _padded(prompts: Sequence[Any], pad: int) -> dict[str, Tensor]:
    each = [torch.as_tensor(prompt) for prompt in prompts]
    if not each or not all(len(ids) for ids in each):
        raise ValueError("there is at least one prompt, and each has a token at least")
    longest = max(len(ids) for ids in each)
    ids = torch.full((len(each), longest), pad)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(each):
        ids[i, longest - len(prompt) :], mask[i, longest - len(prompt) :] = prompt, 1
    return {IDS: ids, MASK: mask}
