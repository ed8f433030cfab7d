"""The last touch to built pages: contents and minus signs."""

import pytest

from eelit.site.generator.finish import with_contents, with_minus_signs


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<td>-0.5</td>", "<td>−0.5</td>"),
        ("loses (-1 point), or -∞; r = -.3", "loses (−1 point), or −∞; r = −.3"),
        ("2026-11-30, GPT-2, pages 3-5, x-1", "2026-11-30, GPT-2, pages 3-5, x-1"),
        ('<a href="a -1" title="-2">-3</a>', '<a href="a -1" title="-2">−3</a>'),
        ("<pre><code>y = -1</code></pre> -1", "<pre><code>y = -1</code></pre> −1"),
        ("<script>if (a < -1) x = -2</script>-1", "<script>if (a < -1) x = -2</script>−1"),
        ("<!-- -1 --> -1", "<!-- -1 --> −1"),
        ("see doi 10.1/a-2 and a - 3", "see doi 10.1/a-2 and a - 3"),
    ],
)
def test_a_hyphen_before_a_number_that_joins_nothing_is_a_minus_sign(before, after):
    assert with_minus_signs(before) == after


def test_a_page_lists_its_headings_where_a_template_asks_for_it():
    empty = '<nav class="ee-contents" aria-label="On this page"></nav>'
    first = '<h2 data-search-exclude id="a">One &amp; <em>two</em><a class="headerlink" href="#a">¶</a></h2>'
    head = f'{first}<h3 id="b">No</h3><h2 id="c">C</h2>'
    page = with_contents(f"<h2 id='before'>Not this</h2>{empty}{head}")
    assert page.count("<li>") == 2
    assert '<a href="#a">One &amp; <em>two</em></a></li><li><a href="#c">C</a>' in page
    assert with_contents(head) == head
