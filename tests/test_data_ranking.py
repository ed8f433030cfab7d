"""MovieLens as queries: no grade leaks into a feature, the ensemble beats ranking by mean rating; NDCG by hand."""

import math

import lightgbm
import numpy as np
import pandas
import pytest
import rdata

from eelit.methods.data import fetch, movielens
from eelit.methods.data.ratings import _parsed, ratings
from eelit.methods.engine.metrics import ndcg, ndcg_per_query


@pytest.fixture(scope="module")
def queries():
    fetch.fetch("movielens")
    return movielens.queries()


def test_ndcg_by_hand():
    scores, grades, groups = np.array([3.0, 2.0, 1.0, 0.5, 0.1]), np.array([1, 2, 0, 0, 0]), np.array([3, 2])
    got = 1 + 3 / math.log2(3)
    best = 3 + 1 / math.log2(3)
    assert ndcg_per_query(scores, grades, groups) == pytest.approx([got / best, 1.0])
    assert ndcg_per_query(scores, grades, groups, k=1) == pytest.approx([1 / 3, 1.0])
    assert ndcg(scores, grades, groups) == pytest.approx((got / best + 1) / 2)
    assert ndcg(-scores[:3], grades[:3], groups[:1], k=2) == pytest.approx((0 + 3 / math.log2(3)) / best)


def test_ndcg_keeps_the_order_of_equal_scores_and_refuses_what_does_not_fit():
    assert ndcg(np.zeros(2), np.array([0, 1]), np.array([2])) == pytest.approx(1 / math.log2(3))
    with pytest.raises(ValueError, match="2 scores, 2 grades and groups of 3 documents"):
        ndcg(np.zeros(2), np.zeros(2), np.array([3]))


def test_the_table(queries):
    every = ratings()
    assert (len(every.stars), len(every.year), int(every.user.max()) + 1) == (100_004, 9_066, 671)
    assert len(every.genre_names) == 20
    assert np.bincount(every.user).min() == 20
    assert np.isnan(every.year).sum() == 5
    assert set(np.unique(every.stars * 2)) == set(range(1, 11))


def test_queries(queries):
    parts = (queries.train, queries.validation, queries.test)
    assert [len(part) for part in parts] == [371, 100, 200]
    assert [len(part.grades) for part in parts] == [27_399, 7_517, 15_250]
    assert queries.digest == "ea7a5e8ddb3f2209"
    users = np.concatenate([part.users for part in parts])
    assert sorted(users) == list(range(671))
    for part in parts:
        assert part.features.shape == (len(part.grades), len(movielens.feature_names()))
        assert part.sizes.sum() == len(part.grades) == len(part.stars) == len(part.mean_rating)
        assert part.sizes.min() >= 10
        assert set(part.grades) == {0, 1, 2, 3, 4}
        assert (part.grades == np.maximum(np.ceil(part.stars) - 1, 0)).all()


def test_no_grade_to_be_predicted_is_in_any_feature(queries, monkeypatch):
    every = ratings()
    past = movielens.history(every)
    masked = every.stars.copy()
    masked[~past] = np.random.default_rng(0).integers(1, 11, size=(~past).sum()) / 2
    other = type(every)(**{**vars(every), "stars": masked})
    monkeypatch.setattr(movielens, "ratings", lambda: other)
    found = movielens.queries()
    for name in ("train", "validation", "test"):
        before, after = getattr(queries, name), getattr(found, name)
        assert not np.array_equal(before.stars, after.stars)
        np.testing.assert_array_equal(before.features, after.features)
        np.testing.assert_array_equal(before.mean_rating, after.mean_rating)


def test_history_is_the_earlier_half(queries):
    every = ratings()
    past = movielens.history(every)
    for user in (0, 100, 670):
        rows = every.user == user
        assert past[rows].sum() == rows.sum() // 2
        assert every.time[rows & past].max() <= every.time[rows & ~past].min()


def test_film_statistics_by_hand(queries):
    every = ratings()
    past = movielens.history(every)
    of = movielens.FilmStatistics.of(every, past)
    film = int(np.argmax(of.count))
    stars = every.stars[past & (every.film == film)]
    assert of.count[film] == len(stars)
    assert of.mean[film] == pytest.approx(stars.mean())
    assert of.deviation[film] == pytest.approx(stars.std())
    assert of.damped[film] == pytest.approx((stars.sum() + 5 * every.stars[past].mean()) / (len(stars) + 5))


def test_the_whole_ensemble_beats_ranking_by_mean_rating(queries):
    settings = {"objective": "lambdarank", "learning_rate": 0.05, "num_leaves": 8, "min_data_in_leaf": 100}
    settings |= {"bagging_fraction": 0.8, "bagging_freq": 1, "feature_fraction": 0.5, "lambdarank_truncation_level": 20}
    settings |= {"num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": 0, "verbosity": -1}
    train, test = queries.train, queries.test
    rows = lightgbm.Dataset(train.features, train.grades, group=train.sizes, params=settings)
    booster = lightgbm.train(settings, rows, num_boost_round=300)
    ours = ndcg(booster.predict(test.features, num_threads=1), test.grades, test.sizes)
    by_mean = ndcg(test.mean_rating, test.grades, test.sizes)
    assert by_mean == pytest.approx(0.7216, abs=5e-4)
    assert ours > by_mean + 0.012


def test_upstreams_wrapping_is_read_too(tmp_path):
    columns = {"movieId": [7, 7, 3], "userId": [2, 1, 1], "rating": [4.5, 3.0, 0.5], "timestamp": [30, 20, 10]}
    table = pandas.DataFrame(
        {**columns, "year": [1990.0, 1990.0, None], "genres": ["Drama|War", "Drama|War", "Comedy"]}
    )
    rdata.write_rda(tmp_path / "movielens.rda", {"movielens": table}, compression="xz")
    found = _parsed(tmp_path)
    assert found["user"].tolist() == [0, 0, 1]
    assert found["film"].tolist() == [0, 1, 1]
    assert found["stars"].tolist() == [0.5, 3.0, 4.5]
    assert found["time"].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(found["year"], [np.nan, 1990])
    assert found["genre_names"].tolist() == ["Comedy", "Drama", "War"]
    assert found["genres"].tolist() == [[1, 0, 0], [0, 1, 1]]
