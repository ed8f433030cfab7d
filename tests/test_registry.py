"""The registry: what is listed without importing, and what is told of a method from its source."""

import subprocess
import sys

import pytest

from eelit.methods import registry


def test_listing_and_describing_import_no_torch():
    code = (
        "import sys\n"
        "from eelit.methods import registry\n"
        "assert 'zhou2020pabee' in registry.keys()\n"
        "assert registry.describe('zhou2020pabee').deviations\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_description_of_pabee():
    info = registry.describe("zhou2020pabee")
    assert info.title == "BERT Loses Patience: Fast and Robust Inference with Early Exit (PABEE)."
    assert list(info.sections) == ["Idea", "Model", "Training", "Exit rule", "Skipped", "Deviations"]
    assert len(info.deviations) == 6
    assert info.deviations[4].startswith("Each sample has its own counter.")
    assert "minilm-l6" in info.data
    (rate,) = [setting for setting in info.settings if setting.name == "rate"]
    assert (rate.type, rate.default, rate.meaning) == ("float", "0.0001", "learning rate; the paper: 2e-5")


def test_unknown_method():
    for ask in (registry.get, registry.describe):
        with pytest.raises(registry.UnknownMethod, match="no method is registered under the key 'nobody2000nothing'"):
            ask("nobody2000nothing")
