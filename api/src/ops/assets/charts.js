// Draws the charts of the overview by uPlot, from the numbers that the server wrote beside them; `clock` and `slice` are
// of ops.js. Without this file the numbers are there to be unfolded.
"use strict";

const HEIGHT = 160;
// So much of the height at least, for what there is little of: one failure among thousands is seen.
const LEAST = 0.02;
// Between the lines of a scale: attempts are whole.
const STEPS = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((one) => one * 10 ** power));
// By chart: what is drawn, and what it is drawn from.
const charts = new Map();

const brief = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function numbers(text) {
  return text.split(",").map(Number);
}

function read(place) {
  const { first, step, span, succeeded, failures } = place.dataset;
  const told = { first: Number(first), step: Number(step), span, succeeded: numbers(succeeded), failed: numbers(failures) };
  told.end = told.first + told.step * told.succeeded.length;
  return told;
}

// What failed stands at the foot of each bar, before all that ended.
function bars({ first, step, succeeded, failed }) {
  const highest = Math.max(...succeeded.map((count, at) => count + failed[at]));
  const seen = (count) => (count === 0 ? 0 : Math.max(count, highest * LEAST));
  return [
    succeeded.map((_, at) => first + step * at),
    succeeded.map((count, at) => seen(count) + seen(failed[at])),
    failed.map(seen),
  ];
}

function sum(counts) {
  return counts.reduce((all, count) => all + count, 0);
}

// Where the pointer is; for the whole time where there is none.
function legend(chart, pick) {
  return (_plot, _value, _series, at) => {
    const counts = pick(chart.told);
    return whole.format(at === null ? sum(counts) : counts[at]);
  };
}

function when(chart) {
  return (_plot, _value, _series, at) => {
    const { first, step, span } = chart.told;
    if (at === null) return span;
    return slice.formatRange(new Date((first + step * at) * 1000), new Date((first + step * (at + 1)) * 1000));
  };
}

function series(label, fill, value) {
  return { label, value, fill, width: 0, points: { show: false }, paths: uPlot.paths.bars({ align: 1, size: [0.8] }) };
}

function plot(place, chart) {
  const [ok, bad, rule, quiet] = ["--bar-ok", "--bar-bad", "--rule", "--quiet"].map(colour);
  const axis = { stroke: quiet, font: "11px system-ui, sans-serif", ticks: { show: false } };
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    padding: [8, 26, 0, 0],
    scales: {
      x: { time: true, range: () => [chart.told.first, chart.told.end] },
      y: { range: (_plot, _least, most) => [0, Math.max(1, most) * 1.04] },
    },
    axes: [
      { ...axis, size: 26, space: 52, grid: { show: false }, values: (_plot, at) => at.map((one) => clock.format(new Date(one * 1000))) },
      { ...axis, size: 44, space: 22, grid: { stroke: rule, width: 1 }, incrs: STEPS, values: (_plot, at) => at.map((one) => brief.format(one)) },
    ],
    series: [
      { label: "In", value: when(chart) },
      series("succeeded", ok, legend(chart, (told) => told.succeeded)),
      series("failed", bad, legend(chart, (told) => told.failed)),
    ],
    cursor: {
      y: false,
      drag: { x: false, y: false, setScale: false },
      points: { show: false },
      // A bar stands from its beginning to the next one's.
      dataIdx: (_plot, _series, _nearest, at) => {
        const { first, step, succeeded } = chart.told;
        return Math.min(succeeded.length - 1, Math.max(0, Math.floor((at - first) / step)));
      },
    },
    legend: { live: true, markers: { width: 0 } },
  };
  return new uPlot(options, bars(chart.told), place);
}

const widths = new ResizeObserver((places) => {
  for (const { target, contentRect } of places) {
    const drawn = charts.get(target.id)?.drawn;
    if (drawn && contentRect.width > 0 && drawn.width !== contentRect.width) drawn.setSize({ width: contentRect.width, height: HEIGHT });
  }
});

// What is drawn stays when the page below it is replaced: the pointer may rest on it.
function draw() {
  const places = new Map([...document.querySelectorAll(".chart")].map((place) => [place.id, place]));
  for (const [id, chart] of charts) {
    if (places.has(id)) continue;
    chart.drawn.destroy();
    charts.delete(id);
  }
  widths.disconnect();
  for (const [id, place] of places) {
    const chart = charts.get(id) ?? {};
    chart.told = read(place);
    if (chart.drawn) {
      place.append(chart.drawn.root);
      chart.drawn.setData(bars(chart.told));
    } else {
      chart.drawn = plot(place, chart);
    }
    charts.set(id, chart);
    widths.observe(place);
  }
}

// Colours are taken when it is drawn.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { drawn } of charts.values()) drawn.destroy();
  charts.clear();
  draw();
});
document.addEventListener("shown", draw);
draw();
