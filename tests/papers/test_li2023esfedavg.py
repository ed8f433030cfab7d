"""What ES-FedAvg, as reconstructed, promises: budgets, masks, averages over who sent what, personal heads."""

import math
import pickle
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from loopback import process
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import li2023esfedavg as claimed
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.li2023esfedavg import (
    Client,
    EsFedAvg,
    Federation,
    Local,
    bits,
    block,
    head,
    held,
    mask,
    one_round,
    one_thread,
    owned_by,
    shared_names,
    stretched,
    together,
    unpacked,
    update,
)
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.federated import Traffic, skewed
from eelit.methods.world.wire import Whole

KEY = "li2023esfedavg"


def tiny(**changed):
    return registry.get(KEY).variant("update", "tiny").replace(changed)


def started(method, seed=0, **bench):
    """Return the network, the data and the clients of a federation before its first round."""
    data, bench = method.load(), Bench(seed=seed, **bench)
    model = method.build(data, seed)
    return model, data, method.members(model, data.each("train"), bench)


def turn(model, clients, number=0):
    """Make one round in this process; return what crossed."""
    seen = Traffic()
    one_round(model, [each.handle for each in clients], [each.names() for each in clients], number, seen)
    return seen


def numbers_of(state):
    """Return the server's blocks of a state."""
    return {name: value for name, value in state.items() if name.startswith("stages")}


def numbers(model, prefix=""):
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(prefix)}


# Masks.


def test_a_mask_keeps_the_largest_of_a_tensor():
    theta = torch.tensor([[0.1, -3.0, 0.0], [2.0, -0.2, 1.0]])
    assert mask(theta, 0.5).tolist() == [[False, True, False], [True, False, True]]
    assert mask(theta, 0.34).sum() == 3  # a part of one is one more
    assert mask(theta, 1.0).all()
    assert mask(theta, 1e-9).sum() == 1


@pytest.mark.parametrize("shape", [(1,), (8,), (9,), (3, 5), (2, 3, 3, 3)])
def test_a_mask_crosses_as_bits(shape):
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5
    packed = bits(kept)
    assert packed.dtype == torch.uint8
    assert len(packed) == math.ceil(kept.numel() / 8)
    assert torch.equal(unpacked(packed, kept.shape), kept)


def test_bits_by_hand():
    assert bits(torch.tensor([True, False, True, False, False, False, False, True, True])).tolist() == [133, 1]


# One client.


def client(by="update", density=0.5, kept=0.5, exits=2, **changed):
    torch.manual_seed(0)
    stages, heads = [block(1, 3), block(3, 4)], [head(3, 4, 5), head(4, 2, 5)]
    model = Federation(stages, heads, [exits]).clients[0]
    examples = Examples([*torch.rand(20, 1, 8, 8)], torch.arange(20) % 5)
    how = {"epochs": 1.0, "batch": 10, "rate": 1e-2, "shared": "blocks", "seed": 0, "rounds": 3} | changed
    return Client(model, examples, Local(**how, by=by, density=density, kept=kept))


@pytest.mark.parametrize("by", ["update", "weight"])
def test_a_client_sends_what_counts_most(by):
    own = client(by)
    before = numbers(own.model)
    sent = Whole().unpack(own.handle(Whole().pack({"turn": torch.tensor(0), "values": numbers(own.model, "stages")})))
    after = numbers(own.model)
    assert sent["size"] == 20
    assert set(sent["values"]) == set(sent["masks"]) == {name for name in before if name.startswith("stages")}
    for name, found in sent["values"].items():
        rank = (after[name] - before[name] if by == "update" else after[name]).abs()
        kept = unpacked(sent["masks"][name], rank.shape)
        assert len(found) == kept.sum() == math.ceil(rank.numel() / 2)
        assert torch.equal(found, after[name][kept])
        assert rank[kept].min() >= rank[~kept].max() if (~kept).any() else True


def test_with_density_1_no_mask_is_sent():
    own = client(density=1.0)
    own.take(numbers(own.model, "stages"))
    sent = own.sent()
    assert sent["masks"] == {}
    found = update({"size": torch.tensor(20), **sent}, own.model.state_dict())
    assert all(torch.equal(value, own.model.state_dict()[name]) for name, value in found.values.items())
    assert all(kept.all() for kept in found.masks.values())


def test_an_update_is_of_full_size_again():
    like = {"w": torch.zeros(2, 2)}
    reply = {
        "size": torch.tensor(3),
        "values": {"w": torch.tensor([5.0, 7.0])},
        "masks": {"w": torch.tensor([6]).byte()},
    }
    found = update(reply, like)
    assert found.weight == 3
    assert found.values["w"].tolist() == [[0.0, 5.0], [7.0, 0.0]]
    assert found.masks["w"].tolist() == [[False, True], [True, False]]


def test_after_the_last_round_weights_are_sparse_and_stay_so():
    own = client(density=1.0, kept=0.25)
    values = numbers(own.model, "stages")
    reply = Whole().unpack(own.handle(Whole().pack({"turn": torch.tensor(3), "values": values})))
    assert set(reply) == {"size"}  # nothing is sent any more
    for name, p in own.model.named_parameters():
        if name.startswith("stages") and p.dim() > 1:
            kept = mask(values[name], 0.25)
            assert torch.equal(p != 0, kept)
            assert not torch.equal(p[kept], values[name][kept])  # what is left has been trained
        else:
            assert (p != 0).float().mean() > 0.8
    assert all(not p._backward_hooks for p in own.model.parameters())


def test_before_that_no_weight_is_pruned():
    own = client(density=0.25, kept=0.25)
    own.handle(Whole().pack({"turn": torch.tensor(2), "values": numbers(own.model, "stages")}))
    assert all((p != 0).float().mean() > 0.9 for p in own.model.parameters())


def test_what_is_sent_does_not_say_what_is_kept():
    own = client(density=0.25, kept=1.0)
    own.handle(Whole().pack({"turn": torch.tensor(3), "values": numbers(own.model, "stages")}))
    assert all((p != 0).float().mean() > 0.9 for p in own.model.parameters())
    one, other = client(kept=0.25), client(kept=1.0)
    for each in (one, other):
        each.take(numbers(each.model, "stages"))
        each.learn(0)
    first, second = one.sent(), other.sent()
    assert first["values"].keys() == second["values"].keys() == set(one.names())
    for part in ("values", "masks"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in one.names())


@pytest.mark.parametrize(
    ("shared", "parts"), [("blocks", {"stages"}), ("all", {"stages", "heads"}), ("nothing", set())]
)
def test_what_is_shared(shared, parts):
    assert {name.split(".")[0] for name in shared_names(client().model, shared)} == parts


# The training.


def test_each_client_minimises_the_mean_loss_of_its_exits_on_its_own_images(stages):
    method = tiny(rounds=2, budgets=(1, 3))
    found, data = stages(method), method.load()
    assert len(found) == 3 * method.clients  # two rounds and what each does by itself
    for i, stage in enumerate(found):
        k = i % method.clients
        assert stage.train.targets.tolist() == data.train.targets[data.owners["train"][k]].tolist()
        assert (stage.epochs, stage.batch, set(stage.rates.values())) == (method.epochs, method.batch, {method.rate})
        assert len(stage.rates) == 4 * method.budget(k)  # weight and bias of each block and head


def test_the_loss_by_hand():
    own, seen = client(), []
    own.how = replace(own.how, most_steps=0, watch=seen.append)
    own.learn(0)
    x, y = torch.stack(own.examples.inputs[:6]), own.examples.targets[:6]
    with torch.no_grad():
        first = own.model.stages[0](x)
        z = [own.model.heads[0](first), own.model.heads[1](own.model.stages[1](first))]
        wanted = (F.cross_entropy(z[0], y) + F.cross_entropy(z[1], y)) / 2
        assert torch.allclose(seen[0].loss(seen[0].batch_of(torch.arange(6), x)), wanted)
    assert not own.model.training


def test_rounds_differ_in_their_order_and_clients_too():
    _, _, clients = started(tiny())
    assert len({each.how.seed for each in clients}) == len(clients)
    orders = []
    for number in (0, 1):
        own, seen = client(), []
        own.how = replace(own.how, watch=lambda stage, seen=seen: seen.append(torch.initial_seed()), most_steps=0)
        own.learn(number)
        orders += seen[:1]
    assert orders[0] != orders[1]


# Rounds.


def test_with_all_blocks_all_weights_and_common_heads_a_round_is_federated_averaging():
    method = tiny(budgets=(3,), density=1.0, shared="all")
    model, _, clients = started(method)
    turn(model, clients)
    sizes = [len(each.examples) for each in clients]
    for name, value in model.state_dict().items():
        if name.startswith(("stages", "heads")):
            own = [each.model.state_dict()[name] for each in clients]
            mean = sum(n * w for n, w in zip(sizes, own, strict=True)) / sum(sizes)
            assert torch.allclose(value, mean, atol=1e-6)


def test_blocks_that_nobody_affords_stay_as_they_were():
    model, _, clients = started(tiny(budgets=(1, 2)))
    before = numbers(model)
    turn(model, clients)
    after = numbers(model)
    moved = {name for name in before if not torch.equal(before[name], after[name]) and not name.startswith("clients")}
    assert {name.rsplit(".", 2)[0] for name in moved} == {"stages.0", "stages.1"}
    assert not any(name.startswith("stages.2") for each in clients for name in each.names())


def test_a_number_that_nobody_sent_stays_and_the_others_are_means_of_who_sent_them():
    model, _, clients = started(tiny(density=0.2))
    before, name = numbers(model), "stages.2.0.weight"
    turn(model, clients)
    (only,) = [each for each in clients if name in each.names()]  # of three clients one affords three blocks
    own = only.model.state_dict()[name]
    kept = mask(own - before[name], 0.2)
    assert torch.equal(model.state_dict()[name], torch.where(kept, own, before[name]))


def test_heads_never_cross():
    model, _, clients = started(tiny())
    before = numbers(model, "heads")
    turn(model, clients)
    assert all(torch.equal(value, before[name]) for name, value in numbers(model, "heads").items())
    heads = [each.model.heads[0][2].weight for each in clients]
    assert not torch.equal(heads[0], heads[1])


def test_a_client_begins_a_round_with_the_servers_blocks_and_its_own_heads():
    model, _, clients = started(tiny(), most_steps=0)
    with torch.no_grad():
        model.stages[0][0].weight.fill_(0.5)
        clients[1].model.heads[0][2].weight.fill_(0.25)
    turn(model, clients)
    assert (clients[1].model.stages[0][0].weight == 0.5).all()
    assert (clients[1].model.heads[0][2].weight == 0.25).all()


def test_where_nothing_is_shared_nothing_crosses():
    model, _, clients = started(tiny(shared="nothing"))
    before = numbers(model, "stages")
    seen = turn(model, clients)
    assert max(seen.down) < 1500
    assert all(torch.equal(value, before[name]) for name, value in numbers(model, "stages").items())


def test_an_update_that_is_not_finite_is_left_out():
    model, _, clients = started(tiny(density=1.0, budgets=(3,)), most_steps=0)
    sound = numbers(model, "stages")

    def spoilt(message):
        clients[0].take(Whole().unpack(message)["values"])
        with torch.no_grad():
            clients[0].model.stages[0][0].bias.fill_(math.nan)
        return clients[0].packed(clients[0].sent())

    asks = [spoilt, *(each.handle for each in clients[1:])]
    one_round(model, asks, [each.names() for each in clients], 0, Traffic())
    assert all(torch.equal(value, sound[name]) for name, value in numbers(model, "stages").items())


def test_clients_as_processes_learn_the_same():
    """Each has its own images and heads; blocks and masks cross loopback sockets, in all rounds and after the last."""
    method = tiny(clients=2, budgets=(1, 3), rounds=3)
    together_, _, clients = started(method)
    apart, _, others = started(method)
    before = [numbers(one) for one in (together_, apart)]
    assert all(torch.equal(value, before[1][name]) for name, value in before[0].items())
    learnt = []
    with one_thread(), ExitStack() as stack:  # as the processes do, so that no mask differs
        asks = [stack.enter_context(process(each)) for each in others]
        for number in range(method.rounds + 1):
            sizes, seen = turn(together_, clients, number), Traffic()
            one_round(apart, asks, [each.names() for each in others], number, seen)
            assert (seen.down, seen.up) == (sizes.down, sizes.up)
            assert min(seen.up) > 0
            learnt.append(numbers(apart, "stages"))
            for name, value in numbers(together_, "stages").items():
                assert torch.equal(value, learnt[-1][name])
    moved = [
        [name for name in first if not torch.equal(first[name], second[name])]
        for first, second in pairwise([numbers_of(before[1]), *learnt])
    ]
    assert all(moved[:-1])
    assert not moved[-1]  # after the last round each is for itself


def test_a_message_holds_no_image_and_less_than_all_weights():
    model, _, clients = started(tiny(density=0.25))
    clients = [pickle.loads(pickle.dumps(each)) for each in clients]
    seen, dense = turn(model, clients), started(tiny(density=1.0))
    whole = turn(dense[0], dense[2])
    assert sum(seen.up) < sum(whole.up)
    deep = max(clients, key=lambda each: each.model.exits)
    sent = deep.sent()
    count = sum(p.numel() for name, p in deep.model.named_parameters() if name.startswith("stages"))
    assert sum(value.numel() for value in sent["values"].values()) <= count / 4 + len(sent["values"])


def test_the_traffic_of_the_whole_training_is_kept_with_what_was_trained(monkeypatch, tmp_path):
    """All messages that clients get and send, the last round's too, also where the cache has the training."""
    method, seen, handle = tiny(rounds=2, clients=2, budgets=(1, 3)), [], Client.handle

    def noting(self, message):
        answer = handle(self, message)
        seen.append((len(message), len(answer)))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Client, "handle", noting)
        noted = method.prepare(Bench(most_steps=2))
    assert len(seen) == 3 * 2  # two rounds and the last messages
    benches = [Bench(cache=tmp_path, most_steps=2) for _ in range(2)]
    kept = [method.prepare(bench) for bench in benches]
    assert [bench.prepared_from_cache for bench in benches] == [False, True]
    total = tuple(sum(sizes) for sizes in zip(*seen, strict=True))
    assert [claimed.crossed(each) for each in (noted, *kept)] == [total] * 3
    assert total[0] > total[1] > 0


def test_the_whole_training_is_rounds_and_then_each_by_itself(monkeypatch):
    method, turns = tiny(rounds=2), []
    monkeypatch.setattr(Client, "work", lambda self, number: turns.append(number) or {})
    method.prepare(Bench())
    assert turns == [number for number in range(3) for _ in range(method.clients)]


# Data.


def test_each_image_is_one_clients_and_mixtures_are_the_same_in_all_parts():
    data = tiny(train_size=900).load()
    for part, owners in data.owners.items():
        assert torch.cat(list(owners)).sort().values.tolist() == [*range(len(data.part(part)))]
    held_ = [[(data.part(part).targets[rows] == 3).float().sum() for rows in data.owners[part]] for part in data.owners]
    shares = [torch.stack(each) / sum(each) for each in held_]
    assert torch.allclose(shares[0], shares[2], atol=0.05)


def test_the_partition_is_a_setting():
    first, again, other = (tiny(partition=seed).load().owners["train"][0].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_who_has_which_images_follows_the_seed_of_the_run():
    """The same in all parts; a setting beside the seed makes other partitions."""
    method = tiny(rounds=1)
    each = [method.prepare(Bench(seed=seed, most_steps=0)).owned.owners for seed in (0, 1, 0)]
    for part in ("train", "validation", "test"):
        first, other, again = ([rows.tolist() for rows in owners[part]] for owners in each)
        assert first == again != other
    shifted = method.replace({"partition": 1}).prepare(Bench(seed=0, most_steps=0)).owned
    assert [rows.tolist() for rows in shifted.owners["train"]] == [rows.tolist() for rows in each[1]["train"]]
    full = registry.get(KEY)
    assert {len(skewed(10, full.clients, full.alpha, seed)) for seed in range(20)} == {10}  # each seed has a partition


def test_of_measured_parts_the_first_samples_count():
    data = tiny().load()
    found = [owned_by(k, data, 100) for k in range(3)]
    assert sum(len(each.test) for each in found) == sum(len(each.validation) for each in found) == 100
    assert sum(len(each.train) for each in found) == len(data.train)


# Measuring.


def point(quality, cost, full, exits):
    return OperatingPoint(knob=0.5, quality=quality, cost=cost, speed_up=full / cost, exits=exits)


def test_clients_are_taken_together_by_their_samples():
    found = together([(30, [point(0.5, 10, 10, [1.0])]), (10, [point(0.9, 50, 100, [0.5, 0.5])])], 3)[0]
    assert found.quality == pytest.approx(0.6)
    assert found.cost == pytest.approx(20)
    assert found.speed_up == pytest.approx((0.75 * 10 + 0.25 * 100) / 20)
    assert found.exits == pytest.approx([0.875, 0.125, 0.0])
    sizes = (39, 62, 46, 75, 28, 65, 18, 37)  # whose shares, rounded, do not sum to 1
    assert together([(n, [point(0.5, 10, 10, [1.0])]) for n in sizes], 3)[0].exits[0] == 1.0


def test_a_client_answers_by_its_last_exit_where_deeper_ones_are_asked_for(prepared):
    method, _, ready = prepared(KEY)
    shallow = next(one for one in held(ready, "test") if one.model.exits == 1)
    points = stretched(shallow, "test", method)
    assert [p.knob for p in points] == [1, 2, 3]
    assert len({(p.quality, p.cost) for p in points}) == 1
    assert [len(p.exits) for p in points] == [1, 1, 1]


@pytest.mark.parametrize(("executed", "samples"), [(1, 3), (3, 3), (12, 12)])
def test_every_client_is_executed(prepared, executed, samples):
    method, bench, ready = prepared(KEY)
    found = method.execute(ready, replace(bench, executed=executed), 0.8)
    assert found.samples == samples
    assert found.agrees
    assert found.counted == found.claimed


def test_no_client_runs_more_than_it_affords(prepared):
    method, _, ready = prepared(KEY)
    assert [one.model.exits for one in ready.each] == [1, 2, 3]
    assert ready.model.exits == 3
    assert method.policy(0.7, ready) == MaxConfidence(0.7)


def test_chance_is_each_clients_commonest_class(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    parts = [SimpleNamespace(test=SimpleNamespace(targets=torch.tensor(y))) for y in ([1, 1, 2, 3], [5, 5])]
    monkeypatch.setattr("eelit.methods.papers.li2023esfedavg.held", lambda *_: [SimpleNamespace(data=p) for p in parts])
    found = method.chance(ready, bench)
    assert found.quality == pytest.approx(4 / 6)
    assert found.error == pytest.approx(math.sqrt(4 / 6 * 2 / 6 / 6))


def test_final_networks_are_sparse(prepared):
    method, _, ready = prepared(KEY)
    for one in ready.each:
        for stage in one.model.stages:
            assert isinstance(stage[0], nn.Conv2d)
            assert (stage[0].weight != 0).sum() == math.ceil(method.kept * stage[0].weight.numel())


@pytest.mark.parametrize(
    "changed",
    [
        {"density": 0.0},
        {"density": 1.5},
        {"kept": 0.0},
        {"kept": 1.5},
        {"budgets": (0,)},
        {"budgets": (4,)},
        {"rounds": 0},
        {"shared": "some"},
        {"by": "luck"},
    ],
)
def test_bad_settings_are_refused(changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        tiny(**changed)


# What is claimed.


def test_claims_drop_one_part_at_a_time_in_five_federations(prepared, monkeypatch):
    """Each has its seed, from the first on: who has which images, weights, order."""
    method, bench, ready = prepared(KEY)
    asked = []

    def prepare(self, bench):
        asked.append((self, bench.seed))
        return ready

    monkeypatch.setattr(EsFedAvg, "prepare", prepare)
    points = method.sweep(ready, bench, "test", method.knobs)
    curve = SimpleNamespace(
        validation=points, test=points, full_quality=points[-1].quality, chance=None, quality="accuracy"
    )
    found = claimed.claims(method, ready, replace(bench, seed=4), curve)
    changes = (
        {"budgets": (1,)}, {"shared": "nothing", "kept": 1.0}, {"shared": "all"}, {"density": 1.0}, {"kept": 1.0},
    )  # fmt: skip
    ways = [method.replace(changed) for changed in changes]
    seeds = [4 + seed for seed in (0, 101, 202, 303, 404)]
    wanted = [(method, seed) for seed in seeds[1:]]  # the first is trained already
    wanted += [(way, seed) for seed in seeds for way in ways]
    plain = method.replace({"shared": "all", "density": 1.0, "kept": 1.0, "by": "update"})
    one, *deep = (plain.replace({"budgets": (e,), "rounds": n}) for e, n in ((1, 7), (3, 7), (3, 7)))
    wanted += [(way, seed) for seed in seeds for way in (one, *deep)]  # whose traffic is here that of the method
    assert asked[: len(wanted)] == wanted
    elsewhere = [method.replace(changed) for changed in ({"train_size": 100}, {"train_size": 200}, {"alpha": 3 * 0.3})]
    assert asked[len(wanted) :] == [
        (way, seed) for own in elsewhere for seed in seeds[:3] for way in (own, own.replace(changes[1]))
    ]
    assert [o.name for o in found] == [
        "deep clients are better for their depth", "better than learning alone",
        "better than plain federated averaging", "better with heads of their own",
        "little is lost by sending few weights", "little is lost by keeping few weights", "exits spare computation",
    ]  # fmt: skip
    assert [o.holds for o in found[:2]] + [found[3].holds] == [False] * 3  # nobody is better than itself
    deep = claimed.accuracy(method, ready, bench, [2])
    assert found[0].measured.startswith(f"accuracy {deep:.4f} and {deep:.4f}")
    assert found[1].measured.startswith(f"accuracy {claimed.accuracy(method, ready, bench):.4f}")
    assert deep != claimed.accuracy(method, ready, bench)


def test_plain_federated_averaging_is_one_network_for_all_after_as_many_rounds(monkeypatch):
    """It is judged as it is on the server; the deep one once more with as many bytes as the method has taken."""
    method, bench, made = tiny(rounds=5, clients=2, budgets=(3,), density=1.0), Bench(most_steps=3), []
    prepare = EsFedAvg.prepare
    monkeypatch.setattr(EsFedAvg, "prepare", lambda self, bench: made.append(prepare(self, bench)) or made[-1])
    ready = method.prepare(bench)
    found = claimed.beside_plain(method, ready, bench)
    _, one, deep, brief = made
    assert [each.method.rounds for each in (one, deep, brief)] == [6, 6, found.rounds]
    assert 1 < found.rounds < 6
    for each, exits in ((one, 1), (deep, 3)):
        assert [client.model.exits for client in each.each] == [exits] * 2
        server = claimed.of_the_server(each)
        weights = [numbers(client.model) for client in server.each]
        own = {name: value for name, value in numbers(each.federation).items() if name in weights[0]}
        assert all(torch.equal(own[name], w[name]) for w in weights for name in w)
        assert any(not torch.equal(numbers(client.model)[name], own[name]) for client in each.each for name in own)
    assert [found.ours, found.affordable, found.deep, found.brief] == [
        claimed.accuracy(each.method, each if each is ready else claimed.of_the_server(each), bench) for each in made
    ]
    bytes_ = [sum(claimed.crossed(each)) for each in made]
    assert bytes_[:3] == [found.ours_bytes, found.affordable_bytes, found.deep_bytes]
    assert bytes_[3] <= found.ours_bytes < bytes_[3] + bytes_[2] / 6
    steps = [[len(examples) for examples in each.owned.each("train")] for each in made]
    assert steps[0] == steps[1] == steps[2]


@pytest.mark.parametrize(("taken", "rounds"), [(100, 3), (99, 2), (10, 1), (0, 1)])
def test_rounds_that_fit_into_bytes_by_hand(taken, rounds):
    """Four messages of 10 to the clients, and three of 20 back."""
    assert claimed.fitting(taken, 10.0, 20.0) == rounds


def test_what_all_can_afford_decides_and_what_it_takes_is_told():
    found = [claimed.Averaged(0.5 + gain, 4000, 0.5, 1000, 0.9, 8000, 0.8, n) for gain, n in ((0.02, 9), (0.03, 10))]
    outcome = claimed.better_than_plain(found, 21)
    assert outcome.measured.endswith(
        "; 4.0 kB crossed, there 1.0; one network of all blocks, beyond the budgets of some, reaches 0.9000 with "
        "8.0 kB, and 0.8000 in as many bytes as here, after 9 or 10 rounds"
    )
    assert outcome.measured.startswith("accuracy 0.5250 and 0.5000, +0.0250")
    assert not outcome.holds  # two federations tell little
    assert claimed.better_than_plain([found[0], found[0], found[1]] * 2, 21).holds


def test_accuracy_of_some_clients(prepared):
    method, bench, ready = prepared(KEY)
    alone = [claimed.accuracy(method, ready, bench, [k]) for k in range(3)]
    sizes = [len(one.data.test) for one in ready.each]
    mean = sum(n * quality for n, quality in zip(sizes, alone, strict=True)) / sum(sizes)
    assert claimed.accuracy(method, ready, bench) == pytest.approx(mean)
    assert len(set(alone)) > 1


def test_variants_share_the_trainings_in_which_nothing_is_chosen(tmp_path):
    """What tells which numbers are sent has no effect where all are, or none."""
    found = []
    for part in ("alone", "dense"):
        for by in ("update", "weight"):
            bench = Bench(cache=tmp_path, most_steps=2)
            claimed.without(tiny(rounds=2, by=by), part).prepare(bench)
            found.append(bench.prepared_from_cache)
    assert found == [False, True, False, True]


@pytest.mark.parametrize("part", ["alone", "dense"])
def test_what_is_shared_would_be_the_same_with_either(part):
    changed = {name: value for name, value in claimed.CHANGED[part].items() if name != "by"}
    one, other = (tiny(rounds=2, by=by, **changed).prepare(Bench()) for by in ("update", "weight"))
    for first, second in zip(one.each, other.each, strict=True):
        states = first.model.state_dict(), second.model.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_trainings_take_one_thread_and_leave_the_others_to_whom_they_are(monkeypatch):
    threads, before = [], torch.get_num_threads()
    monkeypatch.setattr(Client, "work", lambda self, number: threads.append(torch.get_num_threads()) or {})
    try:
        torch.set_num_threads(2)
        tiny(rounds=1).prepare(Bench())
        assert set(threads) == {1}
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def pairs(*gains):
    return [claimed.Pair(0.5 + gain, 0.5) for gain in gains]


@pytest.mark.parametrize(
    ("gains", "holds"),
    [((0.011, 0.011, 0.012), True), ((0.009, 0.01, 0.009), False), ((0.05, 0.05, -0.01), False),
     ((0.02, 0.03, -0.001), False), ((0.03, 0.03, 0.02), True)],
)  # fmt: skip
def test_a_part_must_bring_a_point_on_average_and_something_for_certain(gains, holds):
    assert claimed.better("", "", pairs(*gains)).holds is holds


def test_the_interval_by_hand():
    """Of 0.01, 0.02 and 0.03 the deviation is 0.01; Student's t of two degrees of freedom is 4.3027 at 0.975."""
    found = claimed.gain(pairs(0.01, 0.02, 0.03))
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert found == pytest.approx((0.02, 0.02 - half, 0.02 + half), abs=1e-7)


def test_what_each_federation_gains_is_told():
    assert claimed.told(pairs(0.01, 0.0, 0.02)) == (
        "accuracy 0.5100 and 0.5000, +0.0100 from -0.0148 to +0.0348 (+0.0100, +0.0000, +0.0200)"
    )


@pytest.mark.parametrize(
    ("gains", "sent", "holds"),
    [((-0.009, -0.009), (100, 50), True), ((-0.011, -0.010), (100, 50), False), ((-0.012, 0.01), (100, 50), False),
     ((0.05, 0.05), (100, 51), False), ((0.05, 0.05), (50, 60), False), ((0.05, 0.05), (100, 30), True)],
)  # fmt: skip
def test_few_weights_must_be_nearly_as_good_and_what_clients_send_counts(gains, sent, holds):
    found = claimed.sparse(pairs(*gains), [sent] * 2, [(100, 100)] * 2)
    assert found.holds is holds
    assert found.measured.startswith(f"up to the server {sent[1] / 1000:.1f} of 0.1 kB ({sent[1]}.0%), down to the ")


def test_bytes_are_means_over_the_federations():
    found = claimed.sparse(pairs(0.0, 0.0), [(1000, 4000), (3000, 4000)], [(5000, 8000), (7000, 8000)])
    assert found.measured.startswith(
        "up to the server 4.0 of 8.0 kB (50.0%), down to the clients 2.0 of 6.0 kB, 42.9% in sum"
    )


@pytest.mark.parametrize(
    ("gains", "holds"), [((-0.009, -0.009), True), ((-0.025, 0.02), False), ((-0.011, -0.011), False)]
)
def test_few_weights_that_are_kept_must_be_nearly_as_good(gains, holds):
    found = claimed.pruned(pairs(*gains), 0.3)
    assert found.holds is holds
    assert found.measured.startswith("30% of the weights kept")
