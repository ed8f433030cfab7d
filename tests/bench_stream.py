"""Time saved beside computation saved where samples come in a stream: `python tests/bench_stream.py [repeats]`.

PABEE's trained network of the text track, on two threads, on test sentences of one length that come one by one, eight
or 32 at a time, stopped by the largest probability where half of the MACs are saved: the full model for each batch as
it comes, `infer` for each, and `infer_stream`, which joins survivors again. Then what `infer` itself takes over a loop
written by hand, with the same stages and heads, on twelve layers of MiniLM's width at batch 1 and 64; and, without a
bar, on twelve layers that cost next to nothing. It leaves with 1 if a bar is missed, or if the stream's exits differ
from those of `infer`.
"""

import statistics
import sys
import time

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from eelit.methods.backbones.encoder import PooledHead, pooler_of, stages_of
from eelit.methods.data.cache import cache_root
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import registry, runner
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.own.stream import infer_stream
from eelit.methods.policies.max_confidence import MaxConfidence

THREADS, SAVED, SAMPLES = 2, 0.5, 512
ARRIVALS, EFFICIENCY = (1, 8, 32), 0.95
ALONE, OVERHEAD = (1, 64), 0.10  # batch sizes, and most that `infer` may take over a loop by hand
LEFT_AT_EDGE = 0.005  # share of samples who may leave elsewhere, for a threshold is met by rounding
LAYERS, TOKENS = 12, 28


def in_turn(runs, repeats):
    """Return the median seconds of each run, all of them taken in turn, after one round to warm up."""
    seconds = {name: [] for name in runs}
    for k in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            if not k:
                seconds[name].clear()
    return {name: statistics.median(each) for name, each in seconds.items()}


def trained():
    """Return PABEE's network and test sentences ``[n, T]`` of the most frequent length, as many as the stream has."""
    method = runner.given(registry.get("zhou2020pabee"), TRACKS["text"].settings)
    prepared = method.prepare(Bench(cache=cache_root(), test=1000))
    by_length = {}
    for x in prepared.split("test").examples.inputs:
        by_length.setdefault(len(x), []).append(x)
    return prepared.model, torch.stack(max(by_length.values(), key=len))


@torch.inference_mode()
def threshold(model, x):
    """Return the policy that saves about half of the MACs of sentences, and the share that it saves."""
    outputs, table, full = model(x), costs.exit_costs(model, x[:1]), costs.full_cost(model, x[:1])
    every = [MaxConfidence(float(c)) for c in np.linspace(0.5, 1, 201)]
    share = [1 - np.take(table, replay(policy, outputs)).mean() / full for policy in every]
    best = int(np.argmin(np.abs(np.array(share) - SAVED)))
    return every[best], share[best]


def streams(repeats):
    """Print a line for each arrival size; return whether all reach the bar with the same exits."""
    model, some = trained()
    policy, _ = threshold(model, some)
    x = some[torch.arange(SAMPLES) % len(some)]
    where = runner.machine()
    print(f"{where.processor}, {where.threads} threads, load {where.load}, torch {torch.__version__}")
    print(f"{SAMPLES} sentences of {x.shape[1]} tokens, {len(some)} of them different, {policy}")
    print("arrival  MACs saved  time saved: infer  efficiency  infer_stream  efficiency  exits that differ")
    good, wanted = True, infer(model, x, policy).exits
    for size in ARRIVALS:
        came = x.split(size)

        @torch.inference_mode()
        def full(came=came):
            for part in came:
                model.full(part)

        def streamed(came=came):
            return torch.cat([told.exits for told in infer_stream(model, came, policy)])

        differ = float((streamed() != wanted).float().mean())
        saved = 1 - costs.count(streamed) / costs.count(full)
        taken = in_turn(
            {
                "full": full,
                "infer": lambda came=came: [infer(model, part, policy) for part in came],
                "stream": streamed,
            },
            repeats,
        )
        alone, ours = (1 - taken[name] / taken["full"] for name in ("infer", "stream"))
        met = ours / saved >= EFFICIENCY and differ <= LEFT_AT_EDGE
        good &= met
        print(
            f"{size:7}  {saved:10.3f}  {alone:17.3f}  {alone / saved:10.3f}  {ours:12.3f}  {ours / saved:10.3f}"
            f"  {differ:17.4f}{'' if met else f'  missed: {EFFICIENCY}'}",
            flush=True,
        )
    return good


@torch.inference_mode()
def by_hand(model, x, limit):
    """What one would write oneself for a threshold of the largest probability."""
    state, rest, found = x, torch.arange(len(x)), []
    exits = torch.full((len(x),), model.exits - 1)
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        logits = head(state)
        stop = logits.softmax(dim=-1).amax(dim=-1) >= limit
        if i == model.exits - 1 or stop.all():
            exits[rest] = i
            found.append((rest, logits))
            break
        if stop.any():
            exits[rest[stop]] = i
            found.append((rest[stop], logits[stop]))
            state, rest = state[~stop], rest[~stop]
    order = torch.cat([rows for rows, _ in found]).argsort()
    return exits, torch.cat([logits for _, logits in found])[order]


def encoder(width, layers=LAYERS):
    """Return an encoder of the shape of MiniLM with random weights, whose every layer is an exit."""
    torch.manual_seed(0)
    made = BertModel(
        BertConfig(
            vocab_size=1000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32,
            intermediate_size=4 * width,
        )
    ).eval()  # fmt: skip
    stages = stages_of(made)
    return MultiExit(stages, [PooledHead(pooler_of(made), 2) for _ in stages]).eval()


def perceptron(width, layers=LAYERS):
    """Return as many layers that cost next to nothing."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers)]
    return MultiExit(stages, [nn.Linear(width, 2) for _ in stages]).eval()


def overhead(model, inputs, title, repeats, bar):
    """Print what `infer` takes over the loop, where nobody leaves early and where half of the MACs are saved.

    Returns whether it is within the bar, if there is one.
    """
    print(f"{title}\nbatch  who leaves  by hand, ms  infer, ms  overhead")
    good = True
    for size in ALONE:
        x = inputs(size)
        for name, policy in (("nobody", MaxConfidence(1.1)), ("half saved", threshold(model, x)[0])):
            limit = policy.threshold
            assert torch.equal(infer(model, x, policy).exits, by_hand(model, x, limit)[0])
            taken = in_turn(
                {
                    "hand": lambda x=x, limit=limit: by_hand(model, x, limit),
                    "infer": lambda x=x, policy=policy: infer(model, x, policy),
                },
                repeats * (10 if size == 1 else 1),
            )
            over = taken["infer"] / taken["hand"] - 1
            missed = bar is not None and over > bar
            good &= not missed
            print(
                f"{size:5}  {name:10}  {taken['hand'] * 1e3:11.3f}  {taken['infer'] * 1e3:9.3f}  {over:8.1%}"
                f"{f'  missed: {bar:.0%}' if missed else ''}",
                flush=True,
            )
    return good


def overheads(repeats):
    """Print the tables; return whether the bar is met by the network that does something."""

    def tokens(size):
        return torch.randint(0, 1000, (size, TOKENS), generator=torch.Generator().manual_seed(1))

    def numbers(size):
        return torch.randn((size, 32), generator=torch.Generator().manual_seed(1))

    small = f"{LAYERS} linear layers of width 32, without a bar: what asking {LAYERS} times takes by itself"
    met = overhead(encoder(384), tokens, f"{LAYERS} layers of MiniLM's width, {TOKENS} tokens", repeats, OVERHEAD)
    overhead(perceptron(32), numbers, small, repeats, None)
    return met


def main(repeats):
    """Print both tables; return whether all bars are met."""
    torch.set_num_threads(THREADS)
    met = [streams(repeats), overheads(repeats)]
    return all(met)


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 7) else 1)
