"""One honest counter: multiply-accumulates (MACs) counted from outside, operation by operation, as torch executes them.

torch's own FLOP counter is silent about operations that it does not know, and on the CPU these include attention, LSTMs
and matrix-vector products. Here an operation is either counted by a formula below, or named in `FREE` because it does
no multiply-accumulate worth counting (element-wise work, normalisation, pooling, copies), or it raises
`UncountedOperation`.
One MAC is one multiplication with its addition; FLOPs would be twice that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from eelit.methods.engine.multi_exit import MultiExit, evaluating, of_samples, said_at, to_policy
from eelit.methods.policies.base import Assembling, Output, Policy, said

aten = torch.ops.aten


class UncountedOperation(RuntimeError):
    """An operation was executed that has neither a formula nor a place on the free list."""


def _mv(args: tuple[Any, ...], out: Any) -> int:
    return args[0].numel()


def _addmv(args: tuple[Any, ...], out: Any) -> int:
    return args[1].numel()


def _attention(args: tuple[Any, ...], out: Any) -> int:
    query, key, value = args[:3]
    *batch, length, width = query.shape
    pairs = length * key.shape[-2]
    for n in batch:
        pairs *= n
    return pairs * (width + value.shape[-1])


def _mkldnn_linear(args: tuple[Any, ...], out: Any) -> int:
    return args[0].numel() * args[1].shape[0]


def _rnn_layer(args: tuple[Any, ...], out: Any) -> int:
    x, input_weight, hidden_weight = args[:3]
    return x.shape[0] * x.shape[1] * (input_weight.numel() + hidden_weight.numel())


def _matmul(args: tuple[Any, ...], out: Any) -> int:
    return args[0].numel() * args[1].shape[-1]


def _grouped_mm(args: tuple[Any, ...], out: Any) -> int:
    """MACs of a product in which every row, column or term belongs to one group: that of a mixture of experts."""
    a, b = args[:2]
    groups = a.shape[0] if a.dim() == b.dim() == 3 else 1
    return int(groups * a.shape[-2] * a.shape[-1] * b.shape[-1])


def _self_attention(x: Any, qkv: Any, projection: Any) -> int:
    """MACs of self-attention on ``x [N, T, D]`` with its projections; nested tensors have no one length T."""
    if x.is_nested:
        raise UncountedOperation("attention on a nested tensor cannot be counted; give tensors of one length")
    n, length, width = x.shape
    return int(n * length * (qkv.numel() + projection.numel()) + 2 * n * length * length * width)


def _multi_head_attention(args: tuple[Any, ...], out: Any) -> int:
    return _self_attention(args[0], args[5], args[7])


def _encoder_layer(args: tuple[Any, ...], out: Any) -> int:
    rows = args[0].shape[0] * args[0].shape[1] if not args[0].is_nested else 0
    return _self_attention(args[0], args[3], args[5]) + rows * (args[14].numel() + args[16].numel())


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    weight, transposed = args[1], bool(args[6]) if len(args) > 6 else False
    return (args[0].numel() // args[0].shape[1] if transposed else out.numel() // out.shape[1]) * weight.numel()


FORMULAS: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    aten.mm: _matmul,
    aten.bmm: _matmul,
    aten.addmm: lambda args, out: _matmul(args[1:], out),
    aten.baddbmm: lambda args, out: _matmul(args[1:], out),
    aten.mv: _mv,
    aten.addmv: _addmv,
    aten.dot: lambda args, out: args[0].numel(),
    aten.vdot: lambda args, out: args[0].numel(),
    aten.convolution: _convolution,
    aten._convolution: _convolution,
    aten.mkldnn_linear: _mkldnn_linear,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_attention_math: _attention,
    aten._grouped_mm: _grouped_mm,
    aten.mkldnn_rnn_layer: _rnn_layer,
    aten._native_multi_head_attention: _multi_head_attention,
    aten._transformer_encoder_layer_fwd: _encoder_layer,
}
"""Operation → MACs from its arguments and its result, the fused transformer layers of torch included."""

_NAMES = """
    _adaptive_avg_pool2d _assert_async _fused_rms_norm _has_same_storage_numel _local_scalar_dense _log_softmax
    _native_batch_norm_legit_no_training _prelu_kernel _reshape_alias _softmax _to_copy _unsafe_index _unsafe_view abs
    adaptive_avg_pool2d add add_ alias all amax amin any arange argmax argmin argsort as_strided as_strided_ avg_pool1d
    avg_pool2d avg_pool3d batch_norm bernoulli bitwise_and bitwise_not bitwise_or bitwise_or_ bucketize cat ceil clamp
    clamp_ clamp_max clamp_min clone constant_pad_nd copy_ cos cudnn_batch_norm cumsum detach detach_ div div_ elu
    embedding empty empty_like empty_strided eq erf exp expand eye fill_ flatten flip floor floor_divide full full_like
    gather ge gelu gt hardtanh histc index index_add_ index_copy index_put index_put_ index_select is_same_size isfinite
    isnan le leaky_relu lerp lift_fresh linalg_vector_norm log log1p logaddexp logical_and logical_not logical_or
    logsumexp lt masked_fill masked_fill_ max max_pool2d max_pool2d_with_indices maximum mean min minimum mul mul_
    multinomial native_batch_norm native_dropout native_group_norm native_layer_norm ne neg new_empty new_full new_ones
    new_zeros nonzero ones ones_like permute pow prod rand rand_like randn_like reciprocal relu relu_ repeat rms_norm
    roll round rsqrt rsub scalar_tensor scatter scatter_ select sigmoid sigmoid_ sign silu silu_ sin slice slice_scatter
    softplus sort split split_with_sizes sqrt squeeze stack std sub sub_ sum t tanh tanh_ topk transpose tril triu
    unbind unfold unsafe_split unsqueeze upsample_nearest2d var var_mean view where zero_ zeros zeros_like
"""
FREE = frozenset(_NAMES.split())
"""Operations without a multiply-accumulate worth counting."""


@cache
def _whole() -> set[Any]:
    """Return the operations found not to be put together from others: each is asked once, there are very many calls.

    No value of this module: the name of a training that counts would hold what this process has counted before.
    """
    return set()


class MacCounter(TorchDispatchMode):
    """Context manager that counts the MACs of all that torch executes inside it, in ``macs``.

    Raises `UncountedOperation` for an operation that it knows nothing of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in FORMULAS and func not in _whole():
            with self:  # so that the parts are counted
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            _whole().add(func)
        if packet not in FORMULAS and packet.__name__ not in FREE:
            also = " (torch has a FLOP formula for it)" if packet in flop_registry else ""
            raise UncountedOperation(
                f"{packet} has no formula in eelit.methods.engine.costs and is not on its free list{also}; "
                "add it to one of them"
            )
        out = func(*args, **kwargs)
        if packet in FORMULAS:
            self.macs += FORMULAS[packet](args, out)
        return out


class _Torch(TorchFunctionMode):
    """Refuses to hand a tensor over to numpy, where nothing is counted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__):
            raise UncountedOperation(
                "what a policy computes is counted in torch alone, but it hands what it is shown to another library; "
                "it must compute in the library of what it is shown (see array_api_compat.array_namespace)"
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def decisions_counted() -> Iterator[MacCounter]:
    """Count what a policy computes inside. Raises `UncountedOperation` if it hands a tensor to another library."""
    with MacCounter() as counter, _Torch():
        yield counter


@torch.inference_mode()
def count(run: Callable[[], Any]) -> int:
    """Return the MACs that ``run()`` executes."""
    with MacCounter() as counter:
        run()
    return counter.macs


@torch.inference_mode()
def exit_costs(model: MultiExit, example: Tensor) -> list[int]:
    """Return the MACs of one sample up to and including the head of each exit, all earlier heads included.

    ``example`` is one input with the sample axis, ``[1, ...]``; costs hold for inputs of the same shape.
    """
    return _with_heads(_parts(model, example))


@torch.inference_mode()
def both_costs(model: MultiExit, example: Tensor) -> tuple[list[int], list[int]]:
    """Return `exit_costs`, and the MACs of the network cut off for good after each exit, where no other has a head.

    The last of these is the plain network.
    """
    parts = _parts(model, example)
    cut = [spent + head for spent, (_, head) in zip(accumulate(stage for stage, _ in parts), parts, strict=True)]
    if type(model).full is not MultiExit.full:  # not all stages and the last head: only a run tells
        cut[-1] = full_cost(model, example)
    return _with_heads(parts), cut


@torch.inference_mode()
def decision_costs(policy: Policy, outputs: Output) -> list[int]:
    """Return the MACs ``[E]`` that a policy computes itself for one sample, up to and including its step at each exit.

    ``outputs [E, N, ...]`` are what it is shown. At the last exit a policy is not asked, unless it assembles the
    answer. Most policies only compare, and cost nothing. It is shown tensors, and computes in torch: raises
    `UncountedOperation` if it hands one to numpy, whose products nobody would count.
    """
    assembling = policy if isinstance(policy, Assembling) else None
    one = of_samples(pytree.tree_map(torch.as_tensor, outputs), slice(1))
    told = [to_policy(said_at(one, i)) for i in range(len(said(outputs)))]
    asked = told if assembling else told[:-1]
    state, found = policy.start(), []
    with decisions_counted() as counter:
        for output in asked:
            state, _ = policy.step(state, output)
            if assembling:
                assembling.answer(state, output)
            found.append(counter.macs)
    return [*found, *found[-1:]][: len(told)] if found else [0] * len(told)


def structure(model: nn.Module) -> tuple[Any, ...]:
    """Return all that the costs of a network follow from: the type and attributes of its parts, the shapes in them.

    What its weights are has no say, so methods that train the same network differently have one table of costs.
    """
    parts = [
        (name, type(part), *sorted((key, repr(value)) for key, value in vars(part).items() if key not in _OF_ALL))
        for name, part in model.named_modules()
    ]
    tensors = [(name, tensor.shape) for name, tensor in (*model.named_parameters(), *model.named_buffers())]
    return (*parts, *tensors)


def counted(model: MultiExit) -> dict[torch.Size, tuple[list[int], list[int]]]:
    """Return the table of `both_costs` by the shape of one input, as far as known; all of one structure share it."""
    return _COUNTED.setdefault(structure(model), {})


_OF_ALL = vars(nn.Module()).keys() - {"training"}
"""Attributes in which torch keeps parameters, parts and hooks."""
_COUNTED: dict[tuple[Any, ...], dict[torch.Size, tuple[list[int], list[int]]]] = {}


def _with_heads(parts: list[tuple[int, int]]) -> list[int]:
    return list(accumulate(stage + head for stage, head in parts))


def _parts(model: MultiExit, example: Tensor) -> list[tuple[int, int]]:
    """Return the MACs of each stage and of its head for one input with sample axis."""
    found, state = [], example
    for stage, head in zip(model.stages, model.heads, strict=True):
        with evaluating(model), MacCounter() as counter:
            state = stage(state)
            before = counter.macs
            head(state)
        found.append((before, counter.macs - before))
    return found


@torch.inference_mode()
def full_cost(model: MultiExit, example: Tensor) -> int:
    """Return the MACs of the plain network for one sample: all stages and the last head, no other head."""
    with evaluating(model):
        return count(lambda: model.full(example))
