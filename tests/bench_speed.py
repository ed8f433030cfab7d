"""How much of the saved computation is saved time: `python tests/bench_speed.py [repeats] [--keep]`, by `make bench`.

The trained networks of PABEE on test sentences of the text track, and of SDN on test images of the image tracks, with
as many threads as the track has, stopped by the largest probability, from token ids or pixels to predictions, exit
heads and policy included. Beside it, in turn in the same process: the full model, a batch that waits for its hardest
member (what toolkits do that stop whole batches), and one sample at a time in a Python loop (what the published BERT
codes do). Where half of the MACs are saved, also a stream of such batches, the survivors of which are joined
(`infer_stream`). Efficiency is the share of time saved over the share of MACs saved. Then, by batch size, what a sample
pays for a stage and for being asked at an exit (head, policy, bookkeeping): why time saved lags behind. On the image
tracks also how it is in larger networks of the same kind, untrained, of which the same share leaves at each exit.

It ends with 1 if a cell misses the floor of `eelit.methods.harness.speed`. With ``--keep`` the site shows what was
measured: on a machine that does nothing else.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
from torch import Tensor

from eelit.methods.data.cache import cache_root
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench, Method
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.harness import bench, registry, runner
from eelit.methods.harness.speed import FLOOR, GOAL, HALF, LARGE, Cell, Price, Size, Speed, keep
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.own.stream import infer_stream
from eelit.methods.policies.base import Policy
from eelit.methods.policies.max_confidence import MaxConfidence

SAVED = (0.25, 0.5, 0.75)
SAMPLES = {1: 32, 8: 96, 32: 192, 128: 256}  # batch size → samples timed at once
LOOP = 32  # samples of a cell that the loop over single ones takes
STREAM, JOINED = 512, 64  # samples of a stream, and of how many in it a stage is run
BLOCKS = (3, 4, 6)  # of each width, in networks of the image tracks' kind; the first is the tracks' own
NEVER = MaxConfidence(1.1)  # every exit is asked, and nobody leaves


@torch.inference_mode()
def waiting(model: MultiExit, x: Tensor, policy: Policy) -> Tensor:
    """Run a batch until its last member is sure: nobody leaves before the others."""
    memory, state, done = policy.start(), x, None
    for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
        state = stage(state)
        output = head(state)
        if i == model.exits - 1:
            break
        memory, stop = policy.step(memory, output)
        done = stop if done is None else done | stop
        if done.all():
            break
    return output


@torch.inference_mode()
def full(model: MultiExit, x: Tensor) -> Tensor:
    """Run the plain network."""
    return model.full(x)


def batches(seen: StoredOutputs, size: int) -> list[Tensor]:
    """Return batches of the size, filled with sentences of one length: the track's own lengths, most frequent first."""
    found: dict[int, list[Tensor]] = {}
    for x in seen.examples.inputs:
        found.setdefault(len(x), []).append(x)
    longest = sorted(found.values(), key=len, reverse=True)
    groups = [group[i : i + size] for group in longest for i in range(0, len(group) - size + 1, size)]
    groups = groups or [(longest[0] * size)[:size]]
    return [torch.stack(group) for group in groups[: max(1, SAMPLES[size] // size)]]


def threshold(seen: StoredOutputs, saved: float) -> MaxConfidence:
    """Return the policy that saves about this share of the MACs."""

    def missed(policy: MaxConfidence) -> float:
        exits = replay(policy, seen.outputs)
        spent = seen.costs[exits, np.arange(len(exits))].sum() / seen.full_costs.sum()
        return abs(float(1 - spent - saved))

    return min((MaxConfidence(float(c)) for c in np.linspace(0.5, 1.0, 101)), key=missed)


def medians(runs: dict[str, Callable[[Tensor], object]], chosen: list[Tensor], repeats: int) -> dict[str, float]:
    """Return the seconds each takes for all batches: every batch in turn by all, medians of a batch added up."""
    for run in runs.values():
        run(chosen[0])  # warms up
    total = dict.fromkeys(runs, 0.0)
    for x in chosen:
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run(x)
                seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            total[name] += statistics.median(values)
    return total


def stream(model: MultiExit, policy: Policy, chosen: list[Tensor], repeats: int) -> float:
    """Return the share of the full model's time that is saved where the batches come again and again in a stream."""
    came = chosen * math.ceil(STREAM / sum(map(len, chosen)))
    runs = {
        "stream": lambda _: [told.exits for told in infer_stream(model, came, policy, batch=JOINED)],
        "full": lambda _: [full(model, x) for x in came],
    }
    timed = medians(runs, came[:1], repeats)
    return 1 - timed["stream"] / timed["full"]


def operating_point(seen: StoredOutputs, model: MultiExit, saved: float, size: int, repeats: int) -> Cell:
    """Print the line of one operating point and batch size, and return what it says of our way."""
    policy, chosen = threshold(seen, saved), batches(seen, size)
    alone = max(1, LOOP // len(chosen))  # samples of each batch that the loop takes
    timed = medians(
        {
            "ours": lambda x: infer(model, x, policy),
            "full": lambda x: full(model, x),
            "waits": lambda x: waiting(model, x, policy),
            "loop": lambda x: [infer(model, one, policy) for one in x[:alone].split(1)],
        },
        chosen,
        repeats,
    )
    timed["loop"] *= size / min(alone, size)
    spent = costs.count(lambda: [infer(model, x, policy) for x in chosen])
    macs = 1 - spent / costs.count(lambda: [full(model, x) for x in chosen])
    share = {name: 1 - t / timed["full"] for name, t in timed.items()}
    joined = stream(model, policy, chosen, repeats) if saved == HALF else None
    cell = Cell(aimed=saved, batch=size, saved=macs, time_saved=share["ours"], joined=joined)
    print(
        f"{size:5}  {macs:10.3f}  {share['ours']:10.3f}  {cell.efficiency:9.3f}{'<' if cell.efficiency < GOAL else ' '}"
        f"  {share['waits']:23.3f}  {share['loop']:22.3f}  {'' if joined is None else f'{joined / macs:18.3f}'}",
        flush=True,
    )
    return cell


def price(seen: StoredOutputs, model: MultiExit, size: int, repeats: int) -> Price:
    """Print what a stage and an exit cost in batches of one size: why fewer MACs are not as much less time."""
    chosen = batches(seen, size)
    timed = medians({"asked": lambda x: infer(model, x, NEVER), "full": lambda x: full(model, x)}, chosen, repeats)
    samples, asked = size * len(chosen), model.exits - 1
    stage = timed["full"] / samples / model.exits * 1000
    one_exit = (timed["asked"] - timed["full"]) / samples / asked * 1000
    print(f"{size:5}  {stage:14.3f}  {one_exit:15.3f}  {one_exit / stage:19.3f}", flush=True)
    return Price(batch=size, stage=stage, exit=one_exit)


def leaving(answers: Tensor, share: float) -> MaxConfidence:
    """Return the policy under which this share of those who come leaves at each exit, of answers ``[E, n, C]``."""
    surest, thresholds = answers.softmax(-1).amax(-1), []
    staying = torch.ones(answers.shape[1], dtype=torch.bool)
    for at_exit in surest[:-1]:
        thresholds.append(at_exit[staying].quantile(1 - share).item())
        staying &= at_exit < thresholds[-1]
    return MaxConfidence(thresholds)


@torch.inference_mode()
def size(method: ImageMethod, blocks: int, images: Tensor, repeats: int) -> Size:
    """Print the lines of a network with so many blocks of each width, and return what they say."""
    larger: ImageMethod = method.replace({"blocks": blocks})
    model = larger.deployed(larger.build(larger.load(), seed=0))
    answers, cells = model(images), []
    alone = costs.count(lambda: full(model, images[:1]))

    def saved(policy: Policy, x: Tensor) -> float:
        return 1 - costs.count(lambda: infer(model, x, policy)) / (alone * len(x))

    for batch in LARGE:
        parts = [*images.split(batch)]
        policies = [leaving(answers, share) for share in np.linspace(0.1, 0.5, 21).tolist()]
        policy = min(policies, key=lambda each: abs(sum(saved(each, x) for x in parts) / len(parts) - HALF))
        timed = medians({"ours": partial(infer, model, policy=policy), "full": partial(full, model)}, parts, repeats)
        macs = sum(saved(policy, x) for x in parts) / len(parts)
        cells.append(Cell(aimed=HALF, batch=batch, saved=macs, time_saved=1 - timed["ours"] / timed["full"]))
        print(f"{blocks:6}  {alone / 1e6:12.0f}  {batch:5}  {macs:10.3f}  {cells[-1].efficiency:9.3f}", flush=True)
    return Size(macs=alone, blocks=blocks, cells=cells)


def main(repeats: int, kept: bool) -> int:
    """Print a table for each network; return 1 if one misses the floor."""
    missed = False
    for track, key in (("text", "zhou2020pabee"), ("images", "kaya2019sdn"), ("images-plain", "kaya2019sdn")):
        torch.set_num_threads(TRACKS[track].threads or os.cpu_count() or 1)
        print(f"\n{TRACKS[track].title}")
        speed = table(track, key, runner.given(registry.get(key), TRACKS[track].settings), repeats)
        for cell in speed.below:
            print(f"below {FLOOR}: batch {cell.batch} at {cell.saved:.2f} of the MACs saved")
        missed |= bool(speed.below)
        if kept:
            print(f"kept as {keep(speed, bench.folder())}")
    return int(missed)


def table(track: str, key: str, method: Method, repeats: int) -> Speed:
    """Print one line per operating point and batch size, then what stages and exits cost; return what was measured."""
    prepared: Prepared = method.prepare(Bench(cache=cache_root(), test=1000))
    seen, model, where = prepared.split("test"), prepared.model, runner.machine()
    print(f"{where.processor}, {where.threads} threads, load {where.load}, torch {torch.__version__}")
    print(
        "batch  MACs saved  time saved  efficiency  batch waits: time saved  one by one: time saved  stream: efficiency"
    )
    found = [operating_point(seen, model, saved, size, repeats) for saved in SAVED for size in SAMPLES]
    print(f"{sum(cell.efficiency >= GOAL for cell in found)} of {len(found)} cells reach {GOAL}; `<` marks the others")
    print("batch  stage, ms each  exit asked, ms  exits' share of stage")
    prices = [price(seen, model, batch, repeats) for batch in SAMPLES]
    sizes = []
    if isinstance(method, ImageMethod):
        print("blocks  million MACs  batch  MACs saved  efficiency (untrained networks)")
        images = torch.stack(list(seen.examples.inputs[: max(LARGE)]))
        sizes = [size(method, blocks, images, repeats) for blocks in BLOCKS]
    now = datetime.now(UTC).replace(microsecond=0)
    return Speed(
        track=track, key=key, code=bench.code(key), created=now, commit=runner.commit(), versions=runner.versions(),
        machine=runner.machine(), cells=found, prices=prices, sizes=sizes,
    )  # fmt: skip


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--keep"]
    sys.exit(main(int(given[0]) if given else 7, "--keep" in sys.argv))
