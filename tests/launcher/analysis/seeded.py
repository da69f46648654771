"""One check for many seeds, where Hypothesis's own time for an example would be most of the test's."""

from __future__ import annotations

from collections.abc import Callable


def seeded(count: int) -> Callable[[Callable[[int], None]], Callable[[], None]]:
    """Makes a test of a check of one seed: it holds for `count` of them, and a failure shows which it was."""

    def test_of(check: Callable[[int], None]) -> Callable[[], None]:
        def test() -> None:
            for seed in range(count):
                check(seed)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return test_of
