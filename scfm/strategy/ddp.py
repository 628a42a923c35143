"""Data parallelism in which a rank whose memory ran out can do its step again."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed


class DDP(DDPStrategy):
    """Each device holds the whole model; gradients are averaged over the devices.

    Args:
        overlap: average them while the backward pass is still under way, by torch's ``DistributedDataParallel``: the
            fast way. A rank that runs out of memory then leaves the others in the middle of a collective, and the run
            ends. ``false`` averages when the backward passes of a step are done: until then a rank is alone, and does
            its micro-batches again in smaller parts. ``data.auto_budget=true`` sets it so.
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
        """Whether a rank can do its backward pass again without the others."""
        return not self.overlap

    def configure_ddp(self) -> None:
        """Wrap the model, or only give every rank the first one's weights."""
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
        """Average the gradients, where the wrapped model does not."""
        if not self.overlap and not self._accumulating:
            self._average_gradients()

    def _average_gradients(self) -> None:
        assert self.model is not None
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        sums = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
        for handle, gradient in zip(sums, gradients, strict=True):
            handle.wait()
            gradient.div_(self.world_size)
