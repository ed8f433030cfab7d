"""Make the outputs of exits that come with eelit again: python site/examples/logits.py [NAME…].

A network that was trained before comes from the cache; else it is trained, which takes some minutes each.
"""

import sys

import numpy as np
import torch

from eelit.methods.data.cache import cache_root
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.own.shipped import Shipped, shipped


def make(example: Shipped) -> None:
    """Ask all exits of the network of an example, and write down what they say in half precision."""
    track = TRACKS[example.track]
    torch.set_num_threads(track.threads or torch.get_num_threads())
    method = registry.get(example.method).variant(example.variant)
    method = method.replace({name: value for name, value in track.settings.items() if hasattr(method, name)})
    bench = Bench(seed=example.seed, test=max(example.splits.values()), cache=cache_root())
    prepared = method.prepare(bench)
    parts = [(prepared.split(split), slice(samples)) for split, samples in example.splits.items()]
    np.savez_compressed(
        example.path,
        logits=np.concatenate([part.answers.numpy()[:, some] for part, some in parts], axis=1).astype(np.float16),
        labels=np.concatenate([part.targets.numpy()[some] for part, some in parts]).astype(np.int8),
        costs=np.concatenate([part.costs[:, some] for part, some in parts], axis=1).astype(np.float32),
        plain_costs=np.concatenate([part.static_costs[:, some] for part, some in parts], axis=1).mean(axis=1),
        unit="MACs",
    )
    print(f"wrote {example.path} ({example.path.stat().st_size / 1000:.0f} kB)")


for name in sys.argv[1:] or shipped():
    make(shipped()[name])
