"""Put exits on your own network: `attach` proves that at full depth it says what it said before, or refuses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eelit.methods.backbones import attached as encoders
from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.backbones.own_forward import CannotAttach, prove_equal, trial
from eelit.methods.engine.multi_exit import MultiExit, device_of, select
from eelit.methods.own.batches import Inputs, inputs_of, on, samples_of
from eelit.methods.own.cutting import AT, answer_of, blocks, cut
from eelit.methods.own.heads import (
    Carrying,
    ExitHead,
    Factory,
    Mean,
    Whole,
    arguments_of,
    made_in,
    shape_of,
    trained_head,
)
from eelit.methods.own.network import Made, Network
from eelit.methods.own.tokens import TokenNetwork
from eelit.methods.policies.base import said

__all__ = ["CannotAttach", "attach"]

AUTO: Literal["auto"] = "auto"
PROBED = 3  # samples of a probe that are looked at


def attach(
    model: nn.Module,
    after: Sequence[str | int] = (),
    *,
    every: str | None = None,
    heads: Factory | Literal["auto"] = AUTO,
    keep_head: bool = True,
    outputs: int | None = None,
    probe: Inputs | None = None,
) -> Network | TokenNetwork:
    """Return a network with exits that computes by the model's own modules, and shares its weights.

    Args:
        model: an encoder of transformers, with or without a head for a task; a language model of transformers, whose
            every layer is an exit through its one output head (`tokens.TokenNetwork`); or any network that gives logits
            ``[N, C]`` (or values ``[N]``, ``[N, 1]``) and consists of modules that can be named, such as a torchvision
            CNN.
        after: where exits stand beside the last: names of modules (``"layer1"``, ``"layer2.0"``), or of an encoder of
            transformers also numbers of layers, from 1.
        every: ``"block"``, which is meant if nothing is said: after each layer of an encoder, or each of the modules
            made of others that stand in a row.
        heads: ``"auto"``, a linear head on the mean over places or over tokens but padding; or a function from the
            shape of a sample's state and the number of outputs to a module (see `heads.Factory`).
        keep_head: the last exit answers by the head that the model has; else all heads are new, and what the model has
            behind the last place is left out.
        outputs: classes, 1 for a value; needed where no head is kept.
        probe: some samples on which the proof is tried, as a batch is given to the model; needed unless the model is of
            transformers. With it a model of transformers that is no such encoder is cut at modules like any other.

    Raises `CannotAttach` with the reason if the parts, called one after the other, also for fewer samples than before,
    do not give what the model gives, and `ValueError` for arguments that do not go together.

    >>> from eelit.methods.policies.max_confidence import MaxConfidence
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> samples = torch.randn(5, 8)
    >>> network = attach(model, ["1", "3"], probe=samples)
    >>> network.places, network.exits
    (('after 1', 'after 3', 'at its end'), 3)
    >>> said = network.collect([(samples, torch.zeros(5, dtype=torch.int64))])  # what all exits say: logits [E, N, C]
    >>> said.z.shape, said.unit
    ((3, 5, 3), 'MACs')
    >>> found = network.infer(samples, MaxConfidence(1.1))  # more than any confidence: nobody leaves early
    >>> found.exits.tolist(), bool(torch.equal(found.answers, model(samples)))
    ([2, 2, 2, 2, 2], True)
    """
    if every not in (None, "block") or (every and after):
        raise ValueError('places are named by `after`, or are all with every="block"')
    if outputs is not None and outputs < 1:
        raise ValueError(f"a network has at least one output, not {outputs}")
    if _is_language_model(model):
        if after or heads != AUTO or not keep_head:
            raise CannotAttach(model, "every layer of a language model is an exit through its one output head")
        return TokenNetwork(ExitDecoder(model), model)
    if getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification":
        raise CannotAttach(model, "it tells several labels of a sample at once, and an exit rule asks for one answer")
    if type(model).__name__.endswith("ForConditionalGeneration"):
        raise CannotAttach(
            model,
            "it writes by an encoder and a decoder together; take a language model that is a decoder alone "
            "(…ForCausalLM), or, to classify, an encoder such as BERT",
        )
    made = Made(tuple(after), heads == AUTO, keep_head, outputs)
    factory: Factory = Mean if heads == AUTO else heads
    if _is_encoder(model):
        return _on_encoder_or_modules(model, made, factory, probe)
    if any(isinstance(place, int) for place in after):
        raise CannotAttach(model, "numbers of layers are those of an encoder of transformers; name modules instead")
    if probe is None:
        raise CannotAttach(model, "to prove that it stays as it is, give some samples by probe=")
    return _on_modules(model, made, factory, probe)


def _is_language_model(model: Any) -> bool:
    names = [kind.__name__ for kind in type(model).__mro__]
    return hasattr(model, "config") and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _is_encoder(model: Any) -> bool:
    return hasattr(getattr(model, "config", None), "get_text_config") and hasattr(model, "base_model")


# Encoders of transformers


def _on_encoder_or_modules(model: Any, made: Made, factory: Factory, probe: Inputs | None) -> Network:
    """Take the layers of an encoder; where that cannot be, cut the model at its modules, if there are samples to try.

    Raises `CannotAttach` with the reasons of all that was tried.
    """
    try:
        return _on_encoder(model, made, factory, probe)
    except CannotAttach as error:
        if probe is None or any(isinstance(place, int) for place in made.after):
            raise
        first = error
    try:
        return _on_modules(model, made, factory, probe)
    except CannotAttach as error:
        raise CannotAttach(
            model, f"as an encoder, {_reason(first)}; and cut at modules as any other network, {_reason(error)}"
        ) from error


def _reason(error: CannotAttach) -> str:
    return str(error).partition(": ")[2]


def _on_encoder(model: Any, made: Made, factory: Factory, probe: Inputs | None) -> Network:
    body = model.base_model
    found = encoders.attach(body)
    ends = _layers(model, [stage.layer for stage in found.stages], made.after)
    own = encoders.probes(body)
    probes: list[Inputs] = [*own]
    if probe is not None:
        probes.append(on(device_of(model), _some(model, inputs_of(probe))))
    keep = made.keep_head and body is not model
    with trial(model):
        last = trained_head(model, found.reading, own[0]) if keep else None
        answers = [answer_of(model, _run(model, each)) for each in probes] if keep else []
    classes = _outputs(model, made, answers)
    named = (each for each in probes if keep and isinstance(each, Mapping))
    names = tuple(dict.fromkeys(name for each in named for name in each if name != "pixel_values"))
    stages: list[nn.Module] = [
        Carrying(found.stages[0], found.reading, names, arguments_of(body)),
        *found.stages[1:],
    ]
    groups = [stages[a:b] for a, b in pairwise([0, *ends])]
    parts = [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]
    with trial(model):  # whose modules behind the layers may bring states to another precision
        dtype = found.reading(found.stages[0](own[0])).dtype
    new = [
        ExitHead(made_in(dtype, factory, (0, found.width), classes), found.reading) for _ in parts[: len(parts) - keep]
    ]
    network = MultiExit(parts, [*new, *([last] if last else [])]).to(device_of(model)).eval()
    with trial(model):
        for each in probes[:: max(1, len(probes) - 1)]:  # the first, and the last, which may be the user's
            _check_heads(model, network, each, classes)
        for each, answer in zip(probes, answers, strict=False):
            _prove(model, network, each, answer)
        if probe is not None and not keep:
            _prove_states(body, network, found.reading, probes[-1])
    places = [f"after layer {end} of {ends[-1]}" for end in ends]
    return Network(network, model, made, places, classes)


def _prove_states(body: Any, network: MultiExit, reading: nn.Module, probe: Inputs) -> None:
    """Compare what heads read behind the last layer with what the encoder gives by itself, where tokens are real."""
    state: Any = probe
    for stage in network.stages:
        state = stage(state)
    ours, theirs = reading(state), _run(body, probe).last_hidden_state
    mask = probe.get("attention_mask") if isinstance(probe, Mapping) else None
    if mask is not None and ours.shape == theirs.shape:
        ours, theirs = ours[mask.bool()], theirs[mask.bool()]
    prove_equal(body, theirs, ours, "layer by layer its hidden states differ from its own")


def _layers(model: nn.Module, layers: Sequence[nn.Module], after: Sequence[str | int]) -> list[int]:
    """Return after how many layers exits stand, the last included."""
    known = {id(layer): i for i, layer in enumerate(layers, 1)}
    found = set() if after else set(range(1, len(layers) + 1))
    for place in after:
        if isinstance(place, int):
            number: int | None = place
        else:
            module = dict(model.named_modules()).get(place)
            number = known.get(id(module))
            if number is None:
                raise CannotAttach(
                    model, f"{place!r} is none of its {len(layers)} layers; give numbers from 1, or probe="
                )
        if number is None or not 1 <= number <= len(layers):
            raise CannotAttach(model, f"it has layers 1 to {len(layers)}, and no {number}")
        found.add(number)
    return sorted({*found, len(layers)})


# Any other network


def _on_modules(model: nn.Module, made: Made, factory: Factory, probe: Inputs) -> Network:
    _named_if_several(model, probe)
    some = on(device_of(model), _some(model, inputs_of(probe)))
    given = list(some) if isinstance(some, Mapping) else None
    named = [str(place) for place in made.after]
    with trial(model):
        parts = cut(model, named or blocks(model), given, lenient=not named)
        seen: dict[str, Any] = {}
        with ExitStack() as hooks:
            for name in parts.places:
                hooks.callback(model.get_submodule(name).register_forward_hook(partial(_noted, seen, name)).remove)
            answer = answer_of(model, _run(model, some))
        stages: list[nn.Module] = list(parts.parts if made.keep_head else parts.parts[:-1])
        read, state = [], some
        for stage, name in zip(stages, parts.places, strict=False):
            state = stage(state)
            if not isinstance(state[AT], Tensor):
                raise CannotAttach(model, f"{name!r} gives a {type(state[AT]).__name__}, which no head can read")
            prove_equal(model, seen[name], state[AT], f"part by part, what {name!r} gives differs")
            read.append((state[AT].dtype, shape_of(state)))
    classes = _outputs(model, made, [answer])
    heads: list[nn.Module] = [ExitHead(made_in(dtype, factory, shape, classes), None) for dtype, shape in read]
    if made.keep_head:
        heads.append(Whole())
    network = MultiExit(stages, heads).to(device_of(model)).eval()
    with trial(model):
        _check_heads(model, network, some, classes)
        if made.keep_head:
            _prove(model, network, some, answer)
    places = [*(f"after {name}" for name in parts.places), *(["at its end"] if made.keep_head else [])]
    return Network(network, model, made, places, classes, probe=some)


def _named_if_several(model: nn.Module, probe: Any) -> None:
    """Refuse a tuple of several inputs, of which the second would be taken for labels."""
    arguments = inspect.signature(model.forward).parameters.values()
    needed = [
        each.name
        for each in arguments
        if each.default is inspect.Parameter.empty and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    if not isinstance(probe, Mapping) and (len(needed) > 1 or (isinstance(probe, tuple | list) and len(probe) > 2)):
        raise CannotAttach(
            model,
            f"its forward takes {', '.join(needed)}; give a probe of several inputs as a dictionary by their names",
        )


def _some(model: nn.Module, probe: Inputs) -> Inputs:
    """Return a few samples of a probe, several in any case."""
    tensors = list(probe.values()) if isinstance(probe, Mapping) else [probe]
    sizes = {len(part) for part in tensors if part.dim()}
    if len(sizes) != 1 or not min(sizes):
        raise CannotAttach(
            model, f"the probe is of {sorted(sizes)} samples; the first axis of all its tensors is the sample"
        )
    rows = torch.arange(PROBED) % min(sizes)
    found: Inputs = select(probe, rows.to(tensors[0].device))
    return found


def _run(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _noted(seen: dict[str, Any], name: str, module: nn.Module, args: Any, out: Any) -> None:
    seen[name] = out


# What both share


def _outputs(model: nn.Module, made: Made, answers: Sequence[Tensor]) -> int:
    """Return how many outputs new heads have."""
    own = (answers[0].shape[1] if answers[0].dim() == 2 else 1) if answers else None
    if made.outputs is None and own is None:
        raise CannotAttach(model, "it has no head to keep; say by outputs= how many classes new heads tell apart")
    if made.keep_head and own is not None and made.outputs not in (None, own):
        raise CannotAttach(model, f"its head has {own} outputs, not {made.outputs}; try keep_head=False")
    found = made.outputs or own
    assert found is not None
    return found


def _check_heads(model: nn.Module, network: MultiExit, probe: Inputs, classes: int) -> None:
    """Refuse heads that do not give one answer for each sample."""
    n, state = samples_of(probe), probe
    wanted = [n, classes] if classes > 1 else [n]
    for i, (stage, head) in enumerate(zip(network.stages, network.heads, strict=True), 1):
        state = stage(state)
        out = said(head(state))
        if not isinstance(out, Tensor) or list(out.shape) != wanted:
            told = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise CannotAttach(model, f"the head at exit {i} gives {told}, not one answer for each sample, {wanted}")


def _prove(model: nn.Module, network: MultiExit, probe: Inputs, answer: Tensor) -> None:
    """Compare the last exit's answer with the model's: of all samples, of fewer behind each stage, of each alone."""
    said = "part by part it does not say what it says by itself"
    prove_equal(model, answer, answer_of(model, _run(model, probe)), "asked twice it says two things")
    prove_equal(model, answer, network.full(probe), said)
    keep = torch.arange(1, len(answer), device=answer.device)
    for leaving in range(network.exits - 1):
        state: Any = probe
        for i, stage in enumerate(network.stages):
            state = stage(state)
            state = select(state, keep, len(answer)) if i == leaving else state
        prove_equal(model, answer[keep], network.heads[-1](state), "when samples leave, others get another answer")
    for i in range(len(answer)):
        alone = select(probe, torch.tensor([i], device=answer.device), len(answer))
        prove_equal(model, answer[i : i + 1], network.full(alone), "what a sample gets depends on its batch")
