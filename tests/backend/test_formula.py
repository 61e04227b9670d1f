"""A formula traced with symbols: what it may contain, and what the error says otherwise."""

import numpy as np
import pytest

from tinynn.backend.formula import Trace


def test_an_unknown_function_is_named_with_the_known_ones():
    with pytest.raises(TypeError, match=r"a formula cannot use arctan; it can use add, .*, erf$"):
        Trace(np.arctan, 1)


def test_a_branch_on_elements_is_refused():
    with pytest.raises(TypeError, match=r"use np\.where"):
        Trace(lambda x: x if x > 0 else -x, 1)
