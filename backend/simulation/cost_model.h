// What a step costs a device: coefficients times what the step asks for. Knows no model and no GPU
// by name; who makes the coefficients does (inflight.simulation.cost).
#pragma once

#include <cstdint>
#include <vector>

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

/// Steps of so few tokens that kernels of their own serve them, which read weights as fast as
/// memory gives them: what such a step costs beside that, in seconds.
struct SmallSteps {
  int32_t max_rows = 0;        // tokens
  double fixed = 0;            // of a step of one token
  double per_further_row = 0;  // of each token more
};

/// Seconds, or seconds per unit, each >= 0.
struct CostModel {
  double fixed = 0;                     // the gap between two steps, collectives
  std::vector<SmallSteps> small_steps;  // by max_rows, ascending; of more rows are all others
  double launches = 0;                  // starts and ends of all layers' kernels, of other steps
  double weights = 0;                   // every layer's, read once
  double per_row = 0;                   // the operations of every layer's linears
  double sharpness = 4;  // >= 1, of the maxima of reading and multiplying; larger: nearer to them
  double per_row_moved = 0;   // norms, rope, activation, collectives: bytes of a row's activations
  double head_weights = 0;    // read once by a step that has logits
  double per_logits_row = 0;  // the head's operations
  double per_logits_row_moved = 0;  // bytes of logits, sampling
  double per_generation_key = 0;
  double per_prompt_pair = 0;
  double per_host_copy_byte = 0;
  double host_fixed = 0;         // the host's work for a step: hidden behind the step in flight
  double host_per_sequence = 0;  // where two may be

  /// Reading weights and multiplying by them overlap, so linears take about the longer of both, and
  /// more than it where they are alike: (reading^s + multiplying^s)^(1/s). Launches delay reading
  /// and are hidden by enough operations. All else is added but copies to and from the host, which
  /// run beside the step.
  double device_seconds(const StepWork& work) const;
  double host_seconds(const StepWork& work) const;

 private:
  double layers_seconds(int32_t num_rows) const;
  double head_seconds(int32_t num_logits) const;
};

/// Raises invalid_argument naming the coefficient and its value.
void validate(const CostModel& cost);

}  // namespace inflight::simulation
