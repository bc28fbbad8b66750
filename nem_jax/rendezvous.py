"""Processes that nobody started together meet at one of them, before JAX connects them: it would end all without a
sentence if one stayed away.
"""

import contextlib
import socket
import time

_GO, _ANSWER_SECONDS = b"go", 10


def await_others(port: int, num_processes: int, timeout: int) -> None:
    """As process 0, which listens on `port`: let all go on once each has told its number.

    Raises:
        ValueError: it cannot listen there, or some did not come within `timeout` seconds; the sentence names them.
    """
    deadline, present = time.monotonic() + timeout, dict[int, socket.socket]()
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with contextlib.ExitStack() as opened:
        try:
            server = socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)
        except OSError as error:
            raise ValueError(f"--coordinator: process 0 cannot listen on port {port}: {error.strerror}") from error
        opened.enter_context(server)
        while len(present) < num_processes - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection = opened.enter_context(server.accept()[0])
            except TimeoutError as error:
                missing = sorted(set(range(1, num_processes)) - _waiting(present).keys())
                raise ValueError(f"--num_processes: processes {missing} did not come within {timeout} s") from error
            told = _receive(connection)
            if told.isdigit() and 0 < int(told) < num_processes:
                present[int(told)] = connection  # one that was started again takes its own place
            else:
                connection.close()
            present = _waiting(present)
        for connection in present.values():
            with contextlib.suppress(OSError):
                connection.sendall(_GO)


def _waiting(present: dict[int, socket.socket]) -> dict[int, socket.socket]:
    """Those that have not hung up; they say nothing more."""
    return {number: connection for number, connection in present.items() if not _has_hung_up(connection)}


def _has_hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _receive(connection: socket.socket) -> bytes:
    """What a caller says, nothing if it is silent or gone."""
    connection.settimeout(_ANSWER_SECONDS)
    try:
        return connection.recv(16)
    except OSError:
        return b""


def await_main(address: tuple[str, int], process_id: int, timeout: int) -> None:
    """As any other process: wait until process 0, at `address`, lets all go on.

    Raises:
        ValueError: it has not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=1) as connection:
                connection.sendall(str(process_id).encode())
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                if connection.recv(len(_GO)) == _GO:
                    return
        except OSError:
            pass  # not yet
        time.sleep(0.2)
    host, port = address
    raise ValueError(f"--coordinator: {host}:{port} does not answer within {timeout} s: is process 0 running there?")
