"""The page that all others are made of: what is shown is escaped, and its script sorts tables."""

import pytest
from browser import answer_of, needs_chromium
from jinja2 import UndefinedError

from recordio_tools.page.rendering import environment
from recordio_tools.plot_style import SCHEMES

TABLE = """{% extends "base.html.jinja" %}{% from "parts.html.jinja" import scrolled %}
{% block title %}{{ title }}{% endblock %}
{% block content %}{% call scrolled("rates", 2) %}<table class="sortable">
<thead><tr><th scope="col">name</th><th scope="col">rate</th></tr></thead>
<tbody>{% for name, rate in rows %}<tr><th scope="row">{{ name }}</th><td>{{ rate }}<small>9–99</small></td></tr>
{% endfor %}</tbody><tfoot><tr><th scope="row">probes</th><td>n = 1</td></tr></tfoot></table>{% endcall %}{% endblock %}
"""
ROWS = [("run 10", "1,000.5"), ("run 9", "–"), ("run 2", "-3"), ("run 1", "99")]
CLICKS = """<script>
const answer = document.createElement("pre"), said = [];
answer.id = "answer";
const names = () => [...document.querySelectorAll("tbody th")].map(e => e.textContent);
for (const column of [1, 1, 0, 0]) {
  const head = document.querySelectorAll("thead th")[column];
  head.querySelector("button").click();
  said.push([head.getAttribute("aria-sort"), names()]);
}
said.push(document.querySelectorAll("[aria-sort]").length, document.querySelector("tfoot th").textContent);
answer.textContent = JSON.stringify(said);
document.body.append(answer);
</script></body>"""


def page(**shown):
    return environment("recordio_tools", "page").from_string(TABLE).render(shown)


def test_what_is_shown_is_escaped_and_what_is_missing_raises():
    text = page(title="<b>", rows=[("<i>", 1)])
    assert "<title>&lt;b&gt;</title>" in text
    assert "&lt;i&gt;" in text
    with pytest.raises(UndefinedError):
        page(title="t")


def test_both_schemes_and_paper_are_in_the_style():
    text = page(title="t", rows=ROWS)
    for light, dark in SCHEMES.items():
        assert light in text
        assert dark in text
    assert "@media print" in text
    assert '<a class="skip" href="#content">' in text
    assert '<main id="content"' in text
    assert 'role="region" aria-label="rates" tabindex="0"' in text


@needs_chromium
def test_tables_sort_by_buttons(tmp_path):
    text = page(title="t", rows=ROWS).replace("</body>", CLICKS)
    falling, rising, by_name, back, sorted_by, foot = answer_of(text, tmp_path)
    assert falling == ["descending", ["run 10", "run 1", "run 2", "run 9"]]  # no rate comes last
    assert rising == ["ascending", ["run 2", "run 1", "run 10", "run 9"]]
    assert by_name == ["ascending", ["run 1", "run 2", "run 9", "run 10"]]
    assert back == ["descending", ["run 10", "run 9", "run 2", "run 1"]]
    assert (sorted_by, foot) == (1, "probes")
