"""What only adaptive control of local steps promises: the bound, its estimates, the budget, nodes that are apart."""

import dataclasses
import json
import math
import pickle
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loopback import process

from eelit.methods.claims import wang2018edge as claimed
from eelit.methods.engine.costs import count
from eelit.methods.engine.examples import Examples, TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.wang2018edge import (
    FIXED,
    Adaptive,
    AdaptiveFederated,
    Answer,
    Apart,
    Edge,
    Fixed,
    Here,
    Known,
    Node,
    Run,
    Told,
    bound,
    estimated,
    federate,
    flat,
    h,
    loss_alone,
    loss_and_gradient,
    placed,
)
from eelit.methods.recipes.federated import Traffic, Update, averaged, divided, exchange, skewed
from eelit.methods.world.machines import Computer, Link
from eelit.methods.world.stream import Always, Leg, World, stream
from eelit.methods.world.traces import Trace, steady, wandering

KEY = "wang2018edge"
GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json").read_text())


def edge_of(asked, c=0.1, b=0.2):
    """Return an edge where a step takes c seconds and an averaging b, given the list of the steps asked for so far."""

    def round_(start, answers, share):
        local = c * max(1, asked[-1])
        return local, start + local + b

    return SimpleNamespace(round=round_)


def noting(crowd, asked):
    """Return the crowd, which notes the steps that it is asked for."""
    return SimpleNamespace(ask=lambda w, steps: asked.append(steps) or crowd.ask(w, steps))


def points(n=30, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=g, dtype=torch.float64)
    return x, torch.where(x @ torch.linspace(-1, 1, d, dtype=torch.float64) > 0, 1.0, -1.0).double()


def crowd_of(parts, *, watched, eta=0.05, lam=0.1):
    return Here([Node(x, y, lam, eta, watched=watched) for x, y in parts])


# The released code.


@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: f"{run['placement']}-{run['tau'] or 'adaptive'}")
def test_a_whole_training_is_that_of_the_released_code(run):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, labels = torch.from_numpy(digits.data[:60] / 16), torch.from_numpy(digits.target[:60])
    parts = [(x[own], 1.0 - 2.0 * (labels[own] % 2)) for own in placed(labels, 3, run["placement"], 1.0, 0)]
    assert [len(y) for _, y in parts] == run["sizes"]
    adaptive = run["tau"] is None
    control = Adaptive(GOLDEN["eta"], GOLDEN["phi"], GOLDEN["budget"], 100, 10, 0.0) if adaptive else Fixed(run["tau"])
    crowd, told, asked = crowd_of(parts, watched=adaptive, eta=GOLDEN["eta"], lam=GOLDEN["lam"]), [], []

    def ask(w, steps):
        found = noting(crowd, asked).ask(w, steps)
        told.append([answer.told for answer in found])
        return found

    edge, sizes = edge_of(asked, GOLDEN["c"], GOLDEN["b"]), run["sizes"]
    found = federate(SimpleNamespace(ask=ask), sizes, torch.zeros(64).double(), edge, GOLDEN["budget"], control)
    *rounds, judged = run["rounds"]
    assert found.taus == [each["tau"] for each in rounds]
    losses = [sum(n * one.loss for n, one in zip(sizes, each, strict=True)) / sum(sizes) for each in told]
    assert losses == pytest.approx([each["loss_of_previous"] for each in run["rounds"]], rel=1e-9)
    assert found.spent == pytest.approx(judged["spent"])
    assert found.loss == pytest.approx(run["loss"], rel=1e-9)
    assert found.w.tolist() == pytest.approx(run["w"], rel=1e-8, abs=1e-10)
    for each, wanted in zip(told[1:], rounds[1:], strict=False) if adaptive else []:
        known = estimated(each, sizes)
        assert [known[name] for name in ("rho", "beta", "delta")] == pytest.approx(
            [wanted[name] for name in ("rho", "beta", "delta")], rel=1e-6
        )


# The model.


def test_loss_and_gradient_by_hand():
    """Of two images the second is beyond the margin: (1 - 0.5)²/2 over two, and half of 0.1 · 1.25."""
    w, x, y = torch.tensor([0.5, 1.0]), torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([1.0, -1.0])
    loss, slope = loss_and_gradient(w, x, y, 0.1)
    assert loss.item() == pytest.approx(0.05 * 1.25 + 0.25 / 4)
    assert slope.tolist() == pytest.approx([0.05 - 0.5 / 2, 0.1])
    assert loss_alone(w, x, y, 0.1).item() == pytest.approx(loss.item())


def test_the_gradient_is_that_of_the_loss():
    x, y = points()
    w = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).requires_grad_(True)
    (slope,) = torch.autograd.grad(loss_alone(w, x, y, 0.3), w)
    assert torch.allclose(loss_and_gradient(w.detach(), x, y, 0.3)[1], slope)


def test_pixels_lie_between_0_and_1_and_even_classes_are_positive(prepared):
    _, _, ready = prepared(KEY)
    examples = SimpleNamespace(inputs=[torch.tensor([[[-1.0, 3.0]]])] * 3, targets=torch.tensor([0, 1, 8]))
    x, y = flat(examples, (-1.0, 3.0))
    assert x.tolist() == [[0.0, 1.0]] * 3
    assert y.tolist() == [1.0, -1.0, 1.0]
    assert min(float(x.min()) for x, _ in ready.parts) == 0.0
    assert max(float(x.max()) for x, _ in ready.parts) == 1.0


# The bound.


def test_h_by_hand():
    """delta/beta ((1.1)² - 1) - 2 eta delta = 3/2 · 0.21 - 0.3 = 0.015."""
    assert h(2, 2.0, 3.0, 0.05) == pytest.approx(0.015)
    assert h(1, 2.0, 3.0, 0.05) == pytest.approx(0.0, abs=1e-12)
    assert h(50, 2.0, 0.0, 0.05) == 0.0


def test_h_grows_ever_faster():
    values = [h(tau, 5.0, 2.0, 0.01) for tau in range(1, 60)]
    steps = [b - a for a, b in pairwise(values)]
    assert all(step >= 0 for step in steps)
    assert all(a <= b + 1e-12 for a, b in pairwise(steps))


def test_the_bound_by_hand():
    """T = (10 - 1 - 2) · 2 / 4 = 3.5; h = 0.015; 4 T² phi rho eta h / 2 = 4 · 12.25 · 0.1 · 2 · 0.05 · 0.0075."""
    known = Known(rho=2.0, beta=2.0, delta=3.0, c=1.0, b=2.0)
    root = math.sqrt(1 + 4 * 12.25 * 0.1 * 2 * 0.05 * 0.0075)
    assert bound(2, known, 0.05, 0.1, 10.0) == pytest.approx((1 + root) / (2 * 3.5 * 0.05 * 0.1) + 2 * 0.015)


def test_the_bound_is_infinite_where_nothing_fits_or_numbers_are_too_large():
    known = Known(rho=1.0, beta=1e4, delta=1.0, c=1.0, b=2.0)
    assert bound(1, known, 0.05, 0.1, 3.0) == math.inf
    assert bound(100_000, known, 0.05, 0.1, 1e9) == math.inf


def best(c, b, delta, *, rho=1.0, beta=3.0, budget=30.0, most=100):
    known = Known(rho, beta, delta, c, b)
    values = [bound(tau, known, 0.02, 0.05, budget) for tau in range(1, most + 1)]
    return 1 + values.index(min(values))


def test_free_averaging_is_done_after_every_step_and_equal_data_need_it_least():
    assert best(0.01, 0.0, 1.0) == 1
    assert best(0.01, 0.1, 0.0) == 100


def test_dearer_averaging_asks_for_more_steps_and_unlike_data_for_fewer():
    random = np.random.default_rng(0)
    for _ in range(25):
        c, b, delta = random.uniform(0.005, 0.05), random.uniform(0.05, 0.3), random.uniform(0.1, 3.0)
        assert best(c, b, delta) <= best(c, 2 * b, delta, budget=30.0 + b)  # the same time is left for rounds
        assert best(c, b, delta) >= best(c, b, 2 * delta)


# The control.


def told(loss=1.0, rho=1.0, beta=3.0, gradient=(1.0, 0.0)):
    return Told(torch.zeros(2), loss, rho, beta, torch.tensor(gradient).double())


def test_estimates_are_means_weighted_by_data():
    """Gradients (1, 0) and (-1, 0) of 3 and 1 images: the mean is (0.5, 0), 0.5 and 1.5 away."""
    found = estimated([told(rho=2.0, beta=4.0), told(rho=6.0, beta=0.0, gradient=(-1.0, 0.0))], [3, 1])
    assert found == pytest.approx({"rho": 3.0, "beta": 3.0, "delta": 0.75})


def control(**changed):
    return Adaptive(**{"eta": 0.02, "phi": 0.05, "budget": 30.0, "tau_max": 100, "reach": 10, "keep": 0.0} | changed)


def test_without_estimates_tau_stays():
    assert control().next(4, [told(rho=math.nan, beta=math.nan)], [1], 0.01, 0.1) == 4


def test_tau_is_the_argmin_within_reach():
    nodes = [told(), told(gradient=(-1.0, 0.0))]  # delta is 1
    wanted = best(0.01, 0.3, 1.0)
    assert 5 < wanted < 100
    assert control().next(wanted, nodes, [1, 1], 0.01, 0.3) == wanted
    assert control(reach=2).next(2, nodes, [1, 1], 0.01, 0.3) == 4
    assert control(tau_max=5).next(wanted, nodes, [1, 1], 0.01, 0.3) == 5


def test_estimates_are_smoothed_if_asked_for():
    steady_one = control(keep=0.75)
    for rho in (1.0, 5.0):
        steady_one.next(1, [told(rho=rho)], [1], 0.01, 0.1)
    assert steady_one.smooth["rho"] == pytest.approx(2.0)
    assert control().smooth == {}


def test_what_is_not_finite_is_no_estimate():
    found = control()
    found.next(2, [told(rho=2.0)], [1], 0.01, 0.1)
    assert found.next(2, [told(rho=math.inf)], [1], 0.01, 0.1) >= 1
    assert found.smooth["rho"] == 2.0


def test_fixed_control_never_moves_and_asks_for_no_estimates():
    assert Fixed(7).next(3, [], [], 1.0, 1.0) == 7
    assert not Fixed(7).watched
    assert Adaptive.watched


# A node.


def test_a_node_descends_from_the_common_parameters():
    x, y = points()
    node, w = Node(x, y, 0.1, 0.05, watched=False), torch.zeros(6).double()
    found = node.work(w, 3)
    for _ in range(3):
        w = w - 0.05 * loss_and_gradient(w, x, y, 0.1)[1]
    assert torch.allclose(found.w, w)
    assert found.loss == pytest.approx(0.5)
    assert found.gradient is None


def test_a_node_compares_its_last_round_with_the_common_parameters():
    x, y = points()
    node, common = Node(x, y, 0.1, 0.05, watched=True), torch.full((6,), 0.2).double()
    first = node.work(torch.zeros(6).double(), 2)
    assert math.isnan(first.rho)
    found = node.work(common, 1)
    (own, slope), (loss, here) = (loss_and_gradient(w, x, y, 0.1) for w in (first.w, common))
    far = (first.w - common).norm()
    assert found.rho == pytest.approx(float(abs(own - loss) / far))
    assert found.beta == pytest.approx(float((slope - here).norm() / far))
    assert torch.allclose(found.gradient, here)


def test_where_nothing_has_moved_nothing_is_estimated():
    x, y = points()
    node = Node(x, y, 0.1, 0.05, watched=True)
    first = node.work(torch.zeros(6).double(), 1)
    found = node.work(first.w, 1)
    assert (found.rho, found.beta) == (0.0, 1e-5)


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_what_a_node_computes_is_counted(watched, steps):
    node = Node(*points(), 0.1, 0.05, watched=watched)
    assert count(lambda: node.work(torch.zeros(6).double(), steps)) == node.macs(steps)


# Rounds.


def whole(parts):
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def test_one_step_between_averagings_is_gradient_descent_on_all_data():
    parts = [points(12, seed=1), points(30, seed=2), points(7, seed=3)]
    x, y = whole(parts)
    w, asked = torch.zeros(6).double(), []
    crowd = noting(crowd_of(parts, watched=False), asked)
    found = federate(crowd, [12, 30, 7], w, edge_of(asked), 4.1, Fixed(1))
    assert len(found.taus) > 10
    seen = [w]
    for _ in found.taus:
        seen.append(seen[-1] - 0.05 * loss_and_gradient(seen[-1], x, y, 0.1)[1])
    losses = [float(loss_alone(each, x, y, 0.1)) for each in seen]
    assert found.loss == pytest.approx(min(losses))
    assert torch.allclose(found.w, seen[losses.index(min(losses))])


def test_the_best_common_parameters_are_returned_not_the_last():
    parts = [points(12)]
    edge = SimpleNamespace(round=lambda start, *_: (0.1, start + 0.2))
    found = federate(crowd_of(parts, watched=False, eta=30.0), [12], torch.zeros(6).double(), edge, 3.0, Fixed(1))
    assert found.w.tolist() == [0.0] * 6  # every step leads far away
    assert found.loss == pytest.approx(0.5)


def test_parameters_that_are_not_finite_are_thrown_away_and_one_step_follows():
    rounds = []

    def ask(w, steps):
        rounds.append((w.tolist(), steps))
        return [Answer(Told(torch.full((2,), math.nan if len(rounds) == 2 else 1.0), 1.0 / len(rounds)), 1, 1, 1)]

    edge = SimpleNamespace(round=lambda start, *_: (0.1, start + 0.2))
    found = federate(SimpleNamespace(ask=ask), [1], torch.zeros(2), edge, 3.0, Fixed(3))
    assert [steps for _, steps in rounds[:4]] == [3, 3, 1, 3]
    assert rounds[2][0] == [1.0, 1.0]
    assert torch.isfinite(found.w).all()


@pytest.mark.parametrize("budget", [0.3, 0.9, 1.7, 3.0, 3.05, 3.1, 3.15])
def test_the_budget_is_never_exceeded_and_the_last_round_is_cut_to_it(budget):
    """Steps of 0.1 s, averagings of 0.2 s."""
    asked = []
    crowd = noting(crowd_of([points(12)], watched=False), asked)
    found = federate(crowd, [12], torch.zeros(6).double(), edge_of(asked), budget, Fixed(5))
    assert found.spent <= budget
    if budget > 1.2:
        *full, last, none = asked
        assert none == 0  # the last parameters are only judged
        assert full == [5] * len(full)
        assert 1 <= last <= 5
        assert found.spent + 0.1 > budget or last == 5


def test_where_no_step_fits_any_more_the_last_parameters_are_judged_at_once():
    """After two rounds of 0.3 s there are 0.45 s: enough to judge (0.3 s), too little for a round (0.3 s) as well."""
    asked = []
    crowd = noting(crowd_of([points(12)], watched=False), asked)
    found = federate(crowd, [12], torch.zeros(6).double(), edge_of(asked), 1.05, Fixed(1))
    assert asked == [1, 1, 0]
    assert (found.spent, found.loss < 0.5) == (pytest.approx(0.9), True)


def test_a_round_that_was_cut_is_the_last_though_it_took_less_than_forecast():
    """Steps of 1 s, but of 0.01 s in the cut round: two more seconds are left, and not used."""
    asked = []
    crowd = noting(crowd_of([points(12)], watched=False), asked)
    slow, fast = edge_of(asked, c=1.0), edge_of(asked, c=0.01)

    def faster(*given):
        return slow.round(*given) if len(asked) <= 2 else fast.round(*given)

    edge = SimpleNamespace(round=faster)
    found = federate(crowd, [12], torch.zeros(6).double(), edge, 9.0, Fixed(3))
    assert asked == [3, 3, 1, 0]
    assert found.spent == pytest.approx(2 * 3.2 + 2 * 0.21)


def test_a_round_that_comes_too_late_is_lost():
    edge = SimpleNamespace(round=lambda start, *_: (0.1, start + 5.0))
    found = federate(crowd_of([points(12)], watched=False), [12], torch.zeros(6).double(), edge, 3.0, Fixed(1))
    assert (found.taus, found.spent, found.loss) == ([], 3.0, math.inf)


def test_seconds_of_a_round_by_hand():
    """Down 100 bytes at 800 bit/s and 0.5 s of travel, 20 of 10 MAC/s, half of them local, up 50 bytes; the second
    node is faster everywhere.
    """
    edge = Edge(
        (Computer(steady(10.0)), Computer(steady(1000.0))), (Link(steady(800.0), 1.0), Link(steady(8000.0), 0.0))
    )
    local, end = edge.round(3.0, [Answer(told(), 20, 100, 50), Answer(told(), 20, 100, 50)], 0.5)
    assert local == pytest.approx(1.0)
    assert end == pytest.approx(3.0 + 1.0 + 0.5 + 2.0 + 0.5 + 0.5)


class Errand:
    """What a server and one node do in a round, told event by event: a message down, work, a message back."""

    def __init__(self, answer, macs):
        self.answer, self.macs = answer, macs

    def legs(self, sample, plan):
        yield Leg(0.0, None, False, self.answer.down)
        yield Leg(self.macs, 0, True, self.answer.up)


def test_both_clocks_say_the_same_of_a_round():
    """Rates wander and links break; rounds follow each other, and the slowest node is another each time."""
    random = np.random.default_rng(0)
    server = Computer(steady(1.0))
    edge = Edge(
        tuple(Computer(wandering(10.0, (0.25, 1.0, 2.0), 2.0, 50.0, seed=(0, k))) for k in range(4)),
        tuple(Link(wandering(800.0, (0.0, 0.5, 1.0), 2.0, 50.0, seed=(1, k)), 0.2) for k in range(4)),
    )
    start, slowest = 0.0, set()
    for _ in range(12):
        sizes = [[int(n) for n in random.integers(10, 200, 3)] for _ in edge.computers]
        answers = [Answer(told(), *size) for size in sizes]
        share = float(random.uniform(0.5, 1.0))
        ends, local = [], []
        for computer, link, answer in zip(edge.computers, edge.links, answers, strict=True):
            world = World((server, computer), (link,))
            (whole,) = stream(world, Errand(answer, answer.macs), Always(None), [start])
            ends.append(whole.answered)
            nothing = dataclasses.replace(answer, up=0)  # so that the answer is back once the work is done
            none, part = (
                stream(world, Errand(nothing, macs), Always(None), [start])[0] for macs in (0.0, share * answer.macs)
            )
            local.append(part.answered - none.answered)
        assert edge.round(start, answers, share) == pytest.approx((max(local), max(ends)), rel=1e-12)
        slowest.add(ends.index(max(ends)))
        start = max(ends)
    assert len(slowest) > 1


def test_bytes_of_all_messages_are_counted_those_of_a_late_round_too():
    """Two nodes, 5 bytes there and 7 back: two rounds of 0.3 s, and one of 5 s, which is lost."""
    ends = iter((0.3, 0.3, 5.0))
    edge = SimpleNamespace(round=lambda start, *_: (0.1, start + next(ends)))
    crowd = SimpleNamespace(ask=lambda w, _: [Answer(Told(w, 1.0), 1, 5, 7)] * 2)
    found = federate(crowd, [1, 1], torch.zeros(2), edge, 3.0, Fixed(1))
    assert (found.taus, found.traffic) == ([1, 1], Traffic([5] * 6, [7] * 6))
    ends = iter((0.3, 0.1))
    judged = federate(crowd, [1, 1], torch.zeros(2), edge, 0.7, Fixed(1))  # one round, and the last w is judged
    assert (judged.taus, judged.traffic) == ([1], Traffic([5] * 4, [7] * 4))


# Nodes apart.


def test_nodes_as_processes_train_the_same(prepared):
    """Five kinds of messages cross loopback sockets; no node has another's images."""
    method, _, ready = prepared(KEY)
    nodes, budget = method.crowd(ready, watched=True), 2.5
    with ExitStack() as stack:
        asks = [stack.enter_context(process(node)) for node in nodes]
        crowd = Apart(asks, [node.macs for node in nodes])
        apart = method.train(ready, budget, crowd=crowd)
    here = method.train(ready, budget)
    assert len(set(apart.taus)) > 2
    assert (apart.taus, apart.costs, apart.spent, apart.loss) == (here.taus, here.costs, here.spent, here.loss)
    assert torch.equal(apart.w, here.w)
    assert crowd.traffic.total > len(apart.taus) * sum(2 * 8 * 64 for _ in nodes)
    assert apart.traffic == here.traffic == crowd.traffic  # the bytes that crossed, in the order of the messages


def test_a_message_holds_no_image():
    x, y = points(40)
    node = pickle.loads(pickle.dumps(Node(x, y, 0.1, 0.05, watched=True)))
    asked, traffic = {"w": torch.zeros(6).double(), "steps": torch.tensor(2)}, Traffic()
    (reply,) = exchange([node.handle], [asked], traffic)
    assert set(reply) == {"w", "gradient", "numbers"}
    assert [reply[name].numel() for name in ("w", "gradient", "numbers")] == [6, 6, 3]
    assert traffic.up[0] < 8 * x.numel()


# What federations share.


def test_of_a_partition_every_sample_belongs_to_one_client():
    labels = torch.arange(200) % 10
    parts = divided(labels, skewed(10, 4, 0.3, 1), 1)
    assert torch.cat(parts).sort().values.tolist() == [*range(200)]
    assert min(len(part) for part in parts) >= 5


def test_the_smaller_alpha_the_more_skewed():
    spread = [
        float(np.mean([skewed(10, 5, alpha, seed).max(axis=1).mean() for seed in range(5)])) for alpha in (0.1, 1, 100)
    ]
    assert spread[0] > 0.7 > spread[1] > 0.3 > spread[2]
    assert (skewed(10, 5, 0.3, 1) == skewed(10, 5, 0.3, 1)).all()
    assert (skewed(10, 5, 0.3, 1) != skewed(10, 5, 0.3, 2)).any()
    assert skewed(10, 5, 0.3, 3).sum(axis=1) == pytest.approx(1.0)


def test_partitions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no partition among 50 clients"):
        skewed(2, 50, 0.01, 0, least=0.9)
    with pytest.raises(ValueError, match="alpha"):
        skewed(2, 2, 0.0, 0)


def test_shares_of_a_class_by_hand():
    parts = divided(torch.tensor([0, 0, 0, 0, 1, 1]), np.array([[0.75, 0.25], [0.0, 1.0]]), 0)
    assert [len(part) for part in parts] == [3, 3]
    assert {4, 5} < set(parts[1].tolist())


def test_the_mean_is_weighted_by_data_and_of_equal_values_exact():
    old, w = {"w": torch.zeros(3)}, torch.rand(3, generator=torch.Generator().manual_seed(0))
    found = averaged(old, [Update(3, {"w": torch.ones(3)}), Update(1, {"w": torch.zeros(3)})])
    assert found["w"].tolist() == [0.75] * 3
    assert torch.equal(averaged(old, [Update(n, {"w": w}) for n in (3, 7, 11)])["w"], w)


def test_only_what_was_sent_is_averaged():
    old = {"a": torch.tensor([5.0, 5.0]), "b": torch.tensor([7.0])}
    first = Update(1, {"a": torch.tensor([1.0, math.nan])}, {"a": torch.tensor([True, False])})
    second = Update(3, {"a": torch.tensor([2.0, 9.0])}, {"a": torch.tensor([True, False])})
    found = averaged(old, [first, second])
    assert found["a"].tolist() == [1.75, 5.0]
    assert found["b"].tolist() == [7.0]


# The experiment.


LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize(
    ("placement", "wanted"),
    [
        ("uniform", [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]),
        ("by label", [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]),
        ("everywhere", [[*range(10)]] * 2),
        ("half by label", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
    ],
)
def test_the_papers_ways_to_place_data(placement, wanted):
    assert [part.tolist() for part in placed(LABELS, 2, placement, 1.0, 0)] == wanted


def test_by_label_a_node_has_few_classes_and_at_random_all():
    labels = torch.randint(10, (500,), generator=torch.Generator().manual_seed(0))
    assert [len(set(labels[part].tolist())) for part in placed(labels, 5, "by label", 1.0, 0)] == [2] * 5
    assert [len(set(labels[part].tolist())) for part in placed(labels, 5, "uniform", 1.0, 0)] == [10] * 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"placement": "nowhere"}, "no placement 'nowhere'"), ({"nodes": 400, "placement": "uniform"}, "have no images")],
)
def test_placements_that_cannot_be_are_refused(changed, said, prepared):
    method, bench, _ = prepared(KEY)
    with pytest.raises(ValueError, match=said):
        method.replace(changed).prepare(bench)


@pytest.mark.parametrize("changed", [{"eta": 0.0}, {"phi": math.nan}, {"nodes": 0}, {"keep": 1.5}, {"tau_max": 2.5}])
def test_bad_settings_are_refused(changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        registry.get(KEY).replace(changed)


def test_nothing_is_trained_beyond_a_budget(prepared):
    method, _, ready = prepared(KEY)
    runs = [method.known(ready, budget, tau) for budget in method.knobs for tau in (None, 5)]
    assert all(run.spent <= budget for run, budget in zip(runs, np.repeat(method.knobs, 2), strict=True))
    assert all(run.taus[:2] == [1, 1] for run in runs[::2])
    assert max(tau for run in runs[::2] for tau in run.taus) == method.tau_max


def test_other_test_data_train_the_same_and_choose_the_same(prepared, monkeypatch):
    """Other test images and labels: the same pixels, parts, trainings, and the same seen of validation data."""
    method, _, ready = prepared(KEY)
    data = method.load()
    images = [9 - 2 * image for image in data.test.inputs]
    other = dataclasses.replace(data, test=Examples(images, 9 - data.test.targets))
    monkeypatch.setattr(AdaptiveFederated, "load", lambda self: other)
    found = method.prepare(Bench(test=400))
    assert found.scale == ready.scale
    for ours, theirs in zip(found.parts, ready.parts, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for tau in (None, 5):
        ours, theirs = (method.known(each, 2.5, tau) for each in (found, ready))
        assert (ours.taus, ours.costs, ours.spent, ours.loss) == (theirs.taus, theirs.costs, theirs.spent, theirs.loss)
        assert torch.equal(ours.w, theirs.w)
    for split, same in (("validation", True), ("test", False)):
        ours, theirs = (method.sweep(each, each.bench, split, [2.5]) for each in (found, ready))
        assert (ours == theirs) is same


@pytest.mark.parametrize(
    "look", [lambda data: data.test.targets, lambda data: len(data.test), lambda data: data.part("test")]
)
def test_who_trains_or_controls_cannot_see_test_data(prepared, monkeypatch, look):
    method, bench, ready = prepared(KEY)
    fresh, crowd = dataclasses.replace(ready, runs={}, timed={}), AdaptiveFederated.crowd
    done = dataclasses.replace(ready, timed=dict.fromkeys((2.5, method.knobs[-1]), 1.0))
    method.known(done, 2.5)

    def curious(self, prepared, *, watched):
        look(prepared.data)
        return crowd(self, prepared, watched=watched)

    monkeypatch.setattr(AdaptiveFederated, "crowd", curious)
    for asks in (
        lambda: method.train(fresh, 0.7),
        lambda: method.known(fresh, 0.7, 5),
        lambda: method.sweep(fresh, bench, "test", [0.7]),
        lambda: method.seconds(fresh, 0.7),
        lambda: method.execute(done, bench, 2.5),  # what it compares with is known
    ):
        with pytest.raises(TestDataAsked):
            asks()
    monkeypatch.setattr(AdaptiveFederated, "given", lambda self, data, seed: look(data))
    with pytest.raises(TestDataAsked):
        method.prepare(Bench())


def test_where_test_data_are_out_of_reach_trainings_are_shared(prepared):
    method, _, ready = prepared(KEY)
    known = ready.for_choosing
    assert method.known(known, 2.5) is method.known(ready, 2.5)
    assert torch.equal(*(method.right(each, torch.ones(64).double(), "validation") for each in (known, ready)))
    with pytest.raises(TestDataAsked):
        method.right(known, torch.ones(64).double(), "test")


def test_who_has_learnt_nothing_is_as_good_as_chance(prepared):
    """All is called even then; what is not finite is right nowhere."""
    method, _, ready = prepared(KEY)
    _, y = flat(ready.data.part("validation"), ready.scale)
    nothing, broken = torch.zeros(64).double(), torch.full((64,), math.nan).double()
    assert torch.equal(method.right(ready, nothing, "validation"), y > 0)
    assert not method.right(ready, broken, "validation").any()
    some = torch.linspace(-1, 1, 64).double()
    right, wrong = (method.right(ready, w, "validation").double().mean() for w in (some, -some))
    assert right + wrong == pytest.approx(1)


def test_a_budget_in_which_a_fixed_number_learns_nothing_has_no_point(prepared):
    """In the shortest budget a hundred steps do not end in time; ten never do here, and there is no such rival."""
    method, bench, ready = prepared(KEY)
    budgets = method.knobs[1::2]
    runs = {
        (budget, tau): Run(torch.ones(64).double(), loss=1.0, spent=1.0)
        for budget in method.knobs
        for tau in (1, 10, 100)
    }
    for budget, tau in [(budgets[0], 100), *((budget, 10) for budget in budgets)]:
        runs[budget, tau] = Run(torch.zeros(64).double())
    runs[method.knobs[-1], None] = method.known(ready, method.knobs[-1])
    one, many = method.baselines(dataclasses.replace(ready, runs=runs), bench)
    assert (one.name, many.name) == ("tau = 1", "tau = 100")
    assert [point.knob for point in one.test] == [point.knob for point in one.validation] == list(budgets)
    assert [point.knob for point in many.test] == [point.knob for point in many.validation] == list(budgets[1:])


def test_estimates_take_time_that_fixed_numbers_spare(prepared):
    method, _, ready = prepared(KEY)
    (_, ours), (_, theirs) = (method.known(ready, 2.5, tau).costs[0] for tau in (None, 1))
    assert ours > theirs


def test_the_rates_follow_the_seed_and_the_means():
    method = registry.get(KEY)
    assert method.edge(0) == method.edge(0) != method.edge(1)
    edge = method.edge(0)
    assert len(edge.computers) == len(edge.links) == 5
    assert np.mean([c.speed.mean for c in edge.computers]) == pytest.approx(2e7, rel=0.1)
    assert np.mean([link.bandwidth.mean for link in edge.links]) == pytest.approx(2.2e6, rel=0.1)


@pytest.mark.parametrize("tau", [None, 5])
def test_the_world_that_is_shown_is_the_one_in_which_nodes_train(prepared, tau):
    """Machines and links made of what is shown alone take the same seconds, round by round."""
    method, bench, ready = prepared(KEY)
    shown = method.simulation(ready, bench)
    assert shown.seconds == method.knobs[-1]
    nodes = range(1, method.nodes + 1)
    names = [name for k in nodes for name in (f"node {k}, speed", f"link of node {k}, bandwidth")]
    assert [rate.part for rate in shown.rates] == names
    assert {rate.unit for rate in shown.rates} == {"million MACs/s", "Mbit/s"}
    traces = [Trace(tuple(r.times), tuple(1e6 * rate for rate in r.rates), shown.seconds) for r in shown.rates]
    assert min(len(trace.times) for trace in traces) > 3
    (there,) = [float(said.split()[2]) for said in shown.constants if said.startswith("each link")]
    edge = Edge(
        tuple(Computer(trace) for trace in traces[::2]), tuple(Link(trace, there / 1000) for trace in traces[1::2])
    )
    used, budget = method.known(ready, method.knobs[-1], tau), method.knobs[-1]
    crowd = Here(method.crowd(ready, watched=tau is None))
    sizes, control = [len(y) for _, y in ready.parts], method.control(budget, tau)
    found = federate(crowd, sizes, torch.zeros(64).double(), edge, budget, control)
    assert found.taus == used.taus
    assert found.spent == pytest.approx(used.spent)
    assert np.allclose(found.costs, used.costs)
    assert f"training images of each node: {', '.join(map(str, sizes))}" in shown.constants


def test_execution_notices_bytes_that_were_not_foreseen(prepared):
    method, bench, ready = prepared(KEY)
    found = method.execute(ready, bench, 2.5)
    assert found.agrees
    assert found.counted / found.samples == pytest.approx(method.sweep(ready, bench, "test", [2.5])[0].cost)
    run = method.known(ready, 2.5)
    other = dataclasses.replace(run, traffic=Traffic([*run.traffic.down[:-1], 0], run.traffic.up))
    assert not method.execute(dataclasses.replace(ready, runs=ready.runs | {(2.5, None): other}), bench, 2.5).agrees


# What is claimed.


def test_claims_compare_with_all_fixed_numbers(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked = []
    monkeypatch.setattr(
        claimed, "mean_tau", lambda method, prepared, bench, changed: asked.append(changed) or 6.0 if changed else 2.0
    )
    curve = SimpleNamespace(test=method.sweep(ready, bench, "test", method.knobs[-1:]))
    found = claimed.claims(method, ready, bench, curve)
    assert [o.name for o in found] == [
        "near the best fixed number of steps", "near the best within shorter budgets",
        "better than averaging after every step", "fewer steps where data differ", "more steps over slower links",
    ]  # fmt: skip
    assert {(b, tau) for b in method.knobs[-3:] for tau in FIXED} <= set(ready.runs)
    slower = {"bandwidth": method.bandwidth / 5, "round_trip": 5 * method.round_trip}
    assert asked == [{"placement": "uniform"}, slower]


def test_losses_are_compared_in_three_federations(prepared, monkeypatch):
    """Each has its seed, from the first on."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FIXED", (1, 3))
    made, seen = [], []
    prepare = type(method).prepare
    monkeypatch.setattr(type(method), "prepare", lambda self, bench: made.append(bench.seed) or prepare(self, bench))
    monkeypatch.setattr(
        claimed, "tried", lambda method, each: seen.append(each) or claimed.Tried([1.0], [[2.0, 1.0]], 0.5, [0.4, 0.5])
    )
    monkeypatch.setattr(claimed, "mean_tau", lambda *_: 1.0)
    claimed.claims(method, ready, dataclasses.replace(bench, seed=4), None)
    assert made == [105, 206]
    assert seen[0] is ready
    assert [each.bench.seed for each in seen[1:]] == made
    assert len({tuple(len(y) for _, y in each.parts) for each in seen}) == 3


def test_each_federation_is_tried_with_all_fixed_numbers_within_each_budget(prepared):
    method, _, ready = prepared(KEY)
    found, budgets = claimed.tried(method, ready), method.knobs[-3:]
    assert found.ours == [method.known(ready, budget).loss for budget in budgets]
    assert found.fixed == [[method.known(ready, budget, tau).loss for tau in FIXED] for budget in budgets]
    points = [method.points(ready, "test", budgets[-1:], tau)[0].quality for tau in (None, *FIXED)]
    assert [found.right, *found.accuracy] == points
    assert found.fixed[-1][found.best] == min(found.fixed[-1])


def federation(ours, right=0.9, best=1.0, shorter=1.0):
    """Ours within the longest budget, where tau = 7 is best; and within a shorter one."""
    fixed, accuracy = [2.0] * len(FIXED), [0.95] * len(FIXED)
    fixed[4], accuracy[4] = best, 0.899
    return claimed.Tried([shorter, ours], [[1.0] * len(FIXED), fixed], right, accuracy)


@pytest.mark.parametrize(
    ("ours", "right", "holds"),
    [((1.04, 1.055), 0.9, True), ((1.04, 1.07), 0.9, False), ((0.9, 0.9), 0.9, True), ((1.0, 1.0), 0.8935, False)],
)
def test_the_regret_is_against_the_best_in_hindsight(ours, right, holds):
    found = claimed.near_the_best([federation(ours[0]), federation(ours[1], 2 * right - 0.9)])
    assert found.holds is holds
    assert "beside tau = 7, 7, the best; the worst +100.0%, +100.0%" in found.measured


@pytest.mark.parametrize(
    ("shorter", "longest", "holds"), [((1.08, 1.11), 1.0, True), ((1.08, 1.13), 1.0, False), ((1.0, 1.0), 1.11, False)]
)
def test_each_budget_has_its_own_best(shorter, longest, holds):
    assert claimed.within_all([federation(longest, shorter=each) for each in shorter]).holds is holds


def test_the_other_claims_can_fail():
    method = registry.get(KEY)
    always = Run(torch.zeros(1), 1.0, traffic=Traffic([9000, 1000], [4000]))
    ours = Run(always.w, 0.9, traffic=Traffic([500], [200]))
    found = [claimed.better_than_always([federation(1.8), federation(loss)], ours, always) for loss in (1.99, 2.01)]
    assert [outcome.holds for outcome in found] == [True, False]
    assert "0.5 kB to the nodes and 0.2 kB back, and 10.0 kB to the nodes and 4.0 kB back" in found[0].measured
    assert [claimed.heeds_data(method, 2.0, far).holds for far in (3.0, 2.9)] == [True, False]
    uniform = method.replace({"placement": "uniform"})
    assert [claimed.heeds_data(uniform, here, 2.0).holds for here in (3.0, 2.9)] == [True, False]
    assert [claimed.heeds_links(4.0, slow).holds for slow in (5.0, 4.9)] == [True, False]


def test_steps_are_averaged_over_the_longest_training(prepared):
    method, bench, ready = prepared(KEY)
    taus = method.known(ready, method.knobs[-1]).taus
    assert claimed.mean_tau(method, ready, bench, {}) == pytest.approx(np.mean(taus))
    assert claimed.mean_tau(method, None, bench, {"tau_max": 1}) == 1.0
