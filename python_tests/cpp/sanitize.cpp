// A workout of the host code for the sanitizers (make sanitize): random calls of the CPU backend,
// and with MILD_SANITIZE_KERNELS of the kernels on the host, compared with plain loops. Every array
// is its own allocation of exactly the needed size, so that a read past an end is found. Exits with
// 1 at the first difference.
#ifdef MILD_SANITIZE_KERNELS
#include "cuda_on_host.h"
// after it: the kernels read CUDA's words from it
#include "dynamics_kernels.cuh"
#include "status_kernels.cuh"
namespace mild::cuda {
unsigned histogram_bins[48 * 1024 / sizeof(unsigned)];
unsigned epoch_counts[kMaxEpochs];
double row_shared[sizeof(RowShared) / sizeof(double)];
}  // namespace mild::cuda
#endif

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "cpu_dispatch.h"
#include "dynamics_ops.h"

using namespace mild;

namespace {

std::mt19937_64 random_bits(1);

int64_t pick(int64_t low, int64_t high) {  // both included
    return low + static_cast<int64_t>(random_bits() % static_cast<uint64_t>(high - low + 1));
}

void expect(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "differs from the plain loop: %s\n", what);
    std::exit(1);
}

bool memorized(const float* row, int64_t classes, int64_t label) {
    int64_t best = 0;
    for (int64_t j = 0; j < classes; ++j) {
        if (std::isnan(row[j])) return false;
        if (row[j] > row[best]) best = j;
    }
    return best == label;
}

// One random batch through `record(args)`, against plain loops.
template <class Record>
void update_once(int64_t rows, int64_t classes, const Record& record) {
    const int64_t samples = pick(1, 50), num_words = pick(1, 3), stride = classes + pick(0, 3);
    const int64_t epoch = pick(0, 64 * num_words - 1);
    std::vector<float> logits(static_cast<size_t>(rows > 0 ? (rows - 1) * stride + classes : 0));
    for (float& x : logits) x = static_cast<float>(pick(-3, 3));
    if (!logits.empty() && pick(0, 1))
        logits[static_cast<size_t>(pick(0, static_cast<int64_t>(logits.size()) - 1))] =
            std::numeric_limits<float>::quiet_NaN();
    std::vector<int64_t> index(static_cast<size_t>(rows));
    std::vector<int32_t> labels(static_cast<size_t>(rows));
    std::vector<WordPair> words(static_cast<size_t>(samples * num_words)), expected;
    for (WordPair& pair : words) pair = {random_bits() & random_bits(), random_bits()};
    expected = words;
    for (int64_t i = 0; i < rows; ++i) {
        index[static_cast<size_t>(i)] = pick(0, samples - 1);
        labels[static_cast<size_t>(i)] = static_cast<int32_t>(pick(0, classes - 1));
        WordPair& pair = expected[static_cast<size_t>(
            pair_offset(index[static_cast<size_t>(i)], num_words, epoch))];
        pair.seen |= bit_of(epoch);
        if (!memorized(logits.data() + i * stride, classes, labels[static_cast<size_t>(i)]))
            pair.wrong |= bit_of(epoch);
    }
    unsigned long long faults[kNumFaults] = {};
    record(Update{{words.data(), samples, num_words},
                  {{index.data(), true},
                   logits.data(),
                   LogitType::kFloat32,
                   rows,
                   classes,
                   stride,
                   {labels.data(), false},
                   &epoch,
                   64 * num_words,
                   faults}});
    expect(words.empty() ||
               std::memcmp(words.data(), expected.data(), words.size() * sizeof words[0]) == 0,
           "update");
}

// The passes over a random buffer, against plain loops over its bits.
template <class Times, class Histogram, class LookUp>
void passes_once(int64_t samples, const Times& times, const Histogram& histogram,
                 const LookUp& look_up) {
    const int64_t num_words = pick(1, 3);
    const int64_t start = pick(0, 64 * num_words - 1), stop = pick(start + 1, 64 * num_words);
    const Window window(start, stop);
    const int64_t side = window.length() + 1;
    std::vector<WordPair> words(static_cast<size_t>(samples * num_words));
    for (WordPair& pair : words) {
        pair.seen = pick(0, 2) ? ~uint64_t{0} : random_bits();
        pair.wrong = random_bits() & random_bits();
    }
    const ConstStatusBuffer status{words.data(), samples, num_words};
    std::vector<int32_t> rows(static_cast<size_t>(8 * samples));
    std::vector<int64_t> counts(static_cast<size_t>(side * side)), expected(counts.size());
    std::vector<uint32_t> table(counts.size()), values(static_cast<size_t>(samples));
    for (uint32_t& entry : table) entry = static_cast<uint32_t>(random_bits());
    times(status, window, rows.data());
    histogram(status, window, counts.data());
    look_up(status, window, Lookup{table.data(), values.data(), 4});
    for (int64_t i = 0; i < samples; ++i) {
        int64_t m = 0, n = 0, longest = 0, run = 0, events = 0, last = -1;
        for (int64_t t = start; t < stop; ++t) {
            const WordPair pair = words[static_cast<size_t>(pair_offset(i, num_words, t))];
            if ((pair.seen & bit_of(t)) == 0) continue;
            const bool wrong = (pair.wrong & bit_of(t)) != 0;
            ++n;
            m += wrong;
            run = wrong ? 0 : run + 1;
            longest = run > longest ? run : longest;
            events += last == 0 && !wrong;
            last = !wrong;
        }
        expect(rows[static_cast<size_t>(i)] == m, "memorization");
        expect(rows[static_cast<size_t>(7 * samples + i)] == n, "seen");
        expect(rows[static_cast<size_t>(6 * samples + i)] == longest, "longest run");
        expect(rows[static_cast<size_t>(4 * samples + i)] == events, "events");
        expect(values[static_cast<size_t>(i)] == table[static_cast<size_t>(m * side + n)],
               "lookup");
        ++expected[static_cast<size_t>(m * side + n)];
    }
    expect(counts == expected, "histogram");
}

// A few epochs of random batches, then what can be read of them, against plain loops over who was
// predicted. `record`, `fold`, `votes` and `best` are a backend's operations.
template <class Record, class Fold, class Votes, class Best>
void epochs_once(int64_t rows, int64_t classes, int64_t samples, const Record& record,
                 const Fold& fold, const Votes& votes, const Best& best) {
    const int64_t num_epochs = pick(1, 3), words = ceil_div(samples, 32);
    const int bits = bits_for(classes);
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    std::vector<int64_t> visits(size(samples), kNoVisit);
    std::vector<WordPair> status(size(samples));
    std::vector<uint32_t> planes(size(num_epochs * bits * words));
    std::vector<int32_t> sums(size(kNumSums * samples));
    std::vector<int64_t> predicted(size(num_epochs * samples), -1);  // of the worst visit
    for (int64_t epoch = 0; epoch < num_epochs; ++epoch) {
        std::vector<float> logits(size(rows * classes));
        std::vector<int64_t> index(size(rows));
        std::vector<int32_t> labels(size(rows));
        std::vector<float> margins(size(samples));
        for (int64_t i = 0; i < rows; ++i) {
            float* const row = logits.data() + i * classes;
            for (int64_t j = 0; j < classes; ++j) row[j] = static_cast<float>(pick(-9, 9));
            index[size(i)] = pick(0, samples - 1);
            labels[size(i)] = static_cast<int32_t>(pick(0, classes - 1));
            int64_t first = 0;
            float other = -std::numeric_limits<float>::infinity();
            for (int64_t j = 0; j < classes; ++j) {
                if (row[j] > row[first]) first = j;
                if (j != labels[size(i)] && row[j] > other) other = row[j];
            }
            // Ties go to the higher class; a margin of 0 is worse where it is misclassified.
            float margin = row[labels[size(i)]] - other;
            if (first != labels[size(i)]) margin -= 0.5f;
            const size_t at = size(index[size(i)]);
            int64_t& kept = predicted[size(epoch * samples) + at];
            if (kept < 0 || margin < margins[at] || (margin == margins[at] && first > kept)) {
                kept = first;
                margins[at] = margin;
            }
        }
        unsigned long long faults[kNumFaults] = {};
        record(RecordVisits{visits.data(),
                            samples,
                            {{index.data(), true},
                             logits.data(),
                             LogitType::kFloat32,
                             rows,
                             classes,
                             classes,
                             {labels.data(), false},
                             &epoch,
                             num_epochs,
                             faults},
                            pick(0, 1) != 0});
        fold(FoldEpoch{visits.data(),
                       {status.data(), samples, 1},
                       {planes.data(), samples, bits},
                       sums.data(),
                       &epoch,
                       num_epochs,
                       true,
                       kIntoEpoch | kIntoSums | kEmptied});
    }
    const ReadClasses read{{planes.data(), samples, bits}, classes, 0, num_epochs};
    std::vector<int32_t> counts(size(samples * classes)), majority(size(3 * samples));
    votes(read, counts.data());
    best(read, majority.data());
    for (int64_t i = 0; i < samples; ++i) {
        std::vector<int32_t> expected(size(classes));
        int32_t all = 0;
        for (int64_t epoch = 0; epoch < num_epochs; ++epoch) {
            const int64_t c = predicted[size(epoch * samples + i)];
            if (c >= 0) ++expected[size(c)], ++all;
        }
        int64_t most = 0;
        for (int64_t c = 0; c < classes; ++c) {
            expect(counts[size(i * classes + c)] == expected[size(c)], "votes");
            if (expected[size(c)] > expected[size(most)]) most = c;
        }
        expect(majority[size(i)] == (all == 0 ? -1 : most), "majority");
        expect(majority[size(2 * samples + i)] == all, "number of votes");
    }
}

void cpu_rounds(int rounds, int threads, int64_t most_rows, int64_t most_classes,
                int64_t most_samples) {
    for (int round = 0; round < rounds; ++round) {
        cpu::use_isa(static_cast<cpu::Isa>(pick(0, static_cast<int64_t>(cpu::best_isa()))));
        update_once(pick(0, most_rows), pick(1, most_classes),
                    [&](const Update& args) { cpu::update(args, threads); });
        epochs_once(
            pick(0, most_rows), pick(1, most_classes), pick(1, most_samples / 4 + 1),
            [&](const RecordVisits& args) { cpu::record_visits(args, threads); },
            [&](const FoldEpoch& args) { cpu::fold_epoch(args, threads); },
            [&](const ReadClasses& read, int32_t* out) {
                cpu::class_votes(read, 0, read.classes.num_samples, out, threads);
            },
            [&](const ReadClasses& read, int32_t* out) {
                cpu::majority_vote(read, nullptr, out, threads);
            });
        passes_once(
            pick(0, most_samples),
            [&](auto status, auto window, auto* out) {
                cpu::transition_times(status, window, out, threads);
            },
            [&](auto status, auto window, auto* out) {
                cpu::histogram(status, window, out, threads);
            },
            [&](auto status, auto window, auto args) {
                cpu::lookup(status, window, args, threads);
            });
    }
}

void bad_input_is_refused() {
    WordPair words[2] = {};
    const float logits[4] = {};
    const int64_t good[2] = {0, 1}, bad[2] = {0, 2}, epoch = 0;
    for (int which = 0; which < 2; ++which) {
        bool raised = false;
        try {
            cpu::update({{words, 2, 1},
                         {{which ? bad : good, true},
                          logits,
                          LogitType::kFloat32,
                          2,
                          2,
                          2,
                          {which ? good : bad, true},
                          &epoch,
                          64,
                          nullptr}},
                        1);
        } catch (const std::invalid_argument&) {
            raised = true;
        }
        expect(raised && words[0].seen == 0, "bad input");
    }
}

#ifdef MILD_SANITIZE_KERNELS
void kernel_rounds(int rounds) {
    for (int round = 0; round < rounds; ++round) {
        const auto seed = static_cast<unsigned>(round);
        const auto grid = static_cast<unsigned>(pick(1, 3));
        const auto on = [&](auto kernel, auto... arguments) {
            on_host::launch(grid, cuda::kBlock, seed, [&] { kernel(arguments...); });
        };
        update_once(pick(0, 300), pick(1, 60),
                    [&](const Update& args) { on(cuda::update_kernel<float, 1>, args); });
        update_once(pick(0, 90), pick(1, 60),
                    [&](const Update& args) { on(cuda::update_kernel<float, 4>, args); });
        update_once(pick(0, 20), pick(1, 900),
                    [&](const Update& args) { on(cuda::update_kernel<float, 32>, args); });
        update_once(pick(0, 4), pick(1, 9000),
                    [&](const Update& args) { on(cuda::update_kernel<float, 256>, args); });
        const auto epochs = [&](int64_t rows, int64_t classes, auto visits) {
            epochs_once(
                rows, classes, pick(1, 70), [&](const RecordVisits& args) { on(visits, args); },
                [&](const FoldEpoch& args) { on(cuda::fold_kernel, args); },
                [&](const ReadClasses& read, int32_t* out) {
                    on(cuda::votes_kernel, read, int64_t{0}, read.classes.num_samples, out);
                },
                [&](const ReadClasses& read, int32_t* out) {
                    on(cuda::majority_kernel, read, static_cast<const int64_t*>(nullptr), out);
                });
        };
        epochs(pick(0, 300), pick(1, 60), cuda::visits_kernel<float, 1>);
        epochs(pick(0, 90), pick(1, 60), cuda::visits_kernel<float, 4>);
        epochs(pick(0, 20), pick(1, 900), cuda::visits_kernel<float, 32>);
        epochs(pick(0, 4), pick(1, 9000), cuda::visits_kernel<float, 256>);
        passes_once(
            pick(0, 700),
            [&](auto status, auto window, auto* out) {
                on(cuda::transition_times_kernel, status, window, out);
            },
            [&](auto status, auto window, auto* out) {
                const int most = cuda::binned_values(window.length() + 1);
                on(cuda::histogram_kernel, status, window, static_cast<int>(pick(1, most)),
                   reinterpret_cast<unsigned long long*>(out));
            },
            [&](auto status, auto window, auto args) {
                on(cuda::lookup_kernel<uint32_t>, status, window,
                   static_cast<const uint32_t*>(args.table), static_cast<uint32_t*>(args.out));
            });
    }
}
#endif

}  // namespace

int main() {
    bad_input_is_refused();
    cpu_rounds(150, 1, 60, 300, 500);
    // Enough bytes for several threads, and few samples, so that these meet in the same words.
    cpu_rounds(3, 4, 4000, 1000, 400'000);
#ifdef MILD_SANITIZE_KERNELS
    kernel_rounds(20);
#endif
    std::puts("no differences");
}
