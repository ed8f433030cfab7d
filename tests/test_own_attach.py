"""Your own network: exits are put on it or refused, trained by named recipes, asked, run with a rule, kept."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.evaluate import replay
from eelit.methods.own.attach import CannotAttach, attach
from eelit.methods.own.calibrate import calibrate
from eelit.methods.own.heads import Mean
from eelit.methods.own.kept import load
from eelit.methods.own.recipes import LEFT_OUT, RECIPES
from eelit.methods.own.refusals import CannotExport, WrongNetwork
from eelit.methods.own.sampling import Sampling
from eelit.methods.own.saved import SavedRule, WrongRule, load_rule
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.max_confidence import MaxConfidence

CLASSES = 3
SIZES = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40,
}  # fmt: skip


def bert(kind=BertForSequenceClassification, **more):
    torch.manual_seed(0)
    return kind(BertConfig(**SIZES, num_labels=CLASSES, **more))


class Block(nn.Module):
    """What it does depends on its input, so that it can be called, but not looked into."""

    def __init__(self, inner, outer):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer)
        self.short = nn.Sequential(nn.Conv2d(inner, outer, 1))

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("not a number")
        return F.relu(self.norm(self.conv(x)) + self.short(x))


class Cnn(nn.Module):
    """Stages with names, in the manner of torchvision; what one gives is also read behind the next."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer1 = nn.Sequential(Block(4, 4), Block(4, 8))
        self.layer2 = nn.Sequential(Block(8, 8), Block(8, 8))
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        middle = self.layer1(self.stem(x))
        return self.fc(F.adaptive_avg_pool2d(self.layer2(middle) + middle, 1).flatten(1))


class OfTheBatch(Cnn):
    """What it says of a sample depends on the others."""

    def forward(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc((x - x.mean(dim=0)).mean(dim=(2, 3)))


def cnn(kind=Cnn, **more):
    torch.manual_seed(0)
    model = kind(**more)
    model(torch.rand(8, 1, 6, 6))  # so that the normalisation has seen something
    return model.eval()


def texts(n=4, length=9, seed=0):
    ids = torch.randint(1, SIZES["vocab_size"], (n, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def images(n=5):
    return torch.rand((n, 1, 6, 6), generator=torch.Generator().manual_seed(1))


# Putting exits on


@pytest.mark.parametrize("after", [(), (1, 3), ("bert.encoder.layer.1",)])
def test_an_encoder_keeps_its_trained_head_masks_and_padding(after):
    own = bert().eval()
    network = attach(own, after)
    assert network.exits == {0: 4, 2: 3, 1: 2}[len(after)]
    batch = texts()
    with torch.no_grad():
        torch.testing.assert_close(network.model.full(batch), own(**batch).logits)
        torch.testing.assert_close(network.model(batch)[-1], own(**batch).logits)
    shorter = {name: part[1:2, :4] for name, part in batch.items()}  # the padded text by itself
    everywhere = network.model(batch)[:, 1]
    torch.testing.assert_close(network.model(shorter)[:, 0], everywhere, atol=1e-5, rtol=1e-4)


def test_a_bare_encoder_needs_to_be_told_how_many_classes():
    with pytest.raises(CannotAttach, match="no head to keep; say by outputs="):
        attach(bert(BertModel))
    assert attach(bert(BertModel), outputs=5).model(texts()).shape == (4, 4, 5)
    assert attach(bert(), keep_head=False, outputs=1).model(texts()).shape == (4, 4)


def test_an_encoder_whose_depth_probe_fails_is_refused():
    class Rescaled(BertForSequenceClassification):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * kwargs["input_ids"].sum() if "input_ids" in kwargs else out.logits
            return out

    with pytest.raises(CannotAttach, match="Rescaled"):
        attach(bert(Rescaled))
    with pytest.raises(
        CannotAttach, match=r"Rescaled: as an encoder, .*; and cut at modules as any other network, its"
    ):
        attach(bert(Rescaled), probe=texts())


def test_samples_of_ones_own_are_tried_on_an_encoder_too():
    """What it does with an input that no made probe names is seen on them alone."""

    class Kinds(BertForSequenceClassification):
        def forward(self, input_ids, attention_mask=None, token_type_ids=None):
            out = super().forward(input_ids, attention_mask, token_type_ids)
            out.logits = out.logits if token_type_ids is None else out.logits * input_ids.sum()
            return out

    class Bare(BertModel):
        def forward(self, input_ids, attention_mask=None, token_type_ids=None):
            out = super().forward(input_ids, attention_mask, token_type_ids)
            told = out.last_hidden_state
            out.last_hidden_state = told if token_type_ids is None else 2 * told
            return out

    own = {**texts(), "token_type_ids": torch.ones_like(texts()["input_ids"])}
    for kind, more in ((Kinds, {}), (Bare, {"outputs": CLASSES})):
        for probe in (None, texts()):
            assert attach(bert(kind), probe=probe, **more).places[0] == "after layer 1 of 4"
        with pytest.raises(CannotAttach, match=r"as an encoder, (in a|what|part|when|layer)"):
            attach(bert(kind), probe=own, **more)
    for kind, more in ((BertForSequenceClassification, {}), (BertModel, {"outputs": CLASSES})):
        model = bert(kind).eval()
        network = attach(model, probe=own, **more)
        assert network.places[0] == "after layer 1 of 4"
    torch.testing.assert_close(attach(bert(), probe=own).model.full(own), bert().eval()(**own).logits)


def test_a_model_of_transformers_that_is_no_encoder_is_cut_at_its_modules():
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=CLASSES
    )
    torch.manual_seed(0)
    own, x = ResNetForImageClassification(config).eval(), torch.rand(5, 1, 32, 32)
    with pytest.raises(CannotAttach, match="ResNet"):
        attach(own)
    with pytest.raises(CannotAttach, match="ResNet"):
        attach(own, [1], probe=x)
    network = attach(own, ["resnet.encoder.stages.0"], probe=x)
    assert network.places == ("after resnet.encoder.stages.0", "at its end")
    torch.testing.assert_close(network.model.full(x), own(x).logits)
    with pytest.raises(CannotAttach, match="layers 1 to 4, and no 5"):
        attach(bert(), [5])
    with pytest.raises(CannotAttach, match="is none of its 4 layers"):
        attach(bert(), ["classifier"])


@pytest.mark.parametrize(
    ("after", "places"),
    [
        (["layer1"], ["after layer1", "at its end"]),
        (["layer2", "layer1.0"], ["after layer1.0", "after layer2", "at its end"]),
        ([], [*(f"after layer{i}.{j}" for i in (1, 2) for j in (0, 1)), "at its end"]),
    ],
)
def test_a_cnn_is_cut_after_named_modules_with_what_later_ones_read(after, places):
    own, x = cnn(), images()
    network = attach(own, after, probe=x)
    assert list(network.places) == places
    with torch.no_grad():
        torch.testing.assert_close(network.model.full(x), own(x))
    assert network.model(x).shape == (len(places), 5, CLASSES)
    assert {id(p) for p in own.parameters()} < {id(p) for p in network.model.parameters()}


def test_heads_may_be_made_by_a_function_and_the_models_own_left_out():
    shapes = []

    def factory(shape, outputs):
        shapes.append((tuple(shape), outputs))
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), outputs))

    network = attach(cnn(), ["layer1.0", "layer2"], heads=factory, keep_head=False, outputs=7, probe=images())
    assert shapes == [((4, 6, 6), 7), ((8, 6, 6), 7)]
    assert network.places == ("after layer1.0", "after layer2")
    assert network.model(images()).shape == (2, 5, 7)


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (OfTheBatch, {"after": ["layer1"]}, "gets depends on its batch|others get another answer"),
        (Cnn, {"after": ["layer3"]}, "no module 'layer3'"),
        (Cnn, {"after": ["layer1", "layer1.0"]}, "others inside it"),
        (Cnn, {"after": ["layer1.0.conv"]}, "cannot be cut, for what it does depends on its input"),
        (Cnn, {"after": ["fc"]}, "'fc' is its end"),
        (Cnn, {"after": [1]}, "numbers of layers"),
        (Cnn, {"after": ["layer1"], "probe": None}, "give some samples by probe="),
        (Cnn, {"after": ["layer1"], "outputs": 9}, "has 3 outputs, not 9"),
    ],
)
def test_other_networks_are_refused_with_the_reason(make, options, reason):
    with pytest.raises(CannotAttach, match=reason):
        attach(cnn(make), **{"probe": images(), **options})


def test_the_model_is_as_before_when_it_is_refused():
    own = cnn(OfTheBatch).train()
    before = {name: part.clone() for name, part in own.state_dict().items()}
    with pytest.raises(CannotAttach):
        attach(own, ["layer1"], probe=images())
    assert own.training
    assert not any(module._forward_hooks for module in own.modules())
    assert all(torch.equal(before[name], part) for name, part in own.state_dict().items())


# Running


@pytest.mark.parametrize("make", [lambda: (attach(bert()), texts()), lambda: (attach(cnn(), probe=images()), images())])
def test_what_infer_tells_of_costs_is_what_is_run(make):
    network, batch = make()
    enabled = (1, network.exits - 1)
    some = SavedRule("static", ((1.0, FixedExit(0)),), network.exits, enabled, CLASSES, "logits")
    for rule in (FixedExit(0), FixedExit(2), FixedExit(network.exits - 1), some):
        network.infer(batch, rule)  # so that its own costs are known
        with MacCounter() as counter:
            found = network.infer(batch, rule)
        assert found.macs.sum() == counter.macs
    assert (found.exits == 1).all()


def test_infer_agrees_with_replay_and_refuses_rules_of_other_networks():
    network, batch = attach(cnn(), probe=images()), images()
    outputs = network.model(batch).detach()
    for threshold in outputs.softmax(dim=-1).amax(dim=-1)[1].sort().values.tolist():
        policy = MaxConfidence(threshold)
        assert network.infer(batch, policy).exits.tolist() == replay(policy, outputs).tolist()
    rule = SavedRule("max-confidence", ((1.0, MaxConfidence(0.5)),), 2, (0, 1), CLASSES, "logits")
    with pytest.raises(WrongRule, match="for 2 exits and 3 classes, but the network has 5 and 3"):
        network.infer(batch, rule)


def test_a_rule_that_refuses_says_whom():
    network, batch = attach(cnn(), ["layer1"], probe=images()), images()
    rule = SavedRule("static", ((1.0, FixedExit(1)),), 2, (0, 1), CLASSES, "logits", reject_below=0.99)
    assert network.infer(batch, rule).rejected.all()
    assert not network.infer(batch, FixedExit(1)).rejected.any()


def test_collect_tells_costs_of_each_shape():
    network = attach(bert(), [2])
    long, short = texts(length=9), texts(3, length=5)
    found = network.collect([(long, torch.tensor([0, 1, 2, 0])), {**short, "labels": torch.tensor([1, 1, 2])}])
    assert found.z.shape == (2, 7, CLASSES)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 1, 2]
    assert found.costs.shape == (2, 7)
    assert found.unit == "MACs"
    assert found.costs[:, 0].tolist() == network.costs(long)[0]
    assert found.costs[:, 6].tolist() == network.costs(short)[0]
    np.testing.assert_allclose(found.z[:, 4:], network.model(short).detach().numpy(), rtol=1e-5, atol=1e-6)
    same = network.collect([long, long], costs=[1.0, 2.0], unit="ms")
    assert same.labels is None
    assert same.costs.tolist() == [1.0, 2.0]
    assert same.unit == "ms"


class Weighed(nn.Module):
    """Reads a mask, if there is one."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Sequential(nn.Linear(4, 8)), nn.Linear(8, CLASSES)

    def forward(self, x, mask=None):
        x = self.one(x)
        return self.other(x if mask is None else x * mask)


def ways(network, batch, tmp_path):
    """Return every way in which a network is given a batch."""
    labels = torch.zeros(len(batch["x"] if "x" in batch else batch["input_ids"])).long()
    return {
        "collect": lambda: network.collect([(batch, labels)]),
        "fit": lambda: network.fit([(batch, labels)], epochs=1),
        "infer": lambda: network.infer(batch, FixedExit(0)),
        "infer_stream": lambda: list(network.infer_stream([batch], FixedExit(0))),
        "export": lambda: network.export(tmp_path / "onnx", batch),
    }


@pytest.mark.parametrize("tensor", [False, True], ids=["named", "tensor"])
def test_an_input_that_the_probe_did_not_name_is_refused_everywhere(tensor, tmp_path):
    torch.manual_seed(0)
    x, mask = torch.randn(4, 4), torch.zeros(4, 8)
    network = attach(Weighed().eval(), ["one"], probe=x if tensor else {"x": x})
    for wrong in ("mask", "maks"):
        for way, run in ways(network, {"x": x, wrong: mask}, tmp_path).items():
            with pytest.raises(ValueError, match=f"the probe did not name `{wrong}`; give it in probe="):
                run()
            assert not (tmp_path / "onnx").exists(), way
    assert network.infer({"x": x}, FixedExit(0)).exits.tolist() == [0] * 4
    with_labels = {"x": x, "labels": torch.zeros(4).long()}
    assert network.infer(with_labels, FixedExit(0)).exits.tolist() == [0] * 4


def test_what_the_probe_named_is_read_and_may_not_be_missing(tmp_path):
    torch.manual_seed(0)
    model, x, mask = Weighed().eval(), torch.randn(4, 4), torch.zeros(4, 8)
    network = attach(model, ["one"], probe={"x": x, "mask": torch.rand(4, 8)})
    found = network.infer({"x": x, "mask": mask}, FixedExit(1))
    assert torch.equal(found.answers, model(x, mask))
    assert not torch.equal(found.answers, model(x))
    for run in ways(network, {"x": x}, tmp_path).values():
        with pytest.raises(ValueError, match="reads mask, which the batch does not name"):
            run()


def test_an_encoder_refuses_an_input_that_it_has_not(tmp_path):
    network, batch = attach(bert(), [2]), texts()
    misspelt = {"input_ids": batch["input_ids"], "attention_maks": batch["attention_mask"]}
    for run in ways(network, misspelt, tmp_path).values():
        with pytest.raises(ValueError, match="reads no `attention_maks`"):
            run()
    assert network.infer({**batch, "token_type_ids": batch["input_ids"] * 0}, FixedExit(0)).exits.tolist() == [0] * 4


def test_a_pair_with_a_mask_is_not_taken_for_inputs_and_labels():
    """The mask would be left aside, and the answers be those of a text without padding."""
    network, named = attach(bert(), [2]), texts()
    pair = named["input_ids"], named["attention_mask"]
    one_token = named["input_ids"][:, :1], named["attention_mask"][:, :1]
    for batch in (pair, list(pair), one_token, (named["input_ids"], torch.zeros(4, 2))):
        for run in (
            lambda batch=batch: network.infer(batch, FixedExit(0)),
            lambda batch=batch: network.collect([batch]),
            lambda batch=batch: list(network.infer_stream([batch], FixedExit(0))),
            lambda batch=batch: network.fit([batch]),
        ):
            with pytest.raises(ValueError, match=r"each sample has one label, but .* name inputs by a dictionary"):
                run()
    for labels in (torch.zeros(4).long(), torch.zeros(4, 1).long(), [0, 1, 2, 0]):
        assert network.collect([(named["input_ids"], labels)]).samples == 4
    value = attach(nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)), ["0"], probe=torch.ones(4, 1))
    assert value.collect([(torch.ones(4, 1), torch.ones(4, 1))]).labels.tolist() == [1.0] * 4


def test_labels_of_tokens_go_with_a_language_model_and_a_mask_does_not():
    network, ids = attach(llama()), texts()["input_ids"].clamp(min=2)
    assert network.collect([(ids, ids)]).samples == network.collect([ids]).samples
    network.fit([(ids, ids)], epochs=1)
    for run in (lambda pair: network.collect([pair]), lambda pair: network.fit([pair]),
                lambda pair: network.infer(pair, None, length=1)):  # fmt: skip
        with pytest.raises(ValueError, match="as a mask does; if it is an input, such as a mask, name inputs"):
            run((ids, torch.ones_like(ids)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["bert", "cnn"])
def test_heads_are_of_the_precision_of_what_they_read(dtype, kind, tmp_path):
    own = (bert() if kind == "bert" else cnn()).to(dtype).eval()
    batch, probe = (texts(), None) if kind == "bert" else (images().to(dtype), images().to(dtype))
    labels = torch.arange(4 if kind == "bert" else 5) % CLASSES
    network = attach(own, probe=probe)
    assert {p.dtype for p in network.model.parameters()} == {dtype}
    network.fit([(batch, labels)], epochs=2, rate=1e-3)
    data = network.collect([(batch, labels)])
    assert np.isfinite(data.z).all()
    policy = MaxConfidence(float(network.model(batch).detach().float()[0].softmax(dim=-1).amax(dim=-1).median()))
    found = network.infer(batch, policy)
    assert len(found.exits.unique()) > 1
    assert found.exits.tolist() == replay(policy, network.model(batch).detach()).tolist()
    assert torch.get_default_dtype() == torch.float32
    own_heads = attach(own, probe=probe, heads=lambda shape, n: Pooled(shape, n) if kind == "bert" else Mean(shape, n))
    assert own_heads.infer(batch, FixedExit(0)).answers.dtype == dtype
    network.save(tmp_path)
    again = load(tmp_path, None if kind == "bert" else cnn().to(dtype))
    assert torch.equal(again.model(batch), network.model(batch))


# Training


def stripes(n=120, seed=3):
    """Images of stripes, down, across or none: what a small network learns at once."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    x = torch.rand((n, 1, 6, 6), generator=generator)
    x[y == 0, :, ::2] += 1.5
    x[y == 1, :, :, ::2] += 1.5
    return TensorDataset(x, y)


def loader(n=120, seed=3):
    return DataLoader(stripes(n, seed), batch_size=20, shuffle=True)


def test_from_a_model_to_a_rule_that_skips_in_under_thirty_lines(tmp_path):
    network = attach(cnn(), ["layer1.0", "layer2.0"], probe=images())
    network.fit(loader(), "pabee", epochs=8, rate=1e-2, head_rate=2e-2)
    logits = network.collect(loader(400, seed=4))
    rule = calibrate(logits, "max-confidence", budget=0.8)
    rule.save(tmp_path / "rule.json")
    network.save(tmp_path / "network")

    again = load(tmp_path / "network", Cnn())
    x, y = stripes(200, seed=5).tensors
    found = again.infer(x, load_rule(tmp_path / "rule.json"))
    assert (found.predicted == y).float().mean() > 0.8
    assert len(found.exits.unique()) > 1
    assert found.macs.mean() < 0.9 * again.costs(x)[1][-1]


def changed(network, run):
    """Return which of the network's parts a training changes."""
    before = {name: part.clone() for name, part in network.model.state_dict().items()}
    done = run()
    after = network.model.state_dict()
    return done, {name for name, part in before.items() if not torch.equal(part, after[name])}


def test_two_stages_leave_the_network_as_the_first_has_made_it():
    network = attach(cnn(), ["layer1"], probe=images())
    options = {"epochs": 1, "rate": 1e-2, "ramp_epochs": 1, "ramp_rate": 1e-2}
    done, learned = changed(network, lambda: network.fit(loader(40), "deebert", **options))
    assert done.key == "xin2020deebert"
    assert done.steps == 4
    assert [stage.split()[-1] for stage in done.stages] == ["network", "network"]
    assert "frozen" in done.stages[1]
    assert any(name.startswith("stages") for name in learned)
    assert any(name.startswith("heads.0") for name in learned)
    done, learned = changed(network, lambda: network.fit(loader(40), "deebert", freeze="network", **options))
    assert len(done.stages) == 1
    assert learned
    assert all(name.startswith("heads.0") for name in learned)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_and_freezing_keeps_weights_and_statistics(recipe):
    network = attach(cnn(), ["layer1"], probe=images())
    short = {name: 1.0 for name in RECIPES[recipe].numbers if name.endswith("epochs")}
    done, learned = changed(network, lambda: network.fit(loader(40), recipe, freeze=["layer1"], **short))
    frozen = {id(part) for part in [*network.original.layer1.parameters(), *network.original.layer1.buffers()]}
    held = {
        *network.model.named_parameters(remove_duplicate=False),
        *network.model.named_buffers(remove_duplicate=False),
    }
    assert not learned & {name for name, part in held if id(part) in frozen}
    assert learned
    assert done.steps
    assert all(p.requires_grad for p in network.model.parameters())
    assert not any("train" in vars(module) for module in network.model.modules())


def test_texts_with_masks_are_trained_on_and_norms_behind_the_layers_are_the_networks():
    network = attach(bert(hidden_dropout_prob=0.0), [1])
    batches = [(texts(seed=i), torch.tensor([0, 1, 2, 1])) for i in range(3)]
    before = network.model.full(texts()).detach()
    done, learned = changed(network, lambda: network.fit(batches, "zhou2020pabee", freeze="network", epochs=2))
    assert done.steps == 6
    assert learned == {"heads.0.head.classifier.weight", "heads.0.head.classifier.bias"}
    assert torch.equal(network.model.full(texts()), before)


def test_what_cannot_be_trained_so_is_refused():
    network = attach(cnn(), ["layer1"], probe=images())
    for key, why in LEFT_OUT.items():
        with pytest.raises(ValueError, match="is not offered as a recipe for your own network") as error:
            network.fit(loader(), key)
        assert f"({why}): {key!r}; choose among" in str(error.value)
    with pytest.raises(ValueError, match=r"no recipe 'nothing'; choose among pabee \(zhou2020pabee\)"):
        network.fit(loader(), "nothing")
    with pytest.raises(ValueError, match="its training is not offered as a recipe"):
        network.fit(loader(), "schuster2022calm")
    with pytest.raises(ValueError, match="size of batches is the loader's"):
        network.fit(loader(), "pabee", batch=8)
    with pytest.raises(ValueError, match="used up after one pass"):
        network.fit(iter([]), "pabee")
    with pytest.raises(ValueError, match="no module 'layer9' to freeze"):
        network.fit(loader(), "pabee", freeze=["layer9"])
    with pytest.raises(ValueError, match="needs a label to train on"):
        network.fit([images()], "pabee")


# Keeping


def test_a_network_is_printed_in_a_line():
    assert repr(attach(bert(), [2])) == (
        "<Network: BertForSequenceClassification, exits after layer 2 of 4, after layer 4 of 4>"
    )
    assert repr(attach(llama())) == "<TokenNetwork: LlamaForCausalLM, 4 exits>"


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    network = attach(bert(), [2])
    network.save(tmp_path)
    again, batch = load(tmp_path), texts()
    assert torch.equal(again.model(batch), network.model(batch))
    assert again.places == network.places
    network.model.heads[0].head.classifier.bias.data += 1
    network.save(tmp_path)  # in the place of the first
    assert torch.equal(load(tmp_path).model(batch), network.model(batch))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_damaged_or_does_not_fit_is_not_loaded(tmp_path):
    attach(cnn(), ["layer1"], probe=images()).save(tmp_path)
    with pytest.raises(WrongNetwork, match="give an object of that class by model="):
        load(tmp_path)
    with pytest.raises(WrongNetwork, match="was made of a Cnn, not of a Block"):
        load(tmp_path, Block(1, 1))
    with pytest.raises(WrongNetwork, match=r"cannot be made again|in the model"):
        load(tmp_path, cnn(classes=4))
    told = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps({**told, "weights": "../other"}))
    with pytest.raises(WrongNetwork, match="lie elsewhere"):
        load(tmp_path, Cnn())
    (tmp_path / "network.json").write_text(json.dumps(told))
    (tmp_path / told["weights"]).write_bytes((tmp_path / told["weights"]).read_bytes()[:-1] + b"x")
    with pytest.raises(WrongNetwork, match="damaged"):
        load(tmp_path, Cnn())


class Counting(nn.Module):
    """Counts its samples at the top of its forward, and needs the number at its end."""

    def __init__(self, end):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.fc, self.end = nn.Linear(8 * 16, 5), end

    def forward(self, x):
        return self.fc(self.end(x, lambda: self.two(self.one(x))))


def by_size(x, body):
    n = x.size(0)
    return body().view(n, -1)


def by_unpacking(x, body):
    n, _, h, w = x.shape
    return body().reshape(n, 8 * h * w)


def by_shape(x, body):
    shape = x.shape
    return body().view(shape[0], -1)


def by_calculation(x, body):
    double = x.size()[0] * 2
    found = body()
    return torch.cat([found, found]).view(double, -1)[: double // 2]


def by_length(x, body):
    n = len(x)
    return body().view(n, -1)


def by_length_later(x, body):
    return body().flatten(len(x.shape) - 3).view(len(x), -1)


def by_length_in_a_helper(x, body):
    return flat(body(), samples(x))


def samples(x):
    return len(x)


def flat(x, n):
    return x.view(n, len(x[0]) * 16)


@pytest.mark.parametrize(
    "end",
    [by_size, by_unpacking, by_shape, by_calculation, by_length, by_length_later, by_length_in_a_helper],
)
def test_samples_are_counted_again_where_some_have_left(end, capfd):
    torch.manual_seed(0)
    model, x = Counting(end).eval(), torch.randn(6, 3, 4, 4)
    network = attach(model, ["one", "two"], probe=x)
    assert network.places == ("after one", "after two", "at its end")
    sure = network.model(x).detach()[0].softmax(dim=-1).amax(dim=-1)
    found = network.infer(x, MaxConfidence((float(sure.median()), 1.1)))
    stayed = found.exits == 2
    assert stayed.any()
    assert not stayed.all()
    assert torch.allclose(found.answers[stayed], model(x)[stayed], atol=1e-6)
    assert capfd.readouterr().err == ""


def test_what_asks_for_a_length_is_exported_too(tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = attach(Counting(by_length).eval(), ["one", "two"], probe=torch.randn(6, 3, 4, 4))
    network.export(tmp_path, torch.randn(4, 3, 4, 4))  # proved on other numbers of samples
    assert len([*tmp_path.glob("*.onnx")]) == 3


def test_a_length_on_which_the_way_depends_is_refused_with_a_remedy():
    def by_branching(x, body):
        return body().flatten(1) if len(x) > 2 else body().flatten(1) * 1

    def by_looping(x, body):
        found = body()
        return torch.stack([found[i].flatten() for i in range(len(x))])

    for end in (by_branching, by_looping):
        with pytest.raises(CannotAttach, match="move that step into a module of its own, which is called as it is"):
            attach(Counting(end).eval(), ["one"], probe=torch.randn(6, 3, 4, 4))
    assert "len" not in globals()
    assert "len" not in vars(sys.modules["torch.nn.modules.container"])


def test_a_refusal_prints_no_page(capfd):
    def by_stored_size(x, body):
        shape = x.shape[:1] + (128,)  # noqa: RUF005  # made of a part of the shape, which is not counted again
        return body().view(shape)

    with pytest.raises(CannotAttach):
        attach(Counting(by_stored_size), ["one"], probe=torch.randn(6, 3, 4, 4))
    assert capfd.readouterr().err == ""


class PerToken(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.classifier = nn.Linear(shape[-1], outputs)

    def forward(self, x):
        return self.classifier(x)


def test_heads_that_answer_otherwise_are_refused():
    def too_few(shape, outputs):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], outputs - 1))

    with pytest.raises(CannotAttach, match=rf"the head at exit 1 gives \[3, {CLASSES - 1}\], not .* \[3, {CLASSES}\]"):
        attach(cnn(), ["layer1"], heads=too_few, probe=images())
    with pytest.raises(CannotAttach, match=r"the head at exit 1 gives \[\d+, \d+, 3\], not one answer for each sample"):
        attach(bert(), [1], heads=PerToken)
    assert attach(bert(), [1], heads=Pooled).exits == 2


class Pooled(PerToken):
    def forward(self, x):
        return self.classifier(x[:, 0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_loader_without_a_batch_is_told_so(recipe):
    network = attach(cnn(), ["layer1"], probe=images())
    for empty in ([], DataLoader(stripes(5), batch_size=20, drop_last=True)):
        with pytest.raises(ValueError, match="the loader yields no batch"):
            network.fit(empty, recipe)


def test_a_loader_without_a_batch_is_told_so_of_a_language_model_and_of_data_without_a_length():
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter([])

    for network in (attach(llama()), attach(cnn(), ["layer1"], probe=images())):
        for empty in ([], DataLoader(Nothing())):
            with pytest.raises(ValueError, match="the loader yields no batch"):
                network.fit(empty)


@pytest.mark.parametrize("label", [CLASSES, -1, -100, 0.5, float("nan")])
def test_a_label_that_is_no_class_is_refused_as_collecting_does(label):
    network = attach(cnn(), ["layer1"], probe=images())
    batch = [(images(), torch.tensor([0, 1, label, 0, 1]))]
    with pytest.raises(ValueError, match=r"label 2 of a batch is .*, but classes are whole numbers from 0 to 2"):
        network.fit(batch)
    with pytest.raises(ValueError, match=r"label \d is"):
        network.collect(batch)


def test_training_stops_before_weights_are_no_numbers():
    network, x = attach(cnn(), ["layer1"], probe=images()), images()
    before = {name: part.clone() for name, part in network.model.state_dict().items()}
    labels = torch.zeros(5).long()
    for wrong in (float("nan"), float("inf")):
        bad = x.clone()
        bad[3, 0, 2, 2] = wrong
        with pytest.raises(ValueError, match="holds of sample 3 is not finite"):
            network.fit([(bad, labels)])
    assert all(torch.equal(part, before[name]) for name, part in network.model.state_dict().items())
    values = attach(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), ["0"], probe=torch.ones(4, 4))
    with pytest.raises(ValueError, match="label 0 of a batch is nan, but values are finite numbers"):
        values.fit([(torch.ones(2, 4), torch.tensor([float("nan"), 0.0]))])
    with pytest.raises(ValueError, match="the loss, or its gradient, is not finite"):
        values.fit([(torch.full((4, 4), 1e30), torch.ones(4))])
    assert all(part.isfinite().all() for part in values.model.parameters())


def test_several_labels_at_once_are_refused():
    model = bert()
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(CannotAttach, match="it tells several labels of a sample at once"):
        attach(model)
    network = attach(cnn(), ["layer1"], probe=images())
    several = [(images(), torch.zeros(len(images()), CLASSES))]
    with pytest.raises(ValueError, match="each sample has one label"):
        network.fit(several)
    with pytest.raises(ValueError, match="each sample has one label to train on, not several"):
        network.fit([{"x": several[0][0], "labels": several[0][1]}])


def test_several_inputs_are_given_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x, more):
            return self.other(torch.relu(self.one(x) + more))

    x, more = torch.randn(4, 4), torch.randn(4, 8)
    for probe in ((x, more), (x, more, more), x):
        with pytest.raises(CannotAttach, match="takes x, more; give a probe of several inputs as a dictionary"):
            attach(Two(), ["one"], probe=probe)
    assert attach(Two(), ["one"], probe={"x": x, "more": more}).exits == 2


# Taking it elsewhere


def unpadded():
    return {**texts(), "attention_mask": torch.ones_like(texts()["input_ids"])}


@pytest.mark.parametrize(
    "make",
    [
        lambda: (attach(bert(), [2]), texts()),
        lambda: (attach(bert(), [2]), unpadded()),
        lambda: (attach(cnn(), probe=images()), images()),
    ],
)
def test_exported_stages_say_the_same_and_skip(make, tmp_path):
    pytest.importorskip("onnxruntime")
    from eelit.methods.own import deployed

    network, batch = make()
    network.export(tmp_path, batch)
    stages, rest = deployed.stages_in(tmp_path), network.exits - 1
    listed = json.loads((tmp_path / deployed.NAME).read_text(encoding="utf-8"))
    assert listed["stages"] == [f"stage-{i}.onnx" for i in range(network.exits)]
    for i, stage in enumerate(stages):  # the answer first, then the state, which the next stage takes
        answer, *state = gives = [each.name for each in stage.get_outputs()]
        assert answer == f"answer_{i}"
        assert listed["outputs"][f"stage-{i}.onnx"] == gives
        assert all(name.startswith(f"state_{i}_") for name in state)
        if i < rest:
            assert state
            assert {each.name for each in stages[i + 1].get_inputs()} <= set(state)
        else:
            assert not state
    inputs = {k: v.numpy() for k, v in (batch.items() if isinstance(batch, dict) else [("inputs", batch)])}
    outputs = network.model(batch).detach().softmax(dim=-1).amax(dim=-1)
    for threshold in (0.0, float(outputs[0].median()) - 1e-4, 1.1):
        policy = MaxConfidence(threshold)
        rule = SavedRule("max-confidence", ((1.0, policy),), network.exits, tuple(range(rest + 1)), CLASSES, "logits",
                         reject_below=float(outputs[-1].median()) + 1e-4)  # fmt: skip
        exits, answers, rejected = deployed.run(stages, inputs, rule)
        found = network.infer(batch, rule)
        assert exits.tolist() == found.exits.tolist()
        assert rejected.tolist() == found.rejected.tolist()
        assert rejected.any() or threshold < 1  # who left early is not refused
        np.testing.assert_allclose(answers, found.answers.numpy(), rtol=1e-3, atol=1e-4)
    compile(deployed.loop(), "loop.py", "exec")


def test_an_export_that_is_not_proved_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from eelit.methods.own import export

    monkeypatch.setattr(export, "CLOSE", -1.0)
    with pytest.raises(CannotExport, match="what onnxruntime says at exit 1"):
        attach(cnn(), probe=images()).export(tmp_path / "new", images())
    assert not [*tmp_path.iterdir()]


# Language models


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=None, eos_token_id=None, pad_token_id=0)).eval()


def test_a_decoder_leaves_token_by_token_from_training_to_a_rule(tmp_path):
    network = attach(llama())
    turns = torch.arange(24).repeat(40, 1).add(torch.arange(40)[:, None]) % 5 + 1  # 1 2 3 4 5 1 2 …
    network.fit([turns[:20], turns[20:]], "calm", epochs=20, rate=1e-2)
    logits = network.collect([{"input_ids": turns, "attention_mask": torch.ones_like(turns)}])
    assert logits.z.shape == (4, 40 * 23, 32)
    assert len(np.unique(logits.groups)) == 40
    assert logits.costs.shape == (4, 920)
    rule = calibrate(logits, "max-confidence", budget=0.7)
    prompts = [[1, 2, 3], [4, 5, 1, 2, 3, 4]]
    found = network.infer(prompts, rule, length=6, ends=[2], pad=0)
    assert found.tokens[0].tolist()[:4] == [4, 5, 1, 2]
    assert found.exits[0].tolist()[4:] == [-1, -1]
    assert found.exits.max() < 3 or len(found.exits.unique()) > 2
    alone = network.infer([prompts[0]], rule, length=6, ends=[2])
    assert alone.tokens.tolist() == found.tokens[:1].tolist()
    assert alone.exits.tolist() == found.exits[:1].tolist()
    network.save(tmp_path)
    again = load(tmp_path)
    assert torch.equal(again.model(turns), network.model(turns))
    with pytest.raises(ValueError, match="no recipe 'pabee' for a language model"):
        network.fit([turns], "pabee")


def test_a_decoder_whose_depth_probe_fails_or_with_other_heads_is_refused():
    class Shifted(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            if kwargs.get("input_ids") is not None:
                out.logits = out.logits + 1
            return out

    with pytest.raises(CannotAttach, match="layer by layer its logits differ from its own"):
        attach(Shifted(llama().config))
    with pytest.raises(CannotAttach, match="every layer of a language model is an exit"):
        attach(llama(), [1])


def test_what_is_frozen_of_a_decoder_does_not_learn():
    network, turns = attach(llama()), torch.arange(1, 25).repeat(4, 1)
    before = {name: part.detach().clone() for name, part in network.original.named_parameters()}
    network.fit([turns], epochs=2, rate=1e-2, freeze=["model.embed_tokens", "model.layers.0"])
    still = {name for name, part in network.original.named_parameters() if torch.equal(part, before[name])}
    assert still == {name for name in before if name.startswith(("model.embed_tokens", "model.layers.0."))}
    assert all(part.requires_grad for part in network.original.parameters())
    with pytest.raises(ValueError, match="there is no module 'network' to freeze; name one of model"):
        network.fit([turns], freeze="network")
    with pytest.raises(ValueError, match="nothing to train"):
        network.fit([turns], freeze=["model", "lm_head"])


def test_what_a_language_model_cannot_do_is_one_sentence(tmp_path):
    network = attach(llama())
    for prompts in ([[]], [], [[1, 2], []], torch.zeros(2, 0).long()):
        with pytest.raises(ValueError, match=r"each prompt has a token at least|and each has a token at least"):
            network.infer(prompts, None, length=2)
    with pytest.raises(CannotExport, match="a language model is not written stage by stage: each token leaves"):
        network.export(tmp_path, texts())
    with pytest.raises(ValueError, match="there is no stream of a language model: each token leaves by itself"):
        network.infer_stream([texts()], None)


def test_an_encoder_with_a_decoder_is_refused_with_a_hint():
    model = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))
    with pytest.raises(CannotAttach, match=r"take a language model that is a decoder alone \(…ForCausalLM\)"):
        attach(model)


def test_padding_on_the_wrong_side_is_refused():
    network = attach(llama())
    with pytest.raises(ValueError, match="padded on the left"):
        network.infer({"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])},
                      None, length=1)  # fmt: skip


def test_the_room_is_free_of_torch_until_a_network_is_asked_for():
    code = "import sys, eelit.methods.own, eelit.methods.own.calibrate; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Tokens that are drawn


def texts_to_go_on():
    return torch.randint(1, 32, (6, 5), generator=torch.Generator().manual_seed(2))


def surer():
    """A decoder whose exits are sure of different tokens at different layers."""
    network = attach(llama())
    with torch.no_grad():
        network.original.lm_head.weight.mul_(12)
    return network


def test_drawing_at_no_temperature_is_taking_the_likeliest_and_leaves_at_the_same_layers():
    network, prompts = surer(), texts_to_go_on()
    sure = network.model(prompts)[:-1, :, -1].detach().softmax(dim=-1).amax(dim=-1)
    for rule in (None, MaxConfidence(float(sure.median())), FixedExit(1)):
        wanted = network.infer(prompts, rule, length=7, ends=[3], pad=0)
        for cold in (Sampling(temperature=1e-9), Sampling(top_k=1), Sampling(top_p=1e-9)):
            assert network.infer(prompts, rule, length=7, ends=[3], pad=0, sampling=cold).agrees(wanted), (rule, cold)
    assert len(network.infer(prompts, MaxConfidence(float(sure.median())), length=7).exits.unique()) > 1


def test_what_is_drawn_follows_from_the_seed_and_the_number_of_the_text_alone():
    network, prompts = surer(), texts_to_go_on()
    rule, drawn = MaxConfidence(0.5), Sampling(temperature=2.0, seed=5)
    found = network.infer(prompts, rule, length=6, sampling=drawn)
    assert found.agrees(network.infer(prompts, rule, length=6, sampling=drawn))
    assert not found.agrees(network.infer(prompts, rule, length=6, sampling=Sampling(temperature=2.0, seed=6)))
    assert found.head(2).agrees(network.infer(prompts[:2], rule, length=6, sampling=drawn))
    same = network.infer(prompts[:1].repeat(5, 1), None, length=6, sampling=drawn)
    assert len(same.tokens.unique(dim=0)) > 1
    end = int(found.tokens[0, 1])  # some texts end, and the others draw on as before
    ended = network.infer(prompts, rule, length=6, ends=[end], sampling=drawn)
    for ours, all_of_it in zip(ended.tokens, found.tokens, strict=True):
        upto = int((all_of_it == end).nonzero()[0]) + 1 if end in all_of_it else 6
        assert ours[:upto].tolist() == all_of_it[:upto].tolist()
        assert ours[upto:].tolist() == [0] * (6 - upto)


def test_tokens_are_drawn_as_often_as_their_exit_finds_them_likely():
    network, prompt = surer(), texts_to_go_on()[:1]
    logits = network.model(prompt)[1, 0, -1].detach() / 3
    options = {"temperature": 3.0}
    for more, p in (
        ({}, logits.softmax(dim=-1)),
        ({"top_k": 4}, logits.masked_fill(logits < logits.topk(4).values[-1], -torch.inf).softmax(dim=-1)),
    ):
        found = network.infer(prompt.repeat(3000, 1), FixedExit(1), length=1, sampling=Sampling(**options, **more))
        share = found.tokens.flatten().bincount(minlength=32) / 3000
        assert (found.exits == 1).all()
        assert ((share - p).abs() <= 4 * (p * (1 - p) / 3000).sqrt() + 1e-9).all()
    nucleus = network.infer(prompt.repeat(500, 1), FixedExit(1), length=1, sampling=Sampling(**options, top_p=0.5))
    likeliest, order = logits.softmax(dim=-1).sort(descending=True)
    needed = int((likeliest.cumsum(dim=-1) < 0.5).sum()) + 1
    assert set(nucleus.tokens.flatten().tolist()) == set(order[:needed].tolist())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"temperature": 0}, "temperature is one finite number above 0"), ({"top_k": 0}, "top_k is one whole number"),
     ({"top_p": 0.0}, "top_p is one number"), ({"top_p": 1.5}, "top_p is one number"), ({"seed": -1}, "seed is one")],
)  # fmt: skip
def test_what_cannot_be_drawn_with_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Sampling(**wrong)
