__version__: str
cuda_architectures: str
cuda_version: str
max_epochs: int
num_faults: int

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
    /,
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
    /,
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
    /,
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
    /,
) -> None: ...
def isa() -> str: ...
def best_isa() -> str: ...
def use_isa(name: str, /) -> None: ...
