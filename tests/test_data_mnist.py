"""Reading digit pictures: IDX files, scikit-learn's digits, and one sentence for each fault."""

import gzip
import os
import struct
import urllib.error

import numpy as np
import pytest
import sklearn.datasets

from nem_jax.data import mnist

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)


def idx_bytes(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory like MNIST's with five training and three test images, one file compressed."""
    monkeypatch.setattr(mnist, "NUM_IMAGES", {"train": 5, "t10k": 3})
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES[2:]))
    return tmp_path


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("array", [IMAGES, np.arange(7, dtype=np.uint8)], ids=["images", "labels"])
def test_idx_files_are_read_compressed_or_not(tmp_path, compress, array):
    (tmp_path / "file").write_bytes(compress(idx_bytes(array)))
    read = mnist.read_idx(tmp_path / "file")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


FAULTS = {
    "empty": (b"", "is no IDX file of bytes: it must begin with 00 00 08, but begins with nothing"),
    "text": (b"<html>", "is no IDX file of bytes: .* begins with 3c 68 74 6d"),
    "floats": (b"\0\0\x0d" + idx_bytes(IMAGES)[3:], "is no IDX file of bytes: .* begins with 00 00 0d 03"),
    "header": (idx_bytes(IMAGES)[:10], "is truncated: its header takes 16 bytes, but it has 10"),
    "short": (idx_bytes(IMAGES)[:-1], "is truncated: its header states 5x28x28 = 3920 bytes, but 3919 follow"),
    "long": (idx_bytes(IMAGES) + b"\0", "is too long: its header states 5x28x28 = 3920 bytes, but 3921 follow"),
    "half a gzip": (gzip.compress(idx_bytes(IMAGES))[:900], "is damaged or truncated: "),
    "damaged gzip": (b"\x1f\x8b" + bytes(90), "is damaged or truncated: "),
    "wrong checksum": (gzip.compress(idx_bytes(IMAGES))[:-8] + bytes(8), "is damaged or truncated: CRC"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_named_with_its_fault(tmp_path, fault):
    content, message = FAULTS[fault]
    (tmp_path / "digits").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'digits'} {message}"):
        mnist.read_idx(tmp_path / "digits")


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"there is no file {path}$"):
            mnist.read_idx(path)


def test_mnist_is_the_mean_of_2x2_pixels(directory):
    digits = mnist.load_mnist(directory)
    expected = np.array([[[image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() / 255 for x in range(14)]
                          for y in range(14)] for image in IMAGES])  # fmt: skip
    assert digits.training.dtype == digits.test.dtype == np.float32
    np.testing.assert_allclose(digits.training, expected, rtol=1e-6)
    np.testing.assert_allclose(digits.test, expected[2:], rtol=1e-6)
    assert mnist.NUM_IMAGES == {"train": 5, "t10k": 3}


def test_white_is_one_and_half_covers(directory):
    """Exactly, as 0.5 is the threshold of the labels: two white pixels of four."""
    images = np.zeros((5, 28, 28), np.uint8)
    images[:, 4:, :] = 255
    images[:, 0, :] = 255
    (directory / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    digits = mnist.load_mnist(directory).training
    assert (digits[:, 0] == 0.5).all() and (digits[:, 1] == 0).all() and (digits[:, 2:] == 1).all()


def test_a_directory_without_its_files_is_named(directory, tmp_path):
    (directory / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.mnist_dir: there is no file t10k-images-idx3-ubyte\.gz or"):
        mnist.load_mnist(directory)
    with pytest.raises(FileNotFoundError, match=f"data.mnist_dir: .* in {tmp_path / 'nowhere'}$"):
        mnist.load_mnist(tmp_path / "nowhere")


def test_files_are_read_once_and_again_if_they_change(directory, monkeypatch):
    """A table has a data set for each line."""
    first, again = mnist.load_mnist(directory), mnist.load_mnist(str(directory))
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert not any(images.flags.writeable for images in first)
    file = directory / "t10k-images-idx3-ubyte"
    file.write_bytes(idx_bytes(IMAGES[:3]))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    changed = mnist.load_mnist(directory)
    assert changed.training is first.training
    np.testing.assert_array_equal(changed.test, first.training[:3])


@pytest.mark.parametrize("array", [IMAGES[:4], IMAGES[:, :, 1:], IMAGES[:, 0, 0]], ids=["number", "size", "labels"])
def test_images_that_are_not_mnists_are_refused(directory, array):
    (directory / "train-images-idx3-ubyte.gz").write_bytes(idx_bytes(array))
    shape = "x".join(map(str, array.shape))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte\.gz must hold 5x28x28 bytes, but holds {shape}$"):
        mnist.load_mnist(directory)


def test_mnist_has_70_000_images():
    assert mnist.NUM_IMAGES == {"train": 60_000, "t10k": 10_000}


@pytest.fixture
def nothing_fetched():
    """OpenML's digits are read once a process: each test begins and ends without them."""
    mnist._fetch_openml.cache_clear()
    yield
    mnist._fetch_openml.cache_clear()


def test_openml_gives_training_images_first(directory, monkeypatch, nothing_fetched):
    expected, calls = mnist.load_mnist(directory), []

    def fetch(name, *, version, parser, as_frame):
        calls.append(name)
        assert (name, version, parser, as_frame) == ("mnist_784", 1, "liac-arff", False)
        rows = np.concatenate([IMAGES, IMAGES[2:]]).reshape(8, 784).astype(np.float64)
        return sklearn.utils.Bunch(data=rows)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    for _stage in range(2):
        for ours, theirs in zip(mnist.load_mnist(None), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert calls == ["mnist_784"]  # parsed once


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("too slow"), EOFError("half")])
def test_without_a_network_it_says_what_to_do(monkeypatch, nothing_fetched, error):
    def fetch(*_, **__):
        raise error

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    sentence = (
        r"give data\.mnist_dir \(--mnist_dir .*\), a directory .*, or data\.digits='sklearn' \(--digits=sklearn\)"
    )
    with pytest.raises(ValueError, match=sentence) as refusal:
        mnist.load_mnist(None)
    assert type(error).__name__ in str(refusal.value) and "\n" not in str(refusal.value)


def test_without_a_network_nothing_else_is_said(monkeypatch, nothing_fetched, tmp_path, recwarn):
    """scikit-learn warns of each of its tries."""

    def no_network(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", no_network)
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=r"MNIST cannot be downloaded .*URLError"):
        mnist.load_mnist(None)
    assert not recwarn.list


def test_bundled_digits_are_all_of_them_once_in_order():
    digits = mnist.load_sklearn_digits()
    assert len(digits.training) == 1500 and digits.training.shape[1:] == digits.test.shape[1:] == (8, 8)
    assert digits.training.dtype == digits.test.dtype == np.float32
    bundled = sklearn.datasets.load_digits().images
    np.testing.assert_array_equal(np.concatenate(digits) * 16, bundled)
    assert np.concatenate(digits).max() == 1
