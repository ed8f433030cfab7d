"""Pretrained text encoders from transformers, cut into stages of one layer each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eelit.methods.data import fetch
from eelit.methods.engine.multi_exit import MultiExit


class EncoderStage(nn.Module):
    """One layer of a BERT-type encoder; the first also embeds the token ids ``[N, T]`` into ``[N, T, d]``.

    Batches hold texts of one length, so no mask is needed.
    """

    def __init__(self, layer: nn.Module, embeddings: nn.Module | None = None) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layer = layer

    def forward(self, state: Tensor) -> Tensor:
        """Map token ids (first stage) or hidden states ``[N, T, d]`` to hidden states ``[N, T, d]``."""
        hidden: Tensor = self.embeddings(input_ids=state) if self.embeddings is not None else state
        out: Tensor = self.layer(hidden)
        return out


class PooledHead(nn.Module):
    """BERT's classification head on the mean token: ``V tanh(W mean_t h_t + b) + c``.

    Gives ``[N, C]``, or ``[N]`` if ``outputs`` is None. BERT reads the class token instead; MiniLM-L6 was pretrained
    to be read by the mean over tokens, and its class token says next to nothing before the last layers.
    """

    def __init__(self, pooler: nn.Linear, outputs: int | None, dropout: float = 0.1) -> None:
        super().__init__()
        self.pooler = pooler
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(pooler.out_features, outputs or 1)
        self.regression = outputs is None

    def forward(self, state: Tensor) -> Tensor:
        """Read hidden states ``[N, T, d]``."""
        out: Tensor = self.classifier(self.dropout(torch.tanh(self.pooler(state.mean(dim=1)))))
        return out.squeeze(-1) if self.regression else out


def encoder(name: str) -> Any:
    """Return a BERT-type encoder: ``minilm-l6`` (6 layers, 384 wide, pretrained), or ``tiny`` for tests (4, random).

    Pretrained weights come from the cache of data; no hub is asked, whatever the environment says.
    """
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # progress is told by the bench
    if name == "tiny":
        config = BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return BertModel(config)
    return BertModel.from_pretrained(fetch.path(name), local_files_only=True)


def stages_of(model: Any) -> list[EncoderStage]:
    """Cut a BERT-type encoder of transformers (``embeddings``, ``encoder.layer``) into one stage per layer."""
    return [EncoderStage(layer, model.embeddings if i == 0 else None) for i, layer in enumerate(model.encoder.layer)]


def pooler_of(model: Any) -> nn.Linear:
    """Return a copy of the encoder's pretrained pooler."""
    pretrained: nn.Linear = model.pooler.dense
    copy = nn.Linear(pretrained.in_features, pretrained.out_features)
    copy.load_state_dict(pretrained.state_dict())
    return copy


def text_exits(name: str, outputs: int | None, *, seed: int, shared_pooler: bool = True) -> MultiExit:
    """Return an encoder with a pooled head after every layer; ``outputs`` classes, or None for one real value.

    The pooler starts as the pretrained one; it is one for all heads, or each head gets its own copy.
    """
    torch.manual_seed(seed)
    model = encoder(name)
    stages = stages_of(model)
    pooler = pooler_of(model)
    heads = [PooledHead(pooler if shared_pooler else pooler_of(model), outputs) for _ in stages]
    return MultiExit(stages, heads).eval()
