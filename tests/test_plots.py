"""Figures from arrays."""

import itertools

import matplotlib.colors
import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest

from nem_jax import charts, plots


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
    assert [len(row) for row in _drawn(figure, 5, 6)] == [2] * (5 + 4)
    assert _labels(figure)[-4:] == ["psi 1", "psi 2", "psi 3", "psi 4"]
    figure.savefig(tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 5_000


NUM_STEPS, NUM_COMPONENTS = 5, 2


def _trajectory(channels=1, seed=0):
    """x, gamma, psi and x_noisy, with every axis of a different length."""
    random = np.random.RandomState(seed)
    gamma = random.dirichlet(np.ones(NUM_COMPONENTS), (NUM_STEPS, 6, 7)).transpose(0, 3, 1, 2)[..., None]
    psi = random.rand(NUM_STEPS, NUM_COMPONENTS, 6, 7, channels)
    x, x_noisy = random.rand(2, NUM_STEPS, 6, 7, channels)
    return x, gamma, psi, x_noisy


def _drawn(figure, height=6, width=7):
    """[rows][columns] images `[H, W, 3]` in the mosaic that imshow got; what lies between them must be white."""
    mosaic = np.array(figure.axes[0].images[0].get_array())
    tops, lefts = (range(0, mosaic.shape[axis], size + plots.GAP) for axis, size in ((0, height), (1, width)))
    images = [[mosaic[y : y + height, x : x + width].copy() for x in lefts] for y in tops]
    for y in tops:
        for x in lefts:
            mosaic[y : y + height, x : x + width] = 1
    assert (mosaic == 1).all()
    return images


def _labels(figure):
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def _titles(figure):
    return [tick.get_text() for tick in figure.axes[0].get_xticklabels()]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sequence_shows_gamma_first_and_the_target_last(channels):
    x, gamma, psi, x_noisy = _trajectory(channels)
    figure = plots.sequence(x, gamma, psi, x_noisy)
    rows = _drawn(figure)
    expected = [[plots.colour_gamma(g) for g in gamma], psi[:, 0], psi[:, 1], x_noisy, x]
    assert len(rows) == len(expected)
    for row, images in zip(rows, expected, strict=True):
        for found, image in zip(row, images, strict=True):
            np.testing.assert_array_equal(found, np.broadcast_to(image, (6, 7, 3)))
    assert _labels(figure) == ["gamma", "psi 1", "psi 2", "with noise", "target"]
    assert _titles(figure) == ["1", "2", "3", "4", "5"]


def test_a_sequence_without_noise_has_no_row_for_it():
    x, gamma, psi, _ = _trajectory()
    figure = plots.sequence(x, gamma, psi)
    assert _labels(figure) == ["gamma", "psi 1", "psi 2", "target"]


@pytest.mark.parametrize(("every", "steps"), [(2, [0, 2, 4]), (3, [1, 4]), (9, [4])])
def test_a_thinned_sequence_ends_with_the_last_step(every, steps):
    x, gamma, psi, _ = _trajectory()
    figure = plots.sequence(x, gamma, psi, every=every)
    assert _titles(figure) == [str(t + 1) for t in steps]
    rows = np.array(_drawn(figure))
    np.testing.assert_array_equal(rows[-1][..., :1], x[steps])
    np.testing.assert_array_equal(rows[2][..., :1], psi[steps, 1])


def test_labels_and_titles_stand_at_the_middle_of_their_images():
    x, gamma, psi, _ = _trajectory()
    (axis,) = plots.sequence(x, gamma, psi).axes
    np.testing.assert_allclose(axis.get_yticks(), 2.5 + np.arange(4) * (6 + plots.GAP))
    np.testing.assert_allclose(axis.get_xticks(), 3 + np.arange(5) * (7 + plots.GAP))


def test_means_outside_the_unit_interval_are_drawn_as_its_ends(caplog):
    """matplotlib would do so too, with a warning in the log for every coloured image."""
    values = np.array([-1.0, 0.5, 2.0])
    for image in (values.reshape(1, 1, 3), values.reshape(1, 3, 1)):
        (((drawn,),),) = [_drawn(plots.image_grid([("", [image])]), *image.shape[:2])]
        np.testing.assert_array_equal(drawn, np.broadcast_to(np.clip(image, 0, 1), drawn.shape))
    assert not caplog.records


def test_rows_of_different_length_are_refused(tmp_path):
    x, gamma, psi, _ = _trajectory()
    with pytest.raises(ValueError, match="'target': 4"):
        plots.sequence(x[:-1], gamma, psi, every=2)
    with pytest.raises(ValueError, match="'b': 4"):
        plots.write_animation(tmp_path / "a.gif", [("a", x), ("b", x[:-1])])
    with pytest.raises(ValueError, match="'a': 5, 'a': 4"):
        plots.write_animation(tmp_path / "a.gif", [("a", x), ("a", x[:-1])])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="1 titles for 5 columns"):
        plots.image_grid([("", x)], ["one title"])


def test_an_animation_has_a_frame_for_each_step(tmp_path):
    """Panel 1 goes from black to white, panel 2 from white to black; colours stay what they are."""
    grey = np.linspace(0, 1, 4)[:, None, None, None] * np.ones((4, 6, 7, 1))
    red = np.ones((4, 6, 7, 1)) * np.array([1.0, 0, 0])
    plots.write_animation(tmp_path / "a.gif", [("up", grey), ("down", 1 - grey), ("red", red)], fps=5)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4
        assert (gif.info["duration"], gif.info["loop"]) == (200, 0)
        frames = [np.asarray(frame.convert("RGB"), int) for frame in PIL.ImageSequence.Iterator(gif)]
    for t, frame in enumerate(frames):
        row = frame[frame.shape[0] * 2 // 3]  # below the labels, through the middle of each image
        up, down, third = (row[row.shape[0] * n // 6] for n in (1, 3, 5))
        np.testing.assert_allclose(up, 85 * t, atol=8)
        np.testing.assert_allclose(down, 255 - 85 * t, atol=8)
        np.testing.assert_allclose(third, [255, 0, 0], atol=8)


def test_the_panels_of_a_sequence_are_animated_as_they_are(tmp_path):
    plots.write_animation(tmp_path / "a.gif", plots.sequence_panels(*_trajectory(3)))
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == NUM_STEPS


def test_a_curve_is_the_mean_in_the_shade_of_its_quartiles(tmp_path):
    mean = np.array([0.2, 0.5, 0.9, 0.7])
    ours = {"mean": mean, "lower": mean - 0.1, "upper": mean + 0.05}
    figure = charts.curve({"ours": ours, "K = 5": dict.fromkeys(ours, mean[:3])}, "AMI", 3)
    (axis,) = figure.axes
    ours, other, trained = axis.lines
    np.testing.assert_array_equal(ours.get_xydata(), np.stack([[1, 2, 3, 4], mean], axis=1))
    np.testing.assert_array_equal(other.get_xydata(), np.stack([[1, 2, 3], mean[:3]], axis=1))
    np.testing.assert_array_equal(trained.get_xdata(), [3, 3])
    outline = axis.collections[0].get_paths()[0].vertices
    for step in range(4):
        heights = outline[outline[:, 0] == step + 1, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean[step] - 0.1, mean[step] + 0.05])
    np.testing.assert_allclose(axis.collections[0].get_facecolor()[0, :3], ours.get_color())
    figure.savefig(tmp_path / "curve.png")
    assert all(tick == int(tick) for tick in axis.get_xticks())
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time step", "AMI")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["ours", "K = 5"]


def test_a_curve_need_not_say_how_long_training_was():
    (axis,) = charts.curve({"a": dict.fromkeys(("mean", "lower", "upper"), np.ones(2))}, "AMI").axes
    assert len(axis.lines) == 1


def test_bars_stand_side_by_side_with_their_deviations(tmp_path):
    series = {"paper": [(0.97, 0.02), (0.5, None), (0.7, 0.0)], "ours": [(0.98, 0.01), (0.6, 0.1), (None, None)]}
    figure = charts.bars(["N-EM", "RNN-EM", "Tagger"], series, "AMI")
    (axis,) = figure.axes
    paper, ours = (container for container in axis.containers if hasattr(container, "patches"))
    assert [bar.get_height() for bar in paper] == [0.97, 0.5, 0.7]
    np.testing.assert_array_equal([bar.get_height() for bar in ours], [0.98, 0.6, np.nan])
    for group, (left, right) in enumerate(zip(paper, ours, strict=True)):
        assert left.get_x() + left.get_width() == pytest.approx(right.get_x())
        assert right.get_x() == pytest.approx(group)  # the tick between the two
    (lines,) = ours.errorbar.lines[2]
    np.testing.assert_allclose(lines.get_segments()[1][:, 1], [0.5, 0.7])
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["N-EM", "RNN-EM", "Tagger"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["paper", "ours"]
    assert axis.get_ylabel() == "AMI"
    assert matplotlib.colors.to_rgb(paper[0].get_facecolor()) == pytest.approx(plots.PALETTE[0])
    figure.savefig(tmp_path / "bars.png")


def test_long_labels_of_bars_do_not_overlap():
    groups = [f"{task}, {number} objects" for task in ("denoising", "num_components") for number in (3, 4, 5)]
    figure = charts.bars(groups, {"ours": [(1.0, None)] * 6}, "AMI")
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_a_long_legend_of_bars_stays_within_the_picture():
    series = {
        f"{name}, ours, after the last step": [(1.0, None)] * 3 for name in ("direct_fast", "staged_fast", "a", "b")
    }
    figure = charts.bars(["2 digits", "3 digits", "static"], series, "AMI")
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_bars_of_the_wrong_number_are_refused():
    with pytest.raises(ValueError, match="'ours' has 1 entries for 2 groups"):
        charts.bars(["a", "b"], {"ours": [(1.0, 0.0)]}, "AMI")


def test_a_ranking_has_the_largest_on_top_and_a_line_through_the_reference():
    (axis,) = charts.ranking({"a": 0.5, "b": 0.9, "c": 0.7}, "c", "AMI").axes
    line, dots = axis.lines
    assert line.get_xdata() == [0.7, 0.7]
    assert dict(zip(dots.get_ydata(), dots.get_xdata(), strict=True)) == {"a": 0.5, "c": 0.7, "b": 0.9}
    assert list(dots.get_ydata()) == ["a", "c", "b"]  # upwards
    assert axis.get_xlabel() == "AMI"


def test_growth_shows_each_curve_beside_the_linear_one():
    (axis,) = charts.growth({"K": ([1, 2, 4], [1, 1.5, 3]), "T": ([1, 2], [1, 2.5])}, "times", "time").axes
    assert [line.get_label() for line in axis.lines] == ["K", "T", "linear"]
    assert axis.lines[0].get_ydata().tolist() == [1, 1.5, 3]
    assert axis.lines[2].get_xdata().tolist() == [1, 4]
