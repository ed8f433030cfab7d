"""The table of papers is usable at once on a slow processor; the limits are generous, since tests share the machine."""

import bench_site


def test_the_table_is_usable_soon_and_filters_at_once(browser, site):
    usable, filtered = bench_site.timed(site, browser)
    assert usable < 5 * bench_site.LIMITS["table usable"]
    assert filtered < bench_site.LIMITS["filter among many works"]
