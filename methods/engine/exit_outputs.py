"""What all exits of a trained model say on given examples, kept in the cache beside the weights.

This is dearer than anything that is then done with it, and methods that differ only in their policy, or take the same
network for a rival, need it once.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating
from eelit.methods.engine.timing import BATCH
from eelit.methods.engine.weights import attributes_of, sources_of, trained
from eelit.methods.policies.base import ANSWER, Output, said


@torch.inference_mode()
def all_outputs(model: MultiExit, examples: Examples, bench: Bench, label: str) -> Output:
    """Return what all exits say on all examples, ``[E, N, ...]``, in the examples' order, in the host's memory.

    The network is in evaluation mode meanwhile, and may be on any device.
    """
    found, device = empty_like(model, examples), device_of(model)
    parts, done = found if isinstance(found, dict) else {ANSWER: found}, 0
    for index, x in examples.batches(BATCH):
        with evaluating(model):
            out = model(x.to(device))
        for name, part in parts.items():
            part[:, index] = said(out, name).cpu()
        done += len(index)
        bench.progress(label, done / len(examples))
    return found


@torch.inference_mode()
def empty_like(model: MultiExit, examples: Examples) -> Output:
    """Return zeros of the shape of what all exits say on all examples."""
    if not len(examples):
        raise ValueError("no examples")
    with evaluating(model):
        one = model(examples.inputs[0][None].to(device_of(model)))
    return pytree.tree_map(
        lambda part: torch.zeros(len(part), len(examples), *part.shape[2:], dtype=part.dtype).clone(), one
    )


class Kept(nn.Module):
    """Outputs of all exits as something that the cache of trained weights can keep: a buffer for each part."""

    def __init__(self, like: Output) -> None:
        super().__init__()
        self.whole = not isinstance(like, dict)
        for name, part in ({ANSWER: like} if self.whole else like).items():
            self.register_buffer(name, part.clone())

    @property
    def outputs(self) -> Output:
        """What is kept, in the form in which the model gives it."""
        parts = dict(self.named_buffers())
        return parts[ANSWER] if self.whole else parts


def remembered(model: MultiExit, examples: Examples, bench: Bench, part: str) -> Output:
    """Return what all exits say on a part of the data, ``[E, N, ...]``, in the examples' order."""
    kept = Kept(empty_like(model, examples))

    def fill() -> None:
        said_now = all_outputs(model, examples, bench, f"all exits on {len(examples)} {part} samples")
        for name, buffer in kept.named_buffers():
            buffer.copy_(said(said_now, name))

    trained(kept, fill, bench, data=digest(examples), settings={"model": identity(model)}, learns=False)
    return kept.outputs


def digest(examples: Examples) -> str:
    """Identify the examples by their contents, in order."""
    h = hashlib.blake2b(_bytes(examples.targets), digest_size=8)
    for x in examples.inputs:
        h.update(_bytes(x))
    return h.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor of any type (numpy has no bfloat16), on any device."""
    return tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()


def identity(model: MultiExit) -> str:
    """Identify a model by its weights, and by the source and the plain attributes of its modules."""
    h = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        h.update(name.encode())
        h.update(_bytes(tensor))
    h.update("\n".join(attributes_of(model)).encode())
    h.update("\n".join(sources_of([all_outputs, *{type(m) for m in model.modules()}])).encode())
    return h.hexdigest()
