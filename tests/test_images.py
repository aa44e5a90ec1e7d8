"""Images to learn from: every source, the split that does not leak, and what is said of damaged files."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import table
from safetensors.torch import save_file
from training_toys import refused

from mlsde.diffusion.data import Images, as_bytes, as_floats, load_images, read_idx, resized


def some_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_picture(file, pixels, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def everything(images):
    """All images of both parts, in the order of their bytes."""
    both = torch.cat([images.train, images.held_out]).flatten(1)
    return sorted(both.tolist())


# bytes and floats


def test_bytes_survive_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    floats = as_floats(every)
    assert (floats.min(), floats.max()) == (-1.0, 1.0)
    assert torch.equal(as_bytes(floats), every)
    assert torch.equal(as_bytes(floats.double()), every)
    assert as_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


# the digits, and the split


def test_digits_are_those_of_scikit_learn_and_none_is_on_both_sides():
    from sklearn.datasets import load_digits

    images, digits = load_images("digits"), load_digits()
    assert (images.size, images.channels, len(images.train), len(images.held_out)) == (8, 1, 1617, 180)
    assert repr(images) == "Images(digits: 1617 to train on, 180 held out, 1 x 8 x 8)"
    assert everything(images) == sorted(np.round(digits.images * 255 / 16).astype(int).reshape(-1, 64).tolist())
    labels = torch.cat(images.labels)
    assert torch.bincount(labels).tolist() == np.bincount(digits.target).tolist()


def test_labels_go_with_their_images():
    images = load_images("digits", size=8)
    from sklearn.datasets import load_digits

    digits = load_digits()
    of = {
        tuple(np.round(x.ravel() * 255 / 16).astype(int)): y for x, y in zip(digits.images, digits.target, strict=True)
    }
    for part, labels in zip((images.train, images.held_out), images.labels, strict=True):
        assert [of[tuple(image)] for image in part.flatten(1).tolist()] == labels.tolist()


def test_split_depends_on_its_seed_alone():
    first, again, other = (load_images("digits", seed=seed, held_out=0.3) for seed in (1, 1, 2))
    assert torch.equal(first.held_out, again.held_out)
    assert not torch.equal(first.held_out, other.held_out)
    assert len(first.held_out) == 539


# arrays


@pytest.mark.parametrize("shape", [(20, 6, 6), (20, 1, 6, 6), (20, 6, 6, 1), (20, 3, 6, 6), (20, 6, 6, 3)])
@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_array_files_of_every_layout_hold_the_same_images(tmp_path, shape, ending):
    array, file = some_bytes(*shape), tmp_path / f"pictures{ending}"
    if ending == ".npy":
        np.save(file, array)
    else:
        save_file({"images": torch.from_numpy(array)}, file)
    images = load_images(file)
    channels = 3 if 3 in shape else 1
    channels_first = array.transpose(0, 3, 1, 2) if shape[1] == 6 and len(shape) == 4 else array
    assert (images.name, images.channels, images.labels) == ("pictures", channels, None)
    assert (len(images.train), len(images.held_out)) == (18, 2)
    assert everything(images) == sorted(channels_first.reshape(20, -1).tolist())


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
def test_floats_in_minus_one_to_one_become_bytes(tmp_path, kind):
    array = some_bytes(20, 4, 4)
    np.save(tmp_path / "x.npy", (array / 127.5 - 1.0).astype(kind))
    exact = everything(load_images(tmp_path / "x.npy"))
    np.save(tmp_path / "y.npy", array)
    near = everything(load_images(tmp_path / "y.npy"))
    assert exact == near


def test_bfloat16_tensors_are_read(tmp_path):
    save_file({"x": torch.linspace(-1, 1, 320).view(20, 4, 4).bfloat16()}, tmp_path / "x.safetensors")
    assert load_images(tmp_path / "x.safetensors").size == 4


# IDX


@pytest.fixture
def idx_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for prefix, count in (("train", 12), ("t10k", 5)):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(some_bytes(count, 4, 4))))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8)))
    return folder


def test_idx_folder_keeps_its_own_held_out_part(idx_folder):
    images = load_images(idx_folder, size=6)
    assert (len(images.train), len(images.held_out), images.name) == (12, 5, "mine")
    assert torch.equal(images.train[:, 0, 1:5, 1:5], torch.from_numpy(some_bytes(12, 4, 4)))
    assert [part.tolist() for part in images.labels] == [list(range(12)), list(range(5))]


def test_idx_folder_without_labels_has_none(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    assert load_images(idx_folder).labels is None


def test_idx_files_named_with_a_dot_are_found(idx_folder):
    for file in list(idx_folder.iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert len(load_images(idx_folder).labels[1]) == 5


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_one_idx_file_is_split(tmp_path, ending):
    array = some_bytes(30, 4, 4)
    file = tmp_path / f"some-idx3-ubyte{ending}"
    file.write_bytes(gzip.compress(idx(array)) if ending else idx(array))
    assert np.array_equal(read_idx(file), array)
    images = load_images(file, held_out=0.2)
    assert (len(images.train), len(images.held_out)) == (24, 6)
    assert everything(images) == sorted(array.reshape(30, -1).tolist())


# folders of pictures


def test_folder_of_pictures_of_several_kinds_and_sizes(tmp_path):
    red = np.zeros((10, 10, 3), np.uint8)
    red[..., 0] = 200
    write_picture(tmp_path / "a.png", red)
    write_picture(tmp_path / "below" / "B.BMP", red[:6, :6])
    write_picture(tmp_path / "c.webp", red, lossless=True)
    Image.fromarray(red).quantize(4).save(tmp_path / "palette.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    images = load_images(tmp_path, size=10, held_out=0.25)
    assert (images.channels, len(images.train), len(images.held_out)) == (3, 3, 1)
    for image in torch.cat([images.train, images.held_out]):
        assert image[:, 5, 5].tolist() == [200, 0, 0]


def test_grey_pictures_have_one_channel(tmp_path):
    for i in range(4):
        write_picture(tmp_path / f"{i}.png", some_bytes(5, 5))
    assert load_images(tmp_path).channels == 1
    write_picture(tmp_path / "4.png", some_bytes(5, 5, 3))
    assert load_images(tmp_path).channels == 3


def test_transparent_pictures_lie_on_white_and_are_padded_by_it(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[1:3, 1:3] = (10, 20, 30, 255)
    clear[0, 0] = (0, 0, 0, 128)
    for i in range(3):
        write_picture(tmp_path / f"{i}.png", clear)
    image = load_images(tmp_path, size=8).train[0]
    assert image[:, 3, 3].tolist() == [10, 20, 30]
    assert image[:, 0, 0].tolist() == image[:, 2, 3].tolist() == [255, 255, 255]
    assert image[:, 2, 2].tolist() == [127, 127, 127]


def test_pictures_are_held_upright(tmp_path):
    pixels = some_bytes(6, 6, 3)
    turned = Image.Exif()
    turned[0x0112] = 3  # the camera was upside down
    for i in range(2):
        write_picture(tmp_path / f"{i}.png", pixels, exif=turned)
    assert np.array_equal(load_images(tmp_path).train[0].permute(1, 2, 0).numpy(), pixels[::-1, ::-1])


TONES = [f"1f3f{tone}" for tone in "bcdef"]
FAMILIES = {
    "1f44b": ["1f44b", *(f"1f44b-{tone}" for tone in TONES)],
    "261d": ["261d-fe0f", *(f"261d-{tone}" for tone in TONES)],  # the selector goes where a tone comes
    "1f575-200d-2642": ["1f575-fe0f-200d-2642-fe0f", *(f"1F575-{tone.upper()}-200D-2642-FE0F" for tone in TONES)],
    "1f46b": ["1f46b", "1f46b-1f3fb", "1f469-1f3fb-200d-1f91d-200d-1f468-1f3ff"],
    "1f48f": ["1f48f", "1f9d1-1f3fb-200d-2764-fe0f-200d-1f48b-200d-1f9d1-1f3fc"],
    "1f91d": ["1f91d", "1f91d-1f3fb", "1faf1-1f3fb-200d-1faf2-1f3fc"],
    "1f590": ["emoji_u1f590", *(f"emoji_u1f590_{tone}" for tone in TONES)],
    "2764": ["2764-fe0f"],
    "photo-1f3fb": ["photo-1f3fb"],
    "photo": ["photo"],
}


@pytest.mark.parametrize("seed", range(4))
def test_variants_of_an_emoji_stay_on_one_side_of_the_split(tmp_path, seed):
    grey = {name: 10 * i for i, name in enumerate(FAMILIES)}
    for family, names in FAMILIES.items():
        for name in names:
            write_picture(tmp_path / f"{name}.png", np.full((2, 2), grey[family], np.uint8))
    images = load_images(tmp_path, held_out=0.5, seed=seed)
    train, held_out = ({int(image.flatten()[0]) for image in part} for part in (images.train, images.held_out))
    assert not train & held_out
    assert train | held_out == set(grey.values())
    assert len(held_out) == 5  # whole families are counted, "photo-1f3fb" is no variant of "photo"
    assert len(images.train) + len(images.held_out) == sum(map(len, FAMILIES.values()))


# size


@pytest.mark.parametrize("fill", [0, 7])
def test_smaller_images_are_padded_evenly(fill):
    images = torch.from_numpy(some_bytes(2, 3, 5, 3))
    out = resized(images, 8, fill)
    assert out.shape == (2, 3, 8, 8)
    assert torch.equal(out[..., 1:6, 2:5], images)
    out[..., 1:6, 2:5] = fill
    assert (out == fill).all()


def test_larger_images_are_averaged_down_and_keep_their_shape():
    images = torch.zeros(1, 1, 8, 4, dtype=torch.uint8)
    images[..., :4, :] = 200
    out = resized(images, 4)
    assert out.shape == (1, 1, 4, 4)
    assert out[0, 0, :, 0].tolist() == out[0, 0, :, 3].tolist() == [0] * 4
    assert out[0, 0, 0, 1:3].tolist() == [200, 200]
    assert out[0, 0, 3, 1:3].tolist() == [0, 0]
    assert torch.equal(resized(torch.full((3, 1, 9, 9), 77, dtype=torch.uint8), 4), torch.full((3, 1, 4, 4), 77))


# refusals


def folder_with(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / name.replace("__", ".")).write_bytes(content)
    return tmp_path


def npy(tmp_path, array):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    return tmp_path / "x.npy"


def tensors(tmp_path, **named):
    save_file(named, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def file_with(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def of_16_bits(tmp_path):
    write_picture(tmp_path / "deep.png", np.full((4, 4), 40_000, np.uint16))
    return tmp_path


def archive(tmp_path):
    np.savez(tmp_path / "x.npz", some_bytes(4, 4, 4))
    return (tmp_path / "x.npz").rename(tmp_path / "x.npy")


def two_sizes(tmp_path):
    for n in (4, 5):
        write_picture(tmp_path / f"{n}.png", some_bytes(n, n))
    return tmp_path


WHOLE = idx(some_bytes(9, 4, 4))
GZ = gzip.compress(WHOLE)
SOURCES = {
    "nowhere": (lambda p: p / "nowhere", FileNotFoundError, ["nowhere", "give images"]),
    "no name": (lambda p: 3, TypeError, ["source", "int"]),
    "empty folder": (folder_with, ValueError, ["holds no images", ".png"]),
    "folder of text": (lambda p: folder_with(p, a__txt=b"x"), ValueError, ["holds no images"]),
    "damaged picture": (lambda p: folder_with(p, a__png=b"\x89PNG\r\n\x1a\nxx"), ValueError, ["a.png", "remove it"]),
    "text as picture": (lambda p: folder_with(p, a__jpg=b"hello"), ValueError, ["a.jpg", "remove it"]),
    "16 bits": (of_16_bits, ValueError, ["deep.png", "of mode I"]),
    "two sizes": (two_sizes, ValueError, ["differ in size", "give a size"]),
    "not square": (lambda p: npy(p, some_bytes(9, 4, 5)), ValueError, ["square", "4 x 5", "size"]),
    "truncated idx": (lambda p: file_with(p, "x-idx3-ubyte", WHOLE[:-5]), ValueError, ["x-idx3-ubyte", "139 bytes"]),
    "idx too long": (lambda p: file_with(p, "x-idx3-ubyte", WHOLE + b"12"), ValueError, ["146 bytes"]),
    "idx head only": (lambda p: file_with(p, "x-idx3-ubyte", WHOLE[:3]), ValueError, ["no sound IDX"]),
    "idx of floats": (lambda p: file_with(p, "x-idx3-ubyte", b"\0\0\x0d\3" + WHOLE[4:]), ValueError, ["00 00 0d 03"]),
    "idx of labels": (lambda p: file_with(p, "x-idx1-ubyte", idx(some_bytes(9))), ValueError, ["shape (9,)"]),
    "truncated gz": (lambda p: file_with(p, "x-idx3-ubyte.gz", GZ[:-20]), ValueError, ["no sound IDX", ".gz"]),
    "damaged gz": (lambda p: file_with(p, "x-idx3.gz", GZ[:30] + b"zzzzzz" + GZ[36:]), ValueError, ["no sound IDX"]),
    "plain as gz": (lambda p: file_with(p, "x-idx3.gz", WHOLE), ValueError, ["no sound IDX"]),
    "pickle": (lambda p: file_with(p, "x.pt", b"x"), ValueError, ["x.pt", "pickles are not read"]),
    "pickle in npy": (lambda p: npy(p, np.array([{"a": 1}], dtype=object)), ValueError, ["x.npy", "no sound array"]),
    "truncated npy": (lambda p: file_with(p, "x.npy", npy(p, some_bytes(9, 4, 4)).read_bytes()[:-9]), ValueError,
                      ["x.npy", "no sound array"]),
    "empty npy": (lambda p: file_with(p, "x.npy", b""), ValueError, ["x.npy", "no sound array"]),
    "npz": (archive, ValueError, ["x.npy", "no sound array"]),
    "integers": (lambda p: npy(p, np.zeros((9, 4, 4), np.int64)), ValueError, ["bytes", "int64"]),
    "floats from 0": (lambda p: npy(p, np.linspace(0, 1, 144).reshape(9, 4, 4)), ValueError, ["[-1, 1]", "[0, 1]"]),
    "large floats": (lambda p: npy(p, np.linspace(-1, 9, 144).reshape(9, 4, 4)), ValueError, ["[-1, 9]"]),
    "NaN": (lambda p: npy(p, np.full((9, 4, 4), np.nan)), ValueError, ["x.npy", "nan"]),
    "four channels": (lambda p: npy(p, some_bytes(9, 4, 4, 4)), ValueError, ["(9, 4, 4, 4)", "c 1 or 3"]),
    "no images": (lambda p: npy(p, some_bytes(0, 4, 4)), ValueError, ["(0, 1, 4, 4)"]),
    "one image": (lambda p: npy(p, some_bytes(1, 4, 4)), ValueError, ["too few", "1"]),
    "truncated tensors": (lambda p: file_with(p, "x.safetensors", b"1234567890"), ValueError, ["no sound safetensors"]),
    "two tensors": (lambda p: tensors(p, a=torch.zeros(1), b=torch.zeros(1)), ValueError, ["one tensor", "['a', 'b']"]),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "words"), SOURCES.values(), ids=SOURCES.keys())
def test_unsound_sources_are_refused_in_a_sentence_that_names_the_file(tmp_path, make, error, words):
    source = make(tmp_path)
    refused(lambda: load_images(source), error, *words)


def test_idx_folders_that_do_not_fit_together_are_refused(idx_folder):
    labels = idx_folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(11, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte' must hold one label for each of 12 images"):
        load_images(idx_folder)
    labels.unlink()
    (idx_folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="lacks the held out images"):
        load_images(idx_folder)


HALF = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)


@table(
    {
        "size": (lambda: load_images("digits", size=0), ValueError, ["size", "positive", "0"]),
        "size of no integer": (lambda: load_images("digits", size=8.0), TypeError, ["size", "8.0"]),
        "none held out": (lambda: load_images("digits", held_out=0.0), ValueError, ["held_out", "between 0 and 1"]),
        "all held out": (lambda: load_images("digits", held_out=1), ValueError, ["held_out", "between 0 and 1"]),
        "too many held out": (lambda: load_images("digits", held_out=0.9999), ValueError, ["too few", "digits"]),
        "seed": (lambda: load_images("digits", seed=-1), ValueError, ["seed", "-1"]),
        "floats": (lambda: Images(HALF.float(), HALF), ValueError, ["train", "bytes", "float32"]),
        "no batch": (lambda: Images(HALF, HALF[0]), ValueError, ["held_out", "(1, 8, 8)"]),
        "other sizes": (lambda: Images(HALF, HALF[..., :4, :4]), ValueError, ["held_out", "(1, 4, 4)"]),
        "labels": (lambda: Images(HALF, HALF, (torch.zeros(4), torch.zeros(3))), ValueError, ["labels", "4", "(3,)"]),
    }
)
def test_bad_arguments_are_refused(call, error, words):
    refused(call, error, *words)
