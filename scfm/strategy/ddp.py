"""Data parallelism in which a rank that ran out of memory can repeat its micro-batch in parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed


class DDP(DDPStrategy):
    """Each device holds the whole model; gradients are averaged over the devices.

    Args:
        overlap: average them during the backward pass, by torch's ``DistributedDataParallel``, which is faster. The run
            ends if a rank runs out of memory, because the others wait in a collective. ``false`` averages after the
            backward passes of a step: a rank can repeat a micro-batch in smaller parts. ``data.auto_budget=true`` sets
            ``false``.
        find_unused_parameters: see torch.
        gradient_as_bucket_view: see torch; saves a copy of the gradients.
        timeout_minutes: how long a collective may take.
    """

    def __init__(
        self,
        *,
        overlap: bool = True,
        find_unused_parameters: bool = False,
        gradient_as_bucket_view: bool = True,
        timeout_minutes: float = 30.0,
    ) -> None:
        super().__init__(
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=gradient_as_bucket_view,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.overlap = overlap
        self._accumulating = False

    @property
    def alone_in_backward(self) -> bool:
        """Whether a rank can repeat its backward pass without the others."""
        return not self.overlap

    def configure_ddp(self) -> None:
        """Wrap the model, or only copy the weights of the first rank to all ranks."""
        if self.overlap:
            super().configure_ddp()
        else:
            assert self.model is not None
            _sync_module_states(self.model)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Around a micro-batch that is not the last of its optimizer step."""
        self._accumulating = True
        try:
            with super().block_backward_sync():
                yield
        finally:
            self._accumulating = False

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients if the wrapped model does not."""
        if not self.overlap and not self._accumulating:
            self._average_gradients()

    def _average_gradients(self) -> None:
        assert self.model is not None
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        sums = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
        for handle, gradient in zip(sums, gradients, strict=True):
            handle.wait()
            gradient.div_(self.world_size)
