"""MovieLens as graded queries for learning to rank: recommendation data in the clothes of a ranking task.

A user is a query. The earlier half of the user's ratings is history; the films of the later half are the documents to
be ranked, and their stars the grades. Every feature comes from histories alone (of all users, as a running service has
them), so no grade that is to be predicted, of this query or another, is in any feature. The usual leave-one-out mean
is avoided on purpose: with the film known from its count and year, it gives away the very rating left out, and trees
learn that. Users, not ratings, are divided into train, validation and test.

Measured with LambdaMART (LightGBM, 300 trees of 8 leaves, rate 0.05) on the 200 test queries: NDCG@10 0.743; by
`mean_rating` 0.722, by the plain mean 0.707, at random 0.595.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data.ratings import ITEM, Ratings, ratings
from eelit.methods.data.split import Split, divide

PRIOR = 5.0  # pull towards the overall mean m, as by so many ratings of m: (sum of n ratings + PRIOR m) / (n + PRIOR)
FELLOWS = 10.0  # films in common that halve the distrust in a neighbour

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """`q` queries with `n` documents in all; the documents of a query follow each other, in order of film number.

    `grades` are 0 (at most one star), 1 (up to two) … 4 (above four), the five grades of web search sets. `mean_rating`
    is the score to beat: the film's mean, pulled towards the overall mean where ratings are few.
    """

    features: NDArray[np.float32]  # [n, F], columns as in `feature_names()`
    grades: NDArray[np.int64]  # [n]
    stars: NDArray[np.float32]  # [n]
    sizes: NDArray[np.int64]  # [q], documents per query
    mean_rating: Floats  # [n]
    users: NDArray[np.int64]  # [q]

    def __len__(self) -> int:
        return len(self.sizes)


def queries(train: int = 371, validation: int = 100, test: int = 200, *, seed: int = 0) -> Split[Queries]:
    """The 671 users as queries of 10 to 1,196 documents; raises `ValueError` if more are asked for."""
    every = ratings()
    users = divide(range(int(every.user.max()) + 1), train, validation, test, seed=seed, item=ITEM)
    past = history(every)
    features = _features(every, past)
    damped = FilmStatistics.of(every, past).damped[every.film]

    def part(chosen: Integers) -> Queries:
        rows = np.concatenate([np.flatnonzero((every.user == user) & ~past) for user in chosen])
        sizes = np.array([np.sum((every.user == user) & ~past) for user in chosen], dtype=np.int64)
        stars = every.stars[rows]
        grades = np.maximum(np.ceil(stars) - 1, 0).astype(np.int64)
        return Queries(features[rows], grades, stars.astype(np.float32), sizes, damped[rows], chosen)

    return Split(part(users.train), part(users.validation), part(users.test), users.digest)


def feature_names() -> tuple[str, ...]:
    """The columns of `Queries.features`."""
    film = ("damped mean", "mean", "ratings", "deviation", "liked", "above users' mean", "year")
    user = ("user's mean", "user's deviation", "user's ratings")
    both = (
        "genre affinity",
        "best genre",
        "worst genre",
        "genre share",
        "decade affinity",
        "decade share",
        "neighbours",
    )
    return (*film, *user, *both, *ratings().genre_names)


def history(every: Ratings) -> NDArray[np.bool_]:
    """True `[n]` for the earlier half of each user's ratings (rounded down; of equal times the lower film number)."""
    past = np.zeros(len(every.user), dtype=bool)
    for user in range(int(every.user.max()) + 1):
        rows = np.flatnonzero(every.user == user)
        earlier = rows[np.lexsort((every.film[rows], every.time[rows]))]
        past[earlier[: len(rows) // 2]] = True
    return past


@dataclass(frozen=True)
class FilmStatistics:
    """What histories say of each film, all `[F]`."""

    count: Floats
    mean: Floats  # the overall mean where nobody has rated the film
    damped: Floats
    deviation: Floats
    liked: Floats  # damped share of four stars and more
    above: Floats  # damped mean of stars less the user's own mean

    @classmethod
    def of(cls, every: Ratings, past: NDArray[np.bool_]) -> "FilmStatistics":
        """The statistics of the ratings marked in `past` `[n]`."""
        film, stars, films = every.film[past], every.stars[past], len(every.year)

        def total(values: Floats | None = None) -> Floats:
            return np.bincount(film, values, films).astype(np.float64)

        count, overall = total(), float(stars.mean())
        mean = np.where(count > 0, total(stars) / np.maximum(count, 1), overall)
        spread = np.sqrt(np.maximum(total(stars**2) / np.maximum(count, 1) - mean**2, 0))
        liking = (stars >= 4).astype(np.float64)
        above = stars - _user_means(every, past)[every.user[past]]
        return cls(
            count=count,
            mean=mean,
            damped=(total(stars) + PRIOR * overall) / (count + PRIOR),
            deviation=np.where(count > 0, spread, 0.0),
            liked=(total(liking) + PRIOR * liking.mean()) / (count + PRIOR),
            above=total(above) / (count + PRIOR),
        )


def _features(every: Ratings, past: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`[n, F]` for all ratings, though only those outside `past` are documents. Rounded, to be the same everywhere."""
    film, user = every.film, every.user
    of = FilmStatistics.of(every, past)
    about_film = np.column_stack([of.damped, of.mean, of.count, of.deviation, of.liked, of.above, every.year])
    columns = [about_film[film], _about_user(every, past)[user], _about_taste(every, past)]
    columns += [_neighbours(every, past, of.damped)[user, film][:, np.newaxis], every.genres[film]]
    return np.round(np.hstack(columns), 4).astype(np.float32)


def _user_means(every: Ratings, past: NDArray[np.bool_]) -> Floats:
    user = every.user[past]
    return np.bincount(user, every.stars[past]) / np.bincount(user)


def _about_user(every: Ratings, past: NDArray[np.bool_]) -> Floats:
    """Mean, deviation and number of each user's ratings, `[U, 3]`."""
    user, stars = every.user[past], every.stars[past]
    count, mean = np.bincount(user), _user_means(every, past)
    spread = np.sqrt(np.maximum(np.bincount(user, stars**2) / count - mean**2, 0))
    return np.column_stack([mean, spread, count])


def _about_taste(every: Ratings, past: NDArray[np.bool_]) -> Floats:
    """How the user liked the film's genres and decade, above the own mean, and how often they occur, `[n, 6]`."""
    decade = np.nan_to_num(every.year // 10, nan=0.0)
    decades = (decade[:, np.newaxis] == np.unique(decade)).astype(np.float64)
    genre_like, genre_share = _affinity(every, past, every.genres)
    decade_like, decade_share = _affinity(every, past, decades)
    has = every.genres[every.film]
    likes = genre_like[every.user]
    columns = [
        (has * likes).sum(axis=1) / has.sum(axis=1),
        np.where(has > 0, likes, -np.inf).max(axis=1),
        np.where(has > 0, likes, np.inf).min(axis=1),
        (has * genre_share[every.user]).sum(axis=1) / has.sum(axis=1),
        (decades[every.film] * decade_like[every.user]).sum(axis=1),
        (decades[every.film] * decade_share[every.user]).sum(axis=1),
    ]
    return np.column_stack(columns)


def _affinity(every: Ratings, past: NDArray[np.bool_], kinds: Floats) -> tuple[Floats, Floats]:
    """For kinds of film `[F, K]`: each user's damped mean above the own mean, and share of the ratings, `[U, K]`."""
    user, film = every.user[past], every.film[past]
    means = _user_means(every, past)
    above = np.zeros((len(means), kinds.shape[1]))
    count = np.zeros_like(above)
    np.add.at(above, user, kinds[film] * (every.stars[past] - means[user])[:, np.newaxis])
    np.add.at(count, user, kinds[film])
    return above / (count + PRIOR), count / np.bincount(user)[:, np.newaxis]


def _neighbours(every: Ratings, past: NDArray[np.bool_], damped: Floats) -> Floats:
    """What users of like taste gave above the film's mean, weighted by likeness, `[U, F]`; others' ratings only."""
    user, film = every.user[past], every.film[past]
    above = every.stars[past] - damped[film]
    above = above - (np.bincount(user, above) / (np.bincount(user) + PRIOR))[user]
    residual = np.zeros((int(user.max()) + 1, len(damped)), dtype=np.float32)
    rated = np.zeros_like(residual)
    residual[user, film], rated[user, film] = above, 1
    length = np.sqrt((residual**2).sum(axis=1)) + 1e-6
    shared = rated @ rated.T
    likeness = (residual @ residual.T) / np.outer(length, length) * (shared / (shared + FELLOWS))
    np.fill_diagonal(likeness, 0)
    return ((likeness @ residual) / (np.abs(likeness) @ rated + 1)).astype(np.float64)
