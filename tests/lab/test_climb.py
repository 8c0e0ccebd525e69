"""Which channel stands for a map, and the panels of DeconvNet's Fig. 4."""

import numpy as np
import pytest
import torch
from support.tiny_networks import build_tiny

from segpipe.lab.climb import climb, deconvnet_panels, object_area, representative_channel
from segpipe.lab.look import look
from segpipe.lab.slots import recording


def test_the_channel_with_the_most_energy_on_the_objects():
    area = torch.zeros(8, 8, dtype=torch.bool)
    area[:4, :4] = True  # one of the four cells of the map
    maps = torch.zeros(4, 2, 2)
    maps[0] = 100.0  # the same everywhere: no energy
    maps[1, 1, 1] = 50.0  # not on the objects, apart from its mean
    maps[2, 0, 0] = 40.0
    maps[3, 0, 0] = -20.0  # negative values count as much
    channel, share = representative_channel(maps, area)
    energies = np.array([12.5**2, 30.0**2, 15.0**2])  # deviations from the means -12.5, 10, -5 in that cell
    assert channel == 2
    assert share == pytest.approx(energies[1] / energies.sum())
    assert representative_channel(torch.ones(3, 2, 2), area) == (0, 0.0)


def test_the_area_is_all_but_the_most_frequent_class():
    prediction = torch.zeros(4, 6, dtype=torch.long)
    prediction[0, :2] = 3
    area = object_area(prediction, (8, 8))
    assert area.sum() == 2
    assert area[0, :2].all()
    one_class = object_area(torch.ones(4, 6, dtype=torch.long), (8, 8))
    assert one_class.sum() == 24  # the image without its padding


def test_deconvnet_has_the_ten_panels_of_fig_4():
    network = build_tiny("deconvnet", encoder="small").eval()
    image = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64).float() % 255
    facts = look(network, image, size=(64, 64))
    panels = [(rung.values.shape[0], rung.slot) for rung in deconvnet_panels(facts.rungs)]
    sides = [4, *(side for side in (8, 16, 32, 64) for _ in range(2))]
    slots = ["after refinement", *["after upsampling", "after refinement"] * 4]
    assert panels == list(zip(sides, slots, strict=True))  # (b) to (j); (a) is the image
    assert len(facts.switches) == 5


def test_slots_that_change_nothing_have_no_map():
    network = build_tiny("fcn8s", encoder="small").eval()
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode(), recording(network) as record:
        network(image)
    rungs = climb(record.steps(), torch.ones(64, 64, dtype=torch.bool), all_channels=True)
    assert [(rung.stride, rung.slot) for rung in rungs] == [
        (16, "after upsampling"),
        (16, "after fusion"),
        (8, "after upsampling"),
        (8, "after fusion"),
        (1, "after upsampling"),
    ]
    assert all(np.array_equal(rung.maps[rung.channel], rung.values) for rung in rungs)


def test_looking_changes_nothing():
    network = build_tiny("unet", encoder="small").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    look(network, torch.rand(1, 3, 64, 64) * 255, size=(64, 64))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
