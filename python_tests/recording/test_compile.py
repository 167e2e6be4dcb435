"""A training step with `LearningStatus.update` under torch.compile, and in a CUDA graph."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from noisy import CLASSES, FEATURES, NUM_SAMPLES, Noisy, make_model, make_optimizer
from torch.nn import functional as F

from mild_ext import LearningStatus

# What torch's own compiler still uses of torch.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

EPOCHS, BATCH = 5, 31  # 403 samples are 13 batches of 31: every batch has the same shape


def epoch_batches(epoch, device="cpu"):
    dataset = Noisy()
    order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(epoch))
    for index in order.split(BATCH):
        batch = index, dataset.inputs[index], dataset.labels[index]
        yield tuple(tensor.to(device) for tensor in batch)


def train(compile_step, *, num_epochs=EPOCHS, epochs=EPOCHS):
    model, status = make_model(), LearningStatus(NUM_SAMPLES, num_epochs)
    optimizer = make_optimizer(model)

    def forward(index, inputs, labels):
        logits = model(inputs)
        status.update(index, logits, labels)
        return F.cross_entropy(logits, labels)

    run = compile_step(forward) if compile_step else forward
    for epoch in range(epochs):
        for batch in epoch_batches(epoch):
            optimizer.zero_grad()
            run(*batch).backward()
            optimizer.step()
        status.advance()
    return status


@pytest.fixture
def counters():
    """torch's own counters of what its compiler did, from zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_full_graph_is_compiled_once_for_all_epochs_and_records_the_same_words(counters):
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = train(lambda step: torch.compile(step, fullgraph=True))
    assert counters["stats"]["unique_graphs"] == 1, "recompiled"
    assert not counters["graph_break"]
    eager = train(None)
    assert torch.equal(compiled.words, eager.words)
    assert compiled.epoch == eager.epoch == EPOCHS
    assert (compiled.compute().seen == EPOCHS).all()


@pytest.mark.slow
def test_one_graph_serves_the_epochs_of_several_words(counters):
    options = {"num_epochs": 66, "epochs": 66}
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = train(
            lambda step: torch.compile(step, fullgraph=True, backend="aot_eager"), **options
        )
    assert counters["stats"]["unique_graphs"] == 1
    assert torch.equal(compiled.words, train(None, **options).words)


def test_bad_values_raise_in_a_compiled_step_too_and_record_nothing(counters):
    status = LearningStatus(4, 1)
    update = torch.compile(status.update, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match="index"):
        update(torch.tensor([0, 4]), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    assert not status.words.any()


KINDS = [{}, {"num_classes": CLASSES}, {"num_classes": CLASSES, "record": "all"}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=["status", "classes", "all"])
def test_inductor_knows_that_what_a_step_changes_stays_where_it_is(counters, kind):
    """Torch leaves a whole step out of its CUDA graphs that changes an input whose address may change."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.cudagraph_utils import check_for_mutation_ignore_cuda_graph_managed_tensor

    objections, changed = [], []

    def inner_compile(graph, inputs, **options):
        compiled = compile_fx_inner(graph, inputs, **options)
        changed.append(len(compiled.mutated_input_idxs))
        objections.append(  # what torch asks itself before it captures, on CUDA
            check_for_mutation_ignore_cuda_graph_managed_tensor(
                graph,
                compiled.mutated_inputs,
                compiled.mutated_input_idxs,
                options.get("static_input_idxs", ()),
            )
        )
        return compiled

    def backend(graph, inputs):
        return compile_fx(graph, inputs, inner_compile=inner_compile)

    model, status = make_model(), LearningStatus(NUM_SAMPLES, EPOCHS, **kind)

    @torch.compile(fullgraph=True, backend=backend)
    def forward(index, inputs, labels):
        logits = model(inputs)
        status.update(index, logits, labels)
        return F.cross_entropy(logits, labels)

    with torch._inductor.config.patch(fx_graph_cache=False):
        for batch in epoch_batches(0):
            forward(*batch).backward()
    assert changed[0] == 2, "the status' buffer and its faults"
    assert objections == [None, None], "forward and backward"


def test_the_buffers_carry_the_mark_that_torch_itself_sets():
    marked = torch.zeros(1)
    torch._dynamo.mark_static_address(marked)
    status = LearningStatus(4, 2, num_classes=3)
    for twin in (status, copy.deepcopy(status), pickle.loads(pickle.dumps(status))):
        for buffer in (twin.words, twin.open_visits, twin._faults, twin._epoch_on_device):
            assert vars(buffer) == vars(marked)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_cuda_graph_records_into_the_epoch_of_its_replay():
    device = torch.device("cuda")
    model = make_model().to(device)
    status, eager = (LearningStatus(NUM_SAMPLES, 70, device=device) for _ in range(2))
    index = torch.zeros(BATCH, dtype=torch.int64, device=device)
    inputs = torch.zeros(BATCH, FEATURES, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)

    def forward():
        logits = model(inputs)
        status.update(index, logits, labels)
        return logits

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        forward()
    torch.cuda.current_stream().wait_stream(stream)
    status.reset()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        logits = forward()
    status.reset()

    for epoch in range(67):
        for batch in epoch_batches(epoch, device):
            for static, tensor in zip((index, inputs, labels), batch, strict=True):
                static.copy_(tensor)
            graph.replay()
            eager.update(index, logits, labels)
        status.advance()
        eager.advance()
    assert torch.equal(status.words, eager.words)
    assert (status.compute().seen[:NUM_SAMPLES] == 67).all()
    assert logits.shape == (BATCH, CLASSES)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_compiled_with_cuda_graphs_records_the_same_words(counters):
    device = torch.device("cuda")
    words = []
    for mode in (None, "reduce-overhead"):
        model, status = make_model().to(device), LearningStatus(NUM_SAMPLES, EPOCHS, device=device)

        def forward(index, inputs, labels, model=model, status=status):
            logits = model(inputs)
            status.update(index, logits, labels)
            return logits.sum()

        run = torch.compile(forward, fullgraph=True, mode=mode) if mode else forward
        for epoch in range(EPOCHS):
            for batch in epoch_batches(epoch, device):
                torch.compiler.cudagraph_mark_step_begin()
                with torch.no_grad():
                    run(*batch)
            status.advance()
        words.append(status.words.cpu())
    assert torch.equal(*words)
    assert counters["inductor"]["cudagraph_skips"] == 0
