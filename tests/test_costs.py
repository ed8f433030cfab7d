"""The counter against arithmetic done by hand, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.engine import costs
from eelit.methods.engine.costs import FORMULAS, UncountedOperation, count, exit_costs, full_cost
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.multi_exit import MultiExit


def macs(module, *inputs):
    return count(lambda: module(*inputs))


def test_linear():
    assert macs(nn.Linear(7, 5), torch.zeros(3, 7)) == 3 * 7 * 5
    assert macs(nn.Linear(7, 5), torch.zeros(2, 3, 7)) == 2 * 3 * 7 * 5
    assert macs(nn.Linear(7, 5, bias=False), torch.zeros(7)) == 7 * 5


def test_convolutions():
    assert macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 10, 10)) == 2 * 100 * 8 * 3 * 9
    assert macs(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.zeros(1, 4, 10, 10)) == 25 * 8 * 2 * 9
    assert macs(nn.Conv1d(4, 6, 5), torch.zeros(1, 4, 12)) == 8 * 6 * 4 * 5
    assert macs(nn.ConvTranspose2d(4, 2, 2, stride=2), torch.zeros(1, 4, 5, 5)) == 25 * 4 * 2 * 4


def test_matrix_and_vector_products():
    assert macs(lambda: torch.zeros(4, 5) @ torch.zeros(5)) == 20
    assert macs(lambda: torch.dot(torch.zeros(9), torch.zeros(9))) == 9
    assert macs(lambda: torch.zeros(2, 4, 5) @ torch.zeros(2, 5, 6)) == 2 * 4 * 5 * 6
    assert macs(lambda: torch.einsum("bij,bjk->bik", torch.zeros(2, 4, 5), torch.zeros(2, 5, 6))) == 2 * 4 * 5 * 6
    assert macs(lambda: torch.addmv(torch.zeros(4), torch.zeros(4, 5), torch.zeros(5))) == 20


def test_products_in_groups_multiply_each_row_by_one_matrix_alone():
    rows, matrices, ends = torch.zeros(6, 8), torch.zeros(2, 8, 16), torch.tensor([2, 6], dtype=torch.int32)
    assert macs(lambda: torch._grouped_mm(rows.bfloat16(), matrices.bfloat16(), offs=ends)) == 6 * 8 * 16
    shapes = {((2, 3, 8), (2, 8, 16)): 2 * 3 * 8 * 16, ((2, 3, 8), (8, 16)): 3 * 8 * 16, ((3, 8), (8, 16)): 3 * 8 * 16}
    for (a, b), wanted in shapes.items():
        assert FORMULAS[torch.ops.aten._grouped_mm]((torch.zeros(a), torch.zeros(b)), None) == wanted


def test_attention_is_counted():
    q, k = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)
    assert macs(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * 3 * 5 * 7 * 8 * 2
    assert macs(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)) == 2 * 3 * 5 * 5 * 8 * 2


def test_lstm_is_counted():
    x = torch.zeros(6, 2, 5)  # steps, batch, features
    per_step = 4 * 3 * (5 + 3)
    assert macs(nn.LSTM(5, 3), x) == 6 * 2 * per_step
    assert macs(nn.LSTM(5, 3, num_layers=2), x) == 6 * 2 * (per_step + 4 * 3 * (3 + 3))
    assert macs(nn.LSTMCell(5, 3), x[0]) == 2 * per_step


def test_encoder_layer_of_bert():
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    d, ff, t = 24, 48, 9
    config = BertConfig(hidden_size=d, intermediate_size=ff, num_attention_heads=3)
    config._attn_implementation = "sdpa"
    assert macs(BertLayer(config).eval(), torch.zeros(2, t, d)) == 2 * (4 * t * d * d + 2 * t * t * d + 2 * t * d * ff)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_transformer_layers_of_torch(training, batch_first):
    """In evaluation torch takes a fused path that hides its parts; either way it is the same arithmetic."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first).train(training)
    n, t = (2, 6) if batch_first else (6, 2)
    attention = n * (4 * t * 16 * 16 + 2 * t * t * 16)
    by_hand = attention + n * 2 * t * 16 * 32
    x = torch.zeros(2, 6, 16)
    assert macs(layer, x) == by_hand
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    assert macs(encoder, x) == 2 * by_hand
    heads = nn.MultiheadAttention(16, 2, batch_first=batch_first).train(training)
    assert macs(heads, x, x, x) == attention


def test_unknown_operation_is_an_error():
    one = torch.eye(3)
    with pytest.raises(UncountedOperation, match="cholesky"):
        count(lambda: torch.linalg.cholesky(one))


def test_free_list_hides_no_part_of_an_operation(monkeypatch):
    """What torch puts together from other operations is counted by these, whatever the list says."""
    monkeypatch.setattr(costs, "FREE", costs.FREE | {"linear", "matmul", "einsum", "scaled_dot_product_attention"})
    assert macs(nn.Linear(7, 5), torch.zeros(3, 7)) == 3 * 7 * 5
    assert macs(torch.matmul, torch.zeros(4, 5), torch.zeros(5, 6)) == 4 * 5 * 6
    assert macs(nn.MultiheadAttention(16, 2, batch_first=True).train(), *[torch.zeros(2, 6, 16)] * 3) > 0


def test_only_what_runs_is_counted():
    stages = [nn.Linear(4, 4), nn.Linear(4, 4)]
    model = MultiExit(stages, [nn.Linear(4, 2), nn.Linear(4, 2)])
    assert exit_costs(model, torch.zeros(1, 4)) == [16 + 8, 16 + 8 + 16 + 8]
    assert full_cost(model, torch.zeros(1, 4)) == 16 + 16 + 8


class Repeated(nn.Linear):
    times = 1

    def forward(self, x):
        for _ in range(self.times):
            x = super().forward(x)
        return x


def network(width=4):
    return MultiExit([Repeated(width, width)], [nn.Linear(width, 2)])


def test_networks_that_differ_in_their_weights_alone_share_a_table_of_costs(monkeypatch):
    from eelit.methods.families.exits import Prepared

    counted, count_both = [], costs.both_costs
    monkeypatch.setattr(costs, "_COUNTED", {})
    monkeypatch.setattr(costs, "both_costs", lambda *given: counted.append(given) or count_both(*given))
    one, other, twice, wide = network(), network(), network(), network(5)
    twice.stages[0].times = 2  # no other weights, and other costs
    data = Examples([torch.zeros(4), torch.zeros(3, 4), torch.ones(4)], torch.zeros(3))
    found = [Prepared(model, None, None, None).costs(data).tolist() for model in (one, other, twice)]
    assert found[0] == found[1] == [[[24, 72, 24]], [[24, 72, 24]]]
    assert found[2] == [[[40, 120, 40]], [[40, 120, 40]]]
    assert len(counted) == 2 * 2  # structures and shapes
    assert costs.counted(wide) == {}
    assert costs.counted(one.eval()) == {}, "a network may do more in training"


def test_every_formula_names_an_operation_of_torch():
    assert all(hasattr(packet, "overloads") for packet in FORMULAS)
