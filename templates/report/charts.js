// The three charts. Texts of files reach them escaped, for Plotly reads some tags.
"use strict";

const charts = (() => {
  const SYMBOLS = { valid: "circle", suspect: "triangle-up-open", invalid: "x-thin-open" };
  const LINES_AT_MOST = 12;
  const FAR_APART = 20;
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const OPTIONS = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "toImage"] };

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shown = (value) => (value === undefined || value === null ? "–" : Number(value.toPrecision(4)).toString());

  function hover(point, names) {
    const lines = [`<b>${plain(point.name)}</b>`, plain(point.load), plain(point.standing)];
    for (const [key, name] of names) lines.push(`${name}: ${shown(point.figures[key])}`);
    return lines.join("<br>");
  }

  function layout(xTitle, yTitle, extra = {}) {
    const axis = { gridcolor: color("line"), zerolinecolor: color("line"), linecolor: color("quiet"), rangemode: "tozero" };
    return {
      margin: { l: 62, r: 16, t: 54, b: 48 },
      paper_bgcolor: color("page"),
      plot_bgcolor: color("page"),
      font: { color: color("ink"), family: "system-ui, Liberation Sans, sans-serif", size: 12 },
      xaxis: { ...axis, title: { text: xTitle }, ...extra.x },
      yaxis: { ...axis, title: { text: yTitle }, ...extra.y },
      legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
      hovermode: "closest",
      hoverlabel: { bgcolor: color("panel"), font: { color: color("ink") }, align: "left" },
      shapes: extra.shapes ?? [],
      annotations: extra.annotations ?? [],
    };
  }

  function scatter(name, points, x, y, names, marker, more = {}) {
    return {
      type: "scatter",
      mode: "markers",
      name,
      x: points.map(x),
      y: points.map(y),
      text: points.map((point) => hover(point, names)),
      hovertemplate: "%{text}<extra></extra>",
      customdata: points.map((point) => point.index),
      marker,
      ...more,
    };
  }

  function chosenTrace(chosen, x, y, names) {
    const points = chosen && x(chosen) !== undefined && y(chosen) !== undefined ? [chosen] : [];
    const marker = { symbol: "circle-open", size: 20, color: color("chosen"), line: { width: 3 } };
    return points.length ? [scatter("chosen", points, x, y, names, marker)] : [];
  }

  function draw(element, traces, look, select) {
    if (!traces.some((trace) => trace.x.length)) {
      Plotly.purge(element);
      element.replaceChildren();
      return;
    }
    Plotly.react(element, traces, look, OPTIONS).then(() => {
      element.removeAllListeners("plotly_click");
      element.on("plotly_click", (event) => select(event.points[0].customdata));
    });
  }

  function byStanding(points, x, y, names) {
    return Object.entries(SYMBOLS).flatMap(([standing, symbol]) => {
      const some = points.filter((point) => point.standing === standing);
      const marker = { symbol, size: standing === "valid" ? 6 : 9, color: color(standing), line: { width: standing === "valid" ? 0 : 2 } };
      return some.length ? [scatter(standing, some, x, y, names, marker)] : [];
    });
  }

  function frontier(element, points, chosen, perGpu, select) {
    const unit = perGpu ? "output tokens/s/GPU" : "output tokens/s";
    const [x, y] = [(point) => point.figures.user, (point) => point.figures.throughput];
    const names = [["user", "tokens/s/user"], ["throughput", unit], ["ttft_ms@p50", "TTFT p50, ms"], ["ttft_ms@p95", "TTFT p95, ms"]];
    const known = points.filter((point) => x(point) !== undefined && y(point) !== undefined);
    const front = known.filter((point) => point.front).sort((a, b) => x(a) - x(b));
    const wide = known.filter((point) => point.front_ttft && !point.front);
    const traces = byStanding(known.filter((point) => !point.front), x, y, names);
    if (wide.length) {
      const ring = { symbol: "circle-open", size: 12, color: color("front"), line: { width: 1.5 } };
      traces.push(scatter("frontier with TTFT", wide, x, y, names, ring));
    }
    if (front.length) {
      const marker = { symbol: "diamond", size: 11, color: color("front") };
      traces.push(scatter("frontier", front, x, y, names, marker, { mode: "lines+markers", line: { color: color("front"), width: 2 } }));
    }
    traces.push(...chosenTrace(chosen, x, y, names));
    draw(element, traces, layout("output tokens/s/user", unit), select);
  }

  // Deployments whose loads are joined: the chosen one, then those on the frontier.
  function joined(points, chosen) {
    const names = points.filter((point) => point.front).map((point) => point.deployment);
    return [...new Set([...(chosen ? [chosen.deployment] : []), ...names])].slice(0, LINES_AT_MOST);
  }

  // Numbers that are far apart are drawn by their powers: loads double, and costs fall by as much.
  function scale(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (!(low > 0) || high / low <= FAR_APART) return {};
    const powers = Array.from({ length: 2 + Math.log10(high / low) }, (_, at) => 10 ** (Math.floor(Math.log10(low)) + at));
    const ticks = powers.flatMap((power) => [power, 2 * power, 5 * power]);
    return { type: "log", tickvals: ticks, ticktext: ticks.map((tick) => shown(tick)) };
  }

  function curve(element, points, chosen, y, yTitle, targets, names, select) {
    const x = (point) => point.load_value;
    const known = points.filter((point) => y(point) !== undefined);
    const traces = byStanding(known, x, y, names).map((trace) => ({ ...trace, marker: { ...trace.marker, size: 5 } }));
    joined(known, chosen).forEach((deployment, at) => {
      const line = known.filter((point) => point.deployment === deployment).sort((a, b) => x(a) - x(b));
      const mine = chosen && chosen.deployment === deployment;
      const look = { color: color(mine ? "chosen" : "front"), width: mine ? 3 : 1.5, dash: DASHES[at % DASHES.length] };
      if (line.length > 1) traces.push(scatter("", line, x, y, names, {}, { mode: "lines", line: look, showlegend: false }));
    });
    traces.push(...chosenTrace(chosen, x, y, names));
    const shapes = targets.map((limit) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: limit.bound, y1: limit.bound, yref: "y",
      line: { color: color("target"), width: 2, dash: "dash" },
    }));
    const units = [...new Set(points.map((point) => point.load.replace(/^[\d.e+-]+ /, "")))].join(" or ");
    const axes = { x: scale(known.map(x)), y: scale(known.map(y)) };
    const annotations = targets.map((limit) => ({
      xref: "paper", x: 1, xanchor: "right", y: axes.y.type === "log" ? Math.log10(limit.bound) : limit.bound, yanchor: "bottom", showarrow: false,
      text: plain(limit.text), bgcolor: color("page"), font: { color: color("target") },
    }));
    draw(element, traces, layout(plain(units), yTitle, { ...axes, shapes, annotations }), select);
  }

  return { frontier, curve, shown };
})();
