"""What all exits of a trained model say on given examples, kept in the cache beside the weights.

This is costlier than anything that is then done with it, and methods that differ only in their policy, or take the same
network for a rival, need it once.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.content_hash import bytes_of
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating
from eelit.methods.engine.timing import BATCH
from eelit.methods.engine.weights import trained
from eelit.methods.policies.base import ANSWER, Output, said


@torch.inference_mode()
def all_outputs(model: MultiExit, examples: Examples, bench: Bench, label: str) -> Output:
    """Return what all exits say on all examples, ``[E, N, ...]``, in the examples' order, in the host's memory.

    The network is in evaluation mode meanwhile, and may be on any device.
    """
    found, device = empty_like(model, examples), device_of(model)
    parts, done = found if isinstance(found, dict) else {ANSWER: found}, 0
    for index, x in examples.batches(BATCH, device=device):
        with evaluating(model):
            out = model(x)
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

    trained(kept, fill, bench, data="", settings={}, learns=False)  # what `fill` closes over says it all
    return kept.outputs


def digest(examples: Examples) -> str:
    """Identify the examples by their contents, in order."""
    h = hashlib.blake2b(bytes_of(examples.targets), digest_size=8)
    for x in examples.inputs:
        h.update(bytes_of(x))
    return h.hexdigest()
