"""What only big/LITTLE networks promise: the score margin by hand, energy and loss of a pair, and how theta is set."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import park2015biglittle as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import parted
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.park2015biglittle import BigLittle, Pair, Ran, adapted, chosen
from eelit.methods.policies.margin import Margin, margin
from eelit.methods.policies.raw_margin import RawMargin, raw_margin

KEY = "park2015biglittle"
INF = float("inf")
VARIANTS = list(BigLittle.variants)


def tiny(variant="probabilities", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


# The score margin.


def test_the_score_margin_by_hand():
    assert margin(np.log([[0.7, 0.2, 0.1]])).tolist() == pytest.approx([0.5])
    assert margin(np.zeros((1, 4))).tolist() == [0.0]
    assert raw_margin(np.array([[2.0, 3.1, -1.0], [5.0, 5.0, 1.0]])).tolist() == pytest.approx([1.1, 0.0])
    assert raw_margin(np.array([[2.0, -np.inf], [np.nan, 1.0]])).tolist()[:1] == [INF]
    assert np.isnan(raw_margin(np.array([[np.nan, 1.0]]))).all()


def test_a_margin_of_just_theta_is_enough_and_a_tie_is_sent_on():
    z = np.array([[[2.0, 0.5, 0.0]], [[0.0, 1.0, 0.0]]])
    for rule, found in ((Margin, float(margin(z[0])[0])), (RawMargin, 1.5)):
        assert replay(rule(found), z).tolist() == [0]
        assert replay(rule(np.nextafter(found, 9)), z).tolist() == [1]
        tie = np.zeros((2, 1, 3))
        assert replay(rule(0.0), tie).tolist() == [0]
        assert replay(rule(1e-9), tie).tolist() == [1]


def test_only_the_two_largest_scores_decide():
    z = np.random.default_rng(0).normal(size=(200, 6))
    ranked = np.sort(z, axis=1)
    assert raw_margin(z).tolist() == pytest.approx((ranked[:, -1] - ranked[:, -2]).tolist())
    others = z.copy()
    others[np.arange(200), z.argmin(axis=1)] -= 3
    assert raw_margin(others).tolist() == raw_margin(z).tolist()
    assert raw_margin(z + 7).tolist() == pytest.approx(raw_margin(z).tolist())
    assert ((margin(z) >= 0) & (margin(z) <= 1)).all()


def test_theta_at_its_ends():
    z = 3 * np.random.default_rng(0).normal(size=(2, 100, 10))
    for rule, never in ((Margin, 1.001), (RawMargin, INF)):
        assert (replay(rule(0.0), z) == 0).all()
        assert (replay(rule(never), z) == 1).all()
    assert replay(RawMargin((0.0,)), z).tolist() == [0] * 100
    alone = np.array([[[2.0, -np.inf]], [[0.0, 0.0]]])  # infinitely far ahead
    assert replay(RawMargin(1e9), alone).tolist() == [0]
    assert replay(RawMargin(INF), alone).tolist() == [1]


# Design time.


@pytest.fixture
def pair():
    """LITTLE is right on the second and the fourth of four, BIG on all but the last."""
    SM = np.array([0.1, 0.3, 0.5, 0.9])
    return Pair(SM, np.array([False, True, False, True]), np.array([True, True, True, False]), 2.0, 10.0)


def test_loss_and_energy_of_a_pair_by_hand(pair):
    """At 0.3 only the first is run on BIG: one mistake less than LITTLE's two, and the last is LITTLE's own."""
    assert [pair.loss(t) for t in (0.0, 0.3, 0.5, 0.51, 0.9, 0.91)] == pytest.approx([0.25, 0.0, 0.0, -0.25, -0.25, 0])
    assert [pair.energy(t) for t in (0.0, 0.1, 0.11, 0.9, 0.91, INF)] == [2.0, 2.0, 4.5, 9.5, 12.0, 12.0]


def test_theta_is_the_smallest_that_keeps_the_allowed_loss(pair):
    assert [pair.theta(a) for a in (0.25, 0.24, 0.0, -0.01, -0.25, -0.26, -INF)] == [0, 0.3, 0.3, 0.9, 0.9, INF, INF]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_chosen_keeps_the_loss_and_nothing_smaller_does(seed):
    rng = np.random.default_rng(seed)
    SM = rng.random(150)
    made = Pair(SM, rng.random(150) < 0.3 + 0.6 * SM, rng.random(150) < 0.9, 1.0, 20.0)
    energies = []
    for allowed in (0.3, 0.1, 0.05, 0.02, 0.0):
        theta = made.theta(allowed)
        assert made.loss(theta) <= allowed + 1e-9
        assert all(made.loss(t) > allowed for t in [0.0, *SM] if t < theta)
        energies.append(made.energy(theta))
    assert all(a <= b for a, b in pairwise(energies))
    rates = [made.energy(t) for t in np.linspace(0, 1.1, 50)]
    assert all(a <= b for a, b in pairwise(rates))


def test_the_pair_saves_energy_if_and_only_if_big_runs_seldom_enough(pair):
    for theta in (0.0, 0.2, 0.4, 0.6, 1.0):
        r = (theta > pair.SM).mean()
        assert (pair.energy(theta) < pair.e_b) == (r < 1 - pair.e_l / pair.e_b)


def test_who_has_no_margin_is_run_on_big():
    made = Pair(np.array([np.nan, 0.5]), np.array([True, True]), np.array([False, True]), 1.0, 8.0)
    assert (made.energy(0.0), made.loss(0.0)) == (5.0, 0.0)


def test_the_little_network_is_that_whose_pair_needs_least_energy_at_the_allowed_loss(pair):
    """A free one that is never right needs BIG for all; a dear one that is always right never does."""
    useless = pair._replace(little=np.zeros(4, dtype=bool), e_l=0.1)
    perfect = pair._replace(little=np.ones(4, dtype=bool), e_l=5.0)
    assert chosen([useless, pair, perfect], 0.0) == 1  # 10.1, 4.5 and 5
    assert chosen([useless, perfect], 0.0) == 1
    assert chosen([useless, pair, perfect], 1.0) == 0  # whatever it says
    assert chosen([pair, pair], 0.0) == 0


# Run time.


def test_theta_rises_where_too_many_differ_and_falls_where_few_would():
    """Every kept answer is audited; a step after each window, the first of which is only watched."""
    options = {"step": 0.1, "window": 4, "every": 4, "audit": 1.0, "seed": 0}
    bad = adapted(np.full(12, 0.5), np.zeros(12, dtype=bool), 0.3, 0.1, **options)
    assert bad.theta.tolist() == pytest.approx([0.3] * 4 + [0.4] * 4 + [0.5] * 4)
    assert bad.kept.all()
    later = adapted(np.full(24, 0.5), np.zeros(24, dtype=bool), 0.3, 0.1, **options)
    assert later.theta[12:].tolist() == pytest.approx([0.6] * 12)  # all would differ that a step lower would keep
    assert not later.kept[12:].any()
    good = adapted(np.full(20, 0.5), np.ones(20, dtype=bool), 0.15, 0.1, **options)
    assert good.theta.tolist() == pytest.approx([0.15] * 4 + [0.05] * 4 + [0.0] * 12)


def test_what_big_says_of_inputs_that_were_passed_on_counts_once_and_what_audits_find_as_often_as_they_are_rare():
    """Half of the inputs lie below theta, where a quarter differs; above it none does."""
    SM = np.array([0.2, 0.8] * 400)
    same = ~((SM < 0.5) & (np.arange(800) % 8 == 0))
    options = {"step": 0.4, "window": 400, "every": 400, "audit": 0.5, "seed": 0}
    for allowed, theta in ((0.124, 0.5), (0.126, 0.1)):
        ran = adapted(SM, same, 0.5, allowed, **options)
        assert ran.theta[400:].tolist() == pytest.approx([theta] * 400)
    above = ~((SM > 0.5) & (np.arange(800) % 8 == 1))
    found = np.where(above, 0.0, 2.0)[:400][adapted(SM, above, 0.5, 1.0, **options).big[:400]].sum() / 400
    assert found == pytest.approx(0.125, abs=0.06)
    for allowed, theta in ((found - 0.001, 0.9), (found + 0.001, 0.1)):
        assert adapted(SM, above, 0.5, allowed, **options).theta[-1] == pytest.approx(theta)


def test_theta_stays_where_it_is_just_high_enough():
    """A quarter may differ and does; a step lower another quarter would."""
    SM = np.array([0.9, 0.9, 0.9, 0.9, 0.4, 0.4, 0.4, 0.4] * 3)
    same = np.array([False, False, True, True, False, False, True, True] * 3)
    options = {"step": 0.2, "window": 8, "every": 8, "audit": 1.0, "seed": 0}
    assert adapted(SM, same, 0.5, 0.25, **options).theta.tolist() == pytest.approx([0.5] * 24)
    assert adapted(SM, same, 0.5, 0.5, **options).theta.tolist() == pytest.approx([0.5] * 8 + [0.3] * 8 + [0.1] * 8)
    assert adapted(SM, same, 0.5, 0.24, **options).theta.tolist() == pytest.approx([0.5] * 8 + [0.7] * 8 + [0.9] * 8)


def test_big_runs_on_what_is_not_kept_and_on_audits():
    rng = np.random.default_rng(1)
    SM, same = rng.random(4000), rng.random(4000) < 0.8
    ran = adapted(SM, same, 0.4, 1.0, step=0.0, window=50, every=10, audit=0.25, seed=3)
    assert ran.kept.tolist() == (SM >= 0.4).tolist()
    assert ran.big[~ran.kept].all()
    assert ran.big[ran.kept].mean() == pytest.approx(0.25, abs=0.03)


def test_nothing_moves_before_a_window_is_full_and_then_after_every_so_many_inputs():
    ran = adapted(np.ones(12), np.zeros(12, dtype=bool), 0.3, 0.1, step=0.1, window=5, every=3, audit=1.0, seed=0)
    assert ran.theta.tolist() == pytest.approx([0.3] * 6 + [0.4] * 3 + [0.5] * 3)


def steady(inputs):
    """Return margins of a stream that does not change, and where answers differ: the seldomer, the larger a margin."""
    rng = np.random.default_rng(5)
    SM = np.sqrt(rng.random(inputs))
    return SM, rng.random(inputs) < 0.5 * (1 - SM)


@pytest.mark.parametrize("allowed", [0.005, 0.01, 0.04])
@pytest.mark.parametrize("theta", [0.0, 0.5, 0.9])
def test_in_a_stream_that_does_not_change_the_allowed_share_is_kept_wherever_theta_begins(allowed, theta):
    """A window in which ten allowed differences are found lets theta end where just so many are, not at 0."""
    window = round(10 / (0.1 * allowed))
    SM, differ = steady(12 * window)
    ran = adapted(SM, ~differ, theta, allowed, step=0.025, window=window, every=window // 10, audit=0.1, seed=1)
    late = (ran.kept & differ)[6 * window :].mean()
    assert 0.5 * allowed <= late <= 1.5 * allowed


# What is built and trained.


def test_margins_of_other_scores_are_refused():
    method = tiny(scores="logits")
    with pytest.raises(ValueError, match="no margin of 'logits'; there are probabilities and raw scores"):
        method.build(method.load(), 0)


def test_there_must_be_a_candidate_and_an_allowed_loss():
    for settings, said in (
        ({"candidates": ()}, "no candidate for LITTLE"),
        ({"allowed": float("nan")}, "^BigLittle: allowed is one number"),
    ):
        method = tiny(**settings)
        with pytest.raises(ValueError, match=said):
            method.build(method.load(), 0)


@pytest.mark.parametrize(
    "bad", [{"audit": 0.0}, {"audit": 1.1}, {"window": 0}, {"every": 0}, {"step": -0.1}, {"step": INF}]
)
def test_theta_moves_by_numbers_that_make_sense(bad):
    options = {"step": 0.1, "window": 4, "every": 4, "audit": 0.5, "seed": 0, **bad}
    with pytest.raises(ValueError, match=f"^adapted: {next(iter(bad))} is one"):
        adapted(np.ones(8), np.ones(8, dtype=bool), 0.3, 0.1, **options)


def test_all_candidates_and_big_are_trained_and_two_of_them_are_deployed(wired, prepared):
    model, stages = wired(tiny(epochs=1.5, batch=50, rate=3e-3))
    assert len(model) == 4
    assert int(tiny().build(tiny().load(), 0).get_buffer("chosen")) == 0  # until design time
    assert [len(stage.train) for stage in stages] == [600, 600]
    for member, stage in zip(model.members[2:], stages, strict=True):
        assert stage.rates == {id(p): 3e-3 for p in member.parameters()}
        x, y = torch.stack(stage.train.inputs[:20]), stage.train.targets[:20]
        expected = F.cross_entropy(member.eval()(x), y).item()
        assert stage.loss(stage.batch_of(torch.arange(20), x)).item() == pytest.approx(expected, rel=1e-4)
    for variant in VARIANTS:
        assert len(prepared(KEY, variant)[2].model) == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_little_is_the_one_that_design_time_chooses_on_held_out_images(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    every = method.build(ready.data, 0)
    method.train(every, ready.data, Bench(cache=ready.bench.cache))
    number = int(every.get_buffer("chosen"))
    assert number == (2 if variant == "probabilities" else 0)  # of the latter a loss of a half is allowed
    held = parted(ready.data.validation, {"fitting": 0.5})["fitting"]
    x = torch.stack(list(held.inputs))
    said = [member(x) for member in every.members]
    score = margin if variant == "probabilities" else raw_margin
    energies = []
    for little, member in zip(said[:-1], every.members, strict=False):
        SM = score(little.detach()).double().numpy()
        right = [(z.argmax(-1) == held.targets).numpy() for z in (little, said[-1])]
        made = Pair(SM, *right, member.costs(x).mean(), every.members[-1].costs(x[:1])[0])
        energies.append(made.energy(made.theta(method.allowed)))
    assert number == int(np.argmin(energies))
    assert len(set(energies)) == 3
    assert ready.split("test").static_costs.mean(axis=1)[0] == pytest.approx(every.members[number].costs(x).mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_energy_is_that_of_little_and_of_big_as_often_as_it_runs(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    seen, held, made = ready.split("test"), ready.split("fitting"), ready.fitted
    for allowed in method.knobs:
        policy = method.rule(allowed, ready)
        assert isinstance(policy, Margin if variant == "probabilities" else RawMargin)
        assert policy.threshold == made.theta(allowed)
        point = method.trial(policy, seen)
        e_l, e_b = seen.static_costs.mean(axis=1)
        assert point.cost == pytest.approx(e_l + point.exits[1] * e_b)
        fitted = method.trial(policy, held)
        assert fitted.cost == pytest.approx(made.energy(policy.threshold))
        assert made.big.mean() - fitted.quality == pytest.approx(made.loss(policy.threshold))
        assert made.loss(policy.threshold) <= max(allowed, 0) + 1e-9
    assert len(made.SM) == 150


# What is claimed.


def points(*triples):
    return [
        SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s, exits=[share, 1 - share])
        for k, q, s, share in triples
    ]


def curve(speed_up, behind, share=0.6):
    held = [(0.05, 0.88, 9.0, 0.9), (0.01, 0.89, speed_up, 0.5), (-INF, 0.9, 1.0, 0.0)]
    test = [(0.05, 0.9, 9.0, 0.9), (0.01, 0.9 - behind, speed_up, share), (-INF, 0.9, 1.0, 0.0)]
    return SimpleNamespace(validation=points(*held), test=points(*test), full_quality=0.9)


@pytest.mark.parametrize(
    ("speed_up", "behind", "holds"), [(2.2, 0.014, True), (2.1, 0.014, False), (2.2, 0.016, False)]
)
def test_half_of_the_energy_must_be_saved_for_about_a_point(speed_up, behind, holds):
    found = claimed.energy(curve(speed_up, behind))
    assert found.holds is holds
    assert "allowed loss 0.01" in found.measured


@pytest.mark.parametrize(("share", "holds"), [(0.51, True), (0.5, False)])
def test_little_must_answer_more_than_half(share, holds):
    assert claimed.mostly_little(curve(2.0, 0.0, share)).holds is holds


@pytest.mark.parametrize(("behind", "holds"), [(0.019, True), (0.021, False)])
def test_every_allowed_loss_must_be_kept(behind, holds):
    found = claimed.kept(curve(2.0, behind))
    assert found.holds is holds
    assert f"0.01: accuracy {-behind:+.4f}" in found.measured


def test_noise_is_on_every_pixel_and_follows_the_seed(prepared):
    examples = prepared(KEY)[2].split("test").examples.head(20)
    one, again, other = (claimed.with_noise(examples, seed) for seed in (0, 0, 1))
    added = torch.stack(list(one.inputs)) - torch.stack(list(examples.inputs))
    assert float(added.std()) == pytest.approx(claimed.NOISE, abs=0.1)
    assert torch.equal(one.inputs[3], again.inputs[3])
    assert not torch.equal(one.inputs[3], other.inputs[3])
    assert one.targets is examples.targets


@pytest.mark.parametrize(
    ("clean", "fixed", "moving", "holds", "comparable"),
    [
        (1.4, 1.6, 1.4, True, True), (0.6, 1.6, 0.6, True, True), (1.6, 1.6, 1.0, False, True),
        (1.0, 1.6, 1.6, False, True), (0.4, 1.6, 1.0, False, True), (1.0, 1.6, 0.4, False, True),
        (1.0, 1.4, 1.0, False, False),
    ],
)  # fmt: skip
def test_a_theta_that_moves_must_keep_what_is_allowed_on_clean_and_on_noisy_images(
    prepared, monkeypatch, clean, fixed, moving, holds, comparable
):
    method, bench, ready = prepared(KEY)
    held, test = ready.split("fitting"), ready.split("test")
    theta, asked = ready.fitted.theta(method.allowed), []
    differ = held.outputs[0].argmax(-1) != held.outputs[1].argmax(-1)
    allowed = float((torch.tensor(theta <= ready.fitted.SM) & differ).double().mean())
    assert allowed > 0

    def streamed(*given):
        asked.append(given)
        return (9.0, clean * allowed, 0.5, 0.4) if len(asked) == 1 else (fixed * allowed, moving * allowed, 0.6, 0.3)

    monkeypatch.setattr(claimed, "streamed", streamed)
    found = claimed.at_run_time(method, ready, bench)
    assert (found.holds, not found.not_comparable) == (holds, comparable)
    assert found.measured.endswith("BIG runs on 60.0% instead of 30.0%")
    step = float(ready.fitted.SM.max()) / 40
    assert [given[2:] for given in asked] == [(theta, pytest.approx(allowed), step, 0)] * 2
    noisy, same = claimed.seen_by(method, ready, claimed.with_noise(test.examples, 0), bench)
    assert asked[0][0] == pytest.approx(margin(test.outputs[0]).double().numpy())
    assert asked[0][1].tolist() == (test.outputs[0].argmax(-1) == test.outputs[1].argmax(-1)).tolist()
    assert (asked[1][0].tolist(), asked[1][1].tolist()) == (noisy.SM.tolist(), same.tolist())


def test_only_the_later_half_of_a_stream_of_drawn_images_counts(monkeypatch):
    """Twelve windows of ten differences that audits of one in ten may find; in the first half all are kept."""
    asked = []

    def moving(SM, same, theta, allowed, **options):
        asked.append((SM, same, theta, allowed, options))
        early = np.arange(len(SM)) < len(SM) // 2
        return Ran(np.zeros(len(SM)), early | (SM > 0.5), early)

    monkeypatch.setattr(claimed, "adapted", moving)
    SM = np.linspace(0, 1, 101)
    found = claimed.streamed(SM, SM > 0.75, 0.25, 0.02, 0.1, 3)
    assert found == pytest.approx((0.5, 0.25, 0.0, 0.25), abs=0.01)
    ((stream, same, *given, options),) = asked
    assert len(stream) == 12 * 5000
    assert same.tolist() == (stream > 0.75).tolist()
    assert np.bincount(np.round(stream * 100).astype(int), minlength=101) == pytest.approx(np.full(101, 594), abs=130)
    assert given == [0.25, 0.02]
    assert options == {"step": 0.1, "window": 5000, "every": 500, "audit": 0.1, "seed": 3}
    claimed.streamed(SM, SM > 0.75, 0.25, 0.0, 0.1, 3)
    assert asked[1][-1]["window"] == 20000  # however little is allowed


def test_a_stream_of_images_that_do_not_change_keeps_what_is_allowed():
    SM, differ = steady(3000)
    fixed, moving, runs, once = claimed.streamed(SM, ~differ, 0.7, 0.02, 0.025, 0)
    assert fixed == pytest.approx((differ & (SM >= 0.7)).mean(), abs=0.005)
    assert 0.01 <= moving <= 0.03
    assert once == pytest.approx((SM < 0.7).mean(), abs=0.01)
    assert 0.1 <= runs <= 1


def test_what_both_do_with_new_inputs(prepared):
    method, bench, ready = prepared(KEY)
    seen = ready.split("test")
    pair, same = claimed.seen_by(method, ready, seen.examples, bench)
    answers = seen.outputs.argmax(dim=-1)
    assert same.tolist() == (answers[0] == answers[1]).tolist()
    assert pair.big.tolist() == (answers[1] == seen.targets).tolist()
    assert pair.little.tolist() == (answers[0] == seen.targets).tolist()


def test_all_four_are_tried(prepared):
    method, bench, ready = prepared(KEY)
    found = claimed.claims(method, ready, bench, curve(2.2, 0.0))
    assert [outcome.name for outcome in found] == [
        "half of the energy saved for about a point",
        "LITTLE answers most inputs",
        "the allowed loss is kept",
        "theta follows the inputs",
    ]
