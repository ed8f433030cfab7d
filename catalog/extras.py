"""What the extras of the package bring, and the one sentence that says which of them is missing.

`pip install eelit` brings what reads the catalogue and chooses a rule for logits. Whatever needs more says so here.
"""

from __future__ import annotations

from importlib.util import find_spec

from eelit.catalog.faults import Unavailable

EXTRAS = {
    "plot": ("matplotlib",),
    "measures": ("scipy",),
    "run": (
        *("torch", "transformers", "sklearn", "lightgbm", "safetensors", "tokenizers", "joblib", "pydantic"),
        *("filelock", "requests", "PIL", "pymoo", "pystoi", "rdata", "sacrebleu", "simpy", "scipy", "matplotlib"),
    ),
    "site": (
        *("mkdocs", "material", "jinja2", "pybtex", "pylatexenc", "sqlmodel", "yaml", "ruamel.yaml", "pydantic"),
        *("joblib", "filelock", "requests", "requests_cache", "pygments", "scipy"),
    ),
    "mcp": ("mcp", "pydantic", "joblib"),
    "onnx": ("onnx", "onnxruntime"),
    "cluster": ("distributed", "dask"),
    "ray": ("ray",),
}
"""The packages of each extra, by the names under which they are imported; the first extra that has one is named."""
SHOWN = 3


class Missing(Unavailable):
    """Packages are not installed; the sentence names the extra that brings them."""

    def __init__(self, names: tuple[str, ...], extra: str) -> None:
        more = len(names) - SHOWN
        told = [*names[:SHOWN], *([f"{more} more package{'s' if more > 1 else ''}"] if more > 0 else [])]
        listed = f"{', '.join(told[:-1])} and {told[-1]}" if told[1:] else told[0]
        verb = "is" if len(names) == 1 else "are"
        super().__init__(f"{listed} {verb} needed for this and not installed: pip install 'eelit[{extra}]'")


def demand(extra: str, *only: str) -> None:
    """Raise `Missing` unless all packages of an extra, or only these of them, are installed; none is imported."""
    if names := tuple(name for name in only or EXTRAS[extra] if not _installed(name)):
        raise Missing(names, extra)


def missing(error: ModuleNotFoundError) -> Missing | None:
    """Return which extra brings the package that was looked for in vain; None if none of them does."""
    name = error.name or ""
    for extra, names in EXTRAS.items():
        for each in names:
            if f"{name}.".startswith(f"{each}.") and not _installed(each):
                return Missing((each,), extra)
    return None


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of a name with a dot, the part before it
        return False
    except ValueError:  # it is loaded, though nobody says from where
        return True
