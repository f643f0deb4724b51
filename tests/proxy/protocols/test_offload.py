"""Work on large bodies in threads of its own."""

import pytest

from clara_proxy.compression import memo
from clara_proxy.proxy.protocols import offload


@pytest.mark.parametrize("work", [offload.INLINE_BYTES, offload.INLINE_BYTES + 1])
async def test_work_belongs_to_the_owner_of_the_request(work: int) -> None:
    memo.owner.set("owner")
    assert await offload.run_for(work, memo.owner.get) == "owner"
