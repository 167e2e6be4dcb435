// The operations on what a status keeps beside its words: the open-epoch record, the predicted
// classes and the running sums. As in status_ops.h: both backends implement exactly these
// contracts.
#pragma once

#include "epoch_fold.h"
#include "predicted_classes.h"
#include "status_ops.h"

namespace mild {

// record_visits: for each row i,  record[index[i]] = max(record[index[i]], visit of row i)
// (visit_record.h). `statistics`: with loss and EL2N, which are 0 otherwise. Also valid:
// classes <= kMaxClasses.
struct RecordVisits {
    int64_t* record;  // [num_samples]
    int64_t num_samples;
    Batch batch;
    bool statistics;
};

// fold_epoch: what the record holds goes into epoch `*epoch`,
//   words, classes  with kIntoEpoch: seen |= visited, wrong |= misclassified; codes are overwritten
//   sums            with kIntoSums: += the visit's contribution; after half of the epochs
//                   (`half` of them) the shortfall so far is also copied to its second row
//   record          with kEmptied: = kNoVisit
// Nothing happens where *epoch is not in [0, num_epochs).
enum FoldParts : int { kIntoEpoch = 1, kIntoSums = 2, kEmptied = 4 };
struct FoldEpoch {
    int64_t* record;           // [num_samples]
    StatusBuffer status;       // [num_samples, num_words]
    PredictedClasses classes;  // [num_epochs, bits, ceil(num_samples / 32)]
    int32_t* sums;             // [kNumSums, num_samples], or kNumShortfallSums rows
    const int64_t* epoch;      // scalar, where the record is
    int64_t num_epochs;
    bool statistics;  // all kNumSums rows
    int parts;

    MILD_HD int64_t half() const { return (num_epochs + 1) / 2; }
};

// Reading the predicted classes of epochs [start, stop):
// predictions:        out int32 [num_samples]: class in epoch `start`, -1 without one
// class_votes:        out int32 [last - first, num_classes], zeroed by the callee: epochs that
//                     predicted each class, for samples [first, last); first a multiple of 32
// majority_vote:      out int32 [3, num_samples]: class (-1 without votes), its votes, all votes;
//                     excluded[i] does not count (-1: nothing; null: no sample has one)
// count_predicted:    out int32 [num_samples]: epochs that predicted wanted[i]
// prediction_changes: out int32 [num_samples], and changed int64 [stop - start], zeroed by the
//                     callee: samples that changed their class in each epoch
struct ReadClasses {
    PredictedClasses classes;
    int64_t num_classes;
    int64_t start;
    int64_t stop;
};

namespace cpu {
void record_visits(const RecordVisits& args, int threads);
void fold_epoch(const FoldEpoch& args, int threads);
void predictions(const ReadClasses& read, int32_t* out, int threads);
void class_votes(const ReadClasses& read, int64_t first, int64_t last, int32_t* out, int threads);
void majority_vote(const ReadClasses& read, const int64_t* excluded, int32_t* out, int threads);
void count_predicted(const ReadClasses& read, const int64_t* wanted, int32_t* out, int threads);
void prediction_changes(const ReadClasses& read, int32_t* out, int64_t* changed, int threads);
}  // namespace cpu

#ifdef MILD_EXT_WITH_CUDA
namespace cuda {
void load_dynamics_kernels(Target target);
void record_visits(const RecordVisits& args, Target target);
void fold_epoch(const FoldEpoch& args, Target target);
void predictions(const ReadClasses& read, int32_t* out, Target target);
void class_votes(const ReadClasses& read, int64_t first, int64_t last, int32_t* out, Target target);
void majority_vote(const ReadClasses& read, const int64_t* excluded, int32_t* out, Target target);
void count_predicted(const ReadClasses& read, const int64_t* wanted, int32_t* out, Target target);
void prediction_changes(const ReadClasses& read, int32_t* out, int64_t* changed, Target target);
}  // namespace cuda
#endif

}  // namespace mild
