// What a step costs a device: coefficients times what the step asks for. Knows no model and no GPU
// by name; who makes the coefficients does (inflight.simulation.cost).
#pragma once

#include <cstdint>

namespace inflight::simulation {

/// What one step asks of the device.
struct StepWork {
  int32_t num_rows = 0;         // tokens
  int32_t num_logits = 0;       // rows of logits
  int32_t num_sequences = 0;    // parts of the step, for the host's share
  int64_t generation_keys = 0;  // positions that generating sequences attend to, summed
  int64_t prompt_pairs = 0;     // query-key pairs of prompt chunks
  int64_t host_copy_bytes = 0;  // to and from the host tier, beside the step's other work
};

/// Seconds, or seconds per unit, each >= 0.
struct CostModel {
  double fixed = 0;           // launches of all layers, the gap between two steps
  double fixed_of_few = 0;    // the same of a step of at most `few_rows`
  double per_few_row = 0;     // what each row of such a step but the first adds to it
  int32_t few_rows = 0;       // tokens; 0: every step costs `fixed`
  double weights = 0;         // every weight read once
  double per_row = 0;         // the operations of every linear
  double sharpness = 4;       // >= 1, of the maximum of the two above; larger: nearer to it
  double per_row_moved = 0;   // norms, rope, activation, collectives: bytes of a row's activations
  double per_logits_row = 0;  // the head's operations, sampling
  double per_generation_key = 0;
  double per_prompt_pair = 0;
  double per_host_copy_byte = 0;
  double host_fixed = 0;         // the host's work for a step: hidden behind the step in flight
  double host_per_sequence = 0;  // where two may be

  /// Reading weights and multiplying by them overlap, so a linear takes about the longer of both,
  /// and more than it where they are alike: (weights^s + (per_row * rows)^s)^(1/s). All else is
  /// added but copies to and from the host, which run beside the step.
  double device_seconds(const StepWork& work) const;
  double host_seconds(const StepWork& work) const;
};

/// Raises invalid_argument naming the coefficient and its value.
void validate(const CostModel& cost);

}  // namespace inflight::simulation
