"""What the tracks say of their conditions, beside the methods that are measured under them."""

import re
from pathlib import Path

from eelit.catalog.load import load
from eelit.catalog.sources import sources
from eelit.methods import papers
from eelit.methods.harness import bench, dependencies, registry
from eelit.methods.harness.tracks import TRACKS


def test_the_conditions_of_images_name_the_networks_that_are_the_method():
    """They have their own network, which learns in float32; all others have the setting `half`, and learn in it."""
    titles, named = load(sources()).entries, set()
    for key in bench.members("images"):
        path = Path(papers.__path__[0], f"{key}.py")
        halves = any(name == "LearnsInHalf" for _, name in dependencies.reached(path))
        assert halves == hasattr(registry.get(key), "half"), key
        if not halves:
            named.add("the vision transformer" if "mevit" in key else titles[key].short_name)
    told = TRACKS["images"].conditions
    (given,) = re.findall(r"Where the network is the method \(([^)]*)\)", told)
    assert set(given.split(", ")) == named
    assert "float32 in training, too" in told


def test_the_conditions_of_images_name_the_other_networks_that_learn_in_bfloat16():
    """All others have the track's residual network, or are chains whose largest member it is."""
    titles, usual = load(sources()).entries, registry.get("kaya2019sdn")
    named = set()
    for key in bench.members("images"):
        main = registry.get(key)
        method = main.variant(next(iter(main.variants)), "full")
        network = getattr(method, "network", "resnet")
        if hasattr(method, "half") and (method.widths != usual.widths or network == "vgg"):
            named.add(titles[key].short_name)
    (given,) = re.findall(r"learns in bfloat16 \(([^)]*)\)", TRACKS["images"].conditions)
    assert {each.partition(":")[0] for each in given.split("; ")} == named
