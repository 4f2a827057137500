"""For any two rows, comparing keys is comparing rows."""

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from thunderdb.access.keys import KeyCodec

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-(1 << 63), (1 << 63) - 1),
    "float8": st.floats(allow_nan=False),
    "bytea": st.binary(max_size=6),
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=6),
    "numeric": st.decimals(allow_nan=False, allow_infinity=True),
}


def comparable(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value  # C collation


@given(st.data(), st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3))
def test_key_order_is_row_order(data: st.DataObject, types: list[str]) -> None:
    codec = KeyCodec(types)
    left, right = ([data.draw(VALUES[name]) for name in types] for _ in range(2))
    a, b = [comparable(v) for v in left], [comparable(v) for v in right]
    ka, kb = codec.encode(left), codec.encode(right)
    assert (ka < kb) == (a < b) and (ka == kb) == (a == b)
    assert codec.decode(ka) == left


@given(VALUES["numeric"])
def test_numeric_key_gives_the_value_back(value: Decimal) -> None:
    codec = KeyCodec(("numeric",))
    assert codec.decode(codec.encode([value])) == [value]
