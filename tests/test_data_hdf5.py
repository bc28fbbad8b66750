"""HDF5 files in N-EM's layout: what is written is read back, streamed equals resident, bad files are refused."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.data import hdf5
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.data.shapes import static_shapes
from nem_jax.data.split import SPLITS, Dataset, Split
from nem_jax.types import Example

SIZES = (7, 3, 2)
SAMPLE_STORED = jax.jit(jax.vmap(hdf5.sample_stored, in_axes=(None, 0)))


@pytest.fixture
def arrays():
    """split -> name -> array: flying grey frames with two objects, `(T, N, H, W, C)` = (3, n, 4, 5, 2)."""
    rng = np.random.default_rng(0)
    return {
        name: {
            "features": rng.random((3, size, 4, 5, 2), np.float32),
            "groups": rng.integers(0, 3, (3, size, 4, 5, 1)).astype(np.float32),
            "overlaps": rng.integers(0, 4, (3, size, 4, 5, 1)).astype(np.float32),
        }
        for name, size in zip(SPLITS, SIZES, strict=True)
    }


@pytest.fixture
def write(tmp_path):
    def write(arrays, **options):
        path = tmp_path / "data.h5"
        with h5py.File(path, "w") as file:
            for split, named in arrays.items():
                for name, array in named.items():
                    file.create_dataset(f"{split}/{name}", data=array, **options)
        return path

    return write


def draw(dataset, split, index):
    """Examples number `index`, wherever the split lies."""
    split = dataset.splits[split]
    return SAMPLE_STORED(split.fetch(index), jnp.asarray(index))


def assert_examples_equal(actual, expected):
    assert actual.objects is None
    for name, ours, theirs in zip(Example._fields[:3], actual[:3], expected[:3], strict=True):
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_a_generated_data_set_comes_back_from_its_file(tmp_path):
    generated = static_shapes(0, SIZES)
    write_hdf5(tmp_path / "shapes.h5", generated, batch_size=3)
    with h5py.File(tmp_path / "shapes.h5") as file:
        assert {name: array.shape for name, array in file["training"].items()} == dict.fromkeys(
            ("features", "groups", "overlaps"), (1, 7, 28, 28, 1)
        )
        assert file["training/features"].dtype == np.float32
    stored = hdf5.load_hdf5(tmp_path / "shapes.h5", SIZES)
    assert (stored.image_shape, stored.num_frames, stored.num_groups) == ((28, 28, 1), 1, 3)
    assert all(array.dtype == jnp.uint8 for array in stored.splits["training"].source[:3])
    sample = jax.jit(jax.vmap(generated.sample, in_axes=(None, 0)))
    for name, size in zip(SPLITS, SIZES, strict=True):
        assert stored.splits[name].size == size
        index = jnp.arange(7) % size
        assert_examples_equal(draw(stored, name, index), sample(generated.splits[name].source, index))


@pytest.mark.parametrize("max_resident_bytes", [hdf5.MAX_RESIDENT_BYTES, 0], ids=["resident", "streamed"])
def test_arrays_of_a_file_are_examples(arrays, write, max_resident_bytes):
    dataset = hdf5.load_hdf5(write(arrays), SIZES, max_resident_bytes=max_resident_bytes)
    assert (dataset.image_shape, dataset.num_frames, dataset.num_groups) == ((4, 5, 2), 3, 2)
    index = np.array([4, 0, 6, 4])
    expected = [np.moveaxis(arrays["training"][name], 1, 0)[index] for name in ("features", "groups", "overlaps")]
    expected = Example(expected[0], *(array.astype(np.int32) for array in expected[1:]))
    assert_examples_equal(draw(dataset, "training", index), expected)


@pytest.mark.parametrize("max_resident_bytes", [hdf5.MAX_RESIDENT_BYTES, 0], ids=["resident", "streamed"])
def test_one_example_wherever_it_lies(arrays, write, max_resident_bytes):
    dataset = hdf5.load_hdf5(write(arrays), max_resident_bytes=max_resident_bytes)
    assert tuple(split.size for split in dataset.splits.values()) == SIZES
    np.testing.assert_array_equal(dataset.example("validation", 2).x, arrays["validation"]["features"][:, 2])
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"^validation has examples 0 to 2, got {index}$"):
            dataset.example("validation", index)


def test_a_streamed_split_reads_the_asked_rows_only(arrays, write):
    dataset = hdf5.load_hdf5(write(arrays), SIZES, max_resident_bytes=0)
    source = dataset.splits["training"].fetch(np.array([[5, 1], [5, 2]]))
    np.testing.assert_array_equal(source.rows, [1, 2, 5, 5])  # as many as asked for: the shapes never change
    np.testing.assert_array_equal(source.x, np.moveaxis(arrays["training"]["features"], 1, 0)[np.array([1, 2, 5, 5])])
    with pytest.raises(IndexError, match="training has examples 0 to 6, got 0 to 7"):
        dataset.splits["training"].fetch(np.array([0, 7]))


def test_only_splits_above_the_limit_are_streamed(arrays, write):
    path = write(arrays)
    bytes_per_example = 3 * 4 * 5 * (2 * 4 + 1 + 1)
    for limit, is_streamed in ((3 * bytes_per_example, False), (3 * bytes_per_example - 1, True)):
        dataset = hdf5.load_hdf5(path, SIZES, max_resident_bytes=limit)
        streamed = {name: isinstance(split, hdf5.StreamedSplit) for name, split in dataset.splits.items()}
        assert streamed == {"training": True, "validation": is_streamed, "test": False}


def test_a_streamed_data_set_can_be_written_again(arrays, write, tmp_path):
    dataset = hdf5.load_hdf5(write(arrays), SIZES, max_resident_bytes=0)
    write_hdf5(tmp_path / "copy.h5", dataset, batch_size=4)
    with h5py.File(tmp_path / "copy.h5") as file:
        for split, named in arrays.items():
            for name, array in named.items():
                np.testing.assert_array_equal(file[split][name], array)


def test_values_are_read_block_by_block(arrays, write, monkeypatch):
    path = write(arrays)
    whole = hdf5.load_hdf5(path, SIZES).splits["training"].source
    monkeypatch.setattr(hdf5, "_BLOCK_BYTES", 2 * arrays["training"]["features"][:, 0].nbytes)
    blocks = hdf5.load_hdf5(path, SIZES).splits["training"].source
    jax.tree.map(np.testing.assert_array_equal, whole, blocks)
    arrays["training"]["features"][1, 5, 2, 3, 1] = np.inf
    with pytest.raises(ValueError, match=r"training/features must hold .*, but example 5 has inf"):
        hdf5.load_hdf5(write(arrays), SIZES)


@pytest.mark.parametrize("example", [0, 6])
def test_one_grey_value_widens_the_type_of_all_rows(arrays, write, monkeypatch, example):
    """They stay exact, and count so against the limit."""
    features = np.round(arrays["training"]["features"])
    features[0, example, 0, 0, 0] = 0.25
    arrays["training"]["features"] = features
    monkeypatch.setattr(hdf5, "_BLOCK_BYTES", features[:, 0].nbytes)
    path, num_bytes = write(arrays), 7 * 3 * 4 * 5 * (2 * 4 + 1 + 1)
    x = hdf5.load_hdf5(path, SIZES, max_resident_bytes=num_bytes).splits["training"].source.x
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, np.moveaxis(features, 1, 0))
    streamed = hdf5.load_hdf5(path, SIZES, max_resident_bytes=num_bytes - 1).splits["training"]
    assert isinstance(streamed, hdf5.StreamedSplit)


def test_only_the_asked_examples_and_frames_are_used(arrays, write):
    arrays["training"]["features"][2] = 7.0  # beyond the frames that are asked for
    arrays["training"]["groups"][:, 4:] = -1  # beyond the examples
    dataset = hdf5.load_hdf5(write(arrays), (4, 1, 1), num_frames=2)
    assert dataset.num_frames == 2
    assert dataset.splits["training"].source.x.shape == (4, 2, 4, 5, 2)


def test_a_static_file_serves_any_number_of_frames(arrays, write):
    static = {split: {name: array[:1] for name, array in named.items()} for split, named in arrays.items()}
    assert hdf5.load_hdf5(write(static), SIZES, num_frames=16).num_frames == 1


def test_more_overlaps_than_groups_are_kept(arrays, write, tmp_path):
    arrays["training"]["overlaps"][0, 3, 1, 2] = 300
    write_hdf5(tmp_path / "copy.h5", hdf5.load_hdf5(write(arrays), SIZES))
    with h5py.File(tmp_path / "copy.h5") as file:
        np.testing.assert_array_equal(file["training/overlaps"], arrays["training"]["overlaps"])


def test_unknown_overlaps_count_one_object_where_there_is_a_group(arrays, write):
    for named in arrays.values():
        del named["overlaps"]
    example = draw(hdf5.load_hdf5(write(arrays), SIZES), "test", np.arange(2))
    np.testing.assert_array_equal(example.overlaps, example.groups > 0)
    assert example.overlaps.dtype == jnp.int32


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_binary_features_of_any_type_are_exact(arrays, write, dtype):
    for named in arrays.values():
        named["features"] = np.round(named["features"]).astype(dtype)
        named["groups"] = named["groups"].astype(np.int64)
    dataset = hdf5.load_hdf5(write(arrays), SIZES)
    assert dataset.splits["test"].source.x.dtype == jnp.uint8
    x = draw(dataset, "test", np.arange(2)).x
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, np.moveaxis(arrays["test"]["features"], 1, 0).astype(np.float32))


def test_many_groups_are_kept(arrays, write):
    arrays["validation"]["groups"][0, 0, 0, 0, 0] = 300
    dataset = hdf5.load_hdf5(write(arrays), SIZES)
    assert dataset.num_groups == 300
    assert draw(dataset, "validation", np.array([0])).groups[0, 0, 0, 0, 0] == 300


def without(split, name):
    def break_(arrays):
        del arrays[split][name]

    return break_


def changed(split, name, change):
    def break_(arrays):
        arrays[split][name] = change(arrays[split][name])

    return break_


def with_value(split, name, value):
    def put(array):
        array[1, 1, 3, 2, 0] = value
        return array

    return changed(split, name, put)


LAYOUT_FAULTS = {
    "no split": (lambda arrays: arrays.pop("validation"), r"data\.h5: validation is missing: the file must have the"),
    "no features": (without("test", "features"), "test/features is missing: every split must have features and groups"),
    "no groups": (without("training", "groups"), "training/groups is missing: every split must have features and"),
    "rank": (changed("training", "features", lambda a: a[0]), r"training/features must have five axes \(T, N, H, W, C"),
    "groups rank": (changed("test", "groups", lambda a: a[..., 0]), r"test/groups must have five axes \(T, N, H, W, 1"),
    "empty": (changed("test", "features", lambda a: a[:, :, :0]), "test/features must have five axes .* none .* empty"),
    "text": (changed("test", "features", lambda a: np.array([b"x"])), "test/features must be an array of numbers"),
    "T": (
        changed("test", "groups", lambda a: a[:2]),
        r"test/groups must have features' shape with one channel, \(3, 2, 4, 5, 1\)",
    ),
    "N": (
        changed("test", "groups", lambda a: a[:, :1]),
        r"test/groups must have features' shape .*\(3, 2, 4, 5, 1\), got",
    ),
    "H": (
        changed("test", "groups", lambda a: a[:, :, :3]),
        r"test/groups must have features' shape .*\(3, 2, 4, 5, 1\), got",
    ),
    "channels": (changed("test", "groups", lambda a: a.repeat(2, -1)), r"one channel, .* got \(3, 2, 4, 5, 2\)"),
    "overlaps": (changed("test", "overlaps", lambda a: a[:1]), r"test/overlaps must have features' shape"),
    "image shape": (
        lambda arrays: arrays["test"].update({name: a[:, :, :3] for name, a in arrays["test"].items()}),
        r"training has \(\(4, 5, 2\), 3\) and test \(\(3, 5, 2\), 3\)",
    ),
    "frames": (
        lambda arrays: arrays["test"].update({name: a[:2] for name, a in arrays["test"].items()}),
        "test/features has 2 frames, 3 are needed",
    ),
    "examples": (
        lambda arrays: arrays["training"].update({name: a[:, :6] for name, a in arrays["training"].items()}),
        r"data\.num_training is 7, but .*data\.h5 has 6 training examples",
    ),
}
VALUE_FAULTS = {
    "nan": (
        with_value("test", "features", np.nan),
        r"test/features must hold numbers in \[0, 1\], but example 1 has nan",
    ),
    "inf": (with_value("test", "features", np.inf), "test/features must hold .* but example 1 has inf"),
    "above 1": (with_value("test", "features", 1.5), "test/features must hold .* but example 1 has 1.5"),
    "below 0": (with_value("test", "features", -0.5), "test/features must hold .* but example 1 has -0.5"),
    "negative group": (
        with_value("test", "groups", -1),
        "test/groups must hold whole numbers from 0, but .* 1 has -1.0",
    ),
    "half a group": (with_value("test", "groups", 0.5), "test/groups must hold whole numbers from 0, but .* has 0.5"),
    "nan group": (with_value("test", "groups", np.nan), "test/groups must hold whole numbers from 0, but .* has nan"),
    "infinite group": (with_value("test", "groups", np.inf), "test/groups must hold whole numbers from 0, but .* inf"),
    "half an object": (with_value("test", "overlaps", 0.5), "test/overlaps must hold whole numbers from 0"),
}


@pytest.mark.parametrize("fault", LAYOUT_FAULTS)
def test_a_bad_layout_is_refused_before_values_are_read(arrays, write, monkeypatch, fault):
    break_, message = LAYOUT_FAULTS[fault]
    break_(arrays)
    monkeypatch.setattr(hdf5, "_check_block", lambda *_: pytest.fail("values were read"))
    with pytest.raises(ValueError, match=message):
        hdf5.load_hdf5(write(arrays), SIZES, num_frames=3)


@pytest.mark.parametrize("fault", VALUE_FAULTS)
def test_bad_values_are_refused(arrays, write, fault):
    break_, message = VALUE_FAULTS[fault]
    hdf5.load_hdf5(write(arrays), SIZES)
    break_(arrays)
    path = write(arrays)
    for limit in (hdf5.MAX_RESIDENT_BYTES, 0):
        with pytest.raises(ValueError, match=message):
            hdf5.load_hdf5(path, SIZES, max_resident_bytes=limit)


def test_an_array_that_is_a_link_to_nothing_is_refused(arrays, write):
    path = write(arrays)
    with h5py.File(path, "r+") as file:
        del file["test/groups"]
        file["test/groups"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ValueError, match="test/groups must be an array of numbers"):
        hdf5.load_hdf5(path)


def test_a_refused_file_is_closed(arrays, write):
    arrays["test"]["features"][:] = 2
    path = write(arrays)
    with pytest.raises(ValueError, match="test/features must hold") as refusal:
        hdf5.load_hdf5(path, SIZES)
    write(arrays)  # an open file could not be written, and `refusal` still holds the frames
    assert "example 0 has 2.0" in str(refusal.value)


def test_a_split_that_is_an_array_is_refused(tmp_path):
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["training"] = np.zeros(3)
    with pytest.raises(ValueError, match="training is missing: the file must have the groups training, validation, t"):
        hdf5.load_hdf5(tmp_path / "flat.h5", SIZES)


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_size_is_refused(arrays, write, size):
    with pytest.raises(ValueError, match=rf"data\.num_test is {size}, but"):
        hdf5.load_hdf5(write(arrays), (7, 3, size))


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"data.path: there is no file {path}$"):
            hdf5.load_hdf5(path, SIZES)


@pytest.mark.parametrize("content", ["text", "half"])
def test_what_is_not_hdf5_is_refused(arrays, write, content):
    path = write(arrays)
    whole = path.read_bytes()
    path.write_bytes(b"features,groups\n" if content == "text" else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data\.h5 is not a readable HDF5 file"):
        hdf5.load_hdf5(path, SIZES)


def test_a_damaged_array_is_named(tmp_path):
    path = tmp_path / "data.h5"
    write_hdf5(path, static_shapes(seed=0, sizes=SIZES))
    with h5py.File(path) as file:
        chunk = file["validation/groups"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(ValueError, match=r"data\.h5: validation/groups cannot be read: "):
        hdf5.load_hdf5(path, SIZES)


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "data.h5"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=r"data\.h5 exists and is not overwritten"):
        write_hdf5(path, static_shapes(0, SIZES))
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_no_directory_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*/nowhere$"):
        write_hdf5(tmp_path / "nowhere" / "data.h5", static_shapes(0, SIZES))


def test_a_failed_write_leaves_nothing_and_a_half_file_is_replaced(arrays, write, tmp_path):
    dataset = hdf5.load_hdf5(write(arrays), SIZES)
    target = tmp_path / "out.h5"

    class Interrupted(Split):
        @property
        def size(self):
            raise KeyboardInterrupt

    broken = Dataset(dataset.sample, {**dataset.splits, "test": Interrupted(None, 1)}, (4, 5, 2), 3, 2)
    with pytest.raises(KeyboardInterrupt):
        write_hdf5(target, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]
    target.with_name("out.h5.partial").write_text("left by a kill")
    write_hdf5(target, dataset)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.h5", "out.h5"]
    assert hdf5.load_hdf5(target, SIZES).num_groups == 2
