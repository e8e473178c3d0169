"""Where log lines go: together where many are said at once, at once where it matters."""

import asyncio
import io
import threading

from shared.logs import Lines


class Writes(io.RawIOBase):
    """A file that remembers each write that reached it."""

    def __init__(self) -> None:
        self.made: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.made.append(bytes(data))  # type: ignore[call-overload]
        return len(self.made[-1])


def test_lines_of_one_turn_leave_in_one_write_and_those_of_the_next_in_another() -> None:
    file = Writes()
    lines = Lines(io.BufferedWriter(file))

    async def two_turns() -> None:
        lines.info(b"one")
        lines.info(b"two")
        assert file.made == []
        await asyncio.sleep(0)
        assert file.made == [b"one\ntwo\n"]
        lines.info(b"three")
        await asyncio.sleep(0)

    asyncio.run(two_turns())
    assert file.made == [b"one\ntwo\n", b"three\n"]


def test_what_is_urgent_leaves_at_once_with_all_before_it() -> None:
    file = Writes()
    lines = Lines(io.BufferedWriter(file))

    async def turn() -> None:
        lines.info(b"call")
        lines.critical(b"an invariant is broken")
        assert file.made == [b"call\nan invariant is broken\n"]

    asyncio.run(turn())
    assert len(file.made) == 1


def test_outside_of_a_loop_each_line_leaves_at_once() -> None:
    file = Writes()
    lines = Lines(io.BufferedWriter(file))
    lines.info(b"one")
    thread = threading.Thread(target=lines.info, args=(b"two",))
    thread.start()
    thread.join()
    assert file.made == [b"one\n", b"two\n"]


def test_a_loop_that_ended_before_its_lines_left_keeps_no_later_line_back() -> None:
    file = Writes()
    lines = Lines(io.BufferedWriter(file))
    ended = asyncio.new_event_loop()

    def say_and_stop() -> None:
        lines.info(b"one")
        ended.stop()

    ended.call_soon(say_and_stop)
    ended.run_forever()
    ended.close()

    async def later() -> None:
        lines.info(b"two")
        await asyncio.sleep(0)

    asyncio.run(later())
    assert b"".join(file.made) == b"one\ntwo\n"
