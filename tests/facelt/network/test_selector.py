"""The selector and the temperature by hand."""

import torch

from facelt.network.selector import ConceptSelector, Temperature


def test_selector_is_tanh_of_one_linear_layer():
    selector = ConceptSelector(3)
    x = torch.randn(4, 3)
    torch.testing.assert_close(selector(x), torch.tanh(x @ selector.fc.weight.T + selector.fc.bias))


def test_a_selector_that_starts_at_zero_lets_nothing_in_and_learns():
    torch.manual_seed(0)
    selector = ConceptSelector(4, "zero")
    v = torch.randn(3, 4)
    assert torch.equal(selector(v), torch.zeros(3, 4))
    selector(v).sum().backward()
    assert selector.fc.weight.grad.abs().sum() > 0
    torch.nn.init.normal_(selector.fc.weight)
    torch.testing.assert_close(selector(v), torch.tanh(v / v.norm(dim=1, keepdim=True) @ selector.fc.weight.T))
    torch.testing.assert_close(selector(1000 * v), selector(v))


def test_a_selector_of_one_takes_all_and_learns_nothing():
    selector = ConceptSelector(4, "one")
    assert torch.equal(selector(torch.randn(3, 4)), torch.ones(3, 4))
    assert not list(selector.parameters())


def test_a_temperature_starts_where_it_is_told_and_stays_positive():
    temperature = Temperature(16.0)
    torch.testing.assert_close(temperature(), torch.tensor([16.0]))
    temperature().sum().backward()
    torch.testing.assert_close(temperature.log.grad, torch.tensor([16.0]))  # d e^x / dx
    torch.nn.init.constant_(temperature.log, -50)
    assert temperature() > 0
