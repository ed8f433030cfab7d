"""Exits on encoders of transformers, for text and for images: a stage for each layer, padded batches with their masks.

The layers are called with what the model's own forward gives them (`eelit.methods.backbones.own_forward`), so that
masks, relative positions and shared layers are its own. When exits are put on a model, it is proved on a probe that the
last stage gives what the model gives by itself, else it is refused with `CannotAttach`. (The encoders of the text track
know no padding, and have stages of their own: `eelit.methods.backbones.encoder`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eelit.methods.backbones.own_forward import (
    HIDDEN,
    CannotAttach,
    Given,
    OwnForward,
    Plan,
    State,
    probe_ids,
    probe_lengths,
    prove_equal,
    text_config,
    trial,
)
from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.policies.base import widened

Inputs = Tensor | Mapping[str, Tensor]
"""Token ids ``[N, T]`` or pixels ``[N, channels, height, width]`` alone, or the model's arguments by name."""
MASK = "mask"


class OwnStage(nn.Module):
    """Layer ``i`` of an encoder; the first stage also holds the model, whose own forward makes the state of its inputs.

    States are dictionaries of tensors: the hidden states, what the later layers are given, and the mask ``[N, T]`` that
    came with the inputs, if one did.
    """

    def __init__(self, own: OwnForward, plan: Plan, i: int) -> None:
        super().__init__()
        self.layer = own.layers[i]
        self.model = own.model if i == 0 else None
        self._own, self._plan, self._i = own, plan, i

    def forward(self, state: Inputs | State) -> State:
        """Map inputs (first stage) or a state to the state after this layer."""
        before = state if self.model is None else self._start(state)
        assert isinstance(before, dict)
        return self._own.layer(self._i, self._plan, before)

    def _start(self, inputs: Inputs) -> State:
        named = _named(self._own.model, inputs)
        state = self._plan.state(_given(self._own, named))
        mask = named.get("attention_mask")
        return state if mask is None else {**state, MASK: mask}


class Reading(nn.Module):
    """What heads read of a state: the hidden states ``[N, T, d]``, behind what the model has after its layers."""

    def __init__(self, own: OwnForward) -> None:
        super().__init__()
        self.after = nn.ModuleList(own.tail)

    def forward(self, state: State) -> Tensor:
        """Return what the model itself would give, were this layer its last."""
        hidden = state[HIDDEN]
        for module in self.after:
            hidden = module(hidden)
        return hidden


class MeanHead(nn.Module):
    """A linear head on the mean over all tokens but padding; gives ``[N, C]``, or ``[N]`` if ``outputs`` is None."""

    def __init__(self, reading: Reading, width: int, outputs: int | None) -> None:
        super().__init__()
        self.reading = reading
        self.classifier = nn.Linear(width, outputs or 1)
        self.regression = outputs is None

    def forward(self, state: State) -> Tensor:
        """Read the state after a stage."""
        hidden = self.reading(state)
        mask = state.get(MASK)
        weights = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden)
        wide = widened(hidden)  # the sum over a long text leaves the range of half precision
        mean = (weights[..., None] * wide).sum(dim=1) / widened(weights).sum(dim=1, keepdim=True)
        out: Tensor = self.classifier(mean.to(hidden.dtype))
        return out.squeeze(-1) if self.regression else out


@dataclass(frozen=True)
class Attached:
    """An encoder in stages, for `MultiExit`, and what heads read."""

    stages: list[OwnStage]
    reading: Reading
    width: int  # d

    def with_mean_heads(self, outputs: int | None) -> MultiExit:
        """Return the encoder with a new `MeanHead` after every layer; ``outputs`` classes, or None for a real value."""
        return MultiExit(self.stages, [MeanHead(self.reading, self.width, outputs) for _ in self.stages])


def attach(encoder: nn.Module) -> Attached:
    """Return an encoder of transformers (the bare model, without a head for a task) in stages of one layer each.

    Raises `CannotAttach` if the stages do not give what the encoder itself gives.
    """
    with trial(encoder):
        probes = list(_probes(encoder))
        own = OwnForward(encoder, lambda: encoder(**probes[0]))
        if own.body is not encoder:
            raise CannotAttach(encoder, "it is more than an encoder, whose base_model can be tried")
        plan = Plan(encoder, [_given(own, probe) for probe in probes])
        found = Attached(
            stages=[OwnStage(own, plan, i) for i in range(len(own.layers))],
            reading=Reading(own),
            width=own.width,
        )
        for probe in probes:
            _prove(found, own, probe)
    return found


def _prove(attached: Attached, own: OwnForward, probe: Mapping[str, Tensor]) -> None:
    """Compare what the stages give with what the encoder gives, where tokens are real; one sample leaves half-way.

    What the encoder gives of a text must not depend on the padding behind it either.
    """
    wanted = own.model(**probe).last_hidden_state
    state: Any = probe
    keep = torch.arange(1, len(wanted), device=wanted.device)
    for i, stage in enumerate(attached.stages):
        state = stage(state)
        if i == 0:
            everything = state
        elif i == len(attached.stages) // 2:
            state = select(state, keep, len(wanted))
    for stage in attached.stages[1:]:
        everything = stage(everything)
    for rows, found in ((slice(None), everything), (keep, state)):
        ours, theirs, mask = attached.reading(found), wanted[rows], probe.get("attention_mask")
        if mask is not None and ours.shape == theirs.shape:
            real = mask[rows].bool()
            ours, theirs = ours[real], theirs[real]
        prove_equal(own.model, theirs, ours, "layer by layer its hidden states differ from its own")
    if "attention_mask" in probe:
        for ids, mask, hidden in zip(probe["input_ids"], probe["attention_mask"].bool(), wanted, strict=True):
            alone = own.model(input_ids=ids[mask][None]).last_hidden_state[0]
            prove_equal(
                own.model, alone, hidden[mask], "in a padded batch hidden states differ from those of a text alone"
            )


def _probes(encoder: Any) -> Iterator[dict[str, Tensor]]:
    """Yield made inputs: 3 texts of unlike lengths and 2 of one, short and long, or 3 and 2 images."""
    config, name = text_config(encoder), encoder.main_input_name
    if name == "input_ids":
        padding = getattr(config, "pad_token_id", None) or 0
        for length in probe_lengths(config):
            ids = probe_ids(encoder, 3, length)
            mask = torch.ones_like(ids)
            mask[1, -(length // 3 or 1) :], mask[2, -1:] = 0, 0
            yield {"input_ids": ids.masked_fill(mask == 0, padding), "attention_mask": mask}
            yield {"input_ids": ids[:2]}
    elif name == "pixel_values":
        pixels = torch.rand((3, *_image_shape(encoder)), generator=torch.Generator().manual_seed(0))
        pixels = pixels.to(next(encoder.parameters()).device)
        yield {name: pixels}
        yield {name: pixels[:2]}
    else:
        raise CannotAttach(encoder, f"it reads {name}, and only text and images can be tried here")


def _image_shape(encoder: Any) -> tuple[int, int, int]:
    """Return channels, height and width of the images that an encoder reads."""
    size, channels = (getattr(encoder.config, name, None) for name in ("image_size", "num_channels"))
    if isinstance(size, int):
        size = (size, size)
    if not isinstance(channels, int) or not isinstance(size, Sequence) or len(size) != 2:
        raise CannotAttach(encoder, "its configuration does not say how large the images are that it reads")
    return channels, int(size[0]), int(size[1])


def _given(own: OwnForward, inputs: Mapping[str, Tensor]) -> Given:
    """Return what the encoder gives its layers; of a text, a state for each token."""
    first, ids = next(iter(inputs.values())), inputs.get("input_ids")
    return own.given(len(first), lambda: own.model(**inputs), None if ids is None else ids.shape[1])


def _named(encoder: Any, inputs: Inputs | State) -> Mapping[str, Tensor]:
    return inputs if isinstance(inputs, Mapping) else {encoder.main_input_name: inputs}


def probes(encoder: nn.Module) -> list[dict[str, Tensor]]:
    """Return made inputs, as `attach` tries them: texts of unlike lengths with their mask and of one, or images."""
    return list(_probes(encoder))
