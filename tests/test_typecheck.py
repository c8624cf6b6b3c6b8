"""The checker of the tests finds what it is for, in functions at the top of a file and within
others, and calls the function that is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import typecheck
from jaxtyping import Float
from torch import Tensor

checked = typecheck.late(typechecker=typecheck.check)


@checked
def top(x: Float[Tensor, "B D"], y: Float[Tensor, " B"], n: int = 1) -> Float[Tensor, " B"]:
    return x.sum(1) + y if n == 1 else y[:n]


def outer(step: float) -> tuple[Callable[..., Tensor], Callable[..., float]]:
    @checked
    def shaped(x: Float[Tensor, "B D"], y: Float[Tensor, " B"], n: int = 1) -> Float[Tensor, " B"]:
        return top(x, y) + step if n == 1 else y[:n]

    @checked
    def plain(x: float, *rest: float, deep: int = 0, **more: float) -> float:
        return plain(x + step, *rest, deep=deep - 1, **more) if deep else x + sum(more.values())

    return shaped, plain


@pytest.mark.parametrize("function", [top, outer(0.0)[0]])
def test_a_wrong_shape_is_found(function: Callable[..., Tensor]) -> None:
    x, y = torch.ones(3, 2), torch.ones(3)
    for _ in range(2):
        assert torch.equal(function(x, y), 3 * y)
        with pytest.raises(Exception, match=r"violates|Type-check"):
            function(x, torch.ones(4))
        with pytest.raises(Exception, match=r"violates|Type-check"):
            function(x, y, 2)
        with pytest.raises(Exception, match=r"violates|Type-check"):
            function(x, y, n="1")
    assert torch.equal(function(torch.ones(4, 2), torch.ones(4)), 3 * torch.ones(4))


def test_each_inner_function_is_itself() -> None:
    first, second = outer(1.0)[1], outer(10.0)[1]
    assert (first(0.0), second(0.0), first(0.0)) == (0.0, 0.0, 0.0)
    assert (first(0, deep=3), second(0, deep=2), first(1, 5, more=2)) == (3, 20, 3)
    for function in (first, second):
        with pytest.raises(Exception, match="violates"):
            function("0")
        with pytest.raises(Exception, match="violates"):
            function(0.0, deep=0.5)


def test_a_generator_and_a_name_of_the_function_around_are_checked() -> None:
    class Own:
        pass

    @checked
    def of_own(own: Own, n: int) -> int:
        return n

    @checked
    def sizes(n: int) -> Iterator[Float[Tensor, " B"]]:
        yield torch.ones(n)
        yield torch.ones(n + 1)

    assert of_own(Own(), 3) == 3
    assert [len(x) for x in sizes(2)] == [2, 3]
    with pytest.raises(Exception, match="Type-check"):
        of_own(Own(), "3")
    with pytest.raises(Exception, match="Type-check"):
        sizes("2")
