"""What only SplitEE promises: the bandit, the cost, what the device may know, and agreement with the released code."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eelit.methods.claims.bajpai2023splitee import Trials, regret_falls, side_helps
from eelit.methods.engine.costs import MacCounter, exit_costs
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.families.split import Executed, Meter, full_cost
from eelit.methods.harness import registry
from eelit.methods.policies.bandit import Tally, Ucb1
from eelit.methods.policies.offload import SplitRule, Stored, drive, hindsight, regret

KEY = "bajpai2023splitee"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
RULE = SplitRule(tuple(range(5)), threshold=0.7, price=0.1, offload=0.3)
SIDES = ("none", "observed", "released")


@pytest.fixture(scope="module")
def stream():
    """Confidences ``[5, 3000]`` that rise with depth, samples of different ease."""
    rng = np.random.default_rng(0)
    ease = rng.normal(size=3000)
    return Stored(1 / (1 + np.exp(-np.abs(ease + np.linspace(0.2, 3, 5)[:, None] + rng.normal(0, 0.3, (5, 3000))))))


def test_ucb_by_hand():
    bandit = Ucb1(2)
    tally = Tally(4, np.array([3, 1]), np.array([0.5, 0.2]))
    assert bandit.bounds(tally) == pytest.approx([0.5 + np.sqrt(np.log(4) / 3), 0.2 + np.sqrt(np.log(4))])
    assert bandit.choose(tally) == 1
    assert Ucb1(2, beta=0.0).choose(tally) == 0
    after = bandit.update(tally, {0: 0.9})
    assert (after.rounds, after.counts.tolist(), after.means.tolist()) == (5, [4, 1], pytest.approx([0.6, 0.2]))
    assert (tally.rounds, tally.counts.tolist(), tally.means.tolist()) == (4, [3, 1], [0.5, 0.2])  # a pure value


def test_reward_by_hand():
    assert RULE.reward(1, 0.8, None, last=4) == pytest.approx(0.8 - 0.2)
    assert RULE.reward(1, 0.7, None, last=4) == pytest.approx(0.7 - 0.2)  # the threshold itself is enough
    assert RULE.reward(1, 0.6, 0.9, last=4) == pytest.approx(0.9 - 0.2 - 0.3)
    assert RULE.reward(1, 0.6, None, last=4) is None  # the cloud was not asked: nothing is known
    assert RULE.reward(4, 0.6, None, last=4) == pytest.approx(0.6 - 0.5)  # nowhere to send it from the last exit


def test_free_rewards_are_confidences(stream):
    free = dataclasses.replace(RULE, price=0.0, offload=0.0)
    c = stream.confidences
    assert np.allclose(hindsight(free, c), np.where(c >= 0.7, c, c[-1]))


def test_cost_by_hand():
    cuts, sent = np.array([0, 2, 4, 2]), np.array([False, False, False, True])
    assert RULE.costs(cuts, sent) == pytest.approx([1.0, 2.6, 4.2, 2.6 + 3.0])  # 0.8 (i - 1) + 1, o = 3 lambda
    side = dataclasses.replace(RULE, side="observed")
    assert side.costs(cuts, sent) == pytest.approx([1.0, 3.0, 5.0, 3.0 + 3.0])  # i
    assert full_cost(5) == pytest.approx(4.2)


@pytest.mark.parametrize("side", SIDES)
def test_ends_of_the_threshold(stream, side):
    never = drive(dataclasses.replace(RULE, threshold=0.0, side=side), stream, 500)
    assert not never.offloaded.any()
    always = drive(dataclasses.replace(RULE, threshold=1.1, side=side), stream, 500)
    assert (always.offloaded == (always.cuts != 4)).all()
    assert (always.exits(4) == 4).all()


def test_every_arm_is_pulled_and_counts_are_rounds(stream):
    told = drive(RULE, stream, 400)
    assert told.cuts[:5].tolist() == [0, 1, 2, 3, 4]
    assert told.tally.counts.tolist() == np.bincount(told.cuts, minlength=5).tolist()
    assert told.tally.rounds == told.tally.counts.sum() == 400


def test_deeper_pulls_update_shallower_arms(stream):
    released = drive(dataclasses.replace(RULE, side="released"), stream, 400)
    assert (np.diff(released.tally.counts) <= 0).all()
    assert released.tally.counts[0] == 400
    told = drive(dataclasses.replace(RULE, side="observed"), stream, 400)
    pulls = np.bincount(told.cuts, minlength=5)
    assert (told.tally.counts >= pulls).all()
    assert told.tally.counts.sum() > 400


def test_dear_offloading_teaches_the_last_layer(stream):
    told = drive(dataclasses.replace(RULE, price=0.0, offload=1000.0, threshold=0.9), stream, 2000)
    assert np.bincount(told.cuts[1000:], minlength=5)[4] == 1000


@pytest.mark.parametrize("side", ["none", "released"])
def test_regret_per_round_falls_towards_zero(side):
    rng = np.random.default_rng(1)
    c = rng.uniform(0.85, 1.0, (5, 8000)) * np.array([0.5, 0.75, 1, 1, 1])[:, None]
    rule = dataclasses.replace(RULE, side=side)
    per_round = regret(rule, c, drive(rule, Stored(c), 8000).cuts) / np.arange(1, 8001)
    assert per_round[-1] < per_round[1999] < per_round[299]
    means = np.sort(hindsight(rule, c).mean(axis=1))
    assert per_round[-1] < 0.4 * (means[-1] - means[-2])  # it is not stuck at the second best


def test_the_loop_learns_from_what_it_paid_for_alone(stream):
    class Strict(Stored):
        def device(self, sample, exits):
            self.__dict__["at"] = (sample, max(exits))
            return super().device(sample, exits)

        def cloud(self, sample):
            assert self.at == (sample, self.at[1])
            assert self.confidences[self.at[1], sample] < 0.7
            assert self.at[1] < 4
            return super().cloud(sample)

    for side in ("none", "observed"):
        rule = dataclasses.replace(RULE, side=side)
        spoilt = stream.confidences.copy()
        told = drive(rule, Strict(stream.confidences), 300)
        below = np.arange(5)[:, None] < told.cuts if side == "none" else np.zeros((5, 300), dtype=bool)
        unseen = (np.arange(5)[:, None] > told.cuts) | below
        unseen[4] &= ~told.offloaded
        spoilt[:, :300][unseen] = np.nan
        again = drive(rule, Stored(spoilt), 300)
        assert again.cuts.tolist() == told.cuts.tolist()
        assert drive(rule, stream, 100).cuts.tolist() == told.cuts[:100].tolist()  # the future plays no part


@pytest.mark.parametrize("side", ["none", "observed"])
def test_device_and_cloud_execute_their_own_part_alone(prepared, side):
    _, _, ready = prepared(KEY)
    model, examples = ready.model, ready.streams["test"].examples
    x = examples.inputs[0][None]
    upto = exit_costs(model, x)
    meter = Meter(model)
    world = Executed(model, examples, meter)
    watched = [1] if side == "none" else [0, 1]
    with MacCounter() as device:
        world.device(0, watched)
    with torch.inference_mode(), MacCounter() as first_head:
        model.heads[0](model.stages[0](x))
    head = first_head.macs - stage_macs(model, x)
    assert device.macs == upto[1] - (head if side == "none" else 0)
    assert meter.stages == {"device": 2, "cloud": 0}
    assert meter.heads == {"device": len(watched), "cloud": 0}
    rule = dataclasses.replace(RULE, side=side)
    assert meter.cost(rule) == pytest.approx(rule.costs(np.array([1]), np.array([False]))[0])
    world.cloud(0)
    assert (meter.stages["cloud"], meter.heads["cloud"]) == (2, 1)
    assert meter.cost(rule) == pytest.approx(rule.costs(np.array([1]), np.array([True]))[0])
    with torch.inference_mode():
        assert torch.allclose(world.answers[0], model.full(x)[0], atol=1e-5)


def stage_macs(model, x):
    with torch.inference_mode(), MacCounter() as counter:
        model.stages[0](x)
    return counter.macs


def test_ends_of_the_knob_leave_one_arm(prepared):
    method, _, _ = prepared(KEY)
    assert method.rule(0.0, 6).layers == (0,)
    assert method.rule(2.0, 6).layers == (5,)
    assert method.rule(0.7, 6).layers == (0, 1, 2, 3, 4, 5)


def test_agrees_with_the_released_code():
    """Both scripts' bandits, arm by arm, from the same plays of each arm beforehand (see `provenance` in the file)."""
    golden = json.loads(GOLDEN.read_text())
    p, y = np.array(golden["probability_of_class_1"]), np.array(golden["labels"])
    world, said = Stored(np.maximum(p, 1 - p)), (p > 0.5).astype(int)
    for run in golden["runs"]:
        plain = SplitRule(tuple(range(12)), run["threshold"], run["price"], run["offload"])
        before = dataclasses.replace(drive(plain, world, 12).tally, rounds=1)  # its plays beforehand, its t
        rule = dataclasses.replace(plain, side="released" if run["script"] == "splitee_s.py" else "none")
        told = drive(rule, world, p.shape[1], before)
        assert told.cuts.tolist() == run["arms"]
        assert told.offloaded.sum() == run["offloaded"]
        assert rule.costs(told.cuts, told.offloaded).sum() * rule.price == pytest.approx(run["cost"])
        answers = said[told.exits(11), np.arange(len(y))]
        assert (answers == y).mean() == pytest.approx(run["accuracy"])


def test_simpler_rules_stay_on_the_device(prepared):
    method, bench, ready = prepared(KEY)
    static, sure = method.baselines(ready, bench)
    quality, cost = method.full_model(ready, bench)
    exits = ready.model.exits
    assert (static.test[-1].quality, static.test[-1].cost) == (pytest.approx(quality), pytest.approx(cost))
    assert [p.cost for p in static.test] == pytest.approx([full_cost(i) for i in range(1, exits + 1)])
    assert sure.test[0].cost == pytest.approx(1.0)
    assert sure.test[-1].cost == pytest.approx(exits)
    assert len(method.each_exit(ready, bench)[0]) == exits


def test_the_device_alone_is_timed_and_one_by_one(prepared):
    method, bench, ready = prepared(KEY)
    exits = ready.model.exits
    assert method.time(ready, bench, method.knobs[0], 32) is None
    cheap, whole = (method.time(ready, bench, knob, 1) for knob in (method.knobs[0], method.knobs[-1]))
    for timing in (cheap, whole):
        told = drive(method.rule(timing.knob, exits), Stored(ready.streams["test"].confidences), timing.samples)
        device = np.mean([0.8 * (cut + 1) + 0.2 for cut in told.cuts])  # a head at the cut alone, sending left out
        assert timing.saved == pytest.approx(1 - device / full_cost(exits))
        assert timing.seconds > 0
        assert timing.full_seconds > 0


# The wiring


@pytest.mark.parametrize(("variant", "side"), [("SplitEE", "none"), ("SplitEE-S", "observed")])
def test_splitee_s_asks_all_exits_on_the_way_and_splitee_the_one_at_the_cut(variant, side, stream):
    method, asked = registry.get(KEY).variant(variant, "tiny"), []

    class Watched(Stored):
        def device(self, sample, exits):
            asked.append(tuple(exits))
            return super().device(sample, exits)

    rule = method.rule(0.7, 5)
    told = drive(rule, Watched(stream.confidences), 300)
    way = [tuple(range(cut + 1)) if side == "observed" else (cut,) for cut in told.cuts.tolist()]
    assert asked == way
    assert (rule.side, rule.price, rule.offload, rule.beta, rule.threshold) == (side, 0.2, 0.2, 1.0, 0.7)


def test_the_network_learns_from_the_source_alone_with_depth_weights(stages):
    method = registry.get(KEY).variant("SplitEE", "tiny")
    (stage,) = stages(method)
    source, _ = method.load()
    assert torch.equal(stage.train.targets, source.train.targets)
    index = torch.tensor([0, 3, 5])
    x = torch.stack([source.train.inputs[i] for i in index.tolist()])
    model = method.build(source, 0).eval()
    logits = torch.stack([head(state) for head, state in zip(model.heads, model.states(x), strict=True)])
    nll = -logits.log_softmax(-1).gather(-1, source.train.targets[index].expand(4, -1)[..., None]).mean(dim=(1, 2))
    expected = (1 * nll[0] + 2 * nll[1] + 3 * nll[2] + 4 * nll[3]) / 10  # sum_i i L_i / sum_i i, as deviation 3 says
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert sorted(set(stage.rates.values())) == [method.rate, method.head_rate]
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)


def test_training_cannot_see_the_test_part_of_the_source(monkeypatch):
    method, known = registry.get(KEY).variant("SplitEE", "tiny"), []
    monkeypatch.setattr(type(method), "train", lambda self, model, data, bench: known.append(data))
    method.prepare(Bench(test=8))
    with pytest.raises(TestDataAsked):
        known[0].test.head(1)


def test_streams_come_in_an_order_of_their_own_for_each_seed():
    method = registry.get(KEY).variant("SplitEE", "tiny")
    one, two = (method.prepare(Bench(seed=seed, test=50, most_steps=0)).streams["test"] for seed in (0, 1))
    assert not torch.equal(one.examples.targets, two.examples.targets)
    assert torch.equal(one.examples.targets.sort()[0], two.examples.targets.sort()[0])


# The claims


def test_regret_and_side_observations_are_told_as_they_are():
    falling = Trials(0.9, 1.0, 0.1, np.array([1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]), 1.0)
    rising = dataclasses.replace(falling, regret=np.array([0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert regret_falls(falling).holds
    assert not regret_falls(rising).holds
    assert side_helps({"none": rising, "observed": falling, "released": falling}).holds
    assert not side_helps({"none": falling, "observed": rising, "released": falling}).holds


def test_no_stream_is_looked_at_further_than_the_bench_says(prepared):
    method, bench, ready = prepared(KEY)
    few = method.prepare(dataclasses.replace(bench, test=20))
    assert [len(stream.examples) for stream in few.streams.values()] == [20, 20]
    assert [len(stream.examples) for stream in ready.streams.values()] == [300, 400]
