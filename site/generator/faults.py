"""Why a site could not be built, said in one sentence."""

from eelit.catalog.faults import CatalogueFault


class SiteFault(CatalogueFault):
    """The site cannot be built, for a reason the user can mend."""
