import pytest

from medseg.core.cells import is_formula


@pytest.mark.parametrize(
    "text",
    [
        *('=HYPERLINK("http://x")', "@SUM(1)", "+cmd|' /C calc'!A0", "-2+3", "-x.png", "\tx", "\rx", " =1", "＝1"),  # noqa: RUF001
        "a;=1",  # where `;` parts cells
    ],
)
def test_what_a_spreadsheet_would_run_is_a_formula(text: str) -> None:
    assert is_formula(text)


@pytest.mark.parametrize(
    "text", ["", "benign", "-", "+", "-1", "+0.5", "-1,5", "-30%", "+1e5", "a=b", "a-b.png", "HER2+", "images/=x.png"]
)
def test_names_numbers_and_signs_are_none(text: str) -> None:
    assert not is_formula(text)
