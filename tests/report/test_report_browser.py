"""The report's page in a browser that has no network: sorting, filtering, enlarging, printing, and hostile text."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from finished_run import Drawn, Where, write_run
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from stages.report import main

pytestmark = pytest.mark.slow

SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
HOSTILE_FILE = "<img src=x onerror=document.title='run'>.png"
HOSTILE_LABEL = "\"><script>document.title='run'</script>"


def box(top: int, left: int, height: int, width: int) -> Where:
    return slice(top, top + height), slice(left, left + width)


# Dice by hand: 0.5, 0.8, 1, 0, and none for the empty ones. Annotated areas: 100, 120, 16, 60 pixels of 1200.
HALF = Drawn("set/a10.png", "benign", box(5, 5, 10, 10), box(5, 10, 10, 10), uncertainty=0.3)
MOST = Drawn("set/a9.png", "malignant", box(5, 5, 10, 12), box(5, 5, 10, 8), uncertainty=0.1)
WHOLE = Drawn(HOSTILE_FILE, HOSTILE_LABEL, box(20, 20, 4, 4), box(20, 20, 4, 4), uncertainty=0.05)
MISSED = Drawn("set/b1.png", "malignant", box(2, 2, 6, 10), None, uncertainty=0.2)
FALSE = Drawn("set/n1.png", "normal", None, box(5, 5, 3, 3), uncertainty=0.4)
CLEAN = Drawn("set/n2.png", "normal", None, None)
IMAGES = (HALF, MOST, WHOLE, MISSED, FALSE, CLEAN)
WORST_FIRST = [image.file for image in (MISSED, HALF, MOST, WHOLE, FALSE, CLEAN)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    run = write_run(folder / "run", images=IMAGES)
    main(*[*run.paths(), folder / "report.html", folder / "report.md", folder])
    return folder / "report.html"


@pytest.fixture(scope="module")
def started() -> Iterator[webdriver.Chrome]:
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; Debian's packages chromium and chromium-driver have them")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=programs["chromedriver"]))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture
def browser(started: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    """The page, just opened from disk at 1200 x 900; whatever a test does there must bring no error."""
    set_size(started, 1200, 900)
    log_of(started, "browser")
    started.get(page.as_uri())
    yield started
    assert log_of(started, "browser") == []
    assert started.title == "U-Net on BUSI breast ultrasound: report of the run first"  # what hostile text would change


def log_of(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What the browser has logged since it was last asked."""
    read: Callable[[str], Any] = driver.get_log
    return list(read(kind))


def set_size(driver: webdriver.Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def shown(driver: webdriver.Chrome) -> list[str | None]:
    cards = driver.find_elements(By.CSS_SELECTOR, ".case")
    return [card.get_dom_attribute("data-file") for card in cards if card.is_displayed()]


def field(driver: webdriver.Chrome, name: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, f"#controls [name={name}]")


def sort_by(driver: webdriver.Chrome, key: str) -> None:
    Select(field(driver, "sort")).select_by_value(key)


def enlarge(driver: webdriver.Chrome, file: str) -> WebElement:
    """Click on an image; gives the dialog."""
    cards = driver.find_elements(By.CSS_SELECTOR, ".case")
    card = next(card for card in cards if card.get_dom_attribute("data-file") == file)
    card.find_element(By.TAG_NAME, "button").click()
    return driver.find_element(By.ID, "viewer")


def press(driver: webdriver.Chrome, key: str) -> None:
    ActionChains(driver).send_keys(key).perform()


def name_of(dialog: WebElement) -> str:
    return dialog.find_element(By.ID, "viewer-name").text


def test_it_opens_from_disk_and_asks_for_nothing_else(started: webdriver.Chrome, page: Path) -> None:
    started.get("about:blank")
    log_of(started, "performance")
    started.get(page.as_uri())
    enlarge(started, HALF.file)
    messages = [json.loads(entry["message"])["message"] for entry in log_of(started, "performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    addresses = [message["params"]["request"]["url"] for message in sent]
    assert addresses.count(page.as_uri()) == 1
    assert {address[:11] for address in addresses if address != page.as_uri()} <= {"data:image/"}


def test_all_images_are_drawn_worst_first(browser: webdriver.Chrome) -> None:
    assert shown(browser) == WORST_FIRST
    sizes = browser.execute_script("return [...document.images].map((image) => [image.complete, image.naturalWidth])")
    assert all(complete and width > 0 for complete, width in sizes)
    assert browser.find_element(By.ID, "shown").text == "6 of 6 shown"


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("dice", WORST_FIRST),
        ("missed", [MISSED, HALF, MOST, WHOLE, FALSE, CLEAN]),
        ("false", [HALF, FALSE, MISSED, MOST, WHOLE, CLEAN]),
        ("hd95", [MISSED, HALF, MOST, WHOLE, FALSE, CLEAN]),
        ("uncertainty", [FALSE, HALF, MISSED, MOST, WHOLE, CLEAN]),
        ("annotated", [FALSE, CLEAN, WHOLE, MISSED, HALF, MOST]),
        ("size-rank", [MISSED, WHOLE, HALF, MOST, FALSE, CLEAN]),
        ("label", [WHOLE, HALF, MISSED, MOST, FALSE, CLEAN]),
        ("file", [WHOLE, MOST, HALF, MISSED, FALSE, CLEAN]),
    ],
)
def test_each_key_sorts(browser: webdriver.Chrome, key: str, order: list[Any]) -> None:
    sort_by(browser, key)
    assert shown(browser) == [image if isinstance(image, str) else image.file for image in order]


def test_reversed_the_best_come_first_and_those_without_a_dice_stay_last(browser: webdriver.Chrome) -> None:
    field(browser, "reverse").click()
    assert shown(browser) == [image.file for image in (WHOLE, MOST, HALF, MISSED, FALSE, CLEAN)]


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("label", "=malignant", [MISSED, MOST]),
        ("label", f"={HOSTILE_LABEL}", [WHOLE]),
        ("size", "small", [MISSED, WHOLE]),
        ("size", "empty", [FALSE, CLEAN]),
        ("most", "0.8", [MISSED, HALF, MOST]),
        ("least", "0.5", [HALF, MOST, WHOLE]),
        ("errors", True, [MISSED, HALF, FALSE]),
        ("text", "SET/A", [HALF, MOST]),
        ("text", "<img", [WHOLE]),
        ("text", "nowhere", []),
    ],
)
def test_each_condition_filters(browser: webdriver.Chrome, name: str, value: Any, left: list[Drawn]) -> None:
    control = field(browser, name)
    if control.tag_name == "select":
        next(option for option in Select(control).options if option.get_dom_attribute("value") == value).click()
    elif value is True:
        control.click()
    else:
        control.clear()
        control.send_keys(value)
    assert shown(browser) == [image.file for image in left]
    assert browser.find_element(By.ID, "shown").text == f"{len(left)} of 6 shown"
    assert browser.find_element(By.ID, "none").is_displayed() == (not left)
    browser.find_element(By.CSS_SELECTOR, "#controls [type=reset]").click()
    assert shown(browser) == WORST_FIRST


def test_conditions_join_and_keep_the_order(browser: webdriver.Chrome) -> None:
    sort_by(browser, "file")
    Select(field(browser, "label")).select_by_value("=malignant")
    field(browser, "errors").click()
    assert shown(browser) == [MISSED.file]


def test_a_click_enlarges_an_image_with_its_outlines_and_scores(browser: webdriver.Chrome) -> None:
    small = browser.find_element(By.CSS_SELECTOR, ".case .frame").size["width"]
    dialog = enlarge(browser, HALF.file)
    assert name_of(dialog) == HALF.file
    scores = " ".join(dialog.find_element(By.ID, "scores").text.split())
    assert "Dice 0.500 IoU 0.333" in scores
    assert "Uncertainty 0.300" in scores
    stage = dialog.find_element(By.CSS_SELECTOR, "#stage .frame")
    assert stage.size["width"] > 3 * small
    dialog.find_element(By.ID, "close").click()
    assert not dialog.is_displayed()


def test_outlines_and_uncertainty_can_be_put_on_and_off(browser: webdriver.Chrome) -> None:
    dialog = enlarge(browser, HALF.file)
    layers = {
        name: dialog.find_element(By.CSS_SELECTOR, f"#stage .{name}") for name in ("truth", "found", "uncertainty")
    }
    assert {name: layer.is_displayed() for name, layer in layers.items()} == {
        "truth": True,
        "found": True,
        "uncertainty": False,
    }
    for name, layer in layers.items():
        before = layer.is_displayed()
        dialog.find_element(By.ID, f"show-{name}").click()
        assert layer.is_displayed() != before


def test_the_keyboard_enlarges_steps_and_closes(browser: webdriver.Chrome) -> None:
    browser.find_element(By.CSS_SELECTOR, ".case button").send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "viewer")
    names = [name_of(dialog)]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_LEFT):
        press(browser, key)
        names.append(name_of(dialog))
    assert names == [WORST_FIRST[place] for place in (0, 1, 2, 1, 0, -1)]
    assert dialog.find_element(By.ID, "place").text == "6 of 6"
    press(browser, Keys.ESCAPE)
    assert not dialog.is_displayed()
    focused = browser.switch_to.active_element
    assert focused.accessible_name == f"Enlarge {WORST_FIRST[-1]}"


def test_steps_go_through_the_shown_images_alone(browser: webdriver.Chrome) -> None:
    Select(field(browser, "label")).select_by_value("=malignant")
    dialog = enlarge(browser, MISSED.file)
    dialog.find_element(By.ID, "next").click()
    assert name_of(dialog) == MOST.file
    dialog.find_element(By.ID, "next").click()
    assert name_of(dialog) == MISSED.file
    dialog.find_element(By.ID, "previous").click()
    assert dialog.find_element(By.ID, "place").text == "2 of 2"


def test_hostile_names_and_labels_are_shown_as_text(browser: webdriver.Chrome) -> None:
    dialog = enlarge(browser, WHOLE.file)
    assert name_of(dialog) == HOSTILE_FILE
    assert HOSTILE_LABEL in dialog.find_element(By.ID, "scores").text
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.querySelectorAll('[onerror]').length") == 0


def test_a_script_that_got_into_the_page_would_not_run(started: webdriver.Chrome, page: Path) -> None:
    bad = page.with_name("bad.html")
    text = page.read_text(encoding="utf-8")
    bad.write_text(text.replace("<main>", "<main><script>document.title='run'</script>"), encoding="utf-8")
    started.get(bad.as_uri())
    assert started.title != "run"
    assert any("Content Security Policy" in entry["message"] for entry in log_of(started, "browser"))


@pytest.mark.parametrize("opened", [False, True])
def test_nothing_scrolls_sideways_on_a_telephone(browser: webdriver.Chrome, opened: bool) -> None:
    set_size(browser, 400, 800)
    if opened:
        enlarge(browser, HALF.file)
        assert browser.find_element(By.CSS_SELECTOR, "#stage .frame").size["width"] > 300
    wide = browser.execute_script("return [document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(wide) <= 400


def test_without_a_script_all_images_and_scores_are_there(started: webdriver.Chrome, page: Path) -> None:
    started.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        started.get(page.as_uri())
        assert shown(started) == WORST_FIRST
        assert "Dice 0.500" in " ".join(started.find_element(By.ID, "gallery").text.split())
        assert not started.find_element(By.ID, "controls").is_displayed()
    finally:
        started.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_dark_mode_is_dark(browser: webdriver.Chrome) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        colours[scheme] = sum(int(part) for part in re.findall(r"\d+", colour)[:3])
    assert colours["light"] > 700
    assert colours["dark"] < 150
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_printed_it_is_pages_with_the_images_and_without_the_controls(browser: webdriver.Chrome) -> None:
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pdf = base64.b64decode(printed["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
    assert len(re.findall(rb"/Subtype\s*/Image\b", pdf)) >= len(IMAGES)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element(By.ID, "controls").is_displayed()
    assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
    assert shown(browser) == WORST_FIRST
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
