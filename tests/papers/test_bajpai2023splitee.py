"""What only SplitEE promises: the bandit, the cost, what the device may know, and agreement with the released code."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.claims import bajpai2023splitee as claimed
from eelit.methods.claims.bajpai2023splitee import Trials, hindsight, regret, regret_falls, side_helps
from eelit.methods.engine import tasks
from eelit.methods.engine import timing as engine_timing
from eelit.methods.engine.costs import MacCounter, exit_costs
from eelit.methods.engine.examples import Examples, TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.families.split import Executed, Meter, Seen, Stored, confidence, full_cost
from eelit.methods.harness import registry
from eelit.methods.papers.bajpai2023splitee import SplitRule
from eelit.methods.policies.bandit import Tally, Ucb1

KEY = "bajpai2023splitee"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
RULE = SplitRule(tuple(range(5)), alpha=0.7, lam=0.1, o=0.3)
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
    assert RULE.r(2, 0.8, None, L=5) == pytest.approx(0.8 - 0.2)
    assert RULE.r(2, 0.7, None, L=5) == pytest.approx(0.7 - 0.2)  # the threshold itself is enough
    assert RULE.r(2, 0.6, 0.9, L=5) == pytest.approx(0.9 - 0.2 - 0.3)
    assert RULE.r(2, 0.6, None, L=5) is None  # the cloud was not asked: nothing is known
    assert RULE.r(5, 0.6, None, L=5) == pytest.approx(0.6 - 0.5)  # nowhere to send it from the last exit


def test_free_rewards_are_confidences(stream):
    free = dataclasses.replace(RULE, lam=0.0, o=0.0)
    c = stream.confidences
    assert np.allclose(hindsight(free, c), np.where(c >= 0.7, c, c[-1]))


def test_cost_by_hand():
    cuts, sent = np.array([0, 2, 4, 2]), np.array([False, False, False, True])
    assert RULE.costs(cuts, sent) == pytest.approx([1.0, 2.6, 4.2, 2.6 + 3.0])  # 0.8 (i - 1) + 1, o = 3 lambda
    side = dataclasses.replace(RULE, side="observed")
    assert side.costs(cuts, sent) == pytest.approx([1.0, 3.0, 5.0, 3.0 + 3.0])  # i
    assert full_cost(5) == pytest.approx(4.2)


def test_confidence_is_the_largest_probability():
    assert confidence(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log()) == pytest.approx([0.5, 0.7])


def test_a_confidence_at_the_threshold_is_enough_and_the_last_exit_sends_nothing():
    at = Stored(np.array([[0.7, 0.69], [0.1, 0.1]]))
    first, last = (SplitRule((layer,), 0.7, lam=0.1, o=0.3).drive(at, 2) for layer in (0, 1))
    assert first.offloaded.tolist() == [False, True]
    assert last.offloaded.tolist() == [False, False]


def test_an_operating_point_by_hand():
    """Four samples cut after the first of three layers; two are sent, at the price of three layers each."""
    p = torch.tensor([[0.9, 0.6, 0.8, 0.55], [0.5] * 4, [0.2, 0.3, 0.3, 0.6]])  # of class 0, at each exit
    targets = torch.tensor([0, 1, 0, 1])  # their exits, 0 2 0 2, say 0 1 0 0; the last exit says 1 1 1 0
    seen = Seen(Examples([torch.zeros(1)] * 4, targets), torch.stack([p, 1 - p], dim=-1).log())
    assert seen.full_quality == 0.25
    point = registry.get(KEY).point(seen, SplitRule((0,), alpha=0.7, lam=0.1, o=0.3), 0.7)
    assert point.cost == pytest.approx((1 + 4 + 1 + 4) / 4)
    assert point.speed_up == pytest.approx((0.8 * 3 + 0.2) / 2.5)
    assert (point.knob, point.quality, point.exits) == (0.7, 0.75, [0.5, 0.0, 0.5])


@pytest.mark.parametrize("side", SIDES)
def test_ends_of_the_threshold(stream, side):
    never = dataclasses.replace(RULE, alpha=0.0, side=side).drive(stream, 500)
    assert not never.offloaded.any()
    always = dataclasses.replace(RULE, alpha=1.1, side=side).drive(stream, 500)
    assert (always.offloaded == (always.cuts != 4)).all()
    assert (always.exits(4) == 4).all()


def test_every_arm_is_pulled_and_counts_are_rounds(stream):
    told = RULE.drive(stream, 400)
    assert told.cuts[:5].tolist() == [0, 1, 2, 3, 4]
    assert told.tally.counts.tolist() == np.bincount(told.cuts, minlength=5).tolist()
    assert told.tally.rounds == told.tally.counts.sum() == 400


def test_deeper_pulls_update_shallower_arms(stream):
    released = dataclasses.replace(RULE, side="released").drive(stream, 400)
    assert (np.diff(released.tally.counts) <= 0).all()
    assert released.tally.counts[0] == 400
    told = dataclasses.replace(RULE, side="observed").drive(stream, 400)
    pulls = np.bincount(told.cuts, minlength=5)
    assert (told.tally.counts >= pulls).all()
    assert told.tally.counts.sum() > 400


def test_dear_offloading_teaches_the_last_layer(stream):
    told = dataclasses.replace(RULE, lam=0.0, o=1000.0, alpha=0.9).drive(stream, 2000)
    assert np.bincount(told.cuts[1000:], minlength=5)[4] == 1000


@pytest.mark.parametrize("side", ["none", "released"])
def test_regret_per_round_falls_towards_zero(side):
    rng = np.random.default_rng(1)
    c = rng.uniform(0.85, 1.0, (5, 8000)) * np.array([0.5, 0.75, 1, 1, 1])[:, None]
    rule = dataclasses.replace(RULE, side=side)
    per_round = regret(rule, c, rule.drive(Stored(c), 8000).cuts) / np.arange(1, 8001)
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
        told = rule.drive(Strict(stream.confidences), 300)
        below = np.arange(5)[:, None] < told.cuts if side == "none" else np.zeros((5, 300), dtype=bool)
        unseen = (np.arange(5)[:, None] > told.cuts) | below
        unseen[4] &= ~told.offloaded
        spoilt[:, :300][unseen] = np.nan
        again = rule.drive(Stored(spoilt), 300)
        assert again.cuts.tolist() == told.cuts.tolist()
        assert rule.drive(stream, 100).cuts.tolist() == told.cuts[:100].tolist()  # the future plays no part


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
    world.device(1, watched)
    sure = world.cloud(1)
    with torch.inference_mode():
        for sample in (0, 1):
            whole = model.full(examples.inputs[sample][None])[0]
            assert torch.allclose(world.answers[sample], whole, atol=1e-5)
        assert sure == pytest.approx(float(confidence(whole)), abs=1e-5)  # of the sample sent, not of the first one


def stage_macs(model, x):
    with torch.inference_mode(), MacCounter() as counter:
        model.stages[0](x)
    return counter.macs


def test_ends_of_the_knob_leave_one_arm(prepared):
    method, _, _ = prepared(KEY)
    assert method.rule(0.0, 6).layers == (0,)
    assert method.rule(2.0, 6).layers == (5,)
    for alpha in (0.7, 1.0):  # an exit may be wholly certain: at 1 there is something to learn
        assert method.rule(alpha, 6).layers == (0, 1, 2, 3, 4, 5)


def test_agrees_with_the_released_code():
    """Both scripts' bandits, arm by arm, from the same plays of each arm beforehand (see `provenance` in the file)."""
    golden = json.loads(GOLDEN.read_text())
    p, y = np.array(golden["probability_of_class_1"]), np.array(golden["labels"])
    world, said = Stored(np.maximum(p, 1 - p)), (p > 0.5).astype(int)
    for run in golden["runs"]:
        plain = SplitRule(tuple(range(12)), run["threshold"], run["price"], run["offload"])
        before = dataclasses.replace(plain.drive(world, 12).tally, rounds=1)  # its plays beforehand, its t
        rule = dataclasses.replace(plain, side="released" if run["script"] == "splitee_s.py" else "none")
        told = rule.drive(world, p.shape[1], before)
        assert told.cuts.tolist() == run["arms"]
        assert told.offloaded.sum() == run["offloaded"]
        assert rule.costs(told.cuts, told.offloaded).sum() * rule.lam == pytest.approx(run["cost"])
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
    held = ready.streams["validation"].full_quality
    assert held != quality
    assert static.validation[-1].quality == pytest.approx(held)
    facts, _ = method.each_exit(ready, bench)
    assert len(facts) == exits
    assert facts[-1].quality == pytest.approx(quality)


def test_the_device_alone_is_timed_and_one_by_one(prepared):
    method, bench, ready = prepared(KEY)
    exits = ready.model.exits
    assert method.time(ready, bench, method.knobs[0], 32) is None
    cheap, whole = (method.time(ready, bench, knob, 1) for knob in (method.knobs[0], method.knobs[-1]))
    for timing in (cheap, whole):
        told = method.rule(timing.knob, exits).drive(Stored(ready.streams["test"].confidences), timing.samples)
        device = np.mean([0.8 * (cut + 1) + 0.2 for cut in told.cuts])  # a head at the cut alone, sending left out
        assert timing.saved == pytest.approx(1 - device / full_cost(exits))
        assert timing.seconds > 0
        assert timing.full_seconds > 0


@pytest.mark.parametrize("variant", ["SplitEE", "SplitEE-S"])
def test_the_device_is_timed_from_its_first_stage_to_its_last_head(prepared, variant, monkeypatch):
    """By a clock that moves 8 seconds for a stage and 2 for a head: what the cloud does is not the device's time."""
    method, bench, ready = prepared(KEY, variant)
    exits, now = ready.model.exits, [1000.0]

    def takes(seconds):
        return lambda *_: now.__setitem__(0, now[0] + seconds)

    monkeypatch.setattr(engine_timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    hooks = [part.register_forward_hook(takes(8)) for part in ready.model.stages]
    hooks += [part.register_forward_hook(takes(2)) for part in ready.model.heads]
    for knob in (method.knobs[0], 0.7, method.knobs[-1]):
        timing, rule = method.time(ready, dataclasses.replace(bench, repeats=1), knob, 1), method.rule(knob, exits)
        told = rule.drive(Stored(ready.streams["test"].confidences), timing.samples)
        assert told.offloaded.any() == (knob == 0.7)
        heads = [len(rule.watched(rule.layers.index(cut))) for cut in told.cuts]
        assert timing.seconds == sum(8 * (cut + 1) + 2 * n for cut, n in zip(told.cuts, heads, strict=True))
        assert timing.full_seconds == timing.samples * (8 * exits + 2)
        spent = 0.8 * sum(told.cuts + 1) + 0.2 * sum(heads)
        assert timing.saved == pytest.approx(1 - spent / timing.samples / full_cost(exits))
    for hook in hooks:
        hook.remove()


def test_what_is_executed_and_timed_is_the_target_s_stream(prepared):
    method, bench, ready = prepared(KEY)
    target, bench = dataclasses.replace(ready, streams={"test": ready.streams["test"]}), Bench(repeats=1)
    for executed, samples in ((48, 24), (1, 1)):
        assert method.execute(target, dataclasses.replace(bench, executed=executed), 0.7).samples == samples
    assert method.time(target, bench, 0.7, 1).knob == 0.7
    assert method.full_model(target, bench)[0] == ready.streams["test"].full_quality


@pytest.mark.parametrize("differs", ["nowhere", "cut", "sent", "answer"])
def test_an_execution_that_differs_from_the_replay_is_told(prepared, differs):
    """In where it cut, whom it sent, or what was answered, all else being equal."""
    method, _, ready = prepared(KEY)
    seen, knob, n = ready.streams["test"], 0.7, 24
    if differs == "cut":  # nobody is ever sent
        knob = 1e-6
    elif differs == "sent":  # each arm is played once, whatever it brings
        n = ready.model.exits
    rule, world = method.rule(knob, ready.model.exits), Executed(ready.model, seen.examples)
    told = rule.drive(world, n)
    stored = Seen(seen.examples, seen.outputs.clone())
    stored.outputs[:, :n] = torch.stack(world.answers)  # the same answer, whoever gives it
    stored.confidences = seen.confidences.copy()
    if differs == "cut":
        stored.confidences = seen.confidences[::-1].copy()
    elif differs == "sent":
        stored.confidences[0, 0] = 1.0 if told.offloaded[0] else 0.0
    elif differs == "answer":
        stored.outputs[:, 0] = stored.outputs[:, 0].roll(1, -1)
    claimed = rule.drive(Stored(stored.confidences), n)
    assert (claimed.cuts != told.cuts).any() == (differs == "cut")
    assert (claimed.offloaded != told.offloaded).any() == (differs == "sent")
    other = dataclasses.replace(ready, streams={"test": stored})
    assert method.execute(other, Bench(executed=2 * n, repeats=1), knob).agrees == (differs == "nowhere")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SplitRule((0, 1.5), 0.5, 0.1, 0.1), "layers is one whole number"),
        (lambda: SplitRule((1, 0), 0.5, 0.1, 0.1), "layers are exits from 0, each later"),
        (lambda: SplitRule((0,), 0.5, -0.1, 0.1), "lam is one finite number of at least 0, not -0.1"),
        (lambda: SplitRule((0,), 0.5, 0.1, 0.1, "all"), "side is one of 'none', 'observed', 'released'"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(make, told):
    with pytest.raises(ValueError, match=f"SplitRule: {told}"):
        make()


# The wiring


def test_the_stream_is_the_target_s_test_part_and_none_of_what_the_network_learns_from(prepared):
    method, _, ready = prepared(KEY)
    source, stream = method.load()

    def texts(examples):
        return sorted((*x.tolist(), y) for x, y in zip(examples.inputs, examples.targets.tolist(), strict=True))

    assert texts(stream) == texts(tasks.text("digits", train=method.train_size, length=64).test)
    assert texts(ready.streams["test"].examples) == texts(stream)
    assert texts(ready.streams["validation"].examples) == texts(source.validation)


def test_source_and_target_are_different_domains(monkeypatch):
    """4,000 sentences of the source; of the target 2,000 reviews of at most 64 tokens, and nothing to train on."""
    asked = {}

    def asking(corpus, **cut):
        asked[corpus] = cut
        return SimpleNamespace(test=f"test part of {corpus}")

    monkeypatch.setattr(tasks, "text", asking)
    source, stream = registry.get(KEY).load()
    assert (source.test, stream) == ("test part of rotten-tomatoes", "test part of imdb")
    assert asked["rotten-tomatoes"] == {"train": 4000}
    assert (asked["imdb"]["length"], asked["imdb"]["test"]) == (64, 2000)
    assert asked["imdb"]["train"] <= 1


@pytest.mark.parametrize(("variant", "side"), [("SplitEE", "none"), ("SplitEE-S", "observed")])
def test_splitee_s_asks_all_exits_on_the_way_and_splitee_the_one_at_the_cut(variant, side, stream):
    method, asked = registry.get(KEY).variant(variant, "tiny"), []

    class Watched(Stored):
        def device(self, sample, exits):
            asked.append(tuple(exits))
            return super().device(sample, exits)

    rule = method.rule(0.7, 5)
    told = rule.drive(Watched(stream.confidences), 300)
    way = [tuple(range(cut + 1)) if side == "observed" else (cut,) for cut in told.cuts.tolist()]
    assert asked == way
    assert (rule.side, rule.lam, rule.o, rule.beta, rule.alpha) == (side, 0.2, 0.2, 1.0, 0.7)


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


def trials_with(*regret):
    return Trials(0.9, 1.0, 0.1, np.array(regret), 1.0)


@pytest.mark.parametrize(("whole", "holds"), [(5.9, True), (6.1, False), (8.0, False), (16.0, False)])
def test_regret_per_round_must_fall_by_a_quarter(whole, holds):
    """It is 1 after the first two of eight rounds."""
    assert regret_falls(trials_with(1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, whole)).holds is holds
    assert not regret_falls(trials_with(*[0.0] * 8)).holds


@pytest.mark.parametrize(("observed", "holds"), [(8.9, True), (9.1, False), (10.0, False)])
def test_watching_must_spare_a_tenth_of_the_regret(observed, holds):
    runs = {"none": trials_with(10.0), "observed": trials_with(observed), "released": trials_with(1.0)}
    assert side_helps(runs).holds is holds
    assert not side_helps(dict.fromkeys(runs, trials_with(0.0))).holds


def test_no_stream_is_looked_at_further_than_the_bench_says(prepared):
    method, bench, ready = prepared(KEY)
    few = method.prepare(dataclasses.replace(bench, test=20))
    assert [len(stream.examples) for stream in few.streams.values()] == [20, 20]
    assert [len(stream.examples) for stream in ready.streams.values()] == [300, 400]


@pytest.mark.parametrize(("dearest", "holds"), [(0.49, True), (0.51, False)])
def test_half_the_cost_must_be_saved_at_every_price_of_sending(prepared, monkeypatch, dearest, holds):
    """At all o but the largest, 0.6, a tenth of the cost is said to be spent."""
    method, bench, ready = prepared(KEY)
    asked = []

    def trials(stream, rule, repeats):
        asked.append(rule.o)
        return Trials(0.9, dearest if rule.o > 0.55 else 0.1, 0.1, np.ones(8), 1.0)

    monkeypatch.setattr(claimed, "trials", trials)
    points = method.sweep(ready, bench, "validation", method.knobs)
    curve = SimpleNamespace(validation=points, full_cost=1.0, full_quality=0.9)
    found = claimed.claims(method, ready, bench, curve)[0]
    assert (found.name, found.holds) == ("half the cost", holds)
    assert asked[:6] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_one_confidence_on_the_way_that_is_not_finite_is_told():
    """Others that are finite do not hide it."""
    told = SplitRule((0, 1, 2), 0.5, 0.1, 0.2, "observed").drive(
        Stored(np.array([[0.4, np.nan, 0.4, 0.4], [0.3, 0.3, 0.3, 0.3], [0.9, 0.9, 0.9, 0.9]])), 4
    )
    assert told.not_finite.tolist() == [False, True, False, False]
