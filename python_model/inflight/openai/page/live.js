// Polls the metrics once a second while the page is seen, and keeps two minutes of them.
import { Plot } from "./plot.js";
import { buckets, number, parse, percentile } from "./prometheus.js";

const SECONDS = 120;
const WINDOW = 20; // seconds that percentiles are of
const REQUESTS = "nv_trt_llm_request_metrics";
const TTFT = "nv_llm_time_to_first_token_seconds";
const TPOT = "nv_llm_time_per_output_token_seconds";

const ms = (value) => (value < 10 ? `${value.toFixed(1)} ms` : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);
const whole = (value) => Math.round(value).toLocaleString("en");

const PLOTS = [
  { id: "throughput", title: "Output tokens/s", format: whole, series: [["", "rate"]] },
  { id: "ttft", title: "Time to first token", unit: "ms", format: ms, series: [["p50", "ttft50"], ["p95", "ttft95"]] },
  { id: "tpot", title: "Time per token", unit: "ms", format: ms, series: [["p50", "tpot50"], ["p95", "tpot95"]] },
  { id: "batch", title: "Requests", format: whole, series: [["in the batch", "running"], ["waiting", "waiting"]], top: "slots" },
  { id: "kv", title: "KV cache in use", unit: "%", format: (value) => value.toFixed(1) + " %", series: [["", "kv"]], top: () => 100 },
];

export class Live {
  constructor(place) {
    this.readings = []; // [{time, lines' numbers, histograms}]
    this.points = [];
    this.plots = PLOTS.map((spec) => new Plot(place, spec, SECONDS));
  }

  start() {
    const poll = async () => {
      if (!document.hidden) await this.poll();
      setTimeout(poll, 1000);
    };
    poll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("resize", () => this.draw());
  }

  async poll() {
    let lines;
    try {
      const answer = await fetch("/metrics");
      if (!answer.ok) return;
      lines = parse(await answer.text());
    } catch {
      return; // the server is not there: the plots stand still
    }
    const reading = {
      time: performance.now() / 1000,
      generated: number(lines, "nv_llm_token_count", "token_type", "generated"),
      ttft: buckets(lines, TTFT),
      tpot: buckets(lines, TPOT),
    };
    const last = this.readings.at(-1);
    this.readings = this.readings.filter((one) => one.time > reading.time - WINDOW);
    const first = this.readings[0] ?? last ?? reading;
    this.readings.push(reading);
    const at = (name, share) => {
      const seconds = percentile(first[name], reading[name], share);
      return seconds === null ? null : 1000 * seconds;
    };
    const fraction = number(lines, "nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction");
    const rate = last && reading.generated !== null ? (reading.generated - last.generated) / (reading.time - last.time) : null;
    this.points.push({
      time: reading.time,
      rate: rate === null ? null : Math.max(0, rate),
      ttft50: at("ttft", 0.5),
      ttft95: at("ttft", 0.95),
      tpot50: at("tpot", 0.5),
      tpot95: at("tpot", 0.95),
      running: number(lines, REQUESTS, "request_type", "scheduled"),
      waiting: number(lines, REQUESTS, "request_type", "waiting"),
      slots: number(lines, REQUESTS, "request_type", "max"),
      kv: fraction === null ? null : 100 * fraction,
    });
    this.points = this.points.filter((one) => one.time > reading.time - SECONDS - 2);
    this.draw();
  }

  draw() {
    for (const plot of this.plots) plot.draw(this.points);
  }
}
