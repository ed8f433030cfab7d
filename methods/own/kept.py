"""Networks of yours on disk: weights as safetensors, all else as JSON; nothing is unpickled, no code is run.

The weights lie in a file that is named after their contents, written first; then the JSON, which names it, takes the
place of the old one. So whatever fails in between, the folder holds one whole network.

>>> from tempfile import TemporaryDirectory
>>> from eelit.methods.own.attach import attach
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
>>> network = attach(model, ["1"], probe=torch.ones(2, 8))
>>> with TemporaryDirectory() as folder:
...     network.save(folder)
...     again = load(folder, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
>>> bool(torch.equal(again.model(torch.ones(2, 8)), network.model(torch.ones(2, 8))))
True
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor, nn

from eelit.methods.data.cache import write
from eelit.methods.own.refusals import WrongNetwork

if TYPE_CHECKING:
    from eelit.methods.own.heads import Factory
    from eelit.methods.own.network import Network
    from eelit.methods.own.tokens import TokenNetwork

FORMAT = "eelit network"
VERSION = 1
NAME = "network.json"


def save(network: Network | TokenNetwork, folder: Path) -> None:
    """Write a network into a folder, in the place of one that is there. Raises `OSError`."""
    content = tensors_as_bytes({name: t.detach().cpu().contiguous().clone() for name, t in _tensors(network.model)})
    weights = f"weights-{hashlib.blake2b(content, digest_size=16).hexdigest()}.safetensors"
    told = {"format": FORMAT, "version": VERSION, "weights": weights, **_told(network)}
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    write(folder / weights, content)
    write(folder / NAME, text.encode() + b"\n")
    for old in folder.glob("weights-*.safetensors"):
        if old.name != weights:
            with suppress(OSError):
                old.unlink()


def load(folder: str | Path, model: nn.Module | None = None, *, heads: Factory | None = None) -> Network | TokenNetwork:
    """Return the network that `Network.save` wrote, bit for bit.

    Args:
        folder: where it lies.
        model: for a network that is not of transformers, an object of the same class with the same sizes; its weights
            are replaced. A model of transformers is made of its configuration.
        heads: the function that made the heads, if they are not `attach`'s own.

    Raises `WrongNetwork` where something is missing or does not fit, and `OSError`.
    """
    place = Path(folder)
    try:
        told = json.loads((place / NAME).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WrongNetwork(f"{place / NAME} is no JSON: {error}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT or told.get("version") != VERSION:
        raise WrongNetwork(f"{place / NAME} is no network of version {VERSION} that eelit wrote")
    if not told.get("auto", True) and heads is None:
        raise WrongNetwork("its heads were made by a function of yours; give it by heads=")
    weights = str(told.get("weights"))
    if Path(weights).name != weights:
        raise WrongNetwork(f"{place / NAME} names weights that lie elsewhere")
    content = (place / weights).read_bytes()
    if f"weights-{hashlib.blake2b(content, digest_size=16).hexdigest()}.safetensors" != weights:
        raise WrongNetwork(f"{place / weights} is damaged: its digest is not that of its name")
    network = _again(told, model, heads)
    try:
        _fill(network.model, read_tensors(content))
    except SafetensorError as error:
        raise WrongNetwork(f"{place / weights} cannot be read: {error}") from error
    return network


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return all weights and buffers, each once though it may stand in several places."""
    return [*model.named_parameters(), *model.named_buffers()]


def _told(network: Network | TokenNetwork) -> dict[str, Any]:
    from eelit.methods.own.network import Network

    original: Any = network.original
    home = type(original).__module__.partition(".")[0]
    found: dict[str, Any] = {"model": type(original).__name__, "of": home}
    if home == "transformers":
        found["config"] = json.loads(original.config.to_json_string(use_diff=False))
        found["attention"] = getattr(original.config, "_attn_implementation", None)
    if isinstance(network, Network):
        made, probe = network.made, network.probe
        parts = probe if isinstance(probe, Mapping) else {"": probe} if probe is not None else {}
        found |= {
            "after": list(made.after), "auto": made.auto, "keep_head": made.keep_head, "outputs": network.outputs,
            "probe": {name: [list(t.shape), str(t.dtype).removeprefix("torch."), _top(t)] for name, t in parts.items()},
        }  # fmt: skip
    return {**found, "versions": {name: version(name) for name in ("torch", "transformers", "safetensors")}}


def _top(part: Tensor) -> int:
    return 0 if part.is_floating_point() else int(part.max())


def _again(told: Mapping[str, Any], model: nn.Module | None, heads: Factory | None) -> Any:
    from eelit.methods.own.attach import AUTO, CannotAttach, attach

    if model is None:
        model = _of_transformers(told)
    elif type(model).__name__ != told.get("model"):
        raise WrongNetwork(f"the network was made of a {told.get('model')}, not of a {type(model).__name__}")
    try:
        if "after" not in told:
            return attach(model)
        probe = {name: _made(*part) for name, part in told["probe"].items()}
        return attach(
            model, told["after"], heads=AUTO if heads is None else heads, keep_head=told["keep_head"],
            outputs=told["outputs"], probe=probe.get("", probe) if probe else None,
        )  # fmt: skip
    except (KeyError, TypeError, CannotAttach) as error:
        raise WrongNetwork(f"the network cannot be made again: {error}") from error


def _of_transformers(told: Mapping[str, Any]) -> nn.Module:
    import transformers

    name = str(told.get("model"))
    if told.get("of") != "transformers":
        raise WrongNetwork(f"the network is a {name} of {told.get('of')}; give an object of that class by model=")
    kind: Any = getattr(transformers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise WrongNetwork(f"this version of transformers has no model {name}")
    maker: Any = kind
    config = maker.config_class.from_dict(dict(told["config"]))
    made: nn.Module = maker._from_config(config, attn_implementation=told.get("attention"))
    return made.eval()


def _made(shape: list[int], dtype: str, top: int) -> Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    if kind.is_floating_point:
        return torch.rand(shape, generator=generator).to(kind)
    return torch.randint(0, top + 1, shape, generator=generator).to(kind)


def _fill(model: nn.Module, found: Mapping[str, Tensor]) -> None:
    own = dict(_tensors(model))
    missing, left = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    if missing or left:
        raise WrongNetwork(
            f"the weights do not fit: {', '.join((missing or left)[:3])} {'is missing' if missing else 'is too much'}"
        )
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            raise WrongNetwork(
                f"{name} is {list(found[name].shape)} in the file, and {list(tensor.shape)} in the model"
            )
        tensor.data = found[name].to(tensor.device)
