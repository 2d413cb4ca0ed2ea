"""Programs that hang, flood, die by signal or are not there (reliability F37)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bundler.adapters import process
from bundler.adapters.process import Ending, run, visible_tail
from bundler.errors import LimitError, MissingToolError, ProgramError


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-c", program, *arguments]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def test_output_and_return_code_come_back() -> None:
    done = run(
        python("import sys; print(sys.stdin.read().upper()); print('bad', file=sys.stderr); sys.exit(3)"),
        timeout_s=20,
        input=b"hello",
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"HELLO\n", b"bad\n")


def test_input_larger_than_a_pipe_goes_through() -> None:
    done = run(
        python("import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d)"),
        timeout_s=20,
        input=b"x" * (3 << 20),
    )
    assert done.stdout == b"x" * (3 << 20)


def test_a_program_that_reads_no_input_is_no_error() -> None:
    assert run(python("pass"), timeout_s=20, input=b"x" * (3 << 20)).returncode == 0


def test_the_environment_is_only_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "hunter2")
    program = "import os; print(sorted(k for k in os.environ if k != 'LC_CTYPE'))"
    assert run(python(program), timeout_s=20).stdout == b"['LANG', 'PATH']\n"
    assert run(python(program), timeout_s=20, env={"ONLY": "1"}).stdout == b"['ONLY']\n"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(MissingToolError, match="no-such-program-here: is not installed"):
        run(["no-such-program-here"], timeout_s=5)


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "helm").write_bytes(b"\x00not a program")
    with pytest.raises(MissingToolError, match="helm: cannot be run: Permission denied"):
        run([str(tmp_path / "helm")], timeout_s=5)
    (tmp_path / "helm").chmod(0o755)
    with pytest.raises(MissingToolError, match="helm: cannot be run: Exec format error"):
        run([str(tmp_path / "helm")], timeout_s=5)


def test_a_hanging_program_and_its_children_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.3)
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "deaf = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', deaf])\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
        "print('\\x1b[31mstuck\\x1b[0m', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ProgramError, match=r"did not end within 1 s and was stopped: stuck$"):
        run(python(program, str(tmp_path / "pid")), timeout_s=1)
    child = int((tmp_path / "pid").read_text())
    assert ends_soon(child)


def test_a_program_gets_a_moment_to_end_in_order(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        "    open(sys.argv[1], 'w').write('in order')\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ProgramError):
        run(python(program, str(tmp_path / "end")), timeout_s=1)
    assert (tmp_path / "end").read_text() == "in order"


def test_what_a_program_leaves_behind_does_not_hold_us(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)\n"
    )
    started = time.monotonic()
    done = run(python(program), timeout_s=30)
    assert time.monotonic() - started < 10
    assert ends_soon(int(done.stdout))


def test_a_long_run_is_told_about_once_a_second() -> None:
    told: list[float] = []
    run(python("import time; time.sleep(2.5)"), timeout_s=20, tick=told.append)
    assert [round(elapsed_s) for elapsed_s in told] == [1, 2]


def test_a_flood_is_stopped() -> None:
    with pytest.raises(LimitError, match="wrote more than 100000 bytes"):
        run(python("while True: print('x' * 1000)"), timeout_s=20, max_output_bytes=100_000)


def test_memory_is_bounded() -> None:
    done = run(python("input(); x = bytearray(1 << 30)"), timeout_s=20, input=b"\n", max_memory_bytes=256 << 20)
    assert done.returncode != 0
    assert "MemoryError" in done.tail


def test_death_by_signal_is_told() -> None:
    done = run(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), timeout_s=20)
    assert str(done.error("chart x")).endswith("was killed by signal 9: it said nothing")


def test_an_interrupt_kills_the_group(tmp_path: Path) -> None:
    program = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    pid_file = tmp_path / "pid"

    def interrupt_once_it_runs() -> None:
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt_once_it_runs)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        run(python(program, str(pid_file)), timeout_s=30)
    watcher.join()
    assert ends_soon(int(pid_file.read_text()))


def test_an_interrupt_while_a_program_starts_stops_that_program(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(python("import time; time.sleep(60)"), timeout_s=30)
    assert ends_soon(started[0])


def test_an_interrupt_while_a_program_that_is_missing_starts_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def __init__(self, *_: Any, **__: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            raise FileNotFoundError

    monkeypatch.setattr(subprocess, "Popen", Missing)
    with pytest.raises(KeyboardInterrupt):
        run(["/nowhere"], timeout_s=30)


def test_tail_is_short_and_cannot_move_a_cursor() -> None:
    output = b"a" * 5000 + b"\n\x1b[2J\x1b]0;title\x07one\x00\r\n\xfftwo \xe2\x80\xaethree\n"
    tail = visible_tail(output)
    assert tail.endswith("a | one | \ufffdtwo  three")
    assert tail.isprintable()
    assert len(tail) <= process.TAIL_CHARACTERS + 1


def test_lines_are_told_when_they_are_whole() -> None:
    told: list[bytes] = []
    program = "import time\nfor n in range(3): print('line', n, flush=True); time.sleep(0.3)\nprint('rest', end='')"
    seen_at: list[float] = []

    def hear(line: bytes) -> None:
        told.append(line)
        seen_at.append(time.monotonic())

    done = run(python(program), timeout_s=20, on_line=hear)
    assert told == [b"line 0", b"line 1", b"line 2"]
    assert done.stdout == b"line 0\nline 1\nline 2\nrest"
    assert seen_at[2] - seen_at[0] > 0.3, "while it runs, not at its end"


def test_a_listener_that_fails_stops_the_program(tmp_path: Path) -> None:
    def hear(line: bytes) -> None:
        raise ValueError(line.decode())

    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(ValueError, match=r"\d+") as caught:
        run(python(program), timeout_s=30, on_line=hear)
    assert ends_soon(int(str(caught.value)))


STOPPED_IN_ORDER = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])
def stop(*_):
    time.sleep(1)
    for _ in range(2000): os.write(1, b'cleaning up' * 50 + b'\\n')
    with open(sys.argv[1], 'w') as file: file.write(f'{child.poll()}')
    child.kill()
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
os.write(1, b'ready\\n')
time.sleep(60)
"""


def test_a_program_that_ends_its_children_itself_is_asked_alone_and_read_until_it_has_ended(tmp_path: Path) -> None:
    """Packer does: its builders clean up in AWS, and would stop half-way on a signal of their own."""

    def hear(line: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            python(STOPPED_IN_ORDER, str(tmp_path / "end")),
            timeout_s=30,
            on_line=hear,
            ending=Ending(grace_s=20, leader_only=True),
            max_output_bytes=200_000,
        )
    assert (tmp_path / "end").read_text() == "None", "the child was left to it"
