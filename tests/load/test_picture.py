"""The picture is drawn in full: a row a zone that has memory, readable without colours."""

import made_up
import pytest
from matplotlib import image

from contigmm.load.picture import draw


def test_a_picture_is_written_with_a_row_for_each_zone_with_memory(tmp_path):
    path = tmp_path / "load.png"
    draw(made_up.report(), path)
    height, width, _ = image.imread(path).shape
    assert width > 1000
    assert height > 400


def test_a_file_ending_that_is_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        draw(made_up.report(), tmp_path / "load.text")
