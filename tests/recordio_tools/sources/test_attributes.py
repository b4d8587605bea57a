"""Attributes of identities, as people and `synth` write them."""

import numpy as np
import pytest

from recordio_tools.errors import UserError
from recordio_tools.sources.attributes import read_attributes
from recordio_tools.sources.synthetic import attribute_table


def test_what_synth_writes_is_read(tmp_path):
    text = attribute_table(0, np.arange(7, 12))
    (tmp_path / "attributes.tsv").write_text(text)
    found = read_attributes(tmp_path / "attributes.tsv")
    assert list(found) == ["sex", "skin", "age", "hair", "beard"]
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    assert found["sex"] == {row[0]: row[1] for row in rows}
    assert found["beard"] == {row[0]: row[5] for row in rows}


def test_two_columns_without_a_heading(tmp_path):
    (tmp_path / "a.tsv").write_text("# who\nann\tf\n\nbob\tm\n")
    assert read_attributes(tmp_path / "a.tsv") == {"group": {"ann": "f", "bob": "m"}}


def test_an_empty_cell_is_no_value(tmp_path):
    (tmp_path / "a.tsv").write_text("identity\tsex\tage\nann\t\told\n")
    assert read_attributes(tmp_path / "a.tsv") == {"sex": {"ann": ""}, "age": {"ann": "old"}}


@pytest.mark.parametrize("text", ["", "ann\n", "ann\tf\nann\tm\n", "name\ta\ta\nann\tf\tm\n", "name\ta\nann\tf\tm\n"])
def test_anything_else_is_refused(tmp_path, text):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(UserError, match=r"a\.tsv"):
        read_attributes(tmp_path / "a.tsv")
