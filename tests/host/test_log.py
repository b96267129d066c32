"""Lines of log that are written a little later."""

import asyncio

from jitsu.host.log import Late
from jitsu.testing import clock


def test_lines_are_written_in_their_order_and_none_is_lost() -> None:
    async def main() -> None:
        written: list[int] = []
        late = Late()
        late.write(lambda: written.append(1))
        late.write(lambda: written.append(2))
        assert written == []
        await asyncio.sleep(1.0)  # of simulated time
        assert written == [1, 2]
        late.write(lambda: written.append(3))
        late.write(lambda: written.append(4))
        late.flush()
        assert written == [1, 2, 3, 4]
        await asyncio.sleep(1.0)
        assert written == [1, 2, 3, 4], "once"

    clock.run(main())
