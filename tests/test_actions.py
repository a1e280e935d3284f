"""Actions at the bounds of any Box: what algorithms scale there may miss them by a rounding."""

import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.actions import check_action, rescale

tenths = st.integers(-50, 50).map(lambda value: value / 10)
boxes = st.tuples(tenths, tenths).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: Box(*pair, (1,), np.float32))


@settings(deadline=None)
@given(box=boxes, share=st.floats(-1, 1, width=32))
def test_rescaled_actions_lie_in_the_box_and_reach_its_bounds(box, share):
    for end, bound in ((1, box.high), (-1, box.low)):
        action = rescale(np.array([end], np.float32), box)
        assert action in box
        np.testing.assert_allclose(action, bound, atol=1e-6 * float(box.high[0] - box.low[0]))
    assert rescale(np.array([share], np.float32), box) in box


@settings(deadline=None)
@given(box=boxes)
def test_a_rounding_beyond_a_bound_is_the_bound_and_more_is_an_error(box):
    above, below = np.nextafter(box.high, np.inf, dtype=np.float32), np.nextafter(box.low, -np.inf, dtype=np.float32)
    assert check_action(above, box) == box.high
    assert check_action(below, box) == box.low
    size = float(box.high[0] - box.low[0])
    for outside in (box.high + 1e-3 * size, box.low - 1e-3 * size, [np.nan], [np.inf]):
        with pytest.raises(ValueError, match=r"action\[0\] is"):
            check_action(outside, box)
