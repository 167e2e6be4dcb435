"""Types of the native module (csrc/bindings.cpp).

Addresses are ``tensor.data_ptr()``; ``device`` -1 is the CPU, otherwise the CUDA ordinal; ``stream`` is a
``cudaStream_t``, 0 on the CPU; ``threads`` is the most that may be used.
"""

from torch import Tensor

__version__: str
cuda_architectures: str
cuda_version: str
max_epochs: int
num_faults: int
ignored_label: int
max_classes: int
no_visit: int
num_sums: int
num_shortfall_sums: int

def cuda_driver() -> int:
    """The newest CUDA that the NVIDIA driver knows, 1000 major + 10 minor; 0: no driver, or a build without CUDA."""

def load_kernels(device: int) -> None:
    """Loads every kernel onto a CUDA device, which is the current one; a RuntimeError where it has none to run."""

def update(
    words: int,
    num_samples: int,
    num_words: int,
    index: int,
    index_is_int64: bool,
    logits: int,
    logit_type: int,
    rows: int,
    classes: int,
    row_stride: int,
    labels: int,
    labels_are_int64: bool,
    epoch: int,
    num_epochs: int,
    faults: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def transition_times(
    words: int,
    num_samples: int,
    num_words: int,
    start: int,
    stop: int,
    out: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def histogram(
    words: int,
    num_samples: int,
    num_words: int,
    start: int,
    stop: int,
    counts: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def lookup(
    words: int,
    num_samples: int,
    num_words: int,
    start: int,
    stop: int,
    table: int,
    out: int,
    element_size: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def first_run(
    words: int,
    num_samples: int,
    num_words: int,
    start: int,
    stop: int,
    length: int,
    out: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def plane_bits(num_classes: int) -> int: ...
def sum_places(num_epochs: int) -> list[int]:
    """Binary places of each row of the running sums."""

def record_visits(
    record: int,
    num_samples: int,
    index: int,
    index_is_int64: bool,
    logits: int,
    logit_type: int,
    rows: int,
    classes: int,
    row_stride: int,
    labels: int,
    labels_are_int64: bool,
    epoch: int,
    num_epochs: int,
    faults: int,
    statistics: bool,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def fold_epoch(
    record: int,
    num_samples: int,
    words: int,
    num_words: int,
    planes: int,
    num_classes: int,
    sums: int,
    epoch: int,
    num_epochs: int,
    statistics: bool,
    parts: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def predictions(
    planes: int,
    num_samples: int,
    num_classes: int,
    epoch: int,
    out: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def class_votes(
    planes: int,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
    first: int,
    last: int,
    out: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def majority_vote(
    planes: int,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
    excluded: int,
    out: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def count_predicted(
    planes: int,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
    labels: int,
    out: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def prediction_changes(
    planes: int,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
    out: int,
    changed: int,
    device: int,
    stream: int,
    threads: int,
) -> None: ...
def use_tensor_type(tensor_type: type, storage_size: int, storage_offset: int) -> bool:
    """Lets ``try_update`` read tensors of exactly this type; False where this torch has no table for that."""

def try_update(
    words: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
    threads: int,
    /,
) -> bool:
    """Records a batch where the arguments are the plain case; False, and nothing done, where they are not."""

def try_record(
    record: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
    num_classes: int,
    statistics: bool,
    threads: int,
    /,
) -> bool:
    """Records a batch's visits where the arguments are the plain case; False, and nothing done, where they are not."""

def advise_large_pages(memory: int, bytes: int) -> None:
    """Hints that a new CPU buffer should lie in large pages."""

def isa() -> str:
    """The CPU instruction set in use: plain, avx2 or avx512."""

def best_isa() -> str: ...
def use_isa(name: str) -> None: ...
