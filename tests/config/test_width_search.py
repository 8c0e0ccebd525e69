"""Widths: lists of them, and the search for those that meet a budget."""

import itertools

import pytest
import torch
from support.configs import configure

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.width_search import Search
from segpipe.errors import UserError

# ---- widths


def test_a_list_of_widths_may_begin_with_the_coarsest_map():
    network = build.network(configure("model=ladder", "model.width=[24,20,12]", "fusion=sum"), 3)
    first, second = network.decoder.steps.values()
    assert (network.decoder.project.in_channels, network.decoder.project.out_channels) == (128, 24)
    assert [first.refine[0][0].in_channels, first.refine[0][0].out_channels] == [24, 12]
    assert [second.refine[0][0].in_channels, second.refine[0][0].out_channels] == [12, 12]
    with pytest.raises(
        UserError, match=r"model.width=\[24\] has 1 entries: give one for each of the 2 upsampling steps"
    ):
        build.network(configure("model=ladder", "model.width=[24]"), 3)


ALIKE = [  # of encoder=small, whose channels are 128 at strides 32, 16 and 8
    ["null", "[128,128]", "[128,128,128]", "128"],
    ["40", "[40,40,40]"],
    ["[40,20]", "[128,40,20]"],
]


@pytest.mark.parametrize("widths", ALIKE)
def test_widths_that_are_one_network_have_one_identity_and_one_name(widths):
    cfgs = [configure("model=ladder", f"model.width={width}") for width in widths]
    assert len({Plan.of(cfg).identity for cfg in cfgs}) == 1
    assert len({Plan.of(cfg).name("") for cfg in cfgs}) == 1
    states = [build.network(cfg, 3).state_dict() for cfg in cfgs]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_widths_that_are_other_networks_are_kept_apart():
    cfgs = [configure("model=ladder", f"model.width={width}") for width, *_ in ALIKE]
    assert len({Plan.of(cfg).identity for cfg in cfgs}) == len({Plan.of(cfg).name("") for cfg in cfgs}) == 3


def test_channels_are_dealt_out_in_proportion():
    search = Search(sum, 100, avoid=set())
    base = [64, 64, 32, 16]
    assert search.distribute(base, sum(base)) == base
    before = [0, 0, 0, 0]
    for total in range(1, 400):
        widths = search.distribute(base, total)
        assert all(b <= w <= b + 1 for b, w in zip(before, widths, strict=True))
        assert all(w == 1 or abs(w - own * total / sum(base)) < 1 for own, w in zip(base, widths, strict=True))
        before = widths
    avoiding = Search(sum, 100, avoid={16, 17, 32})
    assert all({16, 17, 32}.isdisjoint(avoiding.distribute(base, total)) for total in range(1, 400))


@pytest.mark.parametrize("room", [1, 50, 5000, 123456, 1e7])
def test_the_nearest_is_found_in_few_tries(room):
    tries = []

    def weigh(widths):
        tries.append(widths)
        return sum(9 * a * b + 7 * a + 3 for a, b in itertools.pairwise([*widths, widths[-1]]))

    base = [64, 64, 32, 16]
    search = Search(weigh, room, avoid=set())
    search.proportional(base)
    assert len(tries) <= 22
    by_hand = [search.distribute(base, total) for total in range(1, 3 * max(sum(base), *map(sum, tries)))]
    assert abs(search.cost - room) == min(abs(weigh(widths) - room) for widths in by_hand)
    coarse = search.cost
    search.one_by_one()
    assert abs(search.cost - room) <= abs(coarse - room)
    assert search.cost == weigh(search.nearest)
