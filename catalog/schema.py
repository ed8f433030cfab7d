"""What an entry of the catalogue is: typed, with unknown fields forbidden.

An entry says what *we* say of a work: the idea in our words, where it stands in the taxonomy, how it relates to other
works, what it reports, and how far all this can be trusted. Title, authors, year, venue and identifiers are not here:
they live in the bibliography (``eelit.bib``) under the same key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

KEY_PATTERN = r"^[a-z]+(?:19|20)\d\d[a-z0-9]+$"
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
Prose = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Term = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$")]

Facet = Literal["placement", "training", "policy", "domain"]
FACETS: tuple[Facet, ...] = ("placement", "training", "policy", "domain")

Role = Literal["early-exit", "neighbour", "context"]
Kind = Literal["method", "system", "survey", "analysis"]
RelationType = Literal[
    "builds-on", "extends", "compares-with", "same-training", "same-policy", "criticises", "surveys", "superseded-by"
]
Evidence = Literal["url", "sheet", "unverified"]
Fidelity = Literal["checked-against-code", "from-paper", "reconstructed"]  # as in `query.FIDELITIES`
Qualifier = Literal["exact", "about", "at-least", "at-most"]
Ground = Literal["input", "bandwidth", "load", "deadline", "energy", "outage", "budget", "feedback"]
GROUNDS: Mapping[Ground, tuple[str, str]] = {
    "input": ("Input", "what the network has computed from the sample"),
    "bandwidth": ("Bandwidth", "the current rate of a link"),
    "load": ("Load", "the length of queues, or how busy a machine is"),
    "deadline": ("Deadline", "when an answer is due, or how late it may be"),
    "energy": ("Energy", "joules or voltage"),
    "outage": ("Outage", "another machine cannot be reached"),
    "budget": ("Budget", "how much of a resource may be spent, or is left"),
    "feedback": ("Feedback", "the results of earlier decisions"),
}
"""What a decision at the edge may look at → label and meaning."""
Reference = Literal["full-model", "static-exit", "own-variant", "full-training", "earlier-methods"]


class Strict(BaseModel):
    """Base of all catalogue types: immutable, unknown fields forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class External(Strict):
    """A work outside the catalogue, named well enough to be found."""

    title: Prose
    year: int | None = Field(default=None, ge=1950, le=2100)
    id: str | None = Field(default=None, description="doi:…, arXiv:…, or a URL")


class ExternalTarget(Strict):
    """The target of a relation that leaves the catalogue."""

    external: External


class Relation(Strict):
    """A typed edge to another work. Unverified edges are drawn apart and never counted."""

    type: RelationType
    target: Key | ExternalTarget
    evidence: Evidence = "unverified"
    url: str | None = None
    note: Prose | None = None

    @model_validator(mode="after")
    def _url_goes_with_its_evidence(self) -> Relation:
        if (self.evidence == "url") != (self.url is not None):
            raise ValueError("`url` is given exactly when evidence is `url`")
        return self


class Cost(Strict):
    """What a reported result cost, e.g. a speed-up of 1.57 (unit ``ratio``) or 40 percent of time saved."""

    metric: Prose = Field(description="speed-up, time saved, FLOPs saved, energy saved, mean layers …")
    value: float
    unit: Prose = Field(description="ratio, percent, layers, ms …")
    qualifier: Qualifier = "exact"


class Reported(Strict):
    """One number that the work (or a named other source) reports; never measured by us."""

    dataset: Prose
    metric: Prose
    value: float | None = None
    unit: Prose | None = Field(default=None, description="percent, points, BLEU, dB …; `points` for a change")
    qualifier: Qualifier = "exact"
    baseline: float | None = Field(default=None, description="the full model's value, same unit")
    cost: Cost | None = None
    setting: Prose
    source: Prose

    @model_validator(mode="after")
    def _says_a_number(self) -> Reported:
        if self.value is None and self.cost is None:
            raise ValueError("a reported result needs `value` or `cost`")
        if (self.value is None) != (self.unit is None):
            raise ValueError("`unit` is given exactly when `value` is")
        return self


class Claim(Strict):
    """What the paper says it gains, over what, and the outcomes of eelit's own method that try it.

    An outcome is named as results name it; without its variant (the part before the colon) all variants are meant.
    """

    says: Prose = Field(description="in our words, with the figure if the source gives one")
    over: list[Reference | Key | ExternalTarget] = Field(min_length=1, description="the baselines of the claim")
    source: Prose = Field(description="where the work says so")
    tried: list[Prose] = Field(default=[], description="names of the outcomes that try it")
    untried: Prose | None = Field(default=None, description="why nothing tries it here")

    @model_validator(mode="after")
    def _is_tried_or_says_why_not(self) -> Claim:
        if bool(self.tried) == (self.untried is not None):
            raise ValueError(
                "a claim either names the outcomes that try it (`tried`) or says why none does (`untried`)"
            )
        for field, names in (("over", self.over), ("tried", self.tried)):
            if any(name in names[:index] for index, name in enumerate(names)):
                raise ValueError(f"`{field}` names something twice")
        return self


class Code(Strict):
    """A public implementation by others."""

    repository: Prose = Field(description="owner/name on GitHub, or a URL")
    official: bool
    note: Prose | None = None


class Unverified(Strict):
    """A statement of the entry (or of the bibliography) that no source confirmed."""

    field: Prose = Field(description="name of a field of this entry or of the bibliography, e.g. `relations`, `doi`")
    note: Prose


class SeedError(Strict):
    """Something the seed list got wrong, and what is right."""

    wrong: Prose
    right: Prose


class Seed(Strict):
    """Where the work stands in the reading list that the catalogue started from."""

    lines: list[int] = Field(min_length=1)
    errors: list[SeedError] = []


class Implementation(Strict):
    """How far eelit's own implementation of this work can be trusted, and why."""

    fidelity: Fidelity
    reason: Prose
    decides_by: list[Ground] = Field(
        default=[],
        description="of works at the edge: on which of the grounds eelit's own run decides, which may be fewer",
    )
    ablations: list[Prose] = Field(
        default=[], description="variants measured for comparison, which leave out or replace the paper's own idea"
    )
    extension: Prose | None = Field(
        default=None, description="what the measured curves show that is not in the paper, where they show only that"
    )


class Entry(Strict):
    """One work of the catalogue. Facet values come most defining first."""

    key: Key
    short_name: Prose
    aliases: list[Prose] = []
    role: Role
    kind: Kind = "method"
    placement: list[Term] = []
    training: list[Term] = []
    policy: list[Term] = []
    domain: list[Term] = Field(min_length=1)
    idea: Prose
    exit_rule: Prose | None = Field(default=None, description="when it stops: direction and strictness of the test")
    skipped: Prose | None = Field(default=None, description="which computation is saved")
    decides_by: dict[Ground, Prose] = Field(
        default={},
        description="of works at the edge: what the decision looks at, and how; what is inferred is unverified",
    )
    note: Prose | None = Field(default=None, description="what a reader should know before filing or using it")
    backbones: list[Prose] = []
    datasets: list[Prose] = []
    reported: list[Reported] = []
    claims: list[Claim] = []
    relations: list[Relation] = []
    code: list[Code] = []
    sources: list[Prose] = Field(min_length=1)
    unverified: list[Unverified] = []
    reconstructed: bool = Field(default=False, description="true if only title or abstract could be read")
    seed: Seed | None = None
    implementation: Implementation | None = None

    @model_validator(mode="after")
    def _facets_hold_each_term_once(self) -> Entry:
        for facet in FACETS:
            values = getattr(self, facet)
            if len(set(values)) != len(values):
                raise ValueError(f"`{facet}` names a term twice")
        return self


class TaxonomyTerm(Strict):
    """A term of one facet: what it means, what it is a kind of, and one work that shows it."""

    term: Term
    label: Prose
    definition: Prose
    broader: Term | None = None
    example: Key | None = None
    synonyms: list[Prose] = Field(default=[], description="other names for it; full-text search finds it by them")


# The roles are part of the model, not of the vocabulary that curators extend; terms they are for searches and lists.
ROLES = [
    TaxonomyTerm(
        term="early-exit",
        label="Early exit",
        definition="Inference may stop early, depending on the input.",
        synonyms=["early exit"],
    ),
    TaxonomyTerm(
        term="neighbour",
        label="Neighbour",
        definition="Spends compute, or measurements, adaptively in another way, e.g. skips blocks.",
        synonyms=["relative of early exit"],
    ),
    TaxonomyTerm(
        term="context", label="Context", definition="Not an early-exit work; listed because others build on it."
    ),
]


class Taxonomy(Strict):
    """The vocabulary, facet by facet, in reading order."""

    placement: list[TaxonomyTerm]
    training: list[TaxonomyTerm]
    policy: list[TaxonomyTerm]
    domain: list[TaxonomyTerm]
