// The page: what is chosen, and everything that follows from it.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { view } = data;
  const points = view.points.map((point, index) => ({ ...point, index }));
  const at = (id) => document.getElementById(id);
  const state = { chosen: null };

  const workload = () => at("workload").value;
  const here = () => points.filter((point) => point.workload === workload());
  const price = () => Number(at("price")?.value || NaN);

  function element(name, text, more = {}) {
    return Object.assign(document.createElement(name), { textContent: text }, more);
  }

  function specOf(point) {
    const lines = data.specs[point.index];
    return lines === null ? null : lines.map((line) => data.lines[line]).join("\n");
  }

  function money(hours) {
    return Number.isFinite(price()) && hours !== undefined ? ` = $${charts.shown(hours * price())}` : "";
  }

  function facts(point) {
    const { figures, intervals = {} } = point;
    const within = (name) => (intervals[name] === undefined ? "" : ` ± ${charts.shown(intervals[name])}`);
    const found = [
      ["load", point.load],
      ["verdict", [point.standing, ...(point.reasons ?? [])].join("; ")],
      ["tokens/s/user", charts.shown(figures.user) + within("user")],
      [view.per_gpu ? "tokens/s/GPU" : "tokens/s", charts.shown(figures.throughput) + within("throughput")],
      ["TTFT p50, p95", `${charts.shown(figures["ttft_ms@p50"])}, ${charts.shown(figures["ttft_ms@p95"])} ms`],
      ["TPOT avg, p95", `${charts.shown(figures["tpot_ms@avg"])}, ${charts.shown(figures["tpot_ms@p95"])} ms`],
      ["requests", `${point.completed} of ${point.requests}, ${charts.shown(figures.requests_per_s)}/s`],
    ];
    if (point.gpus) {
      const idle = point.gpus_working === undefined ? "" : `, ${point.gpus_working} working`;
      found.push(["GPUs", `${point.gpus}${idle}`]);
      for (const [key, name] of [["gpu_hours_per_1k", "1k requests"], ["gpu_hours_per_1m", "1M tokens"], ["gpu_hours_per_1k_kept", "1k in the SLA"], ["gpu_hours_per_1k_good", "1k good requests"]]) {
        if (figures[key] !== undefined) found.push([name, `${charts.shown(figures[key])} GPU-h${money(figures[key])}`]);
      }
    }
    for (const [limit, share] of Object.entries(point.attained ?? {})) found.push(["kept by", `${charts.shown(share * 100)} % of the requests: ${limit}`]);
    if (figures.kept_per_s !== undefined) found.push(["all targets", `kept by ${charts.shown(figures.kept_per_s)} requests/s`]);
    for (const check of point.sla_checks ?? []) found.push(["target", check]);
    if (point.front) found.push(["frontier", "on it"]);
    if (point.behind) found.push(["behind", `${points.find((other) => other.id === point.behind).name}: ${point.by}`]);
    for (const [name, value] of Object.entries(point.values ?? {})) found.push([name, value]);
    return found;
  }

  function detail() {
    if (state.chosen === null) return;
    const point = points[state.chosen];
    const list = document.createElement("dl");
    for (const [name, value] of facts(point)) list.append(element("dt", name), element("dd", value));
    const parts = [element("h3", point.name), list];
    if (point.evidence) parts.push(element("a", "files of this point", { href: point.evidence }));
    const spec = specOf(point);
    if (spec !== null) {
      const copy = element("button", "Copy spec", { type: "button", className: "copy" });
      const save = element("a", "Save spec", { download: "spec.yaml", className: "copy" });
      save.href = URL.createObjectURL(new Blob([spec], { type: "application/yaml" }));
      copy.addEventListener("click", () => navigator.clipboard.writeText(spec).then(() => { copy.textContent = "Copied"; }, () => getSelection().selectAllChildren(shownSpec)));
      const shownSpec = element("pre", spec, { tabIndex: 0 });
      const bar = element("p", "", { className: "copy" });
      bar.append(copy, " ", save, ` then: dynamoc compile spec.yaml`);
      parts.push(bar, shownSpec);
    }
    at("detail").replaceChildren(...parts);
  }

  function select(index) {
    if (index === undefined) return;
    state.chosen = index;
    at("workload").value = points[index].workload;
    refresh();
  }

  const drawings = {
    frontier: (element, chosen) => charts.frontier(element, here(), chosen, view.per_gpu, select),
    latency: (element, chosen) => {
      const metric = at("metric").value;
      const targets = view.limits.filter((limit) => (limit.statistic ? `${limit.metric}@${limit.statistic}` : limit.metric) === metric);
      const title = metric.replace("_ms@", " ") + (metric.includes("_ms") ? ", ms" : "");
      charts.curve(element, here(), chosen, (point) => point.figures[metric], title, targets, [[metric, metric]], select);
    },
    cost: (element, chosen) => {
      const [factor, unit] = Number.isFinite(price()) ? [price(), "$"] : [1, "GPU-hours"];
      const hours = (point) => point.figures.gpu_hours_per_1k;
      const cost = (point) => (hours(point) === undefined ? undefined : hours(point) * factor);
      charts.curve(element, here(), chosen, cost, `${unit} per 1k requests`, [], [["gpu_hours_per_1k", "GPU-h per 1k requests"]], select);
    },
  };

  // A chart is drawn when it comes into view, so that a page of thousands of points opens at once.
  const stale = new Set(), visible = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) visible.add(target.id);
      else visible.delete(target.id);
    }
    drawVisible();
  }, { rootMargin: "200px" });

  function drawStale(ids) {
    for (const id of ids) {
      if (stale.delete(id)) drawings[id](at(id), state.chosen === null ? null : points[state.chosen]);
    }
  }

  function drawVisible() {
    drawStale([...visible]);
    if (visible.size) document.documentElement.dataset.ready = "yes";
  }

  function drawCharts() {
    for (const id of Object.keys(drawings)) stale.add(id);
    drawVisible();
  }

  function drawAll() {
    drawCharts();
    drawStale([...stale]);
  }

  const listed = table.make(at("points"), data.table, points, select);

  function filter() {
    const form = at("filters").elements;
    return { text: form.text.value, standing: form.standing.value, sla: form.sla?.value ?? "", front: form.front.checked, workload: workload() };
  }

  function refresh() {
    detail();
    drawCharts();
    listed.show(filter(), state.chosen);
    calculator.show(at("capacity"), at("capacity-answer"), view, here(), price());
    for (const row of document.querySelectorAll("tr[data-workload]")) row.hidden = row.dataset.workload !== workload();
  }

  at("cost").dataset.empty = "No GPUs were set aside for these points, so there is no cost per GPU-hour.";
  at("frontier").dataset.empty = "No point of this workload has both figures.";
  at("latency").dataset.empty = "No point of this workload has this figure.";
  for (const button of document.querySelectorAll("button[data-point]")) {
    button.addEventListener("click", () => select(Number(button.dataset.point)));
  }
  at("workload").addEventListener("change", () => { state.chosen = null; refresh(); });
  at("metric").addEventListener("change", drawCharts);
  at("price")?.addEventListener("input", refresh);
  at("filters").addEventListener("input", () => listed.show(filter(), state.chosen));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("capacity").addEventListener("submit", (event) => event.preventDefault());
  at("capacity").addEventListener("input", () => calculator.show(at("capacity"), at("capacity-answer"), view, here(), price()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  addEventListener("beforeprint", drawAll);
  addEventListener("afterprint", drawCharts);
  for (const id of Object.keys(drawings)) watcher.observe(at(id));
  refresh();
})();
