"""Open report pages in an installed Chromium and find layout faults."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PAPER = (718, 1000)  # A4 at 96 dots per inch, minus the browser's print margins

# Returns {check: [fault, …]}; all lists should be empty.
LOOK = """() => {
  const width = document.documentElement.clientWidth;
  const name = node => `${node.nodeName} "${node.textContent.trim().slice(0, 40)}"`;
  const box = node => node.getBoundingClientRect();
  const rgba = text => {
    const parts = (text.match(/[\\d.]+(e-?\\d+)?/g) || [0, 0, 0, 0]).map(Number);
    return [...parts.slice(0, 3), parts.length > 3 ? parts[3] : 1];
  };
  const over = (front, back) => [0, 1, 2].map(i => front[3] * front[i] + (1 - front[3]) * back[i]);
  const light = colour => {
    const linear = colour.slice(0, 3).map(value => value / 255).map(
      value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const background = node => node === null
    ? (matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255])
    : over(rgba(getComputedStyle(node).backgroundColor), background(node.parentElement));
  const contrast = node => {
    const style = getComputedStyle(node), back = background(node);
    const front = over(rgba(node.closest("svg") ? style.fill : style.color), back);
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = {overflow: [], charts: [], hidden: [], faint: []};

  // Elements that stick out of the page and are not in a box that scrolls.
  if (document.documentElement.scrollWidth > width) {
    const all = [...document.body.querySelectorAll("*")];
    const wide = all.filter(node => box(node).right > width + 1);
    found.overflow = [`page ${document.documentElement.scrollWidth} > ${width}`,
                      ...wide.map(name).slice(0, 5)];
  }
  for (const svg of document.querySelectorAll("svg")) {
    const frame = box(svg);
    if (frame.width < 50 || frame.height < 50) found.charts.push(`svg of ${frame.width} px`);
    const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim());
    for (const text of texts) {
      const own = box(text);
      if (own.left < frame.left - 2 || own.right > frame.right + 2 ||
          own.top < frame.top - 2 || own.bottom > frame.bottom + 2)
        found.charts.push(`${name(text)} sticks out of "${svg.getAttribute("aria-label")}"`);
    }
    texts.forEach((one, place) => texts.slice(place + 1).forEach(other => {
      const [a, b] = [box(one), box(other)];
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      const smaller = Math.min(a.width * a.height, b.width * b.height);
      if (across > 0 && down > 0 && across * down > 0.2 * smaller)
        found.charts.push(`${name(one)} lies on ${name(other)}`);
    }));
  }
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || node.closest("style, script, title, desc, defs, .zero"))
      continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const shown = [...range.getClientRects()].some(rect => rect.width > 0 && rect.height > 0);
    if (!shown || !node.checkVisibility({visibilityProperty: true, opacityProperty: true}))
      found.hidden.push(name(node));
    else if (contrast(node) < 3) found.faint.push(`${name(node)} ${contrast(node).toFixed(2)}`);
  }
  return found;
}"""


def find_browser() -> str | None:
    """Return the path of a working Chromium, or None."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            # Some systems have a stub that only prints how to install the browser.
            started = subprocess.run([path, "--version"], capture_output=True, timeout=60)
            if started.returncode == 0:
                return path
    return None


@contextmanager
def open_browser() -> Iterator[Any]:
    """Open a headless browser; skip the test if Chromium or playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, path: Path, width: int, **options: Any) -> Iterator[Any]:
    """Open a page in a new window; errors and requests of the page fail the test.

    Args:
        browser: The result of :func:`open_browser`.
        path: The HTML file.
        width: Width of the window in CSS pixels.
        options: Options of playwright's ``new_context``, such as ``color_scheme="dark"``.
    """
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    try:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        outside = [url for url in asked if not url.startswith("data:")]
        assert outside == [path.as_uri()]
        assert complaints == []
    finally:
        context.close()


def look(page: Any) -> dict[str, list[str]]:
    """Find faults in the page's layout: ``overflow``, ``charts``, ``hidden``, ``faint``."""
    found: dict[str, list[str]] = page.evaluate(LOOK)
    return {name: faults for name, faults in found.items() if faults}
