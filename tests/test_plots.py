"""Figures from arrays."""

import numpy as np
import pytest

from nem_jax import plots


def test_a_sure_pixel_has_its_components_colour():
    gamma = np.zeros((3, 2, 2, 1))
    gamma[1] = 1
    np.testing.assert_allclose(plots.colour_gamma(gamma), np.broadcast_to(plots.PALETTE[1], (2, 2, 3)))
    np.testing.assert_allclose(plots.colour_gamma(gamma, np.zeros((2, 2, 1))), 0)


def test_an_unsure_pixel_has_the_mean_colour():
    gamma = np.full((2, 1, 1, 1), 0.5)
    np.testing.assert_allclose(plots.colour_gamma(gamma)[0, 0], plots.PALETTE[:2].mean(axis=0))


def test_groups_have_the_components_colours_and_background_is_black():
    groups = np.array([0, 1, 2, 11]).reshape(2, 2, 1)
    image = plots.colour_groups(groups)
    expected = [np.zeros(3), plots.PALETTE[0], plots.PALETTE[1], plots.PALETTE[0]]
    np.testing.assert_allclose(image.reshape(4, 3), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_overview_has_a_row_for_each_component(tmp_path, channels):
    random = np.random.RandomState(0)
    x = random.rand(2, 5, 6, channels)
    gamma = random.dirichlet(np.ones(4), (2, 5, 6)).transpose(0, 3, 1, 2)[..., None]
    figure = plots.overview(x, x, random.randint(0, 4, (2, 5, 6, 1)), gamma, random.rand(2, 4, 5, 6, channels))
    assert len(figure.axes) == 2 * (5 + 4)
    assert [axis.get_ylabel() for axis in figure.axes[::2]][-4:] == ["psi 1", "psi 2", "psi 3", "psi 4"]
    figure.savefig(tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 5_000
