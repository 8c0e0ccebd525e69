"""Which cases of a grid run every time; the others are slow, and run in ``make test-all``."""

import itertools

import pytest


def grid(*axes, quick=None, pairs=False):
    """Every combination of the axes, for ``pytest.mark.parametrize``; all but the quick ones are marked slow.

    quick: the cases that run every time, as they stand in the grid. None: those of ``diagonal``. pairs: not every
    combination, but those of ``pairwise`` and the quick ones.
    """
    axes = [list(axis) for axis in axes]
    cases = list(itertools.product(*axes)) if len(axes) > 1 else axes[0]
    quick = list(diagonal(*axes) if quick is None else quick)
    if pairs:
        kept = {*pairwise(*axes), *quick}
        cases = [case for case in cases if case in kept]
    assert [case for case in quick if case not in cases] == [], "a quick case is none of the grid"
    return [case if case in quick else slow(case, several=len(axes) > 1) for case in cases]


def diagonal(*axes):
    """As many combinations as the longest axis has values, so that every value of every axis is in one of them."""
    assert len(axes) > 1, "one axis alone: it would be every value"
    axes = [list(axis) for axis in axes]
    return [tuple(axis[number % len(axis)] for axis in axes) for number in range(max(map(len, axes)))]


def pairwise(*axes):
    """Combinations in which every value of an axis meets every value of each of the two longest axes."""
    order = sorted(range(len(axes)), key=lambda number: -len(axes[number]))
    cases = []
    for first, second in itertools.product(*(range(len(axes[number])) for number in order[:2])):
        at = {order[0]: first, order[1]: second}
        at |= {number: (first + step * second) % len(axes[number]) for step, number in enumerate(order[2:], 1)}
        cases.append(tuple(axis[at[number]] for number, axis in enumerate(axes)))
    return cases


def slow(case, *, several=True):
    """A case that runs in ``make test-all`` only. several: its values are for several parameters."""
    return pytest.param(*(case if several else [case]), marks=pytest.mark.slow)
