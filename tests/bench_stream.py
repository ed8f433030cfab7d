"""Time saved beside computation saved where samples come in a stream: `python tests/bench_stream.py [repeats]`.

PABEE's trained network of the text track, on two threads, on test sentences of one length that come one by one, eight
or 32 at a time, stopped by the largest probability where half of the MACs are saved: the full model for each batch as
it comes, `infer` for each, and `infer_stream`, which joins survivors again. Then what `infer` itself takes over a loop
written by hand, with the same stages, heads, thresholds and selections, on a network of twelve layers, at batch 1 and
64. It leaves with 1 if a bar is missed, or if the stream's exits are not those of `infer`.
"""

import statistics
import sys
import time

import numpy as np
import torch
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
LAYERS, WIDTH, TOKENS = 12, 64, 8  # small, so that what is not the network counts


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
    print(f"{SAMPLES} sentences of {x.shape[1]} tokens ({len(some)} different), {policy}; {runner.machine()}")
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
    state, rest = x, torch.arange(len(x))
    exits = torch.full((len(x),), model.exits - 1)
    answers = [None] * len(x)
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        logits = head(state)
        stop = logits.softmax(dim=-1).amax(dim=-1) >= limit
        if i == model.exits - 1:
            stop[:] = True
        if stop.any():
            for row, answer in zip(rest[stop].tolist(), logits[stop], strict=True):
                answers[row] = answer
            exits[rest[stop]] = i
            if stop.all():
                break
            state, rest = state[~stop], rest[~stop]
    return exits, torch.stack(answers)


def overhead(repeats):
    """Print what `infer` takes over the loop at each batch size, where nobody leaves before the end and where half
    is saved; return whether it is within the bar."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=4 * WIDTH
    )
    encoder = BertModel(config).eval()
    stages = stages_of(encoder)
    model, good = MultiExit(stages, [PooledHead(pooler_of(encoder), 2) for _ in stages]).eval(), True
    print(f"{LAYERS} layers of width {WIDTH}, {TOKENS} tokens")
    print("batch  stops            by hand, ms  infer, ms  overhead")
    for size in ALONE:
        x = torch.randint(0, 1000, (size, TOKENS), generator=torch.Generator().manual_seed(1))
        for name, limit in (("nobody", 1.1), ("where half is saved", threshold(model, x)[0].threshold)):
            policy = MaxConfidence(limit)
            assert torch.equal(infer(model, x, policy).exits, by_hand(model, x, limit)[0])
            taken = in_turn(
                {
                    "hand": lambda x=x, limit=limit: by_hand(model, x, limit),
                    "infer": lambda x=x, policy=policy: infer(model, x, policy),
                },
                30 * repeats,
            )
            over = taken["infer"] / taken["hand"] - 1
            good &= over <= OVERHEAD
            print(
                f"{size:5}  {name:19}  {taken['hand'] * 1e3:8.3f}  {taken['infer'] * 1e3:9.3f}  {over:8.1%}"
                f"{'' if over <= OVERHEAD else f'  missed: {OVERHEAD:.0%}'}",
                flush=True,
            )
    return good


def main(repeats):
    """Print both tables; return whether all bars are met."""
    torch.set_num_threads(THREADS)
    met = [streams(repeats), overhead(repeats)]
    return all(met)


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 7) else 1)
