"""A network of any kind, cut after named modules: its own forward in parts, which together are the whole.

Only the forwards of the modules in which the named ones stand are read (by `torch.fx`); a named module itself, and
whatever stands beside it, is called as it is, whatever it does inside.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, fx, nn

from eelit.methods.backbones.own_forward import CannotAttach

AT = "at"
"""Under this name a state holds what the named module gave; what later parts need stands beside it, by its own name."""


class _Tracer(fx.Tracer):
    """Looks into the modules that hold a named one, and into no other."""

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as it is."""
        return module_qualified_name not in self.opened


def length(x: Any) -> Any:
    """Return ``len(x)``; of a tensor it is taken from its size, which exporting to ONNX can follow."""
    return x.size(0) if isinstance(x, Tensor) else len(x)


def _noted_length(x: Any) -> Any:
    """Stand for ``len`` while a forward is read: of what is not known yet, note that its length is asked for."""
    if not isinstance(x, fx.Proxy):
        return len(x)
    return x.tracer.create_proxy("call_function", length, (x,), {})


@contextmanager
def _lengths_noted(model: nn.Module, opened: set[str]) -> Iterator[None]:
    """Let the forwards that are read, and functions beside them, ask for lengths, which `torch.fx` alone refuses."""
    modules = [model, *(model.get_submodule(name) for name in opened)]
    forwards = [getattr(type(module).forward, "__globals__", {}) for module in modules]
    beside = {id(names): names for names in forwards if "len" not in names}
    for names in beside.values():
        names["len"] = _noted_length
    try:
        yield
    finally:
        for names in beside.values():
            del names["len"]


class Part(nn.Module):
    """What a network does up to one named module, from the one before it; states are dictionaries.

    The first part takes the network's inputs, a tensor or a dictionary of those that the probe named; what the last
    gives under `AT` is the network's answer.
    """

    def __init__(
        self, body: fx.GraphModule, reads: Sequence[str], gives: Sequence[str], known: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.reads, self.gives = tuple(reads), tuple(gives)
        self.known = known if known is None else frozenset(known)  # of the first part: what a batch may name

    def forward(self, state: Any) -> dict[str, Any]:
        """Map inputs (first part) or the state after the part before to the state after this one.

        Raises `ValueError` for a batch that names other inputs than the probe did: the network was cut for those.
        """
        named = state if isinstance(state, Mapping) else {self.reads[0]: state}
        missing = [name for name in self.reads if name not in named]
        if missing:
            raise ValueError(f"the network reads {', '.join(missing)}, which the batch does not name")
        if self.known is not None and (unknown := sorted(named.keys() - self.known)):
            raise ValueError(f"the probe did not name {quoted(unknown)}; give it in probe=, or leave it out")
        # not through its call, which prints a page before an error is raised
        found = self.body.forward(*(named[name] for name in self.reads))
        return dict(zip((AT, *self.gives), found, strict=True))


def quoted(names: Sequence[str]) -> str:
    """Return names as a part of a sentence."""
    return ", ".join(f"`{name}`" for name in names)


@dataclass(frozen=True)
class Cut:
    """The parts of a network, one more than there are places, and where they were cut, in the order of execution."""

    parts: list[Part]
    places: list[str]


def blocks(model: nn.Module) -> list[str]:
    """Return the names of a network's blocks: outermost modules made of others that stand in a row with their like.

    That is, in a `Sequential` or `ModuleList`. Raises `CannotAttach` if there are none.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        parent = model.get_submodule(name.rpartition(".")[0])
        in_a_row = name and isinstance(parent, nn.Sequential | nn.ModuleList) and any(True for _ in module.children())
        if in_a_row and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    if not found:
        held = ", ".join(name for name, _ in model.named_children()) or "none"
        raise CannotAttach(
            model, f"it has no blocks in a row; name places with after=[…] among its modules ({held}, …)"
        )
    return found


def cut(model: nn.Module, after: Sequence[str], given: Sequence[str] | None, *, lenient: bool = False) -> Cut:
    """Cut a network after the named modules. ``given`` are the arguments that it gets by name; None: its first alone.

    If ``lenient``, names that are no cut, such as the last block, which the classifier itself may be, are left out.
    Raises `CannotAttach` with the reason.
    """
    known = dict(model.named_modules())
    for name in after:
        if not name or name not in known:
            raise CannotAttach(model, f"it has no module {name!r} to put an exit behind")
    opened = {name[:i] for name in after for i, letter in enumerate(name) if letter == "."}
    inner = sorted(set(after) & opened)
    if inner:
        raise CannotAttach(model, f"an exit stands after {inner[0]!r} and others inside it")
    graph = _traced(model, opened, given)
    nodes = list(graph.nodes)
    ends: dict[int, str] = {}
    for name in after:
        places = [i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == name]
        if len(places) != 1:
            if lenient:
                continue
            raise CannotAttach(model, f"its forward calls {name!r} {len(places)} times, not once")
        ends[places[0]] = name
    (output,) = (node for node in nodes if node.op == "output")
    result = output.args[0]
    if lenient:
        ends = {i: name for i, name in ends.items() if nodes[i] is not result}
    for i, name in ends.items():
        if nodes[i] is result:
            raise CannotAttach(model, f"{name!r} is its end, where the last exit stands in any case")
    if not ends:
        raise CannotAttach(model, "no place for an exit before its end is left")
    stops = [nodes[i] for i in sorted(ends)]
    for stop in stops:
        _count_again(graph, stop)
    nodes = list(graph.nodes)
    parts = _parts(model, nodes, [nodes.index(stop) for stop in stops], result, given or ())
    return Cut(parts, [ends[i] for i in sorted(ends)])


def _count_again(graph: fx.Graph, stop: fx.Node) -> None:
    """Behind a place take the number of samples from what stands there: some may have left since it was counted.

    What was calculated from that number is calculated again. Whether the first axis there is the sample, as here
    supposed, the proof on a probe tells.
    """
    nodes = list(graph.nodes)
    before, after = nodes[: nodes.index(stop) + 1], nodes[nodes.index(stop) + 1 :]
    with graph.inserting_after(stop):
        made = [graph.call_method("size", (stop, 0))]
    again: dict[fx.Node, fx.Node] = {}
    numbers: set[fx.Node] = set()
    for node in before:
        if _is_size(node):
            numbers.add(node)
            if _counts_samples(node):
                again[node] = made[0]
        elif getattr(node.target, "__module__", "") == "_operator" and numbers.issuperset(node.all_input_nodes):
            numbers.add(node)
            if again.keys() & set(node.all_input_nodes):
                with graph.inserting_after(made[-1]):
                    made.append(graph.node_copy(node, lambda each: again.get(each, each)))
                again[node] = made[-1]
    again |= {
        n: made[0]
        for n in after
        if _counts_samples(n) and n.target is operator.getitem and n.all_input_nodes[0] in before
    }
    behind = set(after)
    for node, new in again.items():
        node.replace_all_uses_with(new, delete_user_cb=behind.__contains__)
    for node in [*reversed(made), *(node for node in again if node in behind)]:
        if not node.users:
            graph.erase_node(node)


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a number of a tensor's shape: ``x.size(i)``, ``x.shape[i]``, ``x.size()[i]`` or ``len(x)``."""
    if node.op == "call_method" and node.target == "size":
        return len(node.args) == 2
    if node.op == "call_function" and node.target is length:
        return not _is_shape(node.args[0])
    return node.op == "call_function" and node.target is operator.getitem and _is_shape(node.args[0])


def _is_shape(shape: Any) -> bool:
    """Whether this is a node that gives the whole shape of a tensor."""
    return isinstance(shape, fx.Node) and (
        (shape.op == "call_function" and shape.target is getattr and shape.args[1] == "shape")
        or (shape.op == "call_method" and shape.target == "size" and len(shape.args) == 1)
    )


def _counts_samples(node: fx.Node) -> bool:
    """Whether a node is the length of a tensor's first axis."""
    return _is_size(node) and (node.target is length or bool(node.args[1] == 0))


def _traced(model: nn.Module, opened: set[str], given: Sequence[str] | None) -> fx.Graph:
    arguments = inspect.signature(model.forward).parameters
    fixed = {
        name: argument.default
        for i, (name, argument) in enumerate(arguments.items())
        if argument.default is not inspect.Parameter.empty and (name not in given if given is not None else i > 0)
    }
    try:
        with _lengths_noted(model, opened):
            graph = _Tracer(opened).trace(model, concrete_args=fixed or None)
        for node in [node for node in graph.nodes if getattr(node.target, "__name__", "").startswith("_assert")]:
            graph.erase_node(node)  # that arguments which are left out are left out
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return graph
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise CannotAttach(
            model,
            f"its forward cannot be cut, for what it does depends on its input ({type(error).__name__}: {first}); move "
            "that step into a module of its own, which is called as it is",
        ) from error


def _parts(model: nn.Module, nodes: list[fx.Node], places: list[int], result: Any, given: Sequence[str]) -> list[Part]:
    """Return the parts: nodes between two places, with what earlier parts made and they or later ones read."""
    bounds = [-1, *places, len(nodes) - 1]
    number = {node: i for i, node in enumerate(nodes)}
    parts: list[Part] = []
    reads = [node for node in nodes if node.op == "placeholder" and node.users]
    for start, stop in pairwise(bounds):
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in reads:
            copies[node] = graph.placeholder(node.name)
        for node in nodes[start + 1 : stop + (stop < len(nodes) - 1)]:
            if node.op != "placeholder":
                copies[node] = graph.node_copy(node, copies.__getitem__)
        last = stop == len(nodes) - 1
        live = [] if last else [node for node in copies if any(number[user] > stop for user in node.users)]
        at = fx.node.map_arg(result, copies.__getitem__) if last else copies[nodes[stop]]
        graph.output((at, *(copies[node] for node in live)))
        body = fx.GraphModule(model, graph)
        named = [_argument(node) for node in reads] if start < 0 else [node.name for node in reads]
        parts.append(Part(body, named, [node.name for node in live], {*named, *given} if start < 0 else None))
        reads = live
    return parts


def _argument(node: fx.Node) -> str:
    return str(node.target).lstrip("*")


def answer_of(model: nn.Module, out: Any) -> Tensor:
    """Return the logits ``[N, C]`` or values ``[N]`` that a network gives, else raise `CannotAttach`."""
    found = out if isinstance(out, Tensor) else out.get("logits") if isinstance(out, Mapping) else None
    if not isinstance(found, Tensor) or found.dim() not in (1, 2):
        told = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(out).__name__}"
        raise CannotAttach(model, f"it gives {told}, not logits [samples, classes] or values [samples]")
    return found.squeeze(-1) if found.dim() == 2 and found.shape[1] == 1 else found
