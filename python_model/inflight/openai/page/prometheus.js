// The server's metrics page: numbers by family and label, and percentiles of histograms.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const MODEL = "tensorrt_llm";

/** Lines of that model: [{family, labels, value}]. */
export function parse(page) {
  const lines = [];
  for (const line of page.split("\n")) {
    const match = line[0] === "#" ? null : LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map((m) => [m[1], m[2]]));
    if (labels.model === MODEL) lines.push({ family: match[1], labels, value: Number(match[3]) });
  }
  return lines;
}

/** Sum over versions of a family's lines with that label; null without any. */
export function number(lines, family, label, category) {
  const mine = lines.filter((one) => one.family === family && one.labels[label] === category);
  return mine.length ? mine.reduce((sum, one) => sum + one.value, 0) : null;
}

/** Counts below each bound, ascending: [[le, count], …]. */
export function buckets(lines, family) {
  const sums = new Map();
  for (const one of lines) {
    if (one.family !== `${family}_bucket`) continue;
    const le = one.labels.le === "+Inf" ? Infinity : Number(one.labels.le);
    sums.set(le, (sums.get(le) ?? 0) + one.value);
  }
  return [...sums].sort((a, b) => a[0] - b[0]);
}

/** Of what came between two readings of a histogram; null if nothing did. Linear within a bucket. */
export function percentile(before, now, share) {
  const earlier = new Map(before);
  const counts = now.map(([le, count]) => [le, count - (earlier.get(le) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (!(all > 0)) return null;
  let low = 0, below = 0;
  for (const [le, count] of counts) {
    if (count >= share * all) {
      if (le === Infinity) return low;
      return low + (le - low) * ((share * all - below) / (count - below));
    }
    [low, below] = [le, count];
  }
  return null;
}
