"""A headless Chromium, driven through its DevTools pipe; nothing but the standard library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
WAIT = 60  # seconds for one answer


class Browser:
    """One browser with one tab.

    Attributes:
        events: what the browser said unasked: errors of scripts, requests.
    """

    def __init__(self):
        given = os.environ.get("RANKJAX_BROWSER")
        found = given or next((path for path in map(shutil.which, NAMES) if path), None)
        if found is None:
            pytest.skip(f"none of {NAMES} is installed; RANKJAX_BROWSER may name one")
        self.events, self._rest, self._ids = [], b"", itertools.count(1)
        self._session, self._folder = None, tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        fixed = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", fixed, "bash", found, "--headless", "--no-sandbox", "--no-zygote",
             "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
             f"--user-data-dir={self._folder.name}"],
            pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def close(self):
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def __call__(self, method, **params):
        """The answer to one command of the protocol."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _message(self):
        until = time.monotonic() + WAIT
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._in, 2**16)
            assert more, "the browser has gone"
            self._rest += more
        first, self._rest = self._rest.split(b"\0", 1)
        return json.loads(first)

    def open(self, page: Path, *, width: int, dark: bool = False):
        """Show a file in a window of this width and this color scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
             mobile=width < 600)  # fmt: skip
        self.events.clear()
        self("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + WAIT
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until
            self.events.append(self._message())

    def run(self, expression: str):
        """The value of an expression of JavaScript."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self):
        """Errors of scripts, and what the policy of the page refused."""
        bad = {"Log.entryAdded", "Runtime.exceptionThrown"}
        return [event for event in self.events if event.get("method") in bad]

    def picture(self) -> bytes:
        """The whole page, as PNG."""
        found = self("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])
