"""Text decoders from transformers with an exit after every layer: keys and values by row, so that rows can leave.

The layers are those of the model, called with what its own forward gives them (`eelit.methods.backbones.own_forward`),
so that masks, windows, positions, multipliers, norms and the output head are its own, whatever its architecture. When
exits are put on a model, it is proved on a probe that it gives at full depth what it gives by itself, else refused with
`CannotAttach`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eelit.methods.backbones.own_forward import (
    HIDDEN,
    CannotAttach,
    Event,
    OwnForward,
    Plan,
    State,
    in_place_of,
    probe_ids,
    probe_lengths,
    prove_equal,
    text_config,
    trial,
    watch,
)

if TYPE_CHECKING:
    from eelit.methods.backbones.row_cache import RowCache


class ExitDecoder(nn.Module):
    """A decoder-only language model of transformers whose every layer is an exit, all through its one output head.

    ``gate`` is what a method may put there: a module from the states ``[..., d]`` after any layer to what its policy
    shall see of them. By itself it gives the states.

    ``proved`` leaves out the proof, for a model of which one of the same make has passed it.

    Raises `CannotAttach` if the layers, called one by one, do not give what the model's own forward gives.
    """

    language_model: Any
    gate: nn.Module

    def __init__(self, language_model: nn.Module, *, proved: bool = False) -> None:
        super().__init__()
        self.language_model = language_model
        self.gate = nn.Identity()
        with trial(language_model):
            probes = [_Probe(language_model, length) for length in probe_lengths(text_config(language_model))]
            self._own = OwnForward(language_model, lambda: probes[0].forward(probes[0].padded))
            if self._own.body is language_model:
                raise CannotAttach(language_model, "it has no output head over a vocabulary")
            self._windows = probes[0].windows()
            self._plans = {
                cached: Plan(language_model, [given for probe in probes for given in probe.givens(self, cached)])
                for cached in (False, True)
            }
            self._unread: list[dict[nn.Module, Callable[..., Tensor]]] = [{} for _ in range(self.exits)]
            self._unread = [self._unread_by_keys(i, probes[0].ids[:1, :1]) for i in range(self.exits)]
            for probe in () if proved else probes:
                probe.prove(self)

    @property
    def width(self) -> int:
        """Size of a state, d."""
        return self._own.width

    @property
    def exits(self) -> int:
        """Number of exits: of layers."""
        return len(self._own.layers)

    @property
    def windows(self) -> list[int | None]:
        """How many positions each layer looks back to, that of the token included (None: all)."""
        return list(self._windows)

    def start(self, ids: Tensor, cache: RowCache | None = None, mask: Tensor | None = None) -> State:
        """Map token ids ``[n, t]`` to the state before the first layer, behind what is in the cache at its rows.

        Without a cache the tokens see one another, each its past. ``mask`` ``[n, t]`` is 0 at tokens that are none.
        """
        return self._plans[cache is not None].state(self._given(ids, cache, mask))

    def _given(self, ids: Tensor, cache: RowCache | None, mask: Tensor | None) -> Any:
        known, past = (cache.mask(ids, mask), cache.position) if cache is not None else (mask, 0)
        try:
            inputs = _inputs(self.language_model, ids, known, cache)
            return self._own.given(len(ids), lambda: self.language_model(**inputs), ids.shape[1], past)
        except IndexError as error:
            config = text_config(self.language_model)
            positions = getattr(config, "max_position_embeddings", None)
            raise ValueError(
                f"{type(self.language_model).__name__} knows {config.vocab_size} tokens"
                f"{f' and {positions} positions' if positions else ''}; "
                f"it was given token {int(ids.max())} and {past + ids.shape[1]} positions"
            ) from error

    def layer(self, i: int, state: State, cache: RowCache | None = None) -> State:
        """Run layer ``i``; with a cache its keys and values are stored there, at the cache's rows."""
        return self._own.layer(i, self._plans[cache is not None], state, cache)

    def fill(self, i: int, state: State, cache: RowCache) -> None:
        """Give layer ``i`` the keys and values of a state that skips it, as it makes them itself, and no more.

        The layer is left as soon as they are stored. What they do not depend on, a projection to queries of its own,
        is not computed; where one projection makes queries, keys and values, it is computed whole.
        """
        with cache.writes_only(), in_place_of(self._unread[i]):
            self._own.layer(i, self._plans[True], state, cache)

    def head(self, states: Tensor) -> Tensor:
        """Map states ``[..., d]`` after any layer to logits ``[..., V]``, as the model does after its last."""
        hidden = self.normed(states.reshape(1, -1, states.shape[-1]))
        with in_place_of({self._own.body: lambda *_, **__: self._own.answer(last_hidden_state=hidden)}):
            logits: Tensor = self.language_model(inputs_embeds=hidden, use_cache=False).logits
        return logits.reshape(*states.shape[:-1], -1)

    def normed(self, states: Tensor) -> Tensor:
        """Map states ``[..., d]`` as the model does between its last layer and its head, mostly by a norm."""
        hidden = self._own.after(states.reshape(1, -1, states.shape[-1]))
        return hidden.reshape(*states.shape[:-1], -1)

    def states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the states of ids ``[n, t]`` after every layer, ``[E, n, t, d]``."""
        state, found = self.start(ids, mask=mask), []
        for i in range(self.exits):
            state = self.layer(i, state)
            found.append(state[HIDDEN])
        return torch.stack(found)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return every exit's logits for the token after each of ids ``[n, t]``: ``[E, n, t, V]``."""
        return self.head(self.states(ids, mask))

    def vectors(self) -> list[nn.Parameter]:
        """Return the parameters that are no layer's matrix: embeddings, output head, norms, biases."""
        inside = {id(p) for layer in self._own.layers for p in layer.parameters() if p.ndim == 2}
        return [p for p in self.language_model.parameters() if id(p) not in inside]

    def new_cache(self, rows: int, reach: int) -> RowCache:
        """Return an empty cache for ``rows`` sequences, with room for ``reach`` tokens."""
        from eelit.methods.backbones.row_cache import RowCache

        return RowCache(self._windows, rows, reach)

    @torch.no_grad()
    def read(self, prompts: Tensor, reach: int, mask: Tensor | None = None) -> RowCache:
        """Run prompts ``[N, t]`` through all layers and return the cache of their keys and values.

        Prompts of unlike lengths are padded on the left, where ``mask`` ``[N, t]`` is 0.
        """
        cache = self.new_cache(len(prompts), reach)
        if mask is not None and bool((mask.diff(dim=1) < 0).any()):
            raise ValueError("prompts must be padded on the left: a token follows that is none")
        if prompts.shape[1]:
            state = self.start(prompts, cache, mask)
            for i in range(self.exits):
                state = self.layer(i, state, cache)
            cache.advance(prompts, mask)
        return cache

    def _unread_by_keys(self, i: int, ids: Tensor) -> dict[nn.Module, Callable[..., Tensor]]:
        """Return the projections of layer ``i`` that its keys and values do not depend on, with what stands for them.

        They are found by poisoning: what a projection gives is replaced by NaN, which spreads to all that it enters.
        """
        cache = self.new_cache(1, 1)
        state, layer = self.start(ids, cache), self._own.layers[i]
        found: dict[nn.Module, Callable[..., Tensor]] = {}
        for event in watch(layer, lambda: self.fill(i, state, cache)):
            if not _is_projection(event):
                continue
            with in_place_of({event.module: partial(_poisoned, width=event.out.shape[-1])}):
                self.fill(i, state, cache)
            if all(stored.isfinite().all() for stored in (cache.layers[i].keys, cache.layers[i].values)):
                found[event.module] = partial(_nothing, width=event.out.shape[-1])
        if not cache.layers[i].is_initialized:
            raise CannotAttach(self.language_model, f"its layer {i + 1} stores no keys and values in a cache")
        return found


def _is_projection(event: Event) -> bool:
    """Return whether a module with a matrix mapped vectors to vectors."""
    weight, (x, *_) = getattr(event.module, "weight", None), (*event.args, None)
    matrix = isinstance(weight, Tensor) and weight.ndim == 2
    return matrix and isinstance(x, Tensor) and isinstance(event.out, Tensor) and event.out.shape[:-1] == x.shape[:-1]


def _nothing(x: Tensor, *, width: int) -> Tensor:
    return x.new_zeros(*x.shape[:-1], width)


def _poisoned(x: Tensor, *, width: int) -> Tensor:
    return x.new_full((*x.shape[:-1], width), torch.nan)


def _inputs(model: Any, ids: Tensor, mask: Tensor | None, cache: Any) -> dict[str, Any]:
    """Return what a language model is given for ids ``[n, t]``, ``mask`` counting what the cache holds.

    Padding takes up no position, as in transformers' own generation.
    """
    given: dict[str, Any] = {"input_ids": ids, "use_cache": cache is not None}
    if cache is not None:
        given["past_key_values"] = cache
    if mask is not None:
        given["attention_mask"] = mask
        if "position_ids" in inspect.signature(model.forward).parameters:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            given["position_ids"] = positions[:, -ids.shape[1] :]
    return given


class _Probe:
    """Made prompts on which a decoder's own forward is watched, and compared with its layers called one by one."""

    def __init__(self, language_model: nn.Module, length: int) -> None:
        self.model: Any = language_model
        self.ids = probe_ids(language_model, 3, length)
        self.padded = torch.ones_like(self.ids)
        self.padded[1, : length // 3 or 1] = 0
        self.steps = 3

    def forward(self, mask: Tensor | None, ids: Tensor | None = None, cache: Any = None, new: bool = False) -> Any:
        """Run the model's own forward; ``new`` lets it make a cache."""
        inputs = _inputs(self.model, self.ids if ids is None else ids, mask, cache)
        return self.model(**{**inputs, "use_cache": new or cache is not None})

    def windows(self) -> list[int | None]:
        """Return how far each layer looks back, by the cache that the model makes for itself."""
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        cache: Any = getattr(self.forward(self.padded, new=True), "past_key_values", None)
        kinds = [type(layer) for layer in getattr(cache, "layers", ())]
        others = sorted({kind.__name__ for kind in kinds} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__})
        if not kinds:
            raise CannotAttach(self.model, "it keeps no keys and values in a cache of transformers")
        if others:
            raise CannotAttach(self.model, f"its cache holds {' and '.join(others)}, not keys and values alone")
        return [getattr(layer, "sliding_window", None) for layer in cache.layers]

    def givens(self, decoder: ExitDecoder, cached: bool) -> Iterator[Any]:
        """Yield what the layers are given for prompts and for single tokens, padded and not, in batches of 3 and 2."""
        for ids, mask in ((self.ids, self.padded), (self.ids[:2], None)):
            cache = decoder.new_cache(len(ids), 1) if cached else None
            yield decoder._given(ids, cache, mask)
            if cache is not None:
                cache.advance(ids, mask)
                yield decoder._given(ids[:, :1], cache, None)

    def prove(self, decoder: ExitDecoder) -> None:
        """Compare logits without a cache, then with one, step by step, rows apart; last with those of texts alone."""
        equal, real = partial(prove_equal, self.model), self.padded.bool()
        state = decoder.start(self.ids, mask=self.padded)
        for i in range(decoder.exits):
            state = decoder.layer(i, state)
        logits = decoder.head(state[HIDDEN])
        equal(self.forward(self.padded).logits[real], logits[real], "layer by layer its logits differ from its own")
        own = self.forward(self.padded, new=True)
        cache, mask = decoder.read(self.ids, self.ids.shape[1], self.padded), self.padded
        text, told = [self.ids], [logits]
        for _ in range(self.steps):
            ids = own.logits[:, -1:].argmax(dim=-1)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            own = self.forward(mask, ids, own.past_key_values)
            text, told = [*text, ids], [*told, self._apart(decoder, ids, cache)]
            equal(own.logits, told[-1], "layer by layer its logits with a cache differ from its own")
        for ids, kept, said in zip(torch.cat(text, dim=1), mask.bool(), torch.cat(told, dim=1), strict=True):
            alone = self.forward(None, ids[kept][None]).logits[0]
            equal(alone, said[kept], "in a padded batch or with a cache logits differ from those of a text alone")

    def _apart(self, decoder: ExitDecoder, ids: Tensor, cache: RowCache) -> Tensor:
        """Return the logits ``[n, 1, V]`` after ids ``[n, 1]``, some rows run through all layers before the others."""
        found = []
        for rows in torch.arange(len(ids), device=ids.device).split([1, len(ids) - 1]):
            cache.rows = rows
            state = decoder.start(ids[rows], cache)
            for i in range(decoder.exits):
                state = decoder.layer(i, state, cache)
            found.append(decoder.head(state[HIDDEN]))
        cache.advance(ids)
        return torch.cat(found)


def small_decoder(
    *, vocabulary: int, layers: int, width: int, heads: int, inner: int, reach: int, seed: int
) -> ExitDecoder:
    """Return an untrained Llama of the given sizes, input and output embeddings tied, with its exits.

    That these change nothing is proved once for all Llamas of the same sizes.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=inner, max_position_embeddings=reach, tie_word_embeddings=True,
        attn_implementation="sdpa", bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    sizes = config.to_json_string()
    decoder = ExitDecoder(LlamaForCausalLM(config), proved=sizes in _PROVED).eval()
    _PROVED.add(sizes)
    return decoder


_PROVED: set[str] = set()
"""The configurations of Llamas whose exits have been proved in this process."""
