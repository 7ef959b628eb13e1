"""What `gz.ui()` shows, found as a person finds it: by its role and the name that is read out for it."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

SECONDS_TO_CONVERT = 240
MOST_TABS = 60
PIXELS_WITHIN_A_LINE = 10
ENDED = ("Succeeded", "Failed", "Error")

# Whether the last letter of an element can be seen in it.
IS_AT_END = """element => {
    const letters = document.createTreeWalker(element, NodeFilter.SHOW_TEXT).lastChild();
    const last = document.createRange();
    last.setStart(letters, letters.length - 1);
    last.setEnd(letters, letters.length);
    return last.getBoundingClientRect().bottom <= element.getBoundingClientRect().bottom;
}"""


class Ui:
    """The form, the jobs and the picture in a page.

    Parameters
    ----------
    page
        Where they are; in one place only.
    """

    def __init__(self, page: Page) -> None:
        self._page = page

    @property
    def whole(self) -> Locator:
        """All of it."""
        return self._page.locator(".jp-OutputArea-output").filter(has=self.button("Convert")).first

    # Product and groups

    @property
    def product(self) -> Locator:
        """The field for the product's address."""
        return self._field("Product")

    @property
    def groups(self) -> Locator:
        """The field for groups, as text."""
        return self._field("Groups")

    @property
    def output(self) -> Locator:
        """The field for the output."""
        return self._field("Output")

    @property
    def cost(self) -> Locator:
        """What the choice costs."""
        return self._page.get_by_text(re.compile(r"^Cost: "))

    def group(self, path: str) -> Locator:
        """Return the tick of a group."""
        return self._page.get_by_role("checkbox", name="/".join(path.split("/")[-2:]), exact=True)

    @property
    def filter(self) -> Locator:
        """The field for words that the groups shown have to hold."""
        return self._field("Filter")

    def suggestion(self, path: str) -> Locator:
        """Return the button that takes a group in place of a wrong one."""
        return self.button(f"Use {path}")

    def give(self, address: str) -> None:
        """Type a product's address."""
        self.product.fill(address)
        self.product.press("Enter")

    # The job

    @property
    def convert(self) -> Locator:
        """The button that submits."""
        return self.button("Convert")

    @property
    def backend(self) -> Locator:
        """The menu that says where the job runs."""
        return self._page.get_by_role("combobox", name="Runs on", exact=True)

    @property
    def claim(self) -> Locator:
        """The field for a cluster's claim."""
        return self._field("Claim")

    @property
    def python_code(self) -> Locator:
        """The same as code."""
        return self._page.get_by_label("Python code", exact=True)

    def wait_until_ready(self) -> None:
        """Wait until the request was checked and can be submitted."""
        expect(self.convert).to_be_enabled()

    def job(self, name: str) -> Locator:
        """Return the row of a job."""
        return self._page.locator(".widget-hbox").filter(has=self.button(name)).last

    def wait_for_status(self, name: str, status: str) -> None:
        """Wait until a job's row says this, or that the job has ended."""
        row = self.job(name)
        expect(row).to_contain_text(re.compile("|".join({status, *ENDED})), timeout=SECONDS_TO_CONVERT * 1000)
        expect(row).to_contain_text(status)

    def wait_for_progress(self) -> None:
        """Wait until a bar shows that something was done; it may be gone a moment later."""
        condition = "() => [...document.querySelectorAll('progress')].some(bar => bar.value > 0)"
        self._page.wait_for_function(condition, timeout=SECONDS_TO_CONVERT * 1000)

    @property
    def log(self) -> Locator:
        """The log of the selected job."""
        return self._page.get_by_role("log")

    def wait_for_log(self, text: str) -> None:
        """Wait until the log has a text, and shows its last line."""
        expect(self.log).to_contain_text(text)
        is_at_end = self.log.evaluate(IS_AT_END)
        assert is_at_end, "the log follows to its end"

    # The result

    @property
    def picture(self) -> Locator:
        """The picture of a result."""
        return self._page.get_by_role("img", name=re.compile("^Picture of "))

    def wait_for_picture(self) -> None:
        """Wait until the picture has pixels."""
        expect(self.picture).to_be_visible()
        image = self.picture.element_handle()
        self._page.wait_for_function("image => image.complete && image.naturalWidth > 1", arg=image)

    @property
    def drawn_group(self) -> Locator:
        """The choice of the menu that says which group is drawn."""
        return self._page.get_by_role("combobox", name="Group", exact=True).locator("option:checked")

    @property
    def drawn_bands(self) -> Locator:
        """The field for the bands that are drawn."""
        return self._page.get_by_role("combobox", name="Bands", exact=True)

    # Anything

    def tab_to(self, place: Locator, most: int = MOST_TABS) -> None:
        """Press Tab until this has the focus; all on the way has a name, and comes in the order in which it is seen."""
        focused = self._page.locator(":focus")
        before = None
        for _ in range(most):
            self._page.keyboard.press("Tab")
            expect(focused).to_have_accessible_name(re.compile(r"\w"))
            after = _middle(focused)
            assert before is None or _is_read_before(before, after), f"the focus goes back: {focused.aria_snapshot()}"
            before = after
            if place.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"{most} times Tab do not lead to {place}")

    def button(self, name: str | re.Pattern[str]) -> Locator:
        """Return a button by its name."""
        return self._page.get_by_role("button", name=name, exact=isinstance(name, str))

    def text(self, text: str | re.Pattern[str]) -> Locator:
        """Return what says something."""
        return self._page.get_by_text(text)

    def fact(self, name: str) -> Locator:
        """Return what is said of the selected job under a name."""
        return self._page.get_by_role("term").get_by_text(name, exact=True).locator("xpath=following-sibling::dd[1]")

    def _field(self, label: str) -> Locator:
        return self._page.get_by_label(label, exact=True).and_(self._page.get_by_role("textbox"))


def _middle(element: Locator) -> tuple[float, float]:
    """Return how far right an element is, and how far down."""
    box = element.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def _is_read_before(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether one place is in a line above another's, or in the same one and to the left of it."""
    down = other[1] - one[1]
    return down > PIXELS_WITHIN_A_LINE or (abs(down) <= PIXELS_WITHIN_A_LINE and other[0] > one[0])
