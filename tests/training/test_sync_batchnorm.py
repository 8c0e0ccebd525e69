"""Batch normalisation over ranks."""

import threading

import pytest
import torch
from torch import nn

from segpipe.training import sync_batchnorm
from segpipe.training.sync_batchnorm import SyncBatchNormPlugin


# batch normalisation over ranks
class Threads:
    """Stands for ranks: what ``total`` sums over."""

    def __init__(self, number):
        self.parts, self.barrier = [None] * number, threading.Barrier(number)
        self.own = threading.local()

    def total(self, part):
        self.parts[self.own.rank] = part
        self.barrier.wait(30)
        found = sum(self.parts)
        self.barrier.wait(30)
        return found

    def run(self, function, shares):
        results = [None] * len(shares)

        def one(rank):
            self.own.rank = rank
            results[rank] = function(shares[rank])

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(shares))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_unequal_shares_are_normalised_as_the_whole_batch(affine, momentum, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 4, 6, generator=generator) * 2 + 100  # far from 0, where sums of squares lose digits
    later = torch.randn(images.shape, generator=generator)

    def layer():
        made = nn.BatchNorm2d(3, affine=affine, momentum=momentum)
        if affine:
            with torch.no_grad():
                made.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        return made

    def trained(normalise, image, gradient):
        for _ in range(2):
            image = image.detach().requires_grad_()
            normalised = normalise(image)
            normalised.backward(gradient)
        return normalised.detach(), image.grad, normalise

    ranks = Threads(2)
    monkeypatch.setattr(sync_batchnorm, "total", ranks.total)
    whole = trained(layer(), images, later)
    shares = list(zip(images.split([1, 4]), later.split([1, 4]), strict=True))
    found = ranks.run(lambda share: trained(SyncBatchNormPlugin(gpu=False).apply(layer()), *share), shares)
    for place in (0, 1):
        torch.testing.assert_close(torch.cat([one[place] for one in found]), whole[place], atol=2e-5, rtol=1e-5)
    for one in found:
        assert one[2].state_dict().keys() == whole[2].state_dict().keys()
        for name, value in whole[2].state_dict().items():
            torch.testing.assert_close(one[2].state_dict()[name], value, atol=1e-5, rtol=1e-5)
    for name, parameter in whole[2].named_parameters():  # DDP adds up what ranks have
        parts = sum(dict(one[2].named_parameters())[name].grad for one in found)
        torch.testing.assert_close(parts, parameter.grad, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("gpu", "expected"), [(False, sync_batchnorm.CpuSyncBatchNorm), (True, sync_batchnorm.GpuSyncBatchNorm)]
)
def test_layers_are_turned_back_into_what_they_were(gpu, expected):
    class WithActivation(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.drop, self.act = nn.Identity(), nn.ReLU()

        def forward(self, image):
            return self.act(self.drop(super().forward(image)))

    network = nn.Sequential(nn.BatchNorm2d(2), WithActivation(2), nn.Conv2d(2, 2, 1)).eval()
    image = torch.randn(1, 2, 3, 3)
    before, names = network(image), list(network.state_dict())
    layers = SyncBatchNormPlugin(gpu=gpu)
    assert layers.apply(network) is network
    assert [type(module) for module in network] == [expected, expected, nn.Conv2d]
    assert list(network.state_dict()) == names
    assert torch.equal(network(image), before)
    layers.revert(network)
    assert [type(module) for module in network] == [nn.BatchNorm2d, WithActivation, nn.Conv2d]
    assert torch.equal(network(image), before)
    assert "original_class" not in vars(network[0])
