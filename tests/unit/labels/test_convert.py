import subprocess
import sys

import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.labels.convert import from_table, to_table
from raydet.labels.schema import PSEUDO_BOXES
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoBoxes, TeacherRef
from tests.unit.labels.fakes import same

float32 = st.floats(width=32, allow_nan=True)


@st.composite
def labels(draw):
    n = draw(st.integers(0, 4))
    numbers = st.lists(float32, min_size=n, max_size=n)
    return PseudoBoxes(
        draw(st.text(min_size=1, max_size=4).filter(lambda text: text.isprintable())),
        TeacherRef(draw(st.integers(0, 10**8)), "abc"),
        torch.tensor(draw(st.lists(float32, min_size=4 * n, max_size=4 * n)), dtype=torch.float32).reshape(n, 4),
        torch.tensor(draw(st.lists(st.integers(0, 90), min_size=n, max_size=n)), dtype=torch.int64),
        torch.tensor(draw(numbers), dtype=torch.float32),
        torch.tensor(draw(numbers), dtype=torch.float32),
        draw(st.floats(0, 1)),
    )


@settings(max_examples=50)
@given(st.lists(labels(), max_size=5))
def test_labels_survive_the_table_bit_for_bit(expected):
    table = to_table(expected)
    assert table.schema == PSEUDO_BOXES
    found = from_table(table)
    assert len(found) == len(expected)
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    if len(expected) > 1:  # slices and chunks are tables too
        pieces = pa.concat_tables([table.slice(1), table.slice(0, 1)])
        assert [label.image_id for label in from_table(pieces)] == [x.image_id for x in (*expected[1:], expected[0])]
        assert same(from_table(pieces)[-1], expected[0])


def test_labels_survive_the_disk_bit_for_bit(tmp_path):
    tiny, teacher = torch.finfo(torch.float32).tiny, TeacherRef(3, "d")
    values = torch.tensor([0.1, tiny / 3, -0.0, float("nan")])
    expected = [
        PseudoBoxes("full", teacher, values.expand(4, 4).clone(), torch.arange(4), values, -values, 0.05),
        PseudoBoxes("empty", teacher, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), *torch.zeros(2, 0), 0.1),
    ]
    store = PseudoLabelStore(tmp_path, "w")
    store.append(to_table(expected))
    store.flush()
    found = from_table(PseudoLabelStore(tmp_path, "r").get([(3, "empty"), (3, "full")]))
    assert same(found[0], expected[1]) and same(found[1], expected[0])
    found[1].boxes.add_(1)  # memory of its own: the file behind it does not change
    assert same(from_table(store.get([(3, "full")]))[0], expected[0])


def test_schema_desk_and_store_need_no_torch():
    code = (
        "import sys, raydet.labels.store, raydet.labels.desk, raydet.labels.schedule; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
