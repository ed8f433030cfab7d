"""Another device, which is not at hand: tensors with numbers that, as on a real one, mix with none of the host's."""

from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
DEVICE = torch.device("meta")
"""What the device is called; torch's own tensors of that name hold no numbers."""
MOVES = (aten._to_copy, aten.copy_)
INDEXING = (aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_)


_WHOLE = set()
"""Operations found not to be made of others: there are very many calls."""


class FarTensor(torch.Tensor):
    """A tensor on the far device; ``near`` holds its numbers."""

    @staticmethod
    def __new__(cls, near):
        like = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        with torch.inference_mode(False):  # which knows no views of such tensors
            return torch.Tensor._make_wrapper_subclass(cls, near.size(), **like, device=DEVICE)

    def __init__(self, near):
        self.near = near

    def tolist(self):
        return self.near.tolist()

    def numpy(self):
        raise TypeError("can't convert a far tensor to numpy; use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatched(func, args, kwargs or {})


class _Made(TorchDispatchMode):
    """Lets operations make tensors on the far device and bring them there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:
            return _dispatched(func, args, kwargs or {})


class _Told(TorchFunctionMode):
    """Lets `torch.tensor` and its like, which no operation is made of, make them there too."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": None}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def far_away():
    """Inside, the far device exists."""
    with _Told(), _Made():
        yield


def _dispatched(func, args, kwargs):
    """Run an operation in the parts that it is made of, if it is."""
    if func not in _WHOLE:
        found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
        _WHOLE.add(func)
    with torch._C._DisableTorchDispatch():
        return _run(func, args, kwargs)


def _run(func, args, kwargs):
    """Run an operation where its tensors are; raise `RuntimeError` if they are in two places."""
    asked, packet = kwargs.get("device"), func.overloadpacket
    flat = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    far = [each for each in flat if isinstance(each, FarTensor)]
    there = bool(far) if asked is None else torch.device(asked) == DEVICE
    if far and packet not in MOVES:
        held = flat
        if packet in INDEXING:  # a tensor there may be indexed from here, not the other way round
            held = [args[0], *args[2:3]] if isinstance(args[0], FarTensor) else flat
        near = [each for each in held if not isinstance(each, FarTensor) and each.dim()]
        if near:
            raise RuntimeError(f"{func}: expected all tensors on one device, but {len(near)} are on the CPU")
    inside = pytree.tree_map_only(FarTensor, lambda each: each.near, (args, kwargs))
    if asked is not None:
        inside[1]["device"] = torch.device("cpu")
    out = func(*inside[0], **inside[1])
    if packet is aten.copy_:
        return args[0]
    same = {id(each.near): each for each in far}  # what an operation in place gives back

    def outside(each):
        return same[id(each)] if id(each) in same else FarTensor(each) if there else each

    return pytree.tree_map_only(torch.Tensor, outside, out)


def moved(model):
    """Bring a network to the far device, in place, and return it."""
    known = {}

    def there(tensor, learns):
        if id(tensor) not in known:
            made = FarTensor(tensor.detach())
            known[id(tensor)] = nn.Parameter(made, requires_grad=tensor.requires_grad) if learns else made
        return known[id(tensor)]

    for module in model.modules():
        for held, learns in ((module._parameters, True), (module._buffers, False)):
            held.update({name: there(each, learns) for name, each in held.items() if each is not None})
    return model
