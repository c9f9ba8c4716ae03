from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydet.config.class_data import ImageSetConfig
from raydet.data.classes.formats.detect import read_images
from raydet.data.classes.formats.parquet import read_parquet
from raydet.data.classes.rules import usable
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from tests.helpers import data_folder
from tests.tiny_data import codes
from tests.tiny_images import LABELS, NAMES, encoded, noise, read_set, set_config, write_parquet


def test_images_labels_and_names_come_from_the_file(tmp_path: Path) -> None:
    table, log = read_set(write_parquet(tmp_path / "a.parquet"))
    assert log.counts == {} and table.class_names == NAMES and table.labels.tolist() == list(LABELS)
    assert table.ids.to_pylist() == ["0", "1", "2", "3", "4", "5"]  # without an id column, the row
    assert table.name_at(4) == f"{tmp_path / 'a.parquet'}, row 4"
    assert np.array_equal(table.pixels_at(4).permute(1, 2, 0).numpy(), noise(1, 4))


def test_real_sets_are_read_as_their_readme_says() -> None:
    table, log = read_set(data_folder("signdigits"), subset="train")
    assert log.counts == {} and table.class_names == tuple("0123456789")
    assert table.images_per_class().tolist() == [131, 132, 132, 132, 133, 133, 133, 131, 133, 130]
    table, log = read_set(data_folder("clothing") / "val.parquet")
    assert len(table) == 610 and table.class_names[:2] == ("T-Shirt", "Longsleeve") and log.counts == {}
    assert table.pixels_at(609).shape == (3, 64, 64)


def test_columns_may_have_other_names_and_types(tmp_path: Path) -> None:
    images = [encoded(noise(None, number)) for number in range(3)]
    columns = {
        "picture": pa.array([{"path": "x.png", "bytes": one} for one in images]),
        "kind": pa.array(["owl", "cat", "owl"]).dictionary_encode(),
        "number": pa.array([30, 10, 20], pa.int32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    config = {"image_column": "picture", "label_column": "kind", "id_column": "number"}
    table, log = read_set(tmp_path / "a.parquet", **config)
    assert log.counts == {} and table.class_names == ("cat", "owl") and table.labels.tolist() == [1, 0, 1]
    assert table.ids.to_pylist() == ["30", "10", "20"]
    assert np.array_equal(table.pixels_at(2).permute(1, 2, 0).numpy(), noise(None, 2))


def test_several_row_groups_are_read_in_order(tmp_path: Path) -> None:
    images = [None if row % 10 == 3 else {"bytes": b"%d" % row, "path": None} for row in range(100)]
    labels = [None if row % 7 == 0 else f"class {row % 3}" for row in range(100)]
    table = pa.table({"image": images, "label": labels, "image_id": [f"id {row}" for row in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=40)
    found = read_parquet([tmp_path / "a.parquet"], set_config("x"), ProblemLog())
    rows = [row for row in range(100) if row % 10 != 3]
    assert [bytes(found.bytes_at(place)) for place in range(len(found))] == [b"%d" % row for row in rows]
    assert found.ids.to_pylist() == [f"id {row}" for row in rows]
    assert found.labels.tolist() == [-1 if row % 7 == 0 else row % 3 for row in rows]


def test_categories_may_be_text_or_numbers(tmp_path: Path) -> None:
    columns = {
        "image": [encoded(noise(0, 0))] * 4,
        "label": pa.array([7, 5, None, 7]).dictionary_encode(),
        "image_id": pa.array(["a", "b", None, "c"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table, log = read_set(tmp_path / "a.parquet", needs_labels=False)
    assert table.class_names == ("5", "7") and table.labels.tolist() == [1, 0, 1]
    assert table.ids.to_pylist() == ["a", "b", "c"] and codes(log) == ["image-id"]


def test_class_names_are_found_in_four_places(tmp_path: Path) -> None:
    feature = {"names": ["a", "b", "c"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    (tmp_path / "names.json").write_text('["u", "v", "w"]')
    plain = write_parquet(tmp_path / "plain.parquet", names=None)
    assert read_set(plain)[0].class_names == ("0", "1", "2")
    assert read_set(write_parquet(tmp_path / "hf.parquet", names=None, metadata=metadata))[0].class_names == (
        "a", "b", "c"
    )  # fmt: skip
    (tmp_path / "classes.json").write_text('["x", "y", "z"]')
    assert read_set(plain)[0].class_names == ("x", "y", "z")
    own = write_parquet(tmp_path / "own.parquet")
    assert read_set(own)[0].class_names == NAMES
    assert read_set(own, class_names=str(tmp_path / "names.json"))[0].class_names == ("u", "v", "w")


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1, 2]", '"cat"', "[" * 100_000])
def test_a_list_of_names_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(DataError, match=r"names\.json: .*expected a list of class names"):
        read_set(write_parquet(tmp_path / "a.parquet"), class_names=str(tmp_path / "names.json"))


def test_several_files_are_one_set(tmp_path: Path) -> None:
    for number in (0, 1):
        write_parquet(tmp_path / f"train-0000{number}-of-00002.parquet", first=10 * number)
    write_parquet(tmp_path / "test.parquet", (0, 1), first=50)
    for path, config in ((tmp_path, {"subset": "train"}), (tmp_path / "train-*.parquet", {})):
        table, log = read_set(path, **config)
        assert len(table) == 12 and log.counts == {}
        assert table.id_at(7) == "7" and table.name_at(7).endswith("train-00001-of-00002.parquet, row 1")
    with pytest.raises(DataError, match="holds the subsets test, train; name one with `subset`"):
        read_set(tmp_path)
    with pytest.raises(DataError, match="nothing for subset 'val'"):
        read_set(tmp_path, subset="val")
    with pytest.raises(DataError, match="no file there"):
        read_set(tmp_path / "*x.parquet")


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    write_parquet(tmp_path / "b.parquet", names=("cat", "dog", "emu"))
    with pytest.raises(DataError, match=r"b\.parquet: other class names than .*a\.parquet"):
        read_set(tmp_path)
    write_parquet(tmp_path / "b.parquet", ("cat", "dog"))
    with pytest.raises(DataError, match="the column 'label' is not alike in all files"):
        read_set(tmp_path)


def test_a_set_without_labels_serves_as_unlabelled_only(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", labels=None, names=None)
    table, log = read_set(file, needs_labels=False)
    assert table.labels.tolist() == [-1] * 6 and log.counts == {}
    assert codes(read_set(file)[1]) == ["no-labels"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet")
    whole = file.read_bytes()
    middle = len(whole) // 3
    for broken in (b"", b"PAR1", whole[:-10], whole[10:], whole[:middle] + bytes(200) + whole[middle + 200 :]):
        file.write_bytes(broken)
        try:
            table, _ = read_set(file)
        except DataError as error:
            assert "a.parquet: damaged, or not a Parquet file" in str(error)
            continue
        with pytest.raises(DataError, match=r"a\.parquet, row \d"):  # the damage hit an image
            for row in range(len(table)):
                table.pixels_at(row)


def test_defaults_that_are_written_out_may_be_missing_as_those_that_are_not(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet")  # image and label
    said = ImageSetConfig(path=str(file)).model_dump(mode="json", exclude={"path"})  # as a run's config.yaml has it
    assert said["id_column"] == "image_id"
    assert read_set(file, **said)[0].ids == read_set(file)[0].ids


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_column": "img"}, r"no column 'img' \(there are: 'image', 'label'\); set image_column"),
        ({"label_column": "class"}, "no column 'class' .*correct label_column"),
        ({"id_column": "name"}, "no column 'name' .*correct id_column"),
        ({"image_column": "label"}, r"column 'label' holds int64; expected encoded images"),
        ({"label_column": "image"}, "column 'image' holds binary; expected whole numbers from 0, or class names"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, config: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: " + message):
        read_set(write_parquet(tmp_path / "a.parquet"), **config)


def test_labels_that_are_null_negative_or_too_large_are_reported_with_their_row(tmp_path: Path) -> None:
    table, log = read_set(write_parquet(tmp_path / "a.parquet", [0, None, -1, -7, 3, 2]))
    assert len(table) == 2 and table.labels.tolist() == [0, 2]
    assert codes(log) == ["label-range", "label-range", "label-missing", "label-missing"]
    lines = [str(problem) for problem in log.problems]
    assert "row 3: label -7 of image id 3: there are 3 classes, 0 to 2" in lines[0]
    assert "row 4: label 3" in lines[1] and "row 1: image id 1 has no label" in lines[2]
    # among unlabelled images a missing label is fine, a wrong one is not
    assert codes(read_set(tmp_path / "a.parquet", needs_labels=False)[1]) == ["label-range", "label-range"]


def test_a_name_that_is_no_class_is_reported_once(tmp_path: Path) -> None:
    _, log = read_set(write_parquet(tmp_path / "a.parquet", ["cat", "cow", "cow", None]))
    assert "the label 'cow' is not in the list of classes ('cat', 'dog', 'owl')" in str(log.problems[0])
    assert codes(log).count("label-unknown") == 1


def test_ids_that_are_missing_or_given_twice_are_reported(tmp_path: Path) -> None:
    table, log = read_set(write_parquet(tmp_path / "a.parquet", ids=["a", "b", "a", None, "x\x85y", "c"]))
    assert table.ids.to_pylist() == ["a", "b", "c"]
    assert codes(log) == ["image-id", "image-id", "image-id-twice"]
    assert f"row 2: the image id 'a' is also that of {tmp_path / 'a.parquet'}, row 0" in str(log.problems[2])


def test_rows_without_an_image_are_reported(tmp_path: Path) -> None:
    png = encoded(noise(0, 0))
    table, log = read_set(write_parquet(tmp_path / "a.parquet", [0, 1, 2, 2], images=[png, None, b"", png]))
    assert codes(log) == ["image-missing", "image-missing"] and table.labels.tolist() == [0, 2]
    nothing = write_parquet(tmp_path / "b.parquet", [0], images=[None], as_struct=True)
    assert codes(read_set(nothing)[1]) == ["image-missing", "no-images"]


def test_an_undecodable_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    images = [encoded(noise(0, 0)), b"not an image", encoded(noise(0, 1))[:60]]
    config = set_config(write_parquet(tmp_path / "a.parquet", [0, 1, 2], images=images))
    table = read_images(config, log := ProblemLog())
    assert log.counts == {}  # nothing was opened yet
    for row in (1, 2):
        with pytest.raises(DataError, match=rf"a\.parquet, row {row}: "):
            table.pixels_at(row)
    usable(table, "a", log, needs_labels=True)  # a glance at both ends finds both
    assert codes(log) == ["image-unreadable", "image-unreadable"] and "row 2" in str(log.problems[1])


def test_an_empty_file_is_an_empty_set(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert codes(read_set(tmp_path / "a.parquet")[1]) == ["no-images"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: no such file"):
        read_parquet([tmp_path / "a.parquet"], set_config("a"), ProblemLog())
