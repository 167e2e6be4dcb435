// The part of _C that unpacks the arguments of dynamics_ops.h.
#include "bindings.h"

namespace py = pybind11;

namespace mild::bindings {
namespace {

void record_visits(uintptr_t record, int64_t num_samples, uintptr_t index, bool index_is_int64,
                   uintptr_t logits, int logit_type, int64_t rows, int64_t classes,
                   int64_t row_stride, uintptr_t labels, bool labels_are_int64, uintptr_t epoch,
                   int64_t num_epochs, uintptr_t faults, bool statistics, int device,
                   uintptr_t stream, int threads) {
    const RecordVisits args{
        pointer<int64_t*>(record, num_samples, "record"), num_samples,
        batch_at(index, index_is_int64, logits, logit_type, rows, classes, row_stride, labels,
                 labels_are_int64, epoch, num_epochs, faults),
        statistics};
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, record_visits, args);
}

PredictedClasses classes_at(uintptr_t planes, int64_t num_samples, int64_t num_classes) {
    return {pointer<uint32_t*>(planes, num_samples, "planes"), num_samples, bits_for(num_classes)};
}

void fold_epoch(uintptr_t record, int64_t num_samples, uintptr_t words, int64_t num_words,
                uintptr_t planes, int64_t num_classes, uintptr_t sums, uintptr_t epoch,
                int64_t num_epochs, bool statistics, int parts, int device, uintptr_t stream,
                int threads) {
    const FoldEpoch args{pointer<int64_t*>(record, num_samples, "record"),
                         {pointer<WordPair*>(words, num_samples, "words"), num_samples, num_words},
                         classes_at(planes, num_samples, num_classes),
                         pointer<int32_t*>(sums, num_samples, "sums"),
                         pointer<const int64_t*>(epoch, 1, "epoch"),
                         num_epochs,
                         statistics,
                         parts};
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, fold_epoch, args);
}

ReadClasses reading(uintptr_t planes, int64_t num_samples, int64_t num_classes, int64_t start,
                    int64_t stop) {
    return {classes_at(planes, num_samples, num_classes), num_classes, start, stop};
}

void predictions(uintptr_t planes, int64_t num_samples, int64_t num_classes, int64_t epoch,
                 uintptr_t out, int device, uintptr_t stream, int threads) {
    const ReadClasses read = reading(planes, num_samples, num_classes, epoch, epoch + 1);
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, predictions, read, to);
}

void class_votes(uintptr_t planes, int64_t num_samples, int64_t num_classes, int64_t start,
                 int64_t stop, int64_t first, int64_t last, uintptr_t out, int device,
                 uintptr_t stream, int threads) {
    const ReadClasses read = reading(planes, num_samples, num_classes, start, stop);
    auto* const to = pointer<int32_t*>(out, last - first, "out");
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, class_votes, read, first, last, to);
}

void majority_vote(uintptr_t planes, int64_t num_samples, int64_t num_classes, int64_t start,
                   int64_t stop, uintptr_t excluded, uintptr_t out, int device, uintptr_t stream,
                   int threads) {
    const ReadClasses read = reading(planes, num_samples, num_classes, start, stop);
    const auto* const without = reinterpret_cast<const int64_t*>(excluded);  // null: none
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, majority_vote, read, without, to);
}

void count_predicted(uintptr_t planes, int64_t num_samples, int64_t num_classes, int64_t start,
                     int64_t stop, uintptr_t wanted, uintptr_t out, int device, uintptr_t stream,
                     int threads) {
    const ReadClasses read = reading(planes, num_samples, num_classes, start, stop);
    const auto* const labels = pointer<const int64_t*>(wanted, num_samples, "labels");
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, count_predicted, read, labels, to);
}

void prediction_changes(uintptr_t planes, int64_t num_samples, int64_t num_classes, int64_t start,
                        int64_t stop, uintptr_t out, uintptr_t changed, int device,
                        uintptr_t stream, int threads) {
    const ReadClasses read = reading(planes, num_samples, num_classes, start, stop);
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    auto* const counts = pointer<int64_t*>(changed, 1, "changed");
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, prediction_changes, read, to, counts);
}

}  // namespace

void add_dynamics(py::module_& m) {
    using namespace pybind11::literals;
    m.attr("max_classes") = kMaxClasses;
    m.attr("no_visit") = kNoVisit;
    m.attr("num_sums") = static_cast<int>(kNumSums);
    m.attr("num_shortfall_sums") = static_cast<int>(kNumShortfallSums);
    m.def("plane_bits", [](int64_t num_classes) { return bits_for(num_classes); }, "num_classes"_a);
    m.def(
        "sum_places",
        [](int64_t num_epochs) {
            py::list places;
            for (int sum = 0; sum < kNumSums; ++sum) places.append(places_of(sum, num_epochs));
            return places;
        },
        "num_epochs"_a);
    m.def("record_visits", &record_visits, "record"_a, "num_samples"_a, "index"_a,
          "index_is_int64"_a, "logits"_a, "logit_type"_a, "rows"_a, "classes"_a, "row_stride"_a,
          "labels"_a, "labels_are_int64"_a, "epoch"_a, "num_epochs"_a, "faults"_a, "statistics"_a,
          "device"_a, "stream"_a, "threads"_a);
    m.def("fold_epoch", &fold_epoch, "record"_a, "num_samples"_a, "words"_a, "num_words"_a,
          "planes"_a, "num_classes"_a, "sums"_a, "epoch"_a, "num_epochs"_a, "statistics"_a,
          "parts"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("predictions", &predictions, "planes"_a, "num_samples"_a, "num_classes"_a, "epoch"_a,
          "out"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("class_votes", &class_votes, "planes"_a, "num_samples"_a, "num_classes"_a, "start"_a,
          "stop"_a, "first"_a, "last"_a, "out"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("majority_vote", &majority_vote, "planes"_a, "num_samples"_a, "num_classes"_a, "start"_a,
          "stop"_a, "excluded"_a, "out"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("count_predicted", &count_predicted, "planes"_a, "num_samples"_a, "num_classes"_a,
          "start"_a, "stop"_a, "labels"_a, "out"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("prediction_changes", &prediction_changes, "planes"_a, "num_samples"_a, "num_classes"_a,
          "start"_a, "stop"_a, "out"_a, "changed"_a, "device"_a, "stream"_a, "threads"_a);
}

}  // namespace mild::bindings
