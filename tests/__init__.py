"""The tests, and what they build on, whose failed assertions show values as those of tests do."""

import pytest

pytest.register_assert_rewrite("tests.builders")
