"""Architectures of transformers, tiny and random: with exits they say what they say by themselves, or are refused."""

import copy
import json
import re
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import transformers

from eelit.methods.backbones import decoder as home
from eelit.methods.backbones.attached import attach
from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.backbones.decoding import Ending, TokenCosts, generate, replay
from eelit.methods.backbones.own_forward import HIDDEN, CannotAttach
from eelit.methods.engine.costs import MacCounter, exit_costs
from eelit.methods.engine.evaluate import infer
from eelit.methods.engine.evaluate import replay as replay_outputs
from eelit.methods.own.attach import attach as own_attach
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.max_confidence import MaxConfidence

ROOT = Path(__file__).resolve().parents[1]
TEXT = {
    "vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 80, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
ENCODER = {**TEXT, "intermediate_size": 48}
LLAMA = {**TEXT, "intermediate_size": 48, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 48, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 80, "pad_token_id": 0}
WINDOW = {**LLAMA, "sliding_window": 5}  # shorter than the prompts
EXPERTS = {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
EAGER = {"attn_implementation": "eager"}
LONG = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 2.0,
    "original_max_position_embeddings": 40,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
MULTIPLIERS = {
    "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3, "logits_scaling": 8.0,
}  # fmt: skip
DECODERS = {
    "GPT-2": ("GPT2LMHeadModel", GPT2),
    "OPT": ("OPTForCausalLM", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "OPT, norms behind": (
        "OPTForCausalLM",
        {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ),
    "Llama": ("LlamaForCausalLM", LLAMA),
    "Llama, eager": ("LlamaForCausalLM", {**LLAMA, **EAGER}),
    "Mistral": ("MistralForCausalLM", WINDOW),
    "Mistral, eager": ("MistralForCausalLM", {**WINDOW, **EAGER}),
    "Qwen2": ("Qwen2ForCausalLM", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "Qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}),
    "Phi-3": ("Phi3ForCausalLM", LLAMA),
    "Olmo2": ("Olmo2ForCausalLM", LLAMA),
    "Granite": ("GraniteForCausalLM", {**LLAMA, **MULTIPLIERS}),
    "SmolLM3": ("SmolLM3ForCausalLM", {**LLAMA, "no_rope_layer_interval": 2}),
    "Mixtral": ("MixtralForCausalLM", EXPERTS),
    "Mixtral, eager": ("MixtralForCausalLM", {**EXPERTS, "experts_implementation": "eager"}),
    "Gemma": ("GemmaForCausalLM", {**LLAMA, "head_dim": 8}),
    "Gemma 2": ("Gemma2ForCausalLM", {**WINDOW, "head_dim": 8}),
    "GPT-NeoX": ("GPTNeoXForCausalLM", ENCODER),
    "Falcon": ("FalconForCausalLM", {**TEXT, "new_decoder_architecture": True, "num_kv_heads": 2}),
}
ENCODERS = {
    "BERT": ("BertModel", ENCODER),
    "RoBERTa": ("RobertaModel", {**ENCODER, "pad_token_id": 1}),
    "DistilBERT": ("DistilBertModel", {"vocab_size": 48, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}),
    "ALBERT": ("AlbertModel", {**ENCODER, "embedding_size": 16, "inner_group_num": 1}),
    "ELECTRA": ("ElectraModel", {**ENCODER, "embedding_size": 16}),
    "DeBERTa": ("DebertaModel", {**ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "DeBERTa v2": (
        "DebertaV2Model",
        {**ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"},
    ),
    "MPNet": ("MPNetModel", {**ENCODER, "pad_token_id": 1}),
    "ModernBERT": ("ModernBertModel", {**ENCODER, "local_attention": 6, "global_attn_every_n_layers": 2}),
    "ViT": (
        "ViTModel",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
         "patch_size": 4},
    ),
}  # fmt: skip
ROBERTA = {**ENCODER, "is_decoder": True, "pad_token_id": 1}  # its positions begin behind that of the padding
PADDED = "in a padded batch or with a cache logits differ from those of a text alone"
REFUSED = {
    "Bloom": ("BloomForCausalLM", {"vocab_size": 48, "hidden_size": 32, "n_layer": 3, "n_head": 4}, "cut by samples"),
    "Mamba": ("MambaForCausalLM", {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3}, "keys and values"),
    "MiniMax": (
        "MiniMaxForCausalLM", EXPERTS, "called one by one .*uses cache of its own"
    ),
    "RoBERTa": ("RobertaForCausalLM", ROBERTA, PADDED),
    "XLM-R": ("XLMRobertaForCausalLM", ROBERTA, PADDED),
    "CamemBERT": ("CamembertForCausalLM", ROBERTA, PADDED),
    "BART": (
        "BartForCausalLM",
        {"vocab_size": 48, "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "decoder_attention_heads": 4,
         "decoder_ffn_dim": 48, "max_position_embeddings": 80, "pad_token_id": 0},
        PADDED,
    ),
    # beyond some length all positions of a text are scaled anew, while a cache holds them as they were
    "Phi-3, long": (
        "Phi3ForCausalLM", {**LLAMA, "rope_parameters": LONG, "original_max_position_embeddings": 40}, PADDED
    ),
    "Llama, dynamic": ("LlamaForCausalLM", {**LLAMA, "rope_parameters": DYNAMIC}, PADDED),
}  # fmt: skip
LEAKING = "in a padded batch hidden states differ from those of a text alone"
REFUSED_ENCODERS = {
    # 12 tokens are three windows of 4, and 67 are padded to whole ones; a window of 8 is too long for 12 as well
    "Longformer": ("LongformerModel", {**ENCODER, "attention_window": 4}, "3×68 states for 3 texts of 67 tokens"),
    "Longformer, long": ("LongformerModel", {**ENCODER, "attention_window": 8}, "after its last layer"),
    "LED": (
        "models.led.modeling_led.LEDEncoder",
        {"vocab_size": 48, "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
         "max_encoder_position_embeddings": 80, "attention_window": 4, "pad_token_id": 0},
        "3×68 states for 3 texts of 67 tokens",
    ),
    "BigBird": ("BigBirdModel", {**ENCODER, "block_size": 4}, "which modules it has depends on the input"),
    "Nyströmformer": (
        "NystromformerModel", {**ENCODER, "num_landmarks": 4, "segment_means_seq_len": 12}, "cannot be tried"
    ),
    "Reformer": (
        "ReformerModel",
        {"vocab_size": 48, "hidden_size": 32, "num_attention_heads": 4, "attention_head_size": 8,
         "feed_forward_size": 48, "attn_layers": ["local", "lsh", "local"], "axial_pos_embds_dim": (16, 16),
         "axial_pos_shape": (8, 16), "max_position_embeddings": 128},
        "after its last layer",
    ),
    "Funnel": ("FunnelModel", {"vocab_size": 48, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48}, "called"),
    "FNet": ("FNetModel", ENCODER, LEAKING),
    "YOSO": ("YosoModel", ENCODER, LEAKING),
    "ConvBERT": ("ConvBertModel", {**ENCODER, "embedding_size": 32}, LEAKING),
    "Canine": ("CanineModel", ENCODER, "after its last layer"),
    "ResNet": ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}, "how large the images"),
    "ConvNeXt": (
        "ConvNextModel", {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "image_size": 32}, "not a state of"
    ),
    "Wav2Vec2": ("Wav2Vec2Model", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}, "input_val"),
}  # fmt: skip


def made(name, settings):
    """An architecture with random weights, large enough that layers matter and texts vary."""
    settings = {**settings, "tie_word_embeddings": False}  # tied, a text repeats its last token
    attention = settings.pop("attn_implementation", "sdpa")
    experts = settings.pop("experts_implementation", None)
    kind = attrgetter(name)(transformers)
    config = kind.config_class(**settings)
    if kind._supports_sdpa or attention == "eager":
        config._attn_implementation = attention
    if experts:
        config._experts_implementation = experts
    torch.manual_seed(0)
    model = kind(config).eval()
    for p in model.parameters():
        p.data *= 6 if p.ndim == 2 else 1
    return model


def prompts():
    """Five prompts of unlike lengths, padded on the left."""
    ids = torch.randint(1, 48, (5, 11), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    for row, missing in ((1, 3), (3, 7)):
        mask[row, :missing] = ids[row, :missing] = 0
    return ids, mask


def read(decoder, ids, mask):
    """There is room for the prompts alone: what is generated lies past it."""
    return decoder.read(ids[:, :-1], ids.shape[1] - 1, mask[:, :-1])


def by_itself(model, ids, mask, length, end=None):
    settings = {"max_new_tokens": length, "do_sample": False, "pad_token_id": 0, "eos_token_id": end}
    return model.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :]


def exit_in_turn(step):
    return FixedExit(step % 3)


@pytest.fixture(scope="module")
def decoders():
    """Return a function: name → model and decoder, made once."""
    known = {}

    def of(name):
        if name not in known:
            model = made(*DECODERS[name])
            known[name] = model, ExitDecoder(model).eval()
        return known[name]

    return of


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_write_what_they_write_by_themselves(decoders, name):
    """Unequal prompts with masks, past the reach of the cache, with and without a token that ends a text."""
    model, decoder = decoders(name)
    ids, mask = prompts()
    found = generate(decoder, read(decoder, ids, mask), ids[:, -1], 10, None)
    assert found.tokens.equal(by_itself(model, ids, mask, 10))
    assert len(found.tokens.unique()) > 5
    end = int(found.tokens[0, 3])
    ended = generate(decoder, read(decoder, ids, mask), ids[:, -1], 10, None, ending=Ending((end,)))
    wanted = by_itself(model, ids, mask, 10, end)
    assert ended.tokens[:, : wanted.shape[1]].equal(wanted)
    assert (ended.tokens[:, wanted.shape[1] :] == 0).all()
    assert ((ended.exits == -1) == ((ended.tokens == end).cumsum(dim=1) - (ended.tokens == end).int() > 0)).all()


@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_goes_on_alone_as_it_does_beside_longer_ones(decoders, name):
    """No padding, no mask and no position is told of the prompt alone; nor does the model itself see a cache then."""
    model, decoder = decoders(name)
    ids, mask = prompts()
    found = generate(decoder, read(decoder, ids, mask), ids[:, -1], 8, None).tokens
    for row in (0, 1, 3):
        text = alone = ids[row : row + 1, int((mask[row] == 0).sum()) :]
        assert generate(decoder, decoder.read(text[:, :-1], 4), text[:, -1], 8, None).tokens[0].equal(found[row])
        for _ in range(3):
            text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(dim=-1)], dim=1)
        assert text[0, alone.shape[1] :].equal(found[row, :3])


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_skip_what_replay_leaves_out_and_pay_for_no_more(decoders, name):
    _, decoder = decoders(name)
    ids, mask = prompts()
    cache = read(decoder, ids, mask)
    end = Ending((int(generate(decoder, cache.copy(), ids[:, -1], 4, exit_in_turn).tokens[1, 3]),))
    (wanted,) = replay(decoder, cache, ids[:, -1], 8, [exit_in_turn], ending=end)
    with MacCounter() as counter:
        found = generate(decoder, cache, ids[:, -1], 8, exit_in_turn, ending=end)
    assert found.tokens.equal(wanted.tokens)
    assert found.exits.equal(wanted.exits)
    assert set(found.exits.unique().tolist()) == {-1, 0, 1, 2}
    assert counter.macs == TokenCosts.of(decoder, "logits").claimed(found.exits.numpy(), start=10).sum()


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_skipped_layers_get_the_keys_and_values_that_they_would_make(decoders, name):
    _, decoder = decoders(name)
    ids, mask = prompts()
    filled, run = read(decoder, ids, mask), read(decoder, ids, mask)
    state = decoder.layer(0, decoder.start(ids[:, -1:], filled), filled)
    for i in (1, 2):
        decoder.fill(i, state, filled)
        decoder.layer(i, state, run)
        assert filled.layers[i].keys.equal(run.layers[i].keys)
        assert filled.layers[i].values.equal(run.layers[i].values)
        assert filled.layers[i].keys[:, :, 10].abs().sum() > 0


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_prompts_may_be_read_in_parts(decoders, name):
    _, decoder = decoders(name)
    ids, mask = prompts()
    whole, parts = read(decoder, ids, mask), decoder.read(ids[:, :6], 6, mask[:, :6])
    state = decoder.start(ids[:, 6:10], parts, mask[:, 6:10])
    for i in range(3):
        state = decoder.layer(i, state, parts)
    parts.advance(ids[:, 6:10], mask[:, 6:10])
    written = [generate(decoder, cache, ids[:, -1], 6, exit_in_turn).tokens for cache in (whole, parts)]
    assert written[0].equal(written[1])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decoders_work_in_half_precision(name, dtype):
    model = made(*DECODERS[name]).to(dtype)
    decoder = ExitDecoder(model).eval()
    ids, mask = prompts()
    found = generate(decoder, read(decoder, ids, mask), ids[:, -1], 3, exit_in_turn)
    assert found.exits[0].tolist() == [0, 1, 2]
    assert decoder(ids, mask).dtype == dtype
    assert generate(decoder, read(decoder, ids, mask), ids[:, -1], 1, None).tokens.equal(by_itself(model, ids, mask, 1))


def test_training_sees_padding_and_gradients_flow(decoders):
    model, decoder = decoders("Mistral")
    ids, mask = prompts()
    logits = decoder(ids, mask)
    assert logits.shape == (3, 5, 11, 48)
    own = model(ids, attention_mask=mask, position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)).logits
    torch.testing.assert_close(logits[-1][mask.bool()], own[mask.bool()])
    logits[0].sum().backward()
    asked = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"} <= asked
    assert not any(".layers.1." in name for name in asked)
    model.zero_grad()


def test_attaching_leaves_no_trace():
    model = made("LlamaForCausalLM", LLAMA).train()
    model.model.layers[1].eval()
    before, modes = torch.random.get_rng_state(), [m.training for m in model.modules()]
    decoder = ExitDecoder(model)
    assert torch.random.get_rng_state().equal(before)
    assert [m.training for m in model.modules()] == modes
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert set(decoder.state_dict()) == {f"language_model.{name}" for name in model.state_dict()}


def test_small_decoders_are_proved_once_for_each_size(monkeypatch):
    proofs = []
    monkeypatch.setattr(home, "_PROVED", set())
    monkeypatch.setattr(home._Probe, "prove", lambda self, made: proofs.append(made.exits))
    for layers, seed in ((2, 0), (2, 1), (3, 0)):
        home.small_decoder(vocabulary=20, layers=layers, width=8, heads=2, inner=12, reach=16, seed=seed)
    assert set(proofs) == {2, 3}
    assert proofs.count(2) == proofs.count(3)


def test_positions_that_a_model_does_not_have():
    decoder = ExitDecoder(made("GPT2LMHeadModel", {**GPT2, "n_positions": 24}))
    ids = torch.ones((1, 20), dtype=torch.int64)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel knows 48 tokens and 24 positions; .* 25 positions"):
        generate(decoder, decoder.read(ids[:, :-1], 40), ids[:, -1], 9, None)


def test_no_text_is_longer_than_what_was_tried():
    """A model changes beyond a length too long to try: there exits might say what the model does not."""
    rotary = {**LONG, "original_max_position_embeddings": 600}
    phi = {**LLAMA, "max_position_embeddings": 2400, "original_max_position_embeddings": 600, "rope_parameters": rotary}
    ids = torch.ones((1, 600), dtype=torch.int64)
    for kind, settings in (
        ("Phi3ForCausalLM", phi),
        ("MistralForCausalLM", {**LLAMA, "max_position_embeddings": 2400, "sliding_window": 600}),
    ):
        decoder = ExitDecoder(made(kind, settings))
        cache = decoder.read(ids, 600)
        for start in (lambda d=decoder, c=cache: d.start(ids[:, :1], c), lambda d=decoder: d.states(ids.repeat(1, 2))):
            with pytest.raises(ValueError, match=f"^{kind} .* beyond 600 tokens, .*: it was given (601|1200)$"):
                start()


def test_padding_stands_on_the_left(decoders):
    _, decoder = decoders("Llama")
    ids, mask = prompts()
    with pytest.raises(ValueError, match="padded on the left"):
        decoder.read(ids, 20, mask.flip(1))


def test_copies_have_layers_of_their_own(decoders):
    _, decoder = decoders("Llama")
    other = copy.deepcopy(decoder)
    other.language_model.model.layers[2].mlp.down_proj.weight.data.zero_()
    ids, mask = prompts()
    written = [generate(d, read(d, ids, mask), ids[:, -1], 6, None) for d in (decoder, other)]
    assert written[1].tokens.equal(by_itself(other.language_model, ids, mask, 6))
    assert not written[0].tokens.equal(written[1].tokens)


class Echo(transformers.LlamaForCausalLM):
    """Something that no layer says is added after the layers."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + (kwargs.get("past_key_values") is None)
        return out


def refusal(make):
    with pytest.raises(CannotAttach) as found:
        make()
    sentence = str(found.value)
    assert "\n" not in sentence
    assert ". " not in sentence
    return sentence


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(name):
    model, settings, reason = REFUSED[name]
    sentence = refusal(lambda: ExitDecoder(made(model, settings)))
    assert re.search(f"exits cannot be put on {model}: .*{reason}", sentence)


@pytest.mark.parametrize("name", REFUSED_ENCODERS)
def test_encoders_are_refused_too_and_stay_as_they_were(name):
    model, settings, reason = REFUSED_ENCODERS[name]
    encoder = made(model, settings)
    before = [(type(module), sorted(vars(module))) for module in encoder.modules()]
    sentence = refusal(lambda: attach(encoder))
    assert re.search(f"exits cannot be put on {type(encoder).__name__}: .*{reason}", sentence)
    assert [(type(module), sorted(vars(module))) for module in encoder.modules()] == before


def test_the_site_lists_what_is_tried_here_and_why_it_is_refused():
    """`record_architectures.py` writes the list, from `attach` of the room for one's own network."""
    told = json.loads((ROOT / "site" / "examples" / "architectures.json").read_text(encoding="utf-8"))
    taken = {(row["name"], row["class"]) for row in told if not row["refused"]}
    assert taken == {(name, about[0]) for each in (DECODERS, ENCODERS) for name, about in each.items()}
    refused = {(row["name"], row["class"]): row["refused"] for row in told if row["refused"]}
    assert len(refused) == len(REFUSED) + len(REFUSED_ENCODERS)
    for each in (REFUSED, REFUSED_ENCODERS):
        for name, (kind, _, reason) in each.items():
            assert re.search(reason.partition(" .*")[0], refused[name, kind.rpartition(".")[2]])


def test_own_networks_take_exits_as_encoders_and_decoders_do():
    for model, options in ((made(*DECODERS["Gemma 2"]), {}), (made(*ENCODERS["ModernBERT"]), {"outputs": 3})):
        assert own_attach(model, keep_head=not options, **options).exits == 3
    assert refusal(lambda: own_attach(made(*REFUSED["Mamba"][:2]))).endswith(
        REFUSED["Mamba"][2] + " in a cache of transformers"
    )


def test_a_model_that_does_more_than_its_modules_say_is_refused():
    config = transformers.LlamaConfig(**LLAMA)
    assert "differ" in refusal(lambda: ExitDecoder(Echo(config)))
    convolved = {**ENCODERS["DeBERTa v2"][1], "conv_kernel_size": 3}
    assert "between its layers" in refusal(lambda: attach(made("DebertaV2Model", convolved)))


def test_what_is_no_bare_encoder_and_no_decoder_is_refused():
    t5 = {"vocab_size": 48, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    assert "no output head" in refusal(lambda: ExitDecoder(made("LlamaModel", LLAMA)))
    assert "cannot be tried" in refusal(lambda: ExitDecoder(made("T5ForConditionalGeneration", t5)))
    assert "base_model" in refusal(lambda: attach(made("BertForSequenceClassification", ENCODER)))
    for put in (attach, ExitDecoder):
        assert "no model of transformers" in refusal(lambda put=put: put(torch.nn.Linear(2, 2)))


def test_a_model_that_is_not_finite_is_refused():
    model = made("LlamaForCausalLM", LLAMA)
    model.lm_head.weight.data[3] = torch.nan
    assert "not finite" in refusal(lambda: ExitDecoder(model))


def batch(name, n=6):
    """Texts of unlike lengths, padded on the right, or images."""
    generator = torch.Generator().manual_seed(5)
    if name == "ViT":
        return {"pixel_values": torch.rand((n, 3, 16, 16), generator=generator)}
    ids, mask = torch.randint(2, 48, (n, 14), generator=generator), torch.ones((n, 14), dtype=torch.int64)
    pad = ENCODERS[name][1].get("pad_token_id", 0)
    for row, missing in ((0, 4), (2, 9), (3, 1)):
        mask[row, -missing:], ids[row, -missing:] = 0, pad
    return {"input_ids": ids, "attention_mask": mask}


def real(inputs, hidden):
    return hidden[inputs["attention_mask"].bool()] if "attention_mask" in inputs else hidden


@pytest.fixture(scope="module")
def encoders():
    """Return a function: name → model, the same in stages, and with heads, made once."""
    known = {}

    def of(name):
        if name not in known:
            model = made(*ENCODERS[name])
            attached = attach(model)
            known[name] = model, attached, attached.with_mean_heads(3).eval()
        return known[name]

    return of


@pytest.mark.parametrize("name", ENCODERS)
@torch.inference_mode()
def test_encoders_in_stages_say_what_they_say_by_themselves(encoders, name):
    model, attached, _ = encoders(name)
    inputs = state = batch(name)
    for stage in attached.stages:
        state = stage(state)
    assert len(attached.stages) == 3
    own = model(**inputs).last_hidden_state
    torch.testing.assert_close(real(inputs, attached.reading(state)), real(inputs, own), rtol=1e-5, atol=1e-5)
    if name == "ViT":
        return
    alone = inputs["input_ids"][2:3, :5]
    state = alone
    for stage in attached.stages:
        state = stage(state)
    torch.testing.assert_close(attached.reading(state)[0], own[2, :5], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_an_argument_that_no_probe_had_is_refused(encoders):
    _, attached, _ = encoders("BERT")
    inputs = {**batch("BERT"), "encoder_hidden_states": torch.ones((6, 3, 32))}
    assert "did not get when" in refusal(lambda: attached.stages[0](inputs))


@pytest.mark.parametrize("name", ENCODERS)
@torch.inference_mode()
def test_encoders_drop_what_has_left_and_keep_masks_of_the_rest(encoders, name):
    _, _, network = encoders(name)
    inputs = batch(name)
    outputs = network(inputs)
    policy = MaxConfidence(float(outputs[:2].softmax(dim=-1).amax(dim=-1).flatten().quantile(0.6)))
    found = infer(network, inputs, policy)
    exits = torch.from_numpy(replay_outputs(policy, outputs))
    assert found.exits.equal(exits)
    assert len(exits.unique()) > 1
    torch.testing.assert_close(found.answers, outputs[exits, torch.arange(len(exits))], rtol=1e-4, atol=1e-5)
    costs = exit_costs(network, {key: value[:1] for key, value in inputs.items()})
    assert 0 < costs[0] < costs[1] < costs[2]
    for row in range(6):  # alone, and without padding if it is text
        one = {key: value[row : row + 1] for key, value in inputs.items()}
        if "attention_mask" in one:
            one = {"input_ids": one["input_ids"][:, : int(one["attention_mask"].sum())]}
        torch.testing.assert_close(network(one)[:, 0], outputs[:, row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_encoders_work_in_half_precision(name, dtype):
    model = made(*ENCODERS[name]).to(dtype)
    state = batch(name)
    for stage in attach(model).stages:
        state = stage(state)
    assert state[HIDDEN].dtype == dtype
