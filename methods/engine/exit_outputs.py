"""What all exits of a trained model say on given examples, kept in the cache beside the weights.

This is dearer than anything that is then done with it, and methods that differ only in their policy, or take the same
network for a rival, need it once.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.timing import BATCH
from eelit.methods.recipes.fit import PLAIN, sources_of, trained


@torch.inference_mode()
def all_outputs(model: MultiExit, examples: Examples, bench: Bench, label: str) -> Tensor:
    """Return the outputs of all exits for all examples, ``[E, N, C]`` or ``[E, N]``, in the examples' order."""
    found: Tensor | None = None
    done = 0
    for index, x in examples.batches(BATCH):
        out = model(x)
        if found is None:
            found = out.new_empty((out.shape[0], len(examples), *out.shape[2:]))
        found[:, index] = out
        done += len(index)
        bench.progress(label, done / len(examples))
    if found is None:
        raise ValueError("no examples")
    return found.clone()


class Answers(nn.Module):
    """Logits ``[E, N, C]`` as something that the cache of trained weights can keep."""

    outputs: Tensor

    def __init__(self, model: MultiExit, examples: Examples) -> None:
        super().__init__()
        with torch.inference_mode():
            shape = model(examples.inputs[0][None]).shape
        self.register_buffer("outputs", torch.zeros(shape[0], len(examples), *shape[2:]))


def remembered(model: MultiExit, examples: Examples, bench: Bench, part: str) -> Tensor:
    """Return the outputs of all exits for a part of the data, ``[E, N, C]`` or ``[E, N]``, in the examples' order."""
    answers = Answers(model, examples)

    def fill() -> None:
        answers.outputs.copy_(all_outputs(model, examples, bench, f"all exits on {len(examples)} {part} samples"))

    trained(answers, fill, bench, data=digest(examples), settings={"model": identity(model)}, learns=False)
    return answers.outputs


def digest(examples: Examples) -> str:
    """Identify the examples by their contents, in order."""
    h = hashlib.blake2b(examples.targets.numpy().tobytes(), digest_size=8)
    for x in examples.inputs:
        h.update(x.numpy().tobytes())
    return h.hexdigest()


def identity(model: MultiExit) -> str:
    """Identify a model by its weights, and by the source and the plain attributes of its modules."""
    h = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        h.update(name.encode())
        h.update(tensor.numpy().tobytes())
    for name, module in model.named_modules():
        h.update(f"{name} {sorted((k, v) for k, v in vars(module).items() if isinstance(v, PLAIN))}".encode())
    h.update("\n".join(sources_of([all_outputs, *{type(m) for m in model.modules()}])).encode())
    return h.hexdigest()
