// A small line plot over time: one or two series, its newest values beside its title.

const LEFT = 54, RIGHT = 6, TOP = 6, BOTTOM = 16;

export class Plot {
  /** spec: {id, title, unit?, format, series: [[name, key], …], top?: key or function of the least top}. */
  constructor(place, spec, seconds) {
    this.spec = spec;
    this.seconds = seconds;
    const figure = document.createElement("figure");
    figure.id = `plot-${spec.id}`;
    figure.innerHTML = '<figcaption><span></span><span class="now"></span></figcaption><canvas role="img"></canvas>';
    figure.querySelector("span").textContent = spec.title;
    this.now = figure.querySelector(".now");
    this.canvas = figure.querySelector("canvas");
    place.append(figure);
  }

  draw(points) {
    this.tell(points.at(-1));
    const scale = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const colours = getComputedStyle(this.canvas);
    const colour = (name) => colours.getPropertyValue(`--${name}`);
    const highest = this.top(points);
    const [top, hasValues] = [highest || 1, highest > 0];
    const x = (time) => width - RIGHT - ((points.at(-1).time - time) / this.seconds) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (height - TOP - BOTTOM);

    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colour("soft");
    context.strokeStyle = colour("line");
    context.textAlign = "right";
    for (const value of [0, top / 2, top]) {
      const unit = value === top && this.spec.unit ? ` ${this.spec.unit}` : "";
      if (hasValues || !value) context.fillText(short(value) + unit, LEFT - 6, y(value) + 4);
      context.beginPath();
      context.moveTo(LEFT, y(value));
      context.lineTo(width - RIGHT, y(value));
      context.stroke();
    }
    context.fillText("now", width - RIGHT, height - 2);
    context.textAlign = "left";
    context.fillText(`${this.seconds / 60} min ago`, LEFT, height - 2);
    context.lineWidth = 1.8;
    context.lineJoin = "round";
    this.spec.series.forEach(([, key], index) => {
      context.strokeStyle = colour(index ? "series-b" : "series-a");
      context.beginPath();
      let open = false;
      for (const point of points) {
        if (point[key] === null || x(point.time) < LEFT) {
          open = false;
          continue;
        }
        if (open) context.lineTo(x(point.time), y(point[key]));
        else context.moveTo(x(point.time), y(point[key]));
        open = true;
      }
      context.stroke();
    });
  }

  top(points) {
    const { top, series } = this.spec;
    const least = typeof top === "function" ? top() : top ? points.at(-1)?.[top] ?? 0 : 0;
    let most = 0;
    for (const point of points) for (const [, key] of series) most = Math.max(most, point[key] ?? 0);
    return most <= least ? least : roundUp(most);
  }

  tell(point) {
    const values = this.spec.series.map(([name, key]) => {
      const value = point?.[key] ?? null;
      return [name, value === null ? "–" : this.spec.format(value)];
    });
    this.now.replaceChildren(
      ...values.map(([name, value], index) => {
        const span = document.createElement("span");
        if (values.length > 1) span.className = "ab"[index];
        span.textContent = `${name} ${value}`.trim();
        return span;
      }),
    );
    const text = values.map(([name, value]) => `${name} ${value}`.trim()).join(", ");
    this.canvas.setAttribute("aria-label", `${this.spec.title}: ${text}`);
  }
}

function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 2.5, 5, 10].find((step) => step * unit >= value - 1e-9);
}

function short(value) {
  if (value >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${+(value / 1e3).toFixed(1)}k`;
  return (+value.toFixed(value < 10 ? 2 : 0)).toLocaleString("en");
}
