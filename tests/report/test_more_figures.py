"""What the page shows of a stage beside its table of figures."""

from made import attempt, figures, written


def test_labels_are_written_on_the_page_as_text(tmp_path):
    found = {"labels": ["<b>bad</b>", "good"], "table": [[3, 1, 0], [0, 2, 1]]}
    made = attempt(
        tmp_path / "runs" / "micro",
        after=figures({"accuracy": [1.0] * 40}),
        confusion={"before": found, "after": found},
    )
    page = written(tmp_path, made)
    assert "&lt;b&gt;bad&lt;/b&gt;" in page and "<b>bad</b>" not in page
