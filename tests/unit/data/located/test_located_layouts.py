"""The published layouts of localisation, made small: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydet.config.located_data import LocatedSetConfig
from raydet.data.classes.formats import parquet_columns
from raydet.data.kind import kind_of
from raydet.data.located.formats.detect import detect_located, read_located
from raydet.data.located.table import LocatedTable
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from tests.tiny_data import codes, write_image
from tests.unit.data.located.layouts import ONE_EACH, coco, cub


def read(tmp_path: Path, **config: Any) -> tuple[LocatedTable, str]:
    log = ProblemLog()
    found = read_located(LocatedSetConfig(**config), log, generated=tmp_path / "generated")
    assert not codes(log), log.problems
    return found


def described(table: LocatedTable) -> dict[str, tuple[str, list[list[float]]]]:
    """Return id -> class and boxes."""
    return {
        table.id_at(row): (table.class_names[table.images.labels[row]], table.boxes_at(row).tolist())
        for row in range(len(table))
    }


def test_cub(tmp_path: Path):
    folder = cub(tmp_path / "CUB_200_2011")
    for path in (folder, tmp_path):  # its own folder, or the one that the archive was unpacked in
        table, format = read(tmp_path, path=str(path), subset="train")
        assert format == "cub"
        assert described(table) == {
            "001.Black_footed_Albatross/b.jpg": ("001.Black_footed_Albatross", [[1, 2, 4, 6]]),  # x, y, x + w, y + h
            "002.Crow/c.jpg": ("002.Crow", [[0, 0, 100, 80]]),
        }
    assert kind_of(str(folder)) == "localization"
    assert len(read(tmp_path, path=str(folder), subset="test")[0]) == 1
    assert not read(tmp_path, path=str(folder), subset="train", read_boxes=False)[0].has_boxes.any()


def test_cub_says_what_is_missing_or_damaged(tmp_path: Path):
    folder = cub(tmp_path)
    with pytest.raises(DataError, match="subset is None: CUB-200-2011 has train and test; set `subset`"):
        read(tmp_path, path=str(folder))
    (folder / "bounding_boxes.txt").write_text("1 60 27 30 40\n2 1 2 3\n")
    with pytest.raises(DataError, match=r"bounding_boxes.txt, line 2: expected a number and 4 words, got '2 1 2 3'"):
        read(tmp_path, path=str(folder), subset="train")
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes.txt: no such file; is the data set complete\?"):
        read(tmp_path, path=str(folder), subset="train")


def test_tiny_imagenet(tmp_path: Path):
    for wnid, number in (("n02", 0), ("n01", 1)):
        write_image(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG", 64, 64, number)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t63\n")
    write_image(tmp_path / "val" / "images" / "val_0.JPEG", 64, 64, 7)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t32\t44\t62\n")
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    train, format = read(tmp_path, path=str(tmp_path), subset="train")
    assert format == "tiny_imagenet"
    assert train.class_names == ("n01", "n02")
    assert described(train) == {  # inclusive corners: 63 is the last pixel
        "n01/images/n01_0.JPEG": ("n01", [[0, 10, 64, 64]]),
        "n02/images/n02_0.JPEG": ("n02", [[0, 10, 64, 64]]),
    }
    val, _ = read(tmp_path, path=str(tmp_path), subset="val")
    assert described(val) == {"images/val_0.JPEG": ("n02", [[0, 32, 45, 63]])}
    with pytest.raises(DataError, match="subset is 'test': Tiny-ImageNet has train and val"):
        read(tmp_path, path=str(tmp_path), subset="test")


def xml(*objects: tuple[str, int, int, int, int]) -> str:
    entries = (
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in objects
    )
    return f"<annotation>{''.join(entries)}</annotation>"


def imagenet(root: Path) -> Path:
    data, annotations = root / "Data" / "CLS-LOC", root / "Annotations" / "CLS-LOC"
    for wnid, number in (("n02", 0), ("n01", 1)):
        write_image(data / "train" / wnid / f"{wnid}_1.JPEG", value=number)
    write_image(data / "val" / "ILSVRC2012_val_00000001.JPEG", value=5)
    (annotations / "train" / "n01").mkdir(parents=True)
    (annotations / "train" / "n01" / "n01_1.xml").write_text(xml(("n01", 1, 2, 30, 40)))
    (annotations / "val").mkdir()
    two = xml(("n02", 5, 6, 70, 60), ("n02", 0, 0, 10, 10))
    (annotations / "val" / "ILSVRC2012_val_00000001.xml").write_text(two)
    return root


def test_imagenet(tmp_path: Path):
    root = imagenet(tmp_path / "ILSVRC")
    train, format = read(tmp_path, path=str(tmp_path), subset="train")  # the folder above ILSVRC will do
    assert format == "imagenet"
    assert described(train) == {"n01/n01_1.JPEG": ("n01", [[1, 2, 30, 40]]), "n02/n02_1.JPEG": ("n02", [])}
    val, _ = read(tmp_path, path=str(root), subset="val")  # its class is what its boxes are called
    assert described(val) == {"ILSVRC2012_val_00000001.JPEG": ("n02", [[5, 6, 70, 60], [0, 0, 10, 10]])}
    no_boxes, _ = read(tmp_path, path=str(root), subset="val", read_boxes=False)
    assert described(no_boxes) == {"ILSVRC2012_val_00000001.JPEG": ("n02", [])}


def test_an_xml_file_with_entities_is_refused(tmp_path: Path):
    root, log = imagenet(tmp_path), ProblemLog()
    file = root / "Annotations" / "CLS-LOC" / "train" / "n01" / "n01_1.xml"
    file.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    read_located(LocatedSetConfig(path=str(root), subset="train"), log, generated=tmp_path)
    assert codes(log) == ["xml"] and "DTD" in log.problems[0].message


def test_coco_with_one_class_per_image(tmp_path: Path):
    file = coco(tmp_path, *ONE_EACH, (1, 1, [1.0, 1, 5, 5]))
    for path in (file, tmp_path):
        table, format = read(tmp_path, path=str(path))
        assert format == "coco"
        assert described(table) == {"1": ("cat", [[10, 20, 40, 60], [1, 1, 6, 6]]), "2": ("dog", [[0, 0, 50, 60]])}


def test_of_several_coco_files_the_subset_is_read(tmp_path: Path):
    for name in ("train", "valid"):
        write_image(tmp_path / name / "0.jpg")
        coco(tmp_path / name, *(ONE_EACH if name == "train" else ONE_EACH[:1]))
    with pytest.raises(DataError, match=r"several COCO files .*or set `subset` \(train, valid\)"):
        read(tmp_path, path=str(tmp_path))
    table, format = read(tmp_path, path=str(tmp_path), subset="train")  # the advice
    assert format == "coco"
    assert described(table) == {"1": ("cat", [[10, 20, 40, 60]]), "2": ("dog", [[0, 0, 50, 60]])}
    assert read(tmp_path, path=str(tmp_path), subset="valid")[0].has_boxes.tolist() == [True, False]


def test_boxes_of_several_classes_are_an_error_that_names_the_image(tmp_path: Path):
    several = ((1, 1, [0.0, 0, 10, 10]), (1, 2, [0.0, 0, 50, 60]), (1, 2, [3.0, 3, 9, 9]), (2, 2, [0.0, 0, 5, 5]))
    config = LocatedSetConfig(path=str(coco(tmp_path, *several)))
    log = ProblemLog()
    table, _ = read_located(config, log, generated=tmp_path)
    assert codes(log) == ["several-classes"]
    assert "1.jpg has boxes of several classes ('cat', 'dog')" in str(log.problems[0])
    assert "data.on_several_classes" in str(log.problems[0])
    for rule, kept in {"drop": ["2"], "largest": ["1", "2"]}.items():
        log = ProblemLog()
        table, _ = read_located(config, log, on_several=rule, generated=tmp_path)
        assert codes(log) == [] and codes(log, "warning") == ["several-classes"]
        assert [table.id_at(row) for row in range(len(table))] == kept
    # the class of the largest box, whose boxes alone are left
    assert described(table)["1"] == ("dog", [[0, 0, 50, 60], [3, 3, 12, 12]])


def test_crowd_boxes_say_nothing_about_the_class(tmp_path: Path):
    file = coco(tmp_path, (1, 2, [0.0, 0, 99, 79]), *ONE_EACH, crowd=1)
    table, _ = read(tmp_path, path=str(file))
    assert described(table)["1"] == ("cat", [[10, 20, 40, 60]])


def test_folders_of_classes_have_no_boxes(tmp_path: Path):
    for number, name in enumerate(("cat", "dog")):
        write_image(tmp_path / name / "x.jpg", value=number)
    table, format = read(tmp_path, path=str(tmp_path))
    assert format == "folder"
    assert described(table) == {"cat/x.jpg": ("cat", []), "dog/x.jpg": ("dog", [])}


def parquet(file: Path, boxes: Any, type: Any = None) -> Path:
    content = [write_image(file.parent / f"{n}.png", value=n).read_bytes() for n in range(2)]
    columns = {"image": pa.array(content, pa.binary()), "label": ["cat", "dog"]}
    if boxes is not None:
        columns["boxes"] = pa.array(boxes, type)
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize("boxes", [[[1, 2, 3, 4], []], [[[1, 2, 3, 4]], []], [[[1.0, 2.0, 3.0, 4.0]], None]])
def test_parquet(boxes: Any, tmp_path: Path):
    file = parquet(tmp_path / "x.parquet", boxes)
    table, format = read(tmp_path, path=str(file))
    assert format == "parquet"
    assert described(table) == {"0": ("cat", [[1, 2, 3, 4]]), "1": ("dog", [])}
    table, _ = read(tmp_path, path=str(file), box_format="xywh")
    assert described(table)["0"] == ("cat", [[1, 2, 4, 6]])


def test_parquet_without_boxes_and_with_other_things_in_their_column(tmp_path: Path):
    assert not read(tmp_path, path=str(parquet(tmp_path / "x.parquet", None)))[0].has_boxes.any()
    said = {"box_column": "boxes", "id_column": "image_id"}  # the defaults, as a run's config.yaml has them
    assert not read(tmp_path, path=str(tmp_path / "x.parquet"), **said)[0].has_boxes.any()
    with pytest.raises(DataError, match=r"no column 'where' \(there are: .*\); correct box_column"):
        read(tmp_path, path=str(tmp_path / "x.parquet"), box_column="where")
    parquet(tmp_path / "y.parquet", ["a", "b"])
    with pytest.raises(DataError, match="column 'boxes' holds .*; expected lists of numbers, four for each box"):
        read(tmp_path, path=str(tmp_path / "y.parquet"))
    parquet(tmp_path / "z.parquet", [[1, 2, 3], []])
    with pytest.raises(DataError, match="row 0: 3 numbers in 'boxes'; expected four for each box"):
        read(tmp_path, path=str(tmp_path / "z.parquet"))


def many_zeros(file: Path, rows: int, numbers: int) -> Path:
    """Write about a kilobyte that stands for `rows` times `numbers` zeros."""
    content = write_image(file.parent / "0.png", width=2, height=2).read_bytes()
    columns = {"image": [content] * rows, "label": ["cat"] * rows, "boxes": [[0.0] * numbers] * rows}
    pq.write_table(pa.table(columns), file, compression="zstd")
    return file


def test_boxes_of_a_small_parquet_file_are_counted_as_they_are_decoded(tmp_path: Path, monkeypatch: Any):
    file = many_zeros(tmp_path / "x.parquet", 2000, 2000)
    monkeypatch.setattr(parquet_columns, "_MAX_BYTES", 1 << 24)  # half of 2000 * 2000 * 8
    assert file.stat().st_size < 4096
    assert len(read(tmp_path, path=str(file), read_boxes=False)[0]) == 2000  # pictures and labels are few bytes
    with pytest.raises(DataError, match=r"x\.parquet: the boxes up to here are more than 0\.01562 GiB"):
        read(tmp_path, path=str(file))


def test_more_numbers_than_rows_can_have_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: Any):
    file = many_zeros(tmp_path / "x.parquet", 2, 1_000_000)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refused_for_boxes(pq.ParquetFile.iter_batches))
    with pytest.raises(DataError) as error:
        read(tmp_path, path=str(file))
    assert str(error.value) == (
        f"{file}: 2,000,000 numbers in 'boxes' for 2 rows; expected four for each box, of at most 1,000 a row"
    )


def refused_for_boxes(iter_batches: Any) -> Any:
    def iterate(parquet: Any, **options: Any) -> Any:
        assert options["columns"] != ["boxes"]
        return iter_batches(parquet, **options)

    return iterate


@pytest.mark.parametrize(
    ("boxes", "count"), [([[], [0] * 4004], "4,004 numbers"), ([None, [[0, 0, 1, 1]] * 1001], "4,004 numbers")]
)
def test_a_row_with_too_many_boxes_is_named(boxes: Any, count: str, tmp_path: Path):
    with pytest.raises(DataError, match=rf"row 1: {count} in 'boxes'; expected four for each box, of at most 1,000"):
        read(tmp_path, path=str(parquet(tmp_path / "x.parquet", boxes)))


def test_generated_shapes_have_one_object_each(tmp_path: Path):
    table, format = read(tmp_path, path="shapes", shapes={"num_images": 5, "max_objects": 1, "height": 48, "width": 48})
    assert format == "shapes"
    assert len(table) == len(table.boxes) == 5
    assert detect_located(LocatedSetConfig(path="shapes")) == "shapes"


def test_sets_that_have_no_boxes_in_any_layout_are_refused_with_what_is_read(tmp_path: Path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"x")
    with pytest.raises(DataError, match="idx has classes and no boxes, and is not read here; give CUB_200_2011"):
        read(tmp_path, path=str(tmp_path))
