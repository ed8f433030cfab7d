"""Services are asked politely: at their pace, again when they are busy, never twice for what is kept, always logged."""

import hashlib
import logging
import re
import time
from types import SimpleNamespace

import pytest
import requests
import scholarly
from scholarly import Server, Work

from eelit.bib.record import Person, Record
from eelit.bib.remote import agree, arxiv, crossref, dblp, lookup, openalex, said, semanticscholar, services, web
from eelit.bib.remote.links import Links

HASH = hashlib.sha1(b"W1").hexdigest()
DEPTH = Work(
    "W1", "Leaving a Network Early & Well", [("Ada", "van Example"), ("Bo", "Roe")], 2020, "10.1234/ab.1", "2001.00001",
    "Example Conference", "12-19",
)  # fmt: skip
CITER = Work("W2", "A Later Work on Exits", [("Cy", "Poe")], 2022, "10.1234/ab.2", "", "Other", "", ["W1"])


@pytest.fixture
def serve():
    made = []

    def of(*works):
        made.append(Server(works or (DEPTH, CITER)))
        return made[-1]

    yield of
    for server in made:
        server.close()


@pytest.fixture
def ask(tmp_path):
    made = []

    def of(server, **manners):
        manners = {"mirror": server.address, "timeout": (2, 2)} | manners
        made.append(web.Web(tmp_path / "kept", services.Manners(**manners)))
        return made[-1]

    yield of
    for each in made:
        each.close()


# -- how services are asked --------------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again_even_by_another_run(serve, ask):
    server = serve()
    for _ in range(2):
        assert crossref.by_doi(ask(server), DEPTH.doi).title == DEPTH.title
    assert len(server.asked) == 1


def test_what_is_asked_anew_costs_only_its_validator(serve, ask):
    server = serve()
    first = ask(server)
    crossref.by_doi(first, DEPTH.doi)
    first.anew = True
    assert crossref.by_doi(first, DEPTH.doi).title == DEPTH.title
    assert (len(server.asked), server.revalidated) == (2, 1)
    server.works["W1"] = Work(**(vars(DEPTH) | {"title": "Another Title"}))
    assert crossref.by_doi(first, DEPTH.doi).title == "Another Title"
    assert server.revalidated == 1


def test_what_nobody_knows_is_believed_for_a_day_only(serve, ask, monkeypatch):
    server = serve()
    for _ in range(2):
        assert crossref.by_doi(ask(server), "10.1/unknown") is None
    assert len(server.asked) == 1
    monkeypatch.setattr(web, "UNKNOWN_FOR", -web.UNKNOWN_FOR)
    assert crossref.by_doi(ask(server), "10.1/unknown") is None
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "scripts",
    [
        [scholarly.status(429, {"Retry-After": "0"})] * 2,
        [scholarly.status(503), scholarly.status(500), scholarly.status(502)],
        [scholarly.dropped],
        [scholarly.truncated],
        [scholarly.cut],
        [scholarly.status(429), scholarly.dropped, scholarly.cut],
    ],
    ids=["busy", "broken", "dropped", "truncated", "half", "all"],
)
def test_failures_that_pass_cost_nothing_but_time_and_are_never_kept(serve, ask, scripts):
    server = serve()
    server.scripts = [("/crossref", script) for script in scripts]
    asking = ask(server)
    assert crossref.by_doi(asking, DEPTH.doi).year == 2020
    assert len(server.asked) == len(scripts) + 1
    assert crossref.by_doi(ask(server), DEPTH.doi).year == 2020
    assert len(server.asked) == len(scripts) + 1


def test_retry_after_is_waited_for(serve, ask):
    server = serve()
    server.scripts = [("/crossref", scholarly.status(429, {"Retry-After": "1"}))]
    start = time.monotonic()
    assert crossref.by_doi(ask(server), DEPTH.doi)
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Retry-After": "21600"}, "OpenAlex asks to wait 360 minutes$"),
        ({"X-RateLimit-Remaining-USD": "0.0"}, "the day's budget is spent"),
        ({"X-RateLimit-Remaining": "0"}, "the day's budget is spent, until midnight UTC$"),
    ],
)
def test_a_service_that_wants_hours_is_left_alone_at_once(serve, ask, headers, why):
    server = serve()
    server.always = [("/openalex", scholarly.status(429, headers))]
    asking = ask(server)
    for _ in range(2):
        with pytest.raises(web.Unanswered, match=why) as told:
            openalex.by_doi(asking, DEPTH.doi)
        assert told.value.lasting
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("script", "why", "requests"),
    [
        (scholarly.status(503), "answers with 503", web.TRIES + 1),
        (scholarly.status(403), "answers with 403", 1),
        (scholarly.cut, "broke off its answer", web.BREAKS + 1),
        (scholarly.truncated, "broke off its answer", web.BREAKS + 1),
        (scholarly.dropped, "cannot be reached", web.TRIES + 1),
        (scholarly.instead({"message": {"title": ["No DOI"]}}), r"not known here \(message.DOI: ", 1),
        (scholarly.instead([1]), "not known here", 1),
        (scholarly.instead(b"<html></html>", "text/html"), "not known here", 1),
    ],
    ids=["5xx", "forbidden", "half", "truncated", "dropped", "changed", "a list", "a page"],
)
def test_failures_that_stay_are_one_sentence_and_the_third_is_the_last(serve, ask, script, why, requests):
    server = serve()
    server.always = [("/crossref", script)]
    asking = ask(server)
    for _ in range(web.MOST_FAILURES + 2):
        with pytest.raises(web.Unanswered, match=f"^Crossref .*{why}"):
            crossref.by_doi(asking, DEPTH.doi)
    assert len(server.asked) == requests * web.MOST_FAILURES
    assert services.CROSSREF.name in asking.given_up
    server.always = []
    assert crossref.by_doi(ask(server), DEPTH.doi), "nothing of it was kept"
    assert dblp.by_doi(asking, DEPTH.doi), "the others are asked as before"


def test_silence_ends(serve, ask):
    server = serve()
    server.always = [("/crossref", scholarly.slow(0.3))]
    asking = ask(server, timeout=(1, 0.05))
    asking.session.get_adapter(f"{server.address}/crossref").max_retries.total = 1
    with pytest.raises(web.Unanswered, match="Crossref does not answer in time"):
        crossref.by_doi(asking, DEPTH.doi)


def test_nobody_there(ask):
    server = Server([DEPTH])
    server.close()
    with pytest.raises(web.Unanswered, match="Crossref cannot be reached"):
        crossref.by_doi(ask(server), DEPTH.doi)


def test_where_there_is_no_way_it_is_tried_once_more_after_a_second(serve, ask, monkeypatch):
    waits = []
    monkeypatch.setattr(web.time, "sleep", waits.append)
    server = Server([DEPTH])
    server.close()
    asking = ask(server)
    patience = web._patience(30.0)
    asking.session.get_adapter(f"{server.address}/arxiv").max_retries = patience
    with pytest.raises(web.Unanswered, match="arXiv cannot be reached"):
        arxiv.by_arxiv(asking, DEPTH.arxiv)
    assert [seconds for seconds in waits if seconds] == [1.0]
    assert asking.unanswered == {"arxiv": 1}


def test_two_requests_keep_their_distance(monkeypatch):
    now, slept = [0.0], []
    monkeypatch.setattr(web.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        web.time, "sleep", lambda seconds: slept.append(seconds) or now.__setitem__(0, now[0] + seconds)
    )

    class Answer:
        status_code = 200

    monkeypatch.setattr(web.HTTPAdapter, "send", lambda *_, **__: Answer())
    paced = web._Paced(3.0, web._patience(1.0), {})
    request = web.requests.Request("GET", "http://x/").prepare()
    for _ in range(3):
        paced.send(request)
    assert slept == [0.0, 3.0, 3.0]


def test_waits_double_from_the_first_failure():
    patience, waits = web._patience(30.0), []
    for _ in range(3):
        patience = patience.increment("GET", "/", error=ConnectionResetError())
        waits.append(patience.get_backoff_time())
    assert waits == [30.0, 60.0, 120.0]


def test_paces_are_those_that_services_ask_for():
    assert services.ARXIV.pace >= 3
    assert services.SEMANTIC_SCHOLAR.pace > 1
    assert services.Manners().pace(services.DBLP) >= 1
    assert all(service.base.startswith("https://") for service in services.SERVICES)


def test_the_log_says_what_was_asked_of_whom_and_no_secret(serve, ask, tmp_path):
    server = serve()
    server.scripts = [("/openalex", scholarly.status(503))]
    handler = web.log_into(tmp_path / "asked.log")
    asking = ask(server, contact="me@example.org", keys={"openalex": "s3cret", "semanticscholar": "s3cret"})
    openalex.by_doi(asking, DEPTH.doi)
    semanticscholar.by_doi(asking, DEPTH.doi)
    web.log.removeHandler(handler)
    lines = (tmp_path / "asked.log").read_text().splitlines()
    answers = [line.partition(" → ")[2] for line in lines]
    assert answers == ["", "503, again later", "200", "", "200"], "each is told before it leaves, and its answers"
    assert all("/openalex/works/doi:10.1234/ab.1" in line for line in lines[:3])
    assert asking.asked == {"openalex": 1, "semanticscholar": 1}
    (agent,) = server.agents
    assert agent.startswith("eelit/")
    assert "mailto:me@example.org" in agent
    assert server.keys == {"openalex": "Bearer s3cret", "semanticscholar": "s3cret"}
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"s3cret" not in kept
    logging.getLogger("eelit.asked").setLevel(logging.NOTSET)


# -- what they say -----------------------------------------------------------------------------------------------------


def test_each_service_is_understood(serve, ask):
    asking = ask(serve())
    found = {
        "Crossref": crossref.by_doi(asking, DEPTH.doi),
        "OpenAlex": openalex.by_arxiv(asking, DEPTH.arxiv),
        "arXiv": arxiv.by_arxiv(asking, DEPTH.arxiv),
        "DBLP": dblp.by_doi(asking, DEPTH.doi),
        "Semantic Scholar": semanticscholar.by_arxiv(asking, DEPTH.arxiv),
    }
    for service, each in found.items():
        assert (each.service, each.title, each.year, each.doi) == (service, DEPTH.title, 2020, DEPTH.doi)
        assert each.authors == (Person("van Example", "Ada"), Person("Roe", "Bo")), service
        assert each.preprint == (service == "arXiv")
    assert found["Crossref"].pages == found["DBLP"].pages == "12–19"
    assert {each.arxiv for name, each in found.items() if name not in ("Crossref", "DBLP")} == {DEPTH.arxiv}
    assert found["DBLP"].venue == "Example Conference"


def test_a_single_author_of_dblp_and_no_hit_at_all(serve, ask):
    asking = ask(serve())
    assert dblp.by_doi(asking, CITER.doi).authors == (Person("Poe", "Cy"),)
    assert dblp.by_title(asking, "zzz yyy") == []


def test_many_preprints_are_asked_for_at_once(serve, ask, monkeypatch):
    monkeypatch.setattr(arxiv, "AT_ONCE", 2)
    server = serve(*[Work(f"W{i}", f"Work {i}", arxiv=f"2001.0000{i}") for i in range(1, 6)])
    ids = [f"2001.0000{i}" for i in (5, 3, 1)]
    found = arxiv.by_ids(ask(server), [*ids, "", "no id", "2001.00009"])
    assert {name: each.title for name, each in found.items()} == {name: f"Work {name[-1]}" for name in ids}
    assert len(server.asked) == 2
    assert all("no id" not in path for path in server.asked)


@pytest.mark.parametrize(
    ("summary", "why"), [("<summary>too\n many</summary>", "too many"), ("", "no reason is given")]
)
def test_an_error_that_arxiv_tells_in_a_feed_is_no_answer_and_not_kept(serve, ask, summary, why):
    server = serve(Work("W1", "Work 1", arxiv="2001.00001"))
    entry = f"<entry><id>http://arxiv.org/api/errors#x</id><title>Error</title>{summary}</entry>"
    server.scripts = [("/arxiv", scholarly.instead(scholarly.FEED.format(entry).encode(), "application/atom+xml"))]
    asking = ask(server)
    with pytest.raises(web.Unanswered, match=f"arXiv answers with an error: {why}"):
        arxiv.by_arxiv(asking, "2001.00001")
    assert arxiv.by_arxiv(asking, "2001.00001").title == "Work 1"


def test_an_entry_of_arxiv_that_tells_nothing_is_none(serve, ask):
    server = serve()
    entry = "<entry><id>http://arxiv.org/abs/2001.00001</id></entry>"
    server.scripts = [("/arxiv", scholarly.instead(scholarly.FEED.format(entry).encode(), "application/atom+xml"))]
    assert arxiv.by_arxiv(ask(server), "2001.00001") is None


def test_arxiv_may_declare_nothing(serve, ask):
    server = serve()
    bomb = b'<!DOCTYPE feed [<!ENTITY a "aaaa">]><feed xmlns="http://www.w3.org/2005/Atom">&a;</feed>'
    server.scripts = [("/arxiv", scholarly.instead(bomb, "application/atom+xml"))]
    with pytest.raises(web.Unanswered, match="arXiv answers in a form that is not known"):
        arxiv.by_arxiv(ask(server), "2001.00001")


def test_another_doi_than_asked_for_is_set_apart_were_it_the_same_title(serve, ask):
    server = serve()
    again = Work(**(vars(DEPTH) | {"doi": "10.1234/again"}))
    server.scripts = [("/crossref", scholarly.instead({"message": server.deposit(again)}))]
    found = lookup.gather(ask(server), lookup.given(DEPTH.doi))
    assert [(each.service, each.doi) for each in found.others] == [("Crossref", "10.1234/again")]
    assert "Crossref" not in {each.service for each in found.saids}


def test_references_come_from_all_pages_and_what_was_not_matched_too(serve, ask):
    server = serve(*[Work(f"W{i}", f"Work {i}", doi=f"10.1234/w{i}") for i in range(1, 6)])
    server.works["W9"] = Work("W9", "Citing", doi="10.1234/w9", cites=["W1", "W2", "W3", "W4", "W5"])
    papers = semanticscholar.references(ask(server), "DOI:10.1234/w9")
    assert [paper.doi for paper in papers] == [*(f"10.1234/w{i}" for i in range(1, 6)), ""]
    assert len(server.asked) == 3


def test_references_that_are_withheld_are_unknown(serve, ask):
    server = serve()
    server.scripts = [("/semanticscholar", scholarly.instead({"data": None}))]
    assert semanticscholar.references(ask(server), f"DOI:{DEPTH.doi}") is None


@pytest.mark.parametrize("keys", [{}, {"openalex": "k"}], ids=["pages", "cursors"])
def test_citing_works_come_from_all_pages_up_to_the_most(serve, ask, monkeypatch, keys):
    monkeypatch.setattr(openalex, "PER_PAGE", 2)
    server = serve(DEPTH, *[Work(f"W{i}", f"Work {i}", cites=["W1"]) for i in range(2, 7)])
    asking = ask(server, keys=keys)
    pages = list(openalex.citing(asking, ["W1"], 9))
    assert [work.number for page in pages for work in page.results] == ["W2", "W3", "W4", "W5", "W6"]
    assert [page.meta.count for page in pages] == [5, 5, 5]
    assert len(server.asked) == 3
    assert all(("cursor=" in path) == bool(keys) for path in server.asked)
    assert sum(len(page.results) for page in openalex.citing(asking, ["W1"], 2)) == 4


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("10.1234/AB.1", "doi", "10.1234/ab.1"),
        ("https://doi.org/10.1234/AB.1", "doi", "10.1234/ab.1"),
        ("doi:10.1234/ab.1", "doi", "10.1234/ab.1"),
        ("https://dl.acm.org/doi/pdf/10.1145/3340531.3411973", "doi", "10.1145/3340531.3411973"),
        ("https://link.springer.com/article/10.1007%2Fs12559-020-09734-4", "doi", "10.1007/s12559-020-09734-4"),
        ("https://aclanthology.org/2020.acl-main.204/", "doi", "10.18653/v1/2020.acl-main.204"),
        ("10.1234/ab.1.", "doi", "10.1234/ab.1"),
        ("2001.00001v2", "arxiv", "2001.00001"),
        ("arXiv:2001.00001v2 [cs.CL] 29 Jan 2020", "arxiv", "2001.00001"),
        ("arXiv: a History of Preprints", "title", "arXiv: a History of Preprints"),
        ("1984 and 2001", "title", "1984 and 2001"),
        ("arXiv:2001.00001", "arxiv", "2001.00001"),
        ("https://arxiv.org/pdf/2001.00001v3.pdf", "arxiv", "2001.00001"),
        ("10.48550/arXiv.2001.00001", "arxiv", "2001.00001"),
        ("cs/0112017", "arxiv", "cs/0112017"),
        ("https://arxiv.org/abs/2001.00001?context=cs.LG", "arxiv", "2001.00001"),
        ("https://arxiv.org/html/2001.00001v2#S3.T1", "arxiv", "2001.00001"),
        ("arxiv.org/abs/2001.00001", "arxiv", "2001.00001"),
        ("https://huggingface.co/papers/2001.00001", "arxiv", "2001.00001"),
        ("https://ar5iv.labs.arxiv.org/html/2001.00001", "arxiv", "2001.00001"),
        ("https://ar5iv.org/abs/cs/0112017", "arxiv", "cs/0112017"),
        ("https://www.alphaxiv.org/abs/2001.00001v1", "arxiv", "2001.00001"),
        ("https://api.semanticscholar.org/arXiv:2001.00001", "arxiv", "2001.00001"),
        ("https://doi.org/10.1234/ab.1?utm_source=x#top", "doi", "10.1234/ab.1"),
        ("https://dl.acm.org/doi/10.1145/3340531.3411973?download=true", "doi", "10.1145/3340531.3411973"),
        (f"https://www.semanticscholar.org/paper/Leaving-a-Network/{'0a1b' * 10}?sort=x", "semanticscholar",
            "0a1b" * 10),
        ("https://api.semanticscholar.org/CorpusID:123", "semanticscholar", "CorpusID:123"),
        ("https://dblp.org/rec/conf/ex/Doe20.html?view=bibtex", "dblp", "conf/ex/Doe20"),
        ("https://dblp.org/rec/journals/corr/abs-2001-00001", "arxiv", "2001.00001"),
        ("W2102931473", "openalex", "W2102931473"),
        ("https://openalex.org/works/w2102931473", "openalex", "W2102931473"),
        ("Leaving  a Network Early", "title", "Leaving a Network Early"),
    ],
)  # fmt: skip
def test_what_is_given_is_told_apart(text, kind, value):
    assert lookup.given(text) == (kind, value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://openreview.net/forum?id=abc", "the address https://openreview.net/forum?id=abc holds neither a DOI"),
        ("ab", "`ab` is too short for a title; give a DOI"),
        ("10.1/zzz", "`10.1/zzz` is no DOI (one looks like 10.18653/"),
        ("doi:10.1234", "is no DOI"),
        ("arXiv:24.1", "`arXiv:24.1` is no arXiv id (one looks like 2004.02178)"),
        ("2401.123", "is no arXiv id"),
    ],
)
def test_what_names_no_work_is_refused(text, why):
    with pytest.raises(lookup.NoWork) as told:
        lookup.given(text)
    assert why in str(told.value)
    assert re.search("; (?:give|correct it, or give) ", str(told.value))


@pytest.mark.parametrize(
    ("told", "title"),
    [
        ("Stop before &lt;/Think&gt;: on Tokens", "Stop before </Think>: on Tokens"),
        ("If x<y and y>z", "If x<y and y>z"),
        ("Early<sup>2</sup> <I>Exits</I><br/> &lt;b class=x&gt;now&lt;/b&gt;", "Early2 Exits now"),
        ("O(<mml:math><mml:mi>n</mml:mi></mml:math>) <jats:italic>Stops</jats:italic>", "O(n) Stops"),
    ],
)
def test_titles_lose_their_markup_and_nothing_else(told, title):
    assert said.plain(told) == title


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"title": "LEAVING a network early – and well"}, False),
        ({"title": "Leaving a Network Early & Well."}, True),
        ({"year": 2022}, True),
        ({"year": 2023}, False),
        ({"year": None}, True),
        ({"authors": (Person("Example", "Ada van"),)}, True),
        ({"authors": (Person("Roe", "Bo"),)}, False),
        ({"authors": ()}, True),
        ({"title": ""}, False),
    ],
)
def test_the_same_work_has_the_same_title_and_first_author_in_nearly_the_same_year(other, same):
    values = {"title": DEPTH.title, "authors": (Person("van Example", "A."),), "year": 2020} | other
    record = Record("x2020y", "misc", DEPTH.title, (Person("van Example", "Ada"),), 2020)
    assert said.is_same(record, said.Said("X", "", **values)) == same


# -- one work from all of them -----------------------------------------------------------------------------------------


NAMES = [
    "W1",
    "https://openalex.org/W1",
    "https://dblp.org/rec/conf/ex/W1",
    f"https://semanticscholar.org/paper/{HASH}",
]


@pytest.mark.parametrize("text", [DEPTH.doi, DEPTH.arxiv, DEPTH.title.lower(), *NAMES])
def test_a_work_is_gathered_from_all_services_whatever_was_given(serve, ask, text):
    found = lookup.gather(ask(serve()), lookup.given(text))
    assert sorted(each.service for each in found.saids) == sorted(service.label for service in services.SERVICES)
    assert (found.others, found.troubles) == ([], [])


def test_a_wrong_id_is_set_apart(serve, ask):
    server = serve()
    server.scripts = [("/openalex", scholarly.instead(server.open(CITER)))]
    found = lookup.gather(ask(server), lookup.given(DEPTH.doi))
    assert [(each.service, each.title) for each in found.others] == [("OpenAlex", CITER.title)]
    assert "OpenAlex" not in {each.service for each in found.saids}


def test_a_retitled_version_is_the_same_work(serve, ask):
    retitled = Work(**(vars(DEPTH) | {"said": {"arxiv": {"title": "Early Leaving, First Draft", "doi": DEPTH.doi}}}))
    found = lookup.gather(ask(serve(retitled)), lookup.given(DEPTH.doi))
    assert said.differing(found.saids)["title"]["arXiv"] == "Early Leaving, First Draft"
    assert found.others == []


def test_one_service_that_fails_does_not_keep_the_others_from_answering(serve, ask):
    server = serve()
    server.always = [("/dblp", scholarly.status(500))]
    found = lookup.gather(ask(server), lookup.given(DEPTH.doi))
    assert len(found.saids) == 4
    assert found.troubles == ["DBLP answers with 500"]


def saying(service, **values):
    values = {"title": "Deep Exits", "authors": (Person("Doe", "Jo"),), "year": 2021} | values
    return said.Said(service, f"https://{service}/", **values)


def test_the_published_version_is_believed_of_year_and_pages_and_each_field_says_who():
    saids = [
        saying("arXiv", year=2020, preprint=True, arxiv="2001.00001", type="misc"),
        saying("OpenAlex", authors=(Person("Doe", "J."),), venue="Conf.", pages="1–2"),
        saying("Crossref", title="DEEP EXITS", venue="The Conference", pages="1–9", type="inproceedings"),
    ]
    found = agree.propose(saids, ())
    assert (found.title, found.type, found.key) == ("Deep Exits", "inproceedings", "doe2021deep")
    assert found.values["pages"] == "1–9"
    assert found.values["venue"] == "The Conference"
    assert found.by["year"] == ["Crossref", "OpenAlex"]
    assert found.by["arxiv"] == ["arXiv"]
    assert "pages from Crossref" in found.comments("2026-12-01")[0]
    assert set(found.differing) == {"year", "venue", "pages"}


@pytest.mark.parametrize(
    ("people", "title", "taken", "key"),
    [
        ("Liu", "FastBERT: a Self-distilling BERT", (), "liu2020fastbert"),
        ("Liu", "FastBERT: a Self-distilling BERT", ("liu2020fastbert",), "liu2020selfdistilling"),
        ("Moń", "On the Depth", ("mon2020depth",), "mon2020depth2"),
        ("van den Berg", "Exits", (), "berg2020exits"),
        ("北京", "Exits", (), ""),
    ],
)
def test_keys_are_surname_year_and_word_and_nobody_elses(people, title, taken, key):
    assert agree.free_key((Person(people),), "2020", title, taken) == key


@pytest.mark.parametrize(
    ("service", "data", "ask_for"),
    [
        ("dblp", {"result": {"hits": {"@total": "2", "hits": []}}}, lambda run: dblp.by_title(run, "A title")),
        ("dblp", {"result": {"hits": {"found": []}}}, lambda run: dblp.by_title(run, "A title")),
        (
            "crossref",
            {"message": {"DOI": "10.1234/x", "title": ["T"], "reference-count": 3, "references": []}},
            lambda run: crossref.by_doi(run, "10.1234/x"),
        ),
    ],
)
def test_what_is_counted_and_not_given_is_no_answer_and_is_not_kept(serve, ask, service, data, ask_for):
    server = serve()
    server.always = [(f"/{service}", scholarly.instead(data))]
    run = ask(server)
    for _ in range(2):
        with pytest.raises(web.Unanswered, match="in a form that is not known here"):
            ask_for(run)
    assert len(server.asked) == 2


def test_a_short_page_is_not_the_last_if_a_cursor_leads_on():
    one = {"id": "https://openalex.org/W2", "title": "T", "referenced_works": []}
    pages = iter([{"meta": {"next_cursor": "b"}, "results": [one]}, {"meta": {"next_cursor": None}, "results": [one]}])
    run = SimpleNamespace(manners=services.Manners(keys={"openalex": "k"}))
    run.get = lambda *given: openalex.Page.model_validate(next(pages))
    assert len(list(openalex.citing(run, ["W1"], 5))) == 2


@pytest.mark.parametrize("error", [requests.ConnectTimeout, requests.ReadTimeout, requests.ConnectionError])
def test_a_host_that_does_not_answer_in_time_is_named(error):
    class Slow:
        def look(self, address, method):
            raise error

    links = Links(Slow())
    assert [links.fault("https://a.example/1"), links.fault("https://a.example/2")] == ["", ""]
    assert links.troubles() == ["a.example cannot be reached; links that were not followed: 2"]
