"""A browser that tests drive, over the pipe of the Chrome DevTools protocol."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


PATIENCE = 60  # seconds for one answer: the machine may be busy


def executable():
    """Where a browser is; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. requests: what it asked for; complaints: what stands in its console, and what was thrown."""

    def __init__(self, profile):
        # The browser reads commands from its file 3 and answers on its file 4.
        (theirs, commands), (answers, back) = os.pipe(), os.pipe()
        theirs, back = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs, back))
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        command = f'exec "$0" "$@" 3<&{theirs} 4>&{back}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, executable(), *flags, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs, back),
            start_new_session=True,
        )
        os.close(theirs)
        os.close(back)
        self.commands, self.answers = commands, answers
        self.rest, self.number, self.session = b"", 0, None
        self.requests, self.complaints, self.loaded = [], [], 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Give a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.hear()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def hear(self):
        """The next message; events are taken note of."""
        ends = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0, ends - time.monotonic()))
            assert ready, f"no answer from the browser in {PATIENCE} s"
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        content = json.loads(message)
        params = content.get("params", {})
        match content.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(params)
            case "Page.loadEventFired":
                self.loaded += 1
        return content

    def open(self, address, *, width=1400, height=900, dark=False, scripts=True):
        """Load a page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.requests, self.complaints, before = [], [], self.loaded
        self.call("Page.navigate", url="about:blank")
        while self.loaded == before:
            self.hear()
        self.requests, before = [], self.loaded
        self.call("Page.navigate", url=str(address))
        while self.loaded == before:
            self.hear()

    def ask(self, expression):
        """What a JavaScript expression comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, element):
        """Press and let go of the mouse on what an expression gives."""
        self.ask(f"({element}).scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}})")
        x, y = self.ask(f"(r => [r.x + r.width / 2, r.y + r.height / 2])(({element}).getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key, code=0):
        """Press and let go of a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def close(self):
        """End it."""
        for end in (self.commands, self.answers):  # it ends with its pipe
            os.close(end)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
