// What every CPU loop needs: the best instruction set of this machine, threads where they pay, and
// a hint about memory.
#pragma once

#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "host_device.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MILD_X86 1
#define MILD_AVX2 __attribute__((target("avx2,fma,bmi,bmi2,lzcnt,popcnt")))
#define MILD_AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,lzcnt,popcnt")))
#endif

namespace mild::cpu {

// Instruction sets the loops are compiled for, chosen at run time: one build runs everywhere. On
// ARM the plain build already has NEON.
enum class Isa : int { kPlain = 0, kAvx2 = 1, kAvx512 = 2 };

Isa best_isa();     // the best one this machine has
Isa current_isa();  // the one in use
void use_isa(Isa);  // for tests and benchmarks; std::invalid_argument above best_isa()

// Body is a functor whose operator()<isa>(begin, end) is MILD_HD: it and all it calls is inlined
// here, and so compiled for the target named.
template <class Body>
void run_plain(const Body& body, int64_t begin, int64_t end) {
    body.template operator()<Isa::kPlain>(begin, end);
}
#ifdef MILD_X86
template <class Body>
MILD_AVX2 void run_avx2(const Body& body, int64_t begin, int64_t end) {
    body.template operator()<Isa::kAvx2>(begin, end);
}
template <class Body>
MILD_AVX512 void run_avx512(const Body& body, int64_t begin, int64_t end) {
    body.template operator()<Isa::kAvx512>(begin, end);
}
#endif

template <class Body>
void run(const Body& body, int64_t begin, int64_t end) {
#ifdef MILD_X86
    switch (current_isa()) {
        case Isa::kAvx512:
            return run_avx512(body, begin, end);
        case Isa::kAvx2:
            return run_avx2(body, begin, end);
        case Isa::kPlain:
            break;
    }
#endif
    run_plain(body, begin, end);
}

MILD_HD void prefetch_for_write(const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 1);
#else
    (void)address;
#endif
}

// How many of at most `threads` threads the work is worth. A thread takes about 20 us to start
// (there is no pool: none to keep alive, and none to lose in a fork), so each gets at least 4 MiB
// to read, some 400 us of work.
inline int threads_for(int64_t items, int64_t bytes_per_item, int threads) {
    constexpr int64_t kBytesPerThread = int64_t{4} << 20;
    const int64_t worth = items * bytes_per_item / kBytesPerThread;
    return static_cast<int>(worth < 1 ? 1 : worth < threads ? worth : (threads < 1 ? 1 : threads));
}

// work(part, begin, end) for `parts` contiguous parts of [0, items); part 0 runs here. An exception
// of any part is thrown again here after all have ended.
template <class Work>
void parallel(int64_t items, int parts, const Work& work) {
    if (parts <= 1) return work(0, int64_t{0}, items);
    const int64_t step = ceil_div(items, parts);
    std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
    const auto guarded = [&](int part) {
        const int64_t begin = step * part < items ? step * part : items;
        const int64_t end = begin + step < items ? begin + step : items;
        try {
            work(part, begin, end);
        } catch (...) {
            errors[static_cast<size_t>(part)] = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(parts - 1));
    int started = 1;
    try {
        for (; started < parts; ++started) others.emplace_back(guarded, started);
    } catch (const std::system_error&) {
        // The machine gives no more threads: this one does the rest.
    }
    guarded(0);
    for (int part = started; part < parts; ++part) guarded(part);
    for (std::thread& other : others) other.join();
    for (const std::exception_ptr& error : errors)
        if (error) std::rethrow_exception(error);
}

}  // namespace mild::cpu
