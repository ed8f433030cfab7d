"""The contract for cascades, tried with invented ones: two members, and three of which one may be passed over."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import lightgbm
import numpy as np
import pytest
import test_conformance as shared
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from eelit.methods.engine import tasks
from eelit.methods.engine.cascade import Cascade, StoredMembers
from eelit.methods.engine.costs import UncountedOperation, count
from eelit.methods.engine.evaluate import answered, replay
from eelit.methods.engine.examples import Examples, TestDataAsked
from eelit.methods.engine.members import Estimator, Network, comparisons, counted, multiplications
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.multi_exit import at_exit, select
from eelit.methods.engine.routing import follow
from eelit.methods.families.cascades import CascadeMethod
from eelit.methods.harness import conformance, runner
from eelit.methods.policies.base import said, softmax
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.voting import Voting


@dataclass(frozen=True)
class Pair(CascadeMethod):
    """A logistic regression, and a convolutional network or a forest for what it is unsure of."""

    second: str = "network"
    train_size: int = 500
    epochs: float = 6.0
    batch: int = 32
    rate: float = 1e-2

    data: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"network": {}, "forest": {"second": "forest"}}
    fits_on: ClassVar[float] = 0.4

    def load(self):
        return tasks.images("digits", train=self.train_size)

    def build(self, data, seed):
        torch.manual_seed(seed)
        first = Estimator(LogisticRegression(C=0.05, max_iter=200), 10)
        layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        network = Network(nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10)))
        forest = Estimator(RandomForestClassifier(200, random_state=seed), 10)
        return Cascade([first, network if self.second == "network" else forest])

    def fit(self, prepared):
        """A threshold at which nothing is lost; here it only shows that fitting has data of its own."""
        seen = prepared.split("fitting")
        return float(softmax(seen.answers[0]).amax(dim=1).median())

    def policy(self, knob, prepared):
        return MaxConfidence(knob if knob in (0.0, 1.1) else (knob + prepared.fitted) / 2)


@dataclass(frozen=True)
class Jump:
    """Stop when sure; from the first of three members go to the second when nearly so, else right to the last."""

    sure: float
    nearly: float

    def start(self):
        return ()

    def step(self, state, output):
        confidence = softmax(said(output)).amax(dim=1)
        asked = state[1] + 1 if state else torch.zeros(len(confidence), dtype=torch.int64)
        return (confidence, asked), confidence >= self.sure

    def route(self, state, output):
        first = torch.where(state[0] >= self.nearly, 1, 2)
        return torch.where(state[1] == 0, first, 2)


@dataclass(frozen=True)
class Three(Pair):
    """A tree, a logistic regression, a network; whom the tree leaves wholly unsure goes to the network at once."""

    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"jump": {}}

    def build(self, data, seed):
        first = Estimator(DecisionTreeClassifier(max_depth=6, min_samples_leaf=4, random_state=seed), 10)
        return Cascade([first, *super().build(data, seed).members])

    def policy(self, knob, prepared):
        return Jump(knob, 0.6)


METHODS = [(Pair, "network"), (Pair, "forest"), (Three, "jump")]
each_method = pytest.mark.parametrize(("kind", "variant"), METHODS, ids=[f"{k.__name__} {v}" for k, v in METHODS])


@pytest.fixture(scope="module")
def ready():
    """Return class and variant → (method, bench, prepared), trained once."""
    found = {}

    def of(kind, variant):
        if (kind, variant) not in found:
            method = kind().variant(variant, "tiny")
            bench = Bench(test=200, executed=100, cache=Path(os.environ["EELIT_TEST_CACHE"]))
            found[kind, variant] = method, bench, method.prepare(bench)
        return found[kind, variant]

    return of


@each_method
def test_the_rules_of_all_methods_are_kept(ready, kind, variant):
    method, bench, prepared = ready(kind, variant)
    curve = runner.measure(method, prepared, bench, variant)
    assert [f"{rule.name} {rule.measured}" for rule in conformance.of_curve(method, curve) if not rule.holds] == []
    assert curve.full_quality > 0.85
    alone = {baseline.name: baseline for baseline in curve.baselines}
    assert set(alone) == {"static exit", "max-confidence"}
    own = prepared.split("test").static_costs.mean(axis=1)
    assert [point.cost for point in alone["static exit"].test] == pytest.approx(own.tolist())
    assert alone["static exit"].test[-1].quality == curve.full_quality
    assert curve.each_exit[0].calibration_error is not None
    assert 0 < method.time(prepared, bench, method.knobs[0], 32).saved < 1


@each_method
def test_what_a_sample_gets_does_not_depend_on_its_batch_mates(ready, kind, variant):
    shared.test_what_a_sample_gets_does_not_depend_on_its_batch_mates("", "", lambda *_: ready(kind, variant))
    method, _, prepared = ready(kind, variant)
    x, policy = shared.undecided(method, prepared)
    together, alone = prepared.model.run(x, policy), [prepared.model.run(one, policy) for one in x.split(1)]
    assert torch.equal(torch.cat([one.visited for one in alone], dim=1), together.visited)


def test_networks_learn_by_their_own_loss_from_training_data(stages):
    method = Pair().variant("network")
    (stage,) = stages(method)
    network = method.build(method.load(), 0).members[1].eval()
    x, targets = torch.stack(stage.train.inputs[:8]), stage.train.targets[:8]
    found = stage.loss(stage.batch_of(torch.arange(8), x))
    assert found.item() == pytest.approx(nn.functional.cross_entropy(network(x), targets).item(), rel=1e-5)
    assert (len(stage.train), stage.epochs, stage.batch) == (500, 6.0, 32)
    assert list(stage.rates.values()) == [1e-2] * len(list(network.parameters()))


def test_same_seed_same_points(ready):
    method, bench, prepared = ready(Three, "jump")
    again = method.prepare(Bench(test=200))
    points = [method.sweep(each, bench, "validation", method.knobs) for each in (again, prepared)]
    assert points[0] == points[1]


class Given(Network):
    """A member that tells how many samples it was given."""

    def __init__(self, width):
        super().__init__(nn.Linear(width, 3))
        self.given = []

    def forward(self, x):
        self.given.append(len(x))
        return super().forward(x)


@pytest.fixture
def three():
    """Three linear members, what they say of 50 samples, and the samples."""
    torch.manual_seed(0)
    x, model = torch.randn(50, 4), Cascade([Given(4) for _ in range(3)])
    with torch.inference_mode():
        outputs = torch.stack([3 * member(x) for member in model.members])
    for member in model.members:
        member.network.weight.data *= 3
        member.network.bias.data *= 3
        member.given.clear()
    return model, outputs, x


RULES = [
    *(MaxConfidence(0.6), MaxConfidence((0.5, 0.8)), MaxConfidence(0.0), MaxConfidence(2.0), Entropy(0.6)),
    *(Patience(0), Patience(1), Voting(2), Voting(9)),  # the last two assemble the answer
]


@pytest.mark.parametrize("policy", RULES, ids=repr)
def test_rules_for_exits_decide_in_a_cascade_as_they_do_for_exits(three, policy):
    model, outputs, x = three
    exits = replay(policy, outputs)
    with torch.inference_mode():
        stored = follow(policy, lambda i, rows: select(at_exit(outputs, i), rows), 3, 50)
    real = model.run(x, policy)
    for course in (stored, real):
        assert course.exits.tolist() == exits.tolist()
        assert torch.allclose(course.outputs, answered(policy, outputs, exits), atol=1e-5)
        assert course.visited.tolist() == [[i <= last for last in exits] for i in range(3)]
    reached = [int((exits >= i).sum()) for i in range(3)]
    assert [sum(member.given) for member in model.members] == reached


def test_a_member_that_is_passed_over_is_neither_asked_nor_paid_for(three):
    model, outputs, x = three
    policy, p = Jump(0.9, 0.6), softmax(outputs).amax(dim=-1)
    routes = [
        [0] if a >= 0.9 else [0, 2] if a < 0.6 else [0, 1] if b >= 0.9 else [0, 1, 2]
        for a, b, _ in p.T.tolist()
    ]  # fmt: skip
    assert len({str(route) for route in routes}) == 4
    course = model.run(x, policy)
    assert [course.visited[:, n].nonzero().flatten().tolist() for n in range(50)] == routes
    assert course.exits.tolist() == [route[-1] for route in routes]
    assert [sum(member.given) for member in model.members] == [sum(i in route for route in routes) for i in range(3)]
    own = np.array([[1.0], [10.0], [100.0]]) * np.ones((3, 50))
    seen = StoredMembers(Examples(list(x), torch.zeros(50, dtype=torch.int64)), outputs, own.cumsum(axis=0), own)
    assert seen.spent(seen.followed(policy)).tolist() == [sum(10.0**i for i in route) for route in routes]
    point = seen.under(policy, accuracy)
    assert point.cost == pytest.approx(np.mean([sum(10.0**i for i in route) for route in routes]))
    assert point.speed_up == pytest.approx(100 / point.cost)
    assert point.exits == pytest.approx([np.mean([route[-1] == i for route in routes]) for i in range(3)])
    told = torch.stack([outputs[route[-1], n] for n, route in enumerate(routes)])
    assert point.quality == accuracy(told, seen.targets)


@pytest.mark.parametrize("target", [0, 3])
def test_a_router_can_only_name_a_later_member(three, target):
    class Astray(Jump):
        def route(self, state, output):
            return torch.full((len(output),), target)

    model, _, x = three
    with pytest.raises(ValueError, match=rf"number 0 of 3 sends samples to \[{target}\] \(from 0\); only later"):
        model.run(x, Astray(2.0, 0.5))


@dataclass(frozen=True)
class Weighing(MaxConfidence):
    """A rule that multiplies by a matrix before it decides."""

    def step(self, state, output):
        return super().step(state, output @ (5 * torch.eye(3)))


def test_what_a_policy_computes_is_paid_for_where_it_is_asked(three):
    model, outputs, x = three
    policy, own = Weighing(0.9), np.full((3, 50), 12.0)
    seen = StoredMembers(Examples(list(x), torch.zeros(50, dtype=torch.int64)), outputs, own.cumsum(axis=0), own)
    course = seen.followed(policy)
    asked = course.visited[:2].sum(dim=0).numpy()  # at the last member nothing is decided
    assert len(set(asked.tolist())) == 2
    assert course.decisions.tolist() == (9.0 * asked).tolist()
    with counted(model) as work:
        model.run(x, policy)
    assert work.cost == seen.spent(course).sum()


def test_members_may_say_more_than_an_answer():
    class Sure(nn.Linear):
        def forward(self, x):
            answer = super().forward(x)
            return {"answer": answer, "certainty": answer[:, 0]}

    @dataclass(frozen=True)
    class Certain:
        def start(self):
            return ()

        def step(self, state, output):
            return state, said(output, "certainty") > 0

    torch.manual_seed(0)
    model, x = Cascade([Network(Sure(4, 3)), Network(nn.Linear(4, 3))]), torch.randn(30, 4)
    examples = Examples(list(x), torch.zeros(30, dtype=torch.int64))
    outputs = model.outputs(examples, Bench(), "test")
    assert outputs["certainty"][1].isnan().all()
    own = model.costs(examples)
    seen = StoredMembers(examples, outputs, own.cumsum(axis=0), own)
    course, real = seen.followed(Certain()), model.run(x, Certain())
    assert torch.equal(course.exits, real.exits)
    assert course.exits.tolist() == (outputs["certainty"][0] <= 0).long().tolist()
    assert torch.allclose(seen.read(course.outputs), seen.read(real.outputs), atol=1e-6)
    assert course.not_finite.tolist() == real.not_finite.tolist() == []


@pytest.fixture(scope="module")
def table():
    """Rows ``[n, F]`` with three classes."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 5)).astype(np.float32)
    return rows, np.digitize(rows[:, 0] + rows[:, 1] * rows[:, 2], [-0.5, 0.5])


def by_hand(tree, row):
    """Walk down a tree of scikit-learn."""
    node, steps = 0, 0
    while tree.children_left[node] != -1:
        left = row[tree.feature[node]] <= tree.threshold[node]
        node, steps = (tree.children_left if left else tree.children_right)[node], steps + 1
    return steps


def test_comparisons_are_those_on_each_samples_path(table):
    rows, classes = table
    for model in (
        DecisionTreeClassifier(random_state=0),
        RandomForestClassifier(5, random_state=0),
        GradientBoostingClassifier(n_estimators=3, random_state=0),
    ):
        model.fit(rows, classes)
        trees = [model] if isinstance(model, DecisionTreeClassifier) else np.ravel(model.estimators_)
        found = comparisons(model, rows[:20])
        assert found.tolist() == [sum(by_hand(tree.tree_, row) for tree in trees) for row in rows[:20]]
        assert len(set(found.tolist())) > 1
        assert multiplications(model, rows[:20]).tolist() == [0.0] * 20


def test_comparisons_of_lightgbm_are_those_on_each_samples_path(table):
    rows, classes = table
    model = lightgbm.LGBMClassifier(n_estimators=4, num_leaves=6, min_child_samples=5, verbosity=-1, n_jobs=1)
    model.fit(rows, classes)

    def walk(node, row):
        if "left_child" not in node:
            return 0
        assert node["decision_type"] == "<="
        left = row[node["split_feature"]] <= node["threshold"]
        return 1 + walk(node["left_child"] if left else node["right_child"], row)

    dumped = [tree["tree_structure"] for tree in model.booster_.dump_model()["tree_info"]]
    found = comparisons(model, rows[:20])
    assert len(dumped) == 12
    assert found.tolist() == [sum(walk(tree, row) for tree in dumped) for row in rows[:20]]


def test_a_stump_without_a_split_compares_nothing():
    rows = np.zeros((30, 2))
    model = lightgbm.LGBMClassifier(n_estimators=1, verbosity=-1, n_jobs=1).fit(rows, np.arange(30) % 2)
    assert comparisons(model, rows[:3]).tolist() == [0.0] * 3


def test_linear_leaves_of_lightgbm_multiply(table):
    rows, classes = table
    options = {"n_estimators": 3, "num_leaves": 4, "min_child_samples": 20, "verbosity": -1, "n_jobs": 1}
    model = lightgbm.LGBMRegressor(linear_tree=True, **options).fit(rows, classes)

    def weights(node, row):
        if "left_child" not in node:
            return len(node["leaf_coeff"])
        return weights(node["left_child" if row[node["split_feature"]] <= node["threshold"] else "right_child"], row)

    dumped = [tree["tree_structure"] for tree in model.booster_.dump_model()["tree_info"]]
    found = multiplications(model, rows)
    assert found.tolist() == [sum(weights(tree, row) for tree in dumped) for row in rows]
    assert len(set(found.tolist())) > 1
    plain = lightgbm.LGBMRegressor(**options).fit(rows, classes)
    assert multiplications(plain, rows[:2]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_libsvm_multiplies_by_every_support_vector_and_weighs_them_for_each_pair_of_classes(table, kernel):
    rows, classes = table
    model = SVC(kernel=kernel).fit(rows, classes)
    vectors = len(model.support_)
    assert multiplications(model, rows[:2]).tolist() == [vectors * 5.0 + vectors * 2.0] * 2
    assert multiplications(SVR(kernel=kernel).fit(rows, classes), rows[:1]).item() % 6 == 0
    with pytest.raises(UncountedOperation, match="SVC has no formula"):
        multiplications(SVC(kernel=lambda a, b: a @ b.T).fit(rows, classes), rows)


def test_linear_models_cost_a_multiplication_for_each_weight_and_pipelines_the_sum(table):
    rows, classes = table
    line = LogisticRegression().fit(rows, classes)
    assert multiplications(line, rows[:2]).tolist() == [15.0, 15.0]
    assert multiplications(Ridge().fit(rows, classes), rows[:1]).tolist() == [5.0]
    chain = make_pipeline(StandardScaler(), PCA(2), LogisticRegression()).fit(rows, classes)
    assert multiplications(chain, rows[:1]).tolist() == [5.0 + 10.0 + 6.0]
    wooden = make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0)).fit(rows, classes)
    assert multiplications(wooden, rows[:1]).tolist() == [5.0]
    inner = wooden.steps[1][1]
    assert comparisons(wooden, rows).tolist() == comparisons(inner, wooden[:-1].transform(rows)).tolist()
    assert Estimator(wooden, 3, comparison=0.5).price(rows[:1]).tolist() == [5 + comparisons(wooden, rows[:1])[0] / 2]
    with pytest.raises(UncountedOperation, match="GaussianNB has no formula"):
        multiplications(GaussianNB().fit(rows, classes), rows)


def test_the_count_from_outside_is_of_what_members_are_really_given(table):
    rows, classes = table
    x = torch.as_tensor(rows)
    network = Network(nn.Linear(5, 3))
    line, trees = LogisticRegression().fit(rows, classes), RandomForestClassifier(3, random_state=0).fit(rows, classes)
    model = Cascade([Estimator(line, 3), Estimator(trees, 3, comparison=2.0), network])
    for line_rows, tree_rows, network_rows in product((0, 7), (0, 20), (0, 3)):
        with counted(model) as work:
            for member, n in zip(model.members, (line_rows, tree_rows, network_rows), strict=True):
                if n:
                    member(x[:n])
        wanted = 15 * line_rows + 2 * comparisons(trees, rows[:tree_rows]).sum() if tree_rows else 15 * line_rows
        assert work.cost == wanted + 15 * network_rows
    assert vars(line).keys() & {"predict_proba", "predict", "decision_function"} == set()
    assert network.costs(x[:2]).tolist() == [15.0, 15.0] == [float(count(lambda: network(x[:1])))] * 2


def test_estimators_speak_of_all_classes_and_of_values(table):
    rows, classes = table
    x = torch.as_tensor(rows)
    some = Estimator(DecisionTreeClassifier(random_state=0).fit(rows[classes != 1], classes[classes != 1]), 3)
    said_now = some(x)
    assert said_now.shape == (120, 3)
    assert torch.isfinite(said_now).all()
    assert not (said_now.argmax(dim=1) == 1).any()
    values = Estimator(RandomForestRegressor(2, random_state=0).fit(rows, classes), None)
    assert values(x).shape == (120,)
    assert len(values.costs(x)) == 120
    boosted = lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1, n_jobs=1).fit(rows, classes)
    assert torch.allclose(Estimator(boosted, 3)(x).exp(), torch.as_tensor(boosted.predict_proba(rows)).float())


def test_an_estimator_learns_from_training_data_alone_and_its_time_is_told(ready):
    method, bench = Pair().variant("forest", "tiny"), Bench()
    data = method.load().without_test()
    model = method.build(data, 0)
    seen = []
    first = model.members[0].estimator
    first.fit = lambda rows, targets: seen.append((rows, targets)) or type(first).fit(first, rows, targets)
    method.train(model, data, bench)
    ((rows, targets),) = seen
    assert len(rows) == 500
    assert targets.tolist() == data.train.targets.tolist()
    assert np.array_equal(rows[3], data.train.inputs[3].flatten().numpy())
    assert len(bench.trainings) == 2
    assert not bench.prepared_from_cache


def test_choosing_and_fitting_cannot_see_test_data(ready):
    _, _, prepared = ready(Pair, "forest")
    prepared.split("test")
    choosing = prepared.for_choosing
    for ask in (lambda: choosing.split("test"), lambda: choosing.data.part("test"), lambda: choosing.data.test.inputs):
        with pytest.raises(TestDataAsked):
            ask()
    fitting, held = choosing.split("fitting").examples, choosing.split("validation").examples
    assert len(fitting) == 120
    assert len(held) == 180
    assert choosing.split("validation") is prepared.split("validation")
