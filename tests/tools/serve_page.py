"""The status page in a headless Chromium: a model is tried through the form, as a person would.

python tests/tools/serve_page.py --screenshot page.png     (Debian: chromium, chromium-driver; pip: selenium)
"""

import argparse
import json
import threading
import time

import _helpers  # noqa: F401
import numpy as np
import tritonclient.http as triton
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from served import models, running

import rnncore
from rnncore import zoo


def browser():
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1500"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def ask_for_a_while(address, x, stop):
    """Load, so that there are rates to see."""
    with triton.InferenceServerClient(address) as client:
        given = triton.InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x)
        while not stop.is_set():
            client.infer("sunspots", [given])


def try_model(driver, wait, name, shape, data):
    """Fills the form and runs it; returns what the page shows of each output."""
    section = driver.find_element(By.CSS_SELECTOR, f'section[data-model="{name}"]')
    if section.find_element(By.CSS_SELECTOR, ".try").get_attribute("open") is None:
        section.find_element(By.TAG_NAME, "summary").click()
    for field, value in ((".shape", json.dumps(shape)), (".data", json.dumps(data))):
        place = section.find_element(By.CSS_SELECTOR, field)
        place.clear()
        place.send_keys(value)
    section.find_element(By.CSS_SELECTOR, "form > button").click()
    wait.until(lambda _: section.find_elements(By.CSS_SELECTOR, ".answers pre, .error:not([hidden])"))
    error = section.find_element(By.CSS_SELECTOR, ".error").text
    shown = [place.text for place in section.find_elements(By.CSS_SELECTOR, ".answers pre")]
    return shown, error, len(section.find_elements(By.TAG_NAME, "polyline"))


def run(screenshot):
    sunspots = rnncore.load("zoo:sunspots")
    _, numbers = zoo.sunspots_data()
    x = numbers[None, -60:, None]
    stop = threading.Event()
    with running({"sunspots": sunspots, **models()}) as address:
        load = threading.Thread(target=ask_for_a_while, args=(address, x, stop))
        load.start()
        driver = browser()
        try:
            wait = WebDriverWait(driver, 20)
            driver.get(f"http://{address}/")
            wait.until(lambda _: len(driver.find_elements(By.CSS_SELECTOR, ".model")) == 5)
            shown, error, lines = try_model(driver, wait, "sunspots", list(x.shape), x.ravel().round(1).tolist())
            expected = sunspots(x.round(1)).ravel()
            assert not error and lines == 1, (error, lines)
            assert np.array_equal(np.array(shown[0].split(", "), np.float32), expected), shown
            _, error, _ = try_model(driver, wait, "reader", [1, 2], [1, 400])
            assert "expected 0 to 29" in error, error
            wait.until(lambda _: rate_of(driver) > 0)
            time.sleep(1.2)
            driver.execute_script("scrollTo(0, 0)")
            driver.save_screenshot(screenshot)
            severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
            assert all("400" in entry["message"] for entry in severe), severe  # the refused request, and nothing else
        finally:
            stop.set()
            load.join()
            driver.quit()
    with running({"sunspots": sunspots}, tokens=["a-token-of-the-page"]) as address:
        driver = browser()
        try:
            wait = WebDriverWait(driver, 20)
            driver.get(f"http://{address}/")
            wait.until(lambda _: driver.find_element(By.ID, "login").is_displayed())
            driver.find_element(By.ID, "token").send_keys("a-token-of-the-page")
            driver.find_element(By.CSS_SELECTOR, "#login button").click()
            wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, ".model"))
            shown, error, _ = try_model(driver, wait, "sunspots", [1, 2, 1], [10, 20])
            assert len(shown) == 1 and not error, error
        finally:
            driver.quit()
    print(f"the page works; {screenshot}")


def rate_of(driver):
    text = driver.find_element(By.CSS_SELECTOR, 'section[data-model="sunspots"] dd').text.replace(",", "")
    return float(text) if text[:1].isdigit() else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshot", default="page.png")
    run(parser.parse_args().screenshot)
