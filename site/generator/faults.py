"""Why a site could not be built, said in one sentence."""

from eelit.catalog.faults import RUN_FAILED, CatalogueFault


class SiteFault(CatalogueFault):
    """The site cannot be built, for a reason the user can mend."""


class SiteBusy(SiteFault):
    """Another process builds the same site."""

    code = RUN_FAILED
