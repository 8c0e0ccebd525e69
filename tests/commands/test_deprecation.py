"""Deprecated names work, and warn with the name that replaces them, at the line that uses them."""

import sys
import types

import pytest

from segpipe.deprecation import deprecated, renamed

MESSAGE = r"is deprecated since segpipe 0\.2 and will be removed in 0\.4\. Use new\(\) instead\."


OLD = deprecated(since="0.2", remove="0.4", instead="new()")


@OLD
def old(number: int, *, factor: int = 1) -> int:
    """Multiply."""
    return number * factor


@OLD
class Old:
    """Hold a number."""

    def __init__(self, number: int) -> None:
        self.number = number


class Younger(Old):
    """Hold a number, too."""


def test_a_function_works_and_warns_where_it_is_called():
    with pytest.warns(FutureWarning, match=f"^old {MESSAGE}") as caught:
        assert old(3, factor=2) == 6
    assert [one.filename for one in caught] == [__file__]
    assert old.__name__ == "old"
    assert old.__doc__.startswith("Multiply.\n\n.. deprecated:: 0.2\n   old is deprecated")


@pytest.mark.parametrize("kind", [Old, Younger])
def test_a_class_stays_a_class_and_warns_where_it_is_instantiated(kind):
    with pytest.warns(FutureWarning, match=f"^Old {MESSAGE}") as caught:
        made = kind(3)
    assert [one.filename for one in caught] == [__file__]
    assert made.number == 3
    assert isinstance(made, Old)
    assert "deprecated" in Old.__doc__


@pytest.fixture
def module(monkeypatch):
    """A module with a name that was changed and one that was moved elsewhere."""
    made = types.ModuleType("a_module")
    made.new = 3
    made.__getattr__ = renamed("a_module", {"old": "new", "moved": "math.pi"}, since="0.2", remove="0.4")
    monkeypatch.setitem(sys.modules, "a_module", made)
    return made


def test_a_renamed_attribute_is_the_present_one(module):
    with pytest.warns(FutureWarning, match=r"^a_module\.old is deprecated .* Use a_module\.new instead\.") as caught:
        from a_module import old as found
    assert found == 3
    assert [one.filename for one in caught] == [__file__]
    with pytest.warns(FutureWarning, match=r"Use math\.pi instead\."):
        assert module.moved == pytest.approx(3.14159, abs=1e-5)


def test_other_attributes_are_missing_as_ever(module):
    with pytest.raises(AttributeError, match="'a_module' has no attribute 'other'"):
        _ = module.other
