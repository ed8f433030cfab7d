"""Text encoders cut into stages, and the head that reads them: what the methods built on them rely on."""

import math

import pytest
import torch
from torch import nn

from eelit.methods.backbones.encoder import PooledHead, encoder, pooler_of, stages_of, text_exits

IDS = torch.arange(20).reshape(2, 10)


@torch.no_grad()
def test_stages_in_a_row_are_the_whole_encoder():
    """Of transformers' own states the first are the embeddings; each stage gives the next of them."""
    torch.manual_seed(0)
    model = encoder("tiny").eval()
    whole = model(input_ids=IDS, output_hidden_states=True).hidden_states
    state, found = IDS, []
    for stage in stages_of(model):
        state = stage(state)
        found.append(state)
    assert len(found) == len(whole) - 1 == 4
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(found, whole[1:], strict=True))


def by_hand(outputs, dropout=0.1):
    """Return a head for two numbers: W = ((1, 0), (1, 1)), b = (0, -1), V = ((1, -1), (2, -1) …), c = (1, 2 …)."""
    head = PooledHead(nn.Linear(2, 2), outputs, dropout)
    k = torch.arange(1.0, 1 + (outputs or 1))
    with torch.no_grad():
        head.pooler.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        head.pooler.bias.copy_(torch.tensor([0.0, -1.0]))
        head.classifier.weight.copy_(torch.stack([k, -torch.ones_like(k)], dim=1))
        head.classifier.bias.copy_(k)
    return head.eval()


STATES = torch.tensor([[[0.0, 1.0], [1.0, 2.0], [0.5, 0.0]], [[0.2, -1.0], [-2.0, 0.5], [0.0, 0.5]]])
"""Two texts of three tokens, whose means are (0.5, 1) and (-0.6, 0)."""
POOLED = [(math.tanh(0.5), math.tanh(0.5)), (math.tanh(-0.6), math.tanh(-1.6))]


@torch.no_grad()
def test_head_reads_the_mean_token():
    """V tanh(W mean_t h_t + b) + c, text by text."""
    for outputs in (1, 3):
        wanted = [[k * p - q + k for k in range(1, outputs + 1)] for p, q in POOLED]
        assert torch.allclose(by_hand(outputs)(STATES), torch.tensor(wanted))


@torch.no_grad()
def test_head_of_one_value_gives_a_number_for_each_text():
    head = by_hand(None)
    wanted = torch.tensor([p - q + 1 for p, q in POOLED])
    for texts in (2, 1):
        assert head(STATES[:texts]).shape == (texts,)
        assert torch.allclose(head(STATES[:texts]), wanted[:texts])


@torch.no_grad()
def test_dropout_of_the_head_is_for_training_alone():
    head = by_hand(1, dropout=0.5)
    assert torch.equal(head(STATES), head(STATES))
    head.train()
    torch.manual_seed(0)
    assert len({round(float(head(STATES)[1]), 3) for _ in range(40)}) == 4  # neither, one, the other, both


def test_pooler_is_a_copy_of_the_pretrained_one():
    model = encoder("tiny")
    pretrained, copy = model.pooler.dense, pooler_of(model)
    assert torch.equal(copy.weight, pretrained.weight)
    assert torch.equal(copy.bias, pretrained.bias)
    with torch.no_grad():
        copy.weight.zero_()
        copy.bias.fill_(1.0)
    assert pretrained.weight.any()
    assert not (pretrained.bias == 1).any()


@pytest.mark.parametrize("shared", [True, False])
def test_heads_share_the_pretrained_pooler_or_begin_with_copies_of_it(shared):
    model = text_exits("tiny", 3, seed=5, shared_pooler=shared)
    torch.manual_seed(5)
    pretrained = encoder("tiny").pooler.dense
    poolers = [head.pooler for head in model.heads]
    assert len({id(pooler) for pooler in poolers}) == (1 if shared else 4)
    assert len({id(pooler.weight) for pooler in poolers}) == (1 if shared else 4)
    assert len({id(head.classifier) for head in model.heads}) == 4
    assert all(torch.equal(pooler.weight, pretrained.weight) for pooler in poolers)
    assert all(torch.equal(pooler.bias, pretrained.bias) for pooler in poolers)


def test_one_pooler_serves_all_heads_unless_told_otherwise():
    assert len({id(head.pooler) for head in text_exits("tiny", 3, seed=0).heads}) == 1


@pytest.mark.parametrize(("outputs", "shape"), [(3, (4, 2, 3)), (None, (4, 2))])
def test_every_layer_answers_for_every_text(outputs, shape):
    model = text_exits("tiny", outputs, seed=0)
    assert not model.training
    with torch.no_grad():
        answers = model(IDS)
        assert answers.shape == shape
        assert torch.equal(answers[-1], model.full(IDS))


def test_a_network_follows_from_its_seed():
    """Whatever was drawn before; another seed gives another network."""
    torch.manual_seed(7)
    first = text_exits("tiny", 2, seed=1).state_dict()
    again, other = text_exits("tiny", 2, seed=1).state_dict(), text_exits("tiny", 2, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["heads.0.classifier.weight"], other["heads.0.classifier.weight"])
    assert not torch.equal(first["heads.0.pooler.weight"], other["heads.0.pooler.weight"])
