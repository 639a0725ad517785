"""A real browser without a window: Chromium over its debugging pipe (Chrome DevTools Protocol), with a profile of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from harness.host import apt
from tests.waiting import HANG

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)  # fmt: skip


def program() -> str:
    """A browser of this machine; Debian's is installed where there is none."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        apt.ensure("chromium", "chromium")
        found = "chromium"
    return found


class Browser:
    """One page of a browser. ``messages`` are errors and warnings of its console, and requests that failed."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._commands = commands
        self._answers = answers
        self._waiting = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self._session = ""
        created = self._call("Target.createTarget", url="about:blank")
        self._session = self._call("Target.attachToTarget", targetId=created["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self._events.clear()
        answer = self._call("Page.navigate", url=address)
        assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._receive()

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Take the size of another screen, and its colours."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def script(self, *, enabled: bool) -> None:
        """Allow scripts of pages, or not."""
        self._call("Emulation.setScriptExecutionDisabled", value=not enabled)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. The page's policy does not bind the debugger."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def violations(self) -> list[str]:
        """Barriers for people that axe-core finds in the page: the rule, and an element that breaks it."""
        self.evaluate(resources.files("axe_core_python").joinpath("axe.min.js").read_text())
        result = self.evaluate("axe.run(document).then(({violations, passes}) => ({violations, passes: passes.length}))")
        assert result["passes"] > 10, "axe has read nothing"
        return [f"{one['id']}: {one['nodes'][0]['html'][:300]}" for one in result["violations"]]

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field, as a person does."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self._call("Input.insertText", text=text)

    def clipboard(self, *, granted: bool) -> None:
        """Let pages write to the clipboard, or deny it."""
        self._call("Emulation.setFocusEmulationEnabled", enabled=True)
        for name in ("clipboard-read", "clipboard-write"):
            self._call("Browser.setPermission", permission={"name": name}, setting="granted" if granted else "denied")

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what is to be seen as PNG."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        value = {"id": number, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        self._commands.write(json.dumps(value).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._answers], [], [], HANG)
            assert ready, "the browser does not answer"
            data = os.read(self._answers.fileno(), 1 << 20)
            assert data, "the browser has ended"
            self._waiting += data
        text, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.messages.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.messages.append(str(parameters["args"]))
        elif method == "Network.loadingFailed":
            self.messages.append(f"a request failed: {parameters['errorText']}")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A running browser with a new profile below ``folder``."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # The protocol is spoken on the descriptors 3 and 4.
    script = f'exec 3<&{to_browser[0]} 4>&{from_browser[1]}; exec "$0" "$@"'
    argv = ["/bin/bash", "-c", script, program(), *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
    with (folder / "browser.log").open("wb") as log, contextlib.ExitStack() as stack:
        process = subprocess.Popen(argv, pass_fds=(to_browser[0], from_browser[1]), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait, HANG)
        stack.callback(process.kill)
        os.close(to_browser[0])
        os.close(from_browser[1])
        commands = stack.enter_context(os.fdopen(to_browser[1], "wb"))
        answers = stack.enter_context(os.fdopen(from_browser[0], "rb", buffering=0))
        yield Browser(commands, answers)
