"""Computation that is saved is time that is saved; `make bench` measures it on the trained network."""

import time

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from eelit.methods.backbones.encoder import PooledHead, pooler_of, stages_of
from eelit.methods.engine.costs import exit_costs, full_cost
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.policies.max_confidence import MaxConfidence

OWN, SAVED = 0.6, 0.35
"""Least share of a run's time that goes into the network itself, and least share of the saved computation that is saved
time: products of few rows are slower by as much as the machine likes, so that only `make bench` measures the latter."""
REPEATS = {8: 10, 32: 5, 128: 2}  # batch size → runs of which the best counts


@pytest.fixture(scope="module")
def model():
    """MiniLM's shape with random weights."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    encoder = BertModel(config).eval()
    stages = stages_of(encoder)
    return MultiExit(stages, [PooledHead(pooler_of(encoder), 2) for _ in stages]).eval()


@pytest.fixture
def one_thread():
    """Threads that wait for each other would measure the machine's other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.inference_mode()
def saving(model, x, wanted):
    """Return the policy that saves about this share of the MACs of a batch, and the share that it saves."""
    outputs, table, full = model(x), exit_costs(model, x[:1]), full_cost(model, x[:1])
    surest = outputs.softmax(dim=-1).amax(dim=-1).flatten().sort().values[:: len(x) // 8].tolist()
    saved = {c: 1 - np.take(table, replay(MaxConfidence(c), outputs)).mean() / full for c in surest}
    best = min(saved, key=lambda c: abs(saved[c] - wanted))
    return MaxConfidence(best), saved[best]


@torch.inference_mode()
def by_hand(model, x, exits):
    """Run just what a policy leaves to be run that stops samples at these exits ``[N]``, without any policy."""
    state, left = x, torch.as_tensor(exits)
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        head(state)
        stay = (left > i).nonzero().flatten()
        if not len(stay):
            break
        state, left = state[stay], left[stay]


@torch.inference_mode()
def times(model, x, policy):
    """Return seconds of the policy, of the same by hand and of the full model, each the best of some runs in turn."""
    exits = infer(model, x, policy).exits
    runs = [lambda: infer(model, x, policy), lambda: by_hand(model, x, exits), lambda: model.full(x)]
    best = [float("inf")] * 3
    for _ in range(REPEATS[len(x)]):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            best[i] = min(best[i], time.process_time() - start)
    return best


@pytest.mark.parametrize(("batch", "wanted"), [(8, 0.75), (32, 0.5), (32, 0.75), (128, 0.5), (128, 0.75)])
def test_saved_computation_is_saved_time(model, one_thread, batch, wanted):
    """What asking, dropping and putting together take is little beside the network; a noisy machine has three tries."""
    x = torch.randint(0, 1000, (batch, 28), generator=torch.Generator().manual_seed(1))
    policy, saved = saving(model, x, wanted)
    assert saved == pytest.approx(wanted, abs=0.05)
    tried = [times(model, x, policy) for _ in range(3)]
    assert any(hand / ours >= OWN and 1 - ours / full >= SAVED * saved for ours, hand, full in tried), tried
