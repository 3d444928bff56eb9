#include "backend/plan/engine_file.h"

#include <charconv>
#include <fstream>
#include <iterator>
#include <string_view>

#include "backend/plan/step_inputs.h"
#include "backend/plan/strict_json.h"
#include "kernels/core/check.h"

namespace inflight::plan {

namespace {
constexpr int64_t kMaxLength = INT32_MAX;        // of an axis, a count, a limit
constexpr int64_t kMaxAttribute = 1 << 30;       // ops multiply two without overflow
constexpr int64_t kMaxBytes = int64_t{1} << 50;  // of an arena, a file, a tensor axis

int int_of(const JsonValue& value, int64_t min = 1) {
  return static_cast<int>(value.integer(min, kMaxLength));
}

int32_t token_id_of(const JsonValue& value) {
  return static_cast<int32_t>(value.integer(INT32_MIN, INT32_MAX));
}

std::optional<int32_t> optional_token_id_of(const JsonValue& value) {
  if (value.is_null()) return std::nullopt;
  return token_id_of(value);
}

ModelFacts parse_model(const JsonValue& value) {
  JsonObject object(value);
  ModelFacts model;
  model.architecture = object.get("architecture").string();
  model.vocab_size = int_of(object.get("vocab_size"));
  model.hidden_size = int_of(object.get("hidden_size"));
  model.num_layers = int_of(object.get("num_layers"));
  model.num_heads = int_of(object.get("num_heads"));
  model.num_kv_heads = int_of(object.get("num_kv_heads"));
  model.head_size = int_of(object.get("head_size"));
  model.intermediate_size = int_of(object.get("intermediate_size"));
  model.max_position_embeddings = int_of(object.get("max_position_embeddings"));
  model.bos_token_id = optional_token_id_of(object.get("bos_token_id"));
  const JsonValue ends = object.get("eos_token_ids");
  for (size_t i = 0; i < ends.size(); ++i) model.eos_token_ids.push_back(token_id_of(ends[i]));
  model.pad_token_id = optional_token_id_of(object.get("pad_token_id"));
  model.tie_word_embeddings = object.get("tie_word_embeddings").boolean();
  JsonObject(object.get("facts"));  // the compiler's own
  object.done();
  return model;
}

StepLimits parse_limits(const JsonValue& value, int* max_beam_width) {
  JsonObject object(value);
  StepLimits limits;
  limits.max_batch_size = int_of(object.get("max_batch_size"));
  limits.max_num_tokens = int_of(object.get("max_num_tokens"));
  limits.max_seq_len = int_of(object.get("max_seq_len"));
  *max_beam_width = int_of(object.get("max_beam_width"));
  object.done();
  return limits;
}

void add_to_group(std::vector<KvGroup>& groups, const KvLayerSpec& spec, int layer) {
  for (KvGroup& group : groups) {
    if (group.window == spec.window && group.num_sinks == spec.num_sinks)
      return group.layers.push_back(layer);
  }
  groups.push_back({spec.window, spec.num_sinks, {layer}});
}

KvCacheSpec parse_kv_cache(const JsonValue& value) {
  JsonObject object(value);
  KvCacheSpec cache;
  cache.dtype = object.get("dtype").dtype();
  cache.tokens_per_block = int_of(object.get("tokens_per_block"));
  const JsonValue layers = object.get("layers");
  for (size_t i = 0; i < layers.size(); ++i) {
    JsonObject layer(layers[i]);
    KvLayerSpec spec{int_of(layer.get("num_kv_heads")), int_of(layer.get("head_size"))};
    if (layer.has("window")) spec.window = int_of(layer.get("window"));
    if (layer.has("num_sinks")) {
      spec.num_sinks = int_of(layer.get("num_sinks"));
      if (spec.window == 0) layer.get("num_sinks").refuse("there are sinks beside a window only");
    }
    layer.done();
    add_to_group(cache.groups, spec, static_cast<int>(i));
    if (cache.groups.size() > kMaxKvGroups)
      layers.refuse(concat("at most ", kMaxKvGroups, " different windows are supported"));
    cache.layers.push_back(spec);
  }
  object.done();
  return cache;
}

ParallelSpec parse_parallel(const JsonValue& value) {
  JsonObject object(value);
  ParallelSpec parallel{int_of(object.get("tensor")), int_of(object.get("pipeline")),
                        int_of(object.get("expert"))};
  object.done();
  return parallel;
}

uint64_t parse_fingerprint(const JsonValue& value) {
  const std::string digits = value.string();
  uint64_t fingerprint = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, fingerprint, 16);
  if (digits.size() != 16 || result.ec != std::errc() || result.ptr != end) {
    value.refuse_type("16 hex digits");
  }
  return fingerprint;
}

std::vector<CheckpointFile> parse_checkpoint(const JsonValue& value,
                                             const std::filesystem::path& directory) {
  JsonObject object(value);
  const std::filesystem::path folder = directory / object.get("path").string();
  std::vector<CheckpointFile> files;
  const JsonValue list = object.get("files");
  for (size_t i = 0; i < list.size(); ++i) {
    JsonObject entry(list[i]);
    const JsonValue name = entry.get("name");
    if (name.string().empty() || std::filesystem::path(name.string()).filename() != name.string()) {
      name.refuse_type("a file name");
    }
    const JsonValue size = entry.get("size");
    files.push_back({(folder / name.string()).lexically_normal(), size.integer(0, kMaxBytes),
                     parse_fingerprint(entry.get("fingerprint"))});
    entry.done();
  }
  object.done();
  return files;
}

Dim parse_dim(const JsonValue& value) {
  if (value.json().is_string()) {
    if (value.json() == "T") return {Dim::Kind::kTokens};
    if (value.json() == "B") return {Dim::Kind::kSequences};
    value.refuse_type("\"T\", \"B\" or a length");
  }
  return {Dim::Kind::kFixed, value.integer(1, kMaxLength)};
}

/// An array with one element an axis; raises unless a view can hold as many.
JsonValue parse_axes(const JsonValue& value) {
  if (value.size() < 1 || value.size() > kMaxRank) {
    value.refuse_type(concat("an array of 1 to ", kMaxRank));
  }
  return value;
}

ValueSpec parse_value(const JsonValue& value) {
  JsonObject object(value);
  ValueSpec spec;
  spec.dtype = object.get("dtype").dtype();
  const JsonValue shape = parse_axes(object.get("shape"));
  for (size_t i = 0; i < shape.size(); ++i) spec.shape.push_back(parse_dim(shape[i]));
  spec.offset = object.get("offset").integer(0, kMaxBytes);
  object.done();
  return spec;
}

RecipeSource parse_source(const JsonValue& value) {
  JsonObject object(value);
  RecipeSource source;
  source.tensor = object.get("tensor").string();
  if (object.has("slice")) {
    const JsonValue slice = parse_axes(object.get("slice"));
    for (size_t i = 0; i < slice.size(); ++i) {
      if (slice[i].size() != 2) slice[i].refuse_type("[begin, end]");
      const int64_t begin = slice[i][0].integer(0, kMaxBytes);
      source.slice.push_back({begin, slice[i][1].integer(begin, kMaxBytes)});
    }
  }
  object.done();
  return source;
}

WeightSpec parse_weight(const JsonValue& value) {
  JsonObject object(value);
  WeightSpec spec;
  spec.dtype = object.get("dtype").dtype();
  const JsonValue shape = parse_axes(object.get("shape"));
  int64_t bytes = static_cast<int64_t>(size_of(spec.dtype));
  for (size_t i = 0; i < shape.size(); ++i) {
    spec.shape.push_back(shape[i].integer(0, kMaxLength));
    if (__builtin_mul_overflow(bytes, spec.shape.back(), &bytes)) shape.refuse("too large");
  }
  JsonObject recipe(object.get("recipe"));
  spec.recipe.axis =
      static_cast<int>(recipe.get("axis").integer(0, static_cast<int64_t>(shape.size()) - 1));
  const JsonValue sources = recipe.get("sources");
  if (sources.size() == 0) sources.refuse_type("at least one source");
  for (size_t i = 0; i < sources.size(); ++i) {
    spec.recipe.sources.push_back(parse_source(sources[i]));
  }
  recipe.done();
  object.done();
  return spec;
}

Attribute parse_attribute(const JsonValue& value) {
  const nlohmann::json& json = value.json();
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return value.integer(-kMaxAttribute, kMaxAttribute);
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (!json.is_array()) value.refuse_type("a boolean, number, string or array of numbers");
  std::vector<double> numbers;
  for (size_t i = 0; i < json.size(); ++i) {
    if (!json[i].is_number()) value[i].refuse_type("a number");
    numbers.push_back(json[i].get<double>());
  }
  return numbers;
}

OpRow parse_row(const JsonValue& value) {
  JsonObject object(value);
  OpRow row;
  row.op = object.get("op").string();
  JsonObject(object.get("inputs")).for_each([&](const std::string& key, const JsonValue& name) {
    row.inputs.emplace_back(key, name.string());
  });
  JsonObject(object.get("outputs")).for_each([&](const std::string& key, const JsonValue& name) {
    row.outputs.emplace_back(key, name.string());
  });
  JsonObject(object.get("attributes")).for_each([&](const std::string& key, const JsonValue& item) {
    row.attributes.emplace(key, parse_attribute(item));
  });
  object.done();
  return row;
}

int64_t attribute_or_0(const OpRow& row, std::string_view name) {
  const auto found = row.attributes.find(name);
  const auto* value =
      found == row.attributes.end() ? nullptr : std::get_if<int64_t>(&found->second);
  return value == nullptr ? 0 : *value;
}

/// A layer's rows take the slots and tables of its group, and see no more than the group keeps.
void check_groups(const Plan& plan, const KvCacheSpec& cache, std::string_view where) {
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const OpRow& row = plan.rows[i];
    std::optional<int> layer;
    for (const auto& [argument, name] : row.inputs) {
      if (argument == "kv_cache") layer = kv_layer_of(name);
    }
    if (!layer) continue;
    const KvLayerSpec& spec = cache.layers[*layer];
    size_t group = 0;
    while (cache.groups[group].window != spec.window ||
           cache.groups[group].num_sinks != spec.num_sinks)
      ++group;
    for (const auto& [argument, name] : row.inputs) {
      if (argument != "slots" && argument != "block_tables") continue;
      const std::string expected = group_input_name(argument, static_cast<int>(group));
      check(name == expected, where, ".plan[", i, "].inputs.", argument, ": ", name,
            " is not that of layer ", *layer, ", ", expected);
      if (argument != "block_tables" || spec.window == 0) continue;
      const int64_t window = attribute_or_0(row, "window");
      const int64_t num_sinks = attribute_or_0(row, "num_sinks");
      check(window >= 1 && window <= spec.window && num_sinks <= spec.num_sinks, where, ".plan[", i,
            "]: a window of ", window, " tokens (0: all) and ", num_sinks,
            " sinks is more than the cache of layer ", *layer, " keeps, ", spec.window, " and ",
            spec.num_sinks);
    }
  }
}

Plan parse_rank(const JsonValue& value, int64_t rank) {
  JsonObject object(value);
  Plan plan;
  object.get("rank").integer(rank, rank);
  plan.arena_bytes = object.get("arena_bytes").integer(0, kMaxBytes);
  JsonObject(object.get("values")).for_each([&](const std::string& name, const JsonValue& spec) {
    plan.values.emplace(name, parse_value(spec));
  });
  JsonObject(object.get("weights")).for_each([&](const std::string& name, const JsonValue& spec) {
    plan.weights.emplace(name, parse_weight(spec));
  });
  const JsonValue rows = object.get("plan");
  for (size_t i = 0; i < rows.size(); ++i) plan.rows.push_back(parse_row(rows[i]));
  JsonObject outputs(object.get("outputs"));
  plan.logits = outputs.get("logits").string();
  outputs.done();
  object.done();
  return plan;
}
}  // namespace

EngineFile load_engine_file(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "engine.json";
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream.is_open() || stream.bad()) {
    throw Error(ErrorCode::kNotFound, concat(path.string(), ": cannot be read"));
  }
  const std::string file = path.string();
  const nlohmann::json json = parse_json(text, file);
  JsonObject object(JsonValue(json, file));

  const JsonValue version = object.get("format_version");
  if (version.integer(1) != kFormatVersion) {
    version.refuse(concat("this build reads version ", kFormatVersion, ", the engine has ",
                          version.integer(1), "; build the engine again"));
  }
  EngineFile engine;
  engine.directory = directory;
  engine.inflight_version = object.get("inflight_version").string();
  engine.model = parse_model(object.get("model"));
  engine.limits = parse_limits(object.get("limits"), &engine.max_beam_width);
  engine.dtype = object.get("dtype").dtype();
  const JsonValue quantization = object.get("quantization");
  if (!quantization.is_null()) quantization.refuse_type("null");
  engine.kv_cache = parse_kv_cache(object.get("kv_cache"));
  engine.parallel = parse_parallel(object.get("parallel"));
  engine.checkpoint_files = parse_checkpoint(object.get("checkpoint"), directory);
  const JsonValue ranks = object.get("ranks");
  const int64_t num_ranks = int64_t{engine.parallel.tensor} * engine.parallel.pipeline;
  if (static_cast<int64_t>(ranks.size()) != num_ranks) {
    ranks.refuse(concat("expected ", num_ranks, " ranks (tensor x pipeline), got ", ranks.size()));
  }
  for (size_t i = 0; i < ranks.size(); ++i) {
    engine.ranks.push_back(parse_rank(ranks[i], static_cast<int64_t>(i)));
    const std::string where = concat(file, ": ", ranks[i].path());
    validate(engine.ranks.back(), engine.limits, static_cast<int>(engine.kv_cache.layers.size()),
             static_cast<int>(engine.kv_cache.groups.size()), where);
    check_groups(engine.ranks.back(), engine.kv_cache, where);
  }
  object.done();
  return engine;
}

}  // namespace inflight::plan
